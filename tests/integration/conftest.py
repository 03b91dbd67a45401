"""Real groups for the tests in this folder, and scenes that are played again where this machine disturbed them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from integration.pool import Pools
from integration.scenes import play
from virtpoise_lab import requirements

HERE = Path(__file__).parent
KEPT = pytest.StashKey[Pools]()


@pytest.fixture(scope="session")
def pool(pytestconfig: pytest.Config) -> Iterator[Pools]:
    """Gives each test its pool. The last one ends with the last test of this folder."""
    missing = requirements.missing()
    if missing:
        pytest.skip(missing)
    with Pools() as pools:
        pytestconfig.stash[KEPT] = pools
        yield pools


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the pool before tests of other folders, and of another lab: a process has one lab at a time."""
    pools = item.config.stash.get(KEPT, None)
    if pools is not None and (nextitem is None or nextitem.path.parent != HERE or _second(nextitem) != _second(item)):
        pools.close()


def _second(item: pytest.Item) -> bool:
    return item.get_closest_marker("second_lab") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test on pools as a scene, which is played again where it was disturbed."""
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    pools = arguments.get("pool")
    if not isinstance(pools, Pools):
        return None
    try:
        play(
            partial(pyfuncitem.obj, **arguments),
            pools,
            lambda line: pyfuncitem.add_report_section("call", "disturbed scene", line),
        )
    except BaseException:
        pools.close()  # no scene begins where another one failed
        raise
    return True

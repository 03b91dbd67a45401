"""Real groups for the tests in this folder, and scenes that are played again where this machine disturbed them."""

from collections.abc import Iterator
from functools import partial

import pytest

from integration.pool import Pools
from integration.scenes import play
from virtpoise_lab import requirements


@pytest.fixture(scope="package")
def pool() -> Iterator[Pools]:
    """Gives each test its pool."""
    missing = requirements.missing()
    if missing:
        pytest.skip(missing)
    with Pools() as pools:
        yield pools


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

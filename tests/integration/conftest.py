"""Real groups for the tests in this folder, and scenes that are played again where this machine disturbed them."""

from collections.abc import Iterator

import pytest

from integration.pool import Pools
from virtpoise_lab import requirements

# A scene is disturbed where others took more than this of a host's CPU time in any reading. The scenes' loads keep
# about this distance from their thresholds.
MOST_STOLEN_RATIO = 0.02
SCENES = 3


@pytest.fixture
def pool() -> Iterator[Pools]:
    """Makes pools that end with the test."""
    missing = requirements.missing()
    if missing:
        pytest.skip(missing)
    with Pools() as pools:
        yield pools


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test on pools again if it failed while others took CPU time of its hosts; the third failure is final.

    A test that fails undisturbed fails at once.
    """
    pools = pyfuncitem.funcargs.get("pool")
    if not isinstance(pools, Pools):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    for scene in range(1, SCENES + 1):
        try:
            pyfuncitem.obj(**arguments)
        except Exception as failure:
            host, stolen = max(pools.stolen().items(), key=lambda found: found[1], default=("any host", 0.0))
            took = f"scene {scene} of {SCENES}: others took up to {stolen:.1%} of the CPU of {host} in a reading"
            if stolen <= MOST_STOLEN_RATIO or scene == SCENES:
                failure.add_note(f"{took}; more than {MOST_STOLEN_RATIO:.0%} disturbs a scene")
                raise
            pyfuncitem.add_report_section("call", "disturbed scene", f"{took}; played again after: {failure!r}")
            pools.close()
        else:
            return True
    return True

"""What all tests share."""

import os
import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from xdist.remote import Producer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from virtpoise_lab.postgresql import Server

sys.path.insert(0, str(Path(__file__).parent))  # so that tests can `import builders`

from hostile.table import NAMED
from networks import Networks
from scheduling import Lanes

# Each process has a lab of its own. The name is read when a test imports the lab.
if (worker := os.environ.get("PYTEST_XDIST_WORKER", "gw0")) != "gw0":
    os.environ["VIRTPOISE_LAB"] = f"virtpoise-lab-{worker}"

# Of a machine of CI: what depends on its kernel, its memory and its network.
MAY_BE_MISSING = re.compile(
    "the kernel has no|control groups of version|no memory for|link-local|no namespaces|Open vSwitch"
)
CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]

# How long an example takes depends on what else the machine does, and is no property of the code.
settings.register_profile("desk", deadline=None)
# CI judges a change, so the same change gets the same examples there; at a desk each run tries others.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A real browser."""
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: run scripts/setup")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator["Server"]:
    """A PostgreSQL server of the tests' own."""
    from virtpoise_lab.postgresql import Server

    server = Server()
    yield server
    server.close()


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the attacks that the table names, in whichever folder. Machines take longer to boot than all of them."""
    for item in items:
        if (item.path, getattr(item, "originalname", item.name)) in NAMED and not item.get_closest_marker("installed"):
            item.add_marker("hostile")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI what is skipped has failed, since there all can be had but some kinds of hardware and kernels."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not MAY_BE_MISSING.search(reason):
            report.outcome, report.longrepr = "failed", f"CI has to have what this needs: {reason}"
    return report


NETWORKS = Networks()


@pytest.hookimpl(tryfirst=True)  # before the fixtures
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run a test on the second lab in a network of its own: the labs have the same addresses."""
    if item.get_closest_marker("second_lab") and os.geteuid() == 0:
        NETWORKS.enter_own()
    else:
        NETWORKS.leave_own()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of floods: what an honest client got, and the memory that the daemon had, against its unit's limit."""
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    rows = [value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "flood"]
    if rows:
        head = ("daemon", "flood", "answered", "slowest s", "peak MiB", "limit MiB")
        terminalreporter.section("memory under floods")
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *sorted({tuple(row) for row in rows})):
            terminalreporter.line("  ".join(map(str.ljust, row, widths)).rstrip())


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes | None:
    return Lanes(config, log) if config.getoption("dist") == "loadfile" else None

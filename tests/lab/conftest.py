"""Real hosts for the tests in this folder."""

from collections.abc import Iterator

import pytest

from virtpoise_lab import requirements
from virtpoise_lab.lab import Lab
from virtpoise_lab.model import DomainSpec


@pytest.fixture(scope="session")
def machine() -> None:
    """Skips, and says why, where no lab can run."""
    missing = requirements.missing()
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="module")
def lab(machine: None) -> Iterator[Lab]:
    """Two hosts with a whole CPU each; vm1 and vm2 on h1, vm3 (two vCPUs) on h2."""
    specs = [DomainSpec("vm1", "h1"), DomainSpec("vm2", "h1"), DomainSpec("vm3", "h2", vcpus=2)]
    with Lab.up(hosts=2, domains=specs, host_memory_mib=1024) as running:
        yield running

"""Whether libvirt would let a domain leave: what it says of the domain counts, what it says of the address does not."""

from __future__ import annotations

import libvirt
import pytest

from virtpoise_balancer.execute.facts import Bound
from virtpoise_balancer.execute.worker.leaving import leaving


def failed(code: int, text: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError(text)
    error.args = (text,)
    error.err = (code, 0, text, 0, "", "", "", 0, 0)
    return error


class Answering:
    """A domain, and the daemon of its host."""

    def __init__(self, error: libvirt.libvirtError, job: int = libvirt.VIR_DOMAIN_JOB_NONE) -> None:
        self.error, self.job = error, job

    def lookupByUUIDString(self, _uuid: str) -> Answering:  # noqa: N802
        return self

    def jobInfo(self) -> tuple[int]:  # noqa: N802
        return (self.job,)

    def migrateToURI3(self, uri: str, _parameters: object, _flags: int) -> None:  # noqa: N802
        assert "virtpoise-nowhere" in uri
        raise self.error


NOWHERE = failed(
    libvirt.VIR_ERR_INVALID_ARG, "using unix socket and remote server 'virtpoise-nowhere' is not supported."
)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (libvirt.VIR_ERR_MIGRATE_UNSAFE, "Unsafe migration: Migration without shared storage is unsafe", "storage"),
        (libvirt.VIR_ERR_OPERATION_INVALID, "cannot migrate domain with 1 snapshots", "snapshots"),
        (libvirt.VIR_ERR_OPERATION_INVALID, "domain has active block job", "job"),
        (libvirt.VIR_ERR_OPERATION_INVALID, "cannot migrate domain: 0000:01:00.0: VFIO migration is not supported", "device"),
        (libvirt.VIR_ERR_OPERATION_INVALID, "Migration is disabled when using feature 'peer mode' in device 'ivshmem'", "device"),
        (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, "cannot migrate a domain with <hostdev mode='subsystem' type='pci'>", "device"),
        (libvirt.VIR_ERR_OPERATION_INVALID, "migration with transient disk is not supported", "storage"),
        (libvirt.VIR_ERR_OPERATION_INVALID, "domain has 'invtsc' CPU feature but TSC frequency is not specified", "setting"),
    ],
)  # fmt: skip
def test_why_it_may_not(code: int, text: str, kind: str) -> None:
    assert leaving(Answering(failed(code, text)), ["a"]) == {"a": Bound(kind=kind, why=text)}


@pytest.mark.parametrize(
    "error", [NOWHERE, failed(libvirt.VIR_ERR_XML_ERROR, "XML error: unexpected root element <virtpoise-nowhere>")]
)
def test_it_may(error: libvirt.libvirtError) -> None:
    assert leaving(Answering(error), ["a"]) == {"a": None}


def test_a_job_holds_it() -> None:
    found = leaving(Answering(NOWHERE, libvirt.VIR_DOMAIN_JOB_UNBOUNDED), ["a"])
    assert found == {"a": Bound(kind="job", why="another job works on it")}


def test_what_else_libvirt_says_is_not_about_the_domain() -> None:
    assert leaving(Answering(failed(libvirt.VIR_ERR_OPERATION_TIMEOUT, "state change lock")), ["a"]) == {}
    assert leaving(Answering(failed(libvirt.VIR_ERR_ACCESS_DENIED, "access denied")), ["a"]) == {}

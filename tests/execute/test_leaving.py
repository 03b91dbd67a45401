"""Whether libvirt would let a domain leave: what it says of the domain counts, what it says of the address does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    """A domain, and the daemon of its host. ``local``: the disks that have to be copied for it to leave."""

    def __init__(
        self, error: libvirt.libvirtError, job: int = libvirt.VIR_DOMAIN_JOB_NONE, local: tuple[str, ...] = ()
    ) -> None:
        self.error, self.job, self.local = error, job, set(local)

    def lookupByUUIDString(self, _uuid: str) -> Answering:  # noqa: N802
        return self

    def jobInfo(self) -> tuple[int]:  # noqa: N802
        return (self.job,)

    def migrateToURI3(self, uri: str, parameters: Mapping[str, Any], flags: int) -> None:  # noqa: N802
        assert "virtpoise-nowhere" in uri
        copied = parameters.get(libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS, [])
        assert bool(copied) == bool(flags & libvirt.VIR_MIGRATE_NON_SHARED_DISK)
        if self.local and self.local <= set(copied):
            raise NOWHERE
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
    assert leaving(Answering(failed(code, text)), ["a"], {}) == {"a": Bound(kind=kind, why=text)}


@pytest.mark.parametrize(
    "error", [NOWHERE, failed(libvirt.VIR_ERR_XML_ERROR, "XML error: unexpected root element <virtpoise-nowhere>")]
)
def test_it_may(error: libvirt.libvirtError) -> None:
    assert leaving(Answering(error), ["a"], {}) == {"a": None}


def test_a_job_holds_it() -> None:
    found = leaving(Answering(NOWHERE, libvirt.VIR_DOMAIN_JOB_UNBOUNDED), ["a"], {})
    assert found == {"a": Bound(kind="job", why="another job works on it")}


def test_what_else_libvirt_says_is_not_about_the_domain() -> None:
    assert leaving(Answering(failed(libvirt.VIR_ERR_OPERATION_TIMEOUT, "state change lock")), ["a"], {}) == {}
    assert leaving(Answering(failed(libvirt.VIR_ERR_ACCESS_DENIED, "access denied")), ["a"], {}) == {}


UNSAFE = failed(libvirt.VIR_ERR_MIGRATE_UNSAFE, "Unsafe migration: Migration without shared storage is unsafe")
CACHED = failed(
    libvirt.VIR_ERR_MIGRATE_UNSAFE,
    "Unsafe migration: Migration may lead to data corruption if disks use cache other than none or directsync",
)


@pytest.mark.parametrize(
    ("error", "local", "copyable", "cured_by"),
    [
        (UNSAFE, ("vda",), ("vda",), ("vda",)),
        (UNSAFE, ("vdb",), ("vda", "vdb", "vdc"), ("vdb",)),
        (UNSAFE, ("vda", "vdc"), ("vda", "vdb", "vdc"), ("vda", "vdc")),
        (UNSAFE, ("vda", "sda"), ("vda",), ()),
        (UNSAFE, ("vda",), (), ()),
        (CACHED, ("vda",), ("vda",), ()),
    ],
    ids=["alone", "one-of-three", "two-of-three", "another-is-local-too", "copies-are-not-wanted", "shared-but-cached"],
)
def test_which_disks_have_to_be_copied(
    error: libvirt.libvirtError, local: tuple[str, ...], copyable: tuple[str, ...], cured_by: tuple[str, ...]
) -> None:
    """Never one that lies on shared storage: its copy would be written over itself."""
    found = leaving(Answering(error, local=local), ["a"], {"a": copyable})["a"]
    assert found is not None
    assert (found.kind, found.cured_by) == ("storage", cured_by)

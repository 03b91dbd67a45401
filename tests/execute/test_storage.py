"""Storage pools: which images they hold, and the volumes that are created and deleted in them."""

from __future__ import annotations

from collections.abc import Sequence

import libvirt
import pytest

from virtpoise_balancer.execute.facts import Pool
from virtpoise_balancer.execute.worker import storage
from virtpoise_balancer.execute.worker.storage import StorageError

MISSING = (libvirt.VIR_ERR_NO_STORAGE_VOL, "Storage volume not found")


def failed(code: int, text: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError(text)
    error.args = (text,)
    error.err = (code, 0, text, 0, "", "", "", 0, 0)
    return error


class Volume:
    def __init__(self, pool: FakePool, name: str) -> None:
        self.pool, self._name = pool, name

    def path(self) -> str:
        return f"{self.pool.target}/{self._name}"

    def name(self) -> str:
        return self._name

    def storagePoolLookupByVolume(self) -> FakePool:  # noqa: N802
        return self.pool

    def XMLDesc(self) -> str:  # noqa: N802
        at = self.pool.changed
        when = f"<timestamps><ctime>{at}</ctime></timestamps>" if at is not None else ""
        return f"<volume><target>{when}</target></volume>"

    def info(self) -> tuple[int, int, int]:
        return 0, *self.pool.sizes.get(self._name, (0, 0))

    def delete(self, _flags: int) -> None:
        self.pool.listed.discard(self._name)
        self.pool.there.discard(self._name)


class FakePool:
    """``there``: what its folder has; ``listed``: what libvirt knows of that."""

    def __init__(self, target: str, *there: str, kind: str = "dir", listed: Sequence[str] | None = None) -> None:
        self.target, self.kind, self.there = target, kind, set(there)
        self.listed = set(there if listed is None else listed)
        self.free, self.refreshed, self.many = 1 << 40, 0, 0
        self.created: list[str] = []
        self.sizes: dict[str, tuple[int, int]] = {}  # capacity and allocation
        self.changed: float | None = None  # when its volumes have last changed

    def name(self) -> str:
        return self.target.strip("/").replace("/", "-")

    def XMLDesc(self) -> str:  # noqa: N802
        return f"<pool type='{self.kind}'><target><path>{self.target}</path></target></pool>"

    def info(self) -> tuple[int, int, int, int]:
        return 2, 1 << 41, 1, self.free

    def numOfVolumes(self) -> int:  # noqa: N802
        return len(self.listed) + self.many

    def listAllVolumes(self, _flags: int) -> Sequence[Volume]:  # noqa: N802
        return [Volume(self, name) for name in sorted(self.listed)]

    def refresh(self, _flags: int) -> None:
        self.refreshed += 1
        self.listed = set(self.there)

    def storageVolLookupByName(self, name: str) -> Volume:  # noqa: N802
        if name not in self.listed:
            raise failed(*MISSING)
        return Volume(self, name)

    def createXML(self, text: str, _flags: int) -> Volume:  # noqa: N802
        name = text.partition("<name>")[2].partition("</name>")[0]
        if name in self.there:
            raise failed(libvirt.VIR_ERR_STORAGE_VOL_EXIST, f"storage volume '{name}' exists already")
        self.created.append(text)
        self.there.add(name)
        self.listed.add(name)
        return Volume(self, name)


class FakeDomain:
    """``disk``: the attributes of the source of its disk, XML."""

    metadata = ""

    def __init__(self, uuid: str, disk: str, *, active: bool = True) -> None:
        self.uuid, self.disk, self.active = uuid, disk, active

    def isActive(self) -> int:  # noqa: N802
        return int(self.active)

    def UUIDString(self) -> str:  # noqa: N802
        return self.uuid

    def name(self) -> str:
        return f"name of {self.uuid}"

    def XMLDesc(self) -> str:  # noqa: N802
        return f"<domain>{self.metadata}<devices><disk><source {self.disk}/></disk></devices></domain>"


class Connection:
    def __init__(self, *pools: FakePool, domains: Sequence[FakeDomain] = ()) -> None:
        self.all, self.domains = pools, domains

    def listAllStoragePools(self, _flags: int) -> Sequence[FakePool]:  # noqa: N802
        return self.all

    def getLibVersion(self) -> int:  # noqa: N802
        return 9_000_000

    def listAllDomains(self) -> Sequence[FakeDomain]:  # noqa: N802
        return self.domains

    def storageVolLookupByPath(self, path: str) -> Volume:  # noqa: N802
        for pool in self.all:
            for name in pool.listed:
                if f"{pool.target}/{name}" == path:
                    return Volume(pool, name)
        raise failed(*MISSING)


def disk(path: str, capacity: int = 10, kind: str = "raw") -> dict[str, object]:
    return {"device": "vda", "path": path, "format": kind, "capacity_bytes": capacity, "stored_bytes": 1}


def test_pools_are_described_and_their_room_is_asked_for_only_where_disks_may_be_copied() -> None:
    connection = Connection(FakePool("/srv/images"))
    assert storage.pools(connection, free=False) == {"srv-images": Pool(target="/srv/images")}
    assert storage.pools(connection, free=True) == {"srv-images": Pool(target="/srv/images", free_bytes=1 << 40)}


@pytest.mark.parametrize(
    ("image", "there"),
    [
        ("/srv/images/a", True),
        ("/srv/images/new", True),
        ("/srv/images/b", False),
        ("srv-images/new", True),
        ("srv-images/b", False),
        ("other/b", None),
        ("/srv/other/a", None),
        ("/srv/images/deep/a", None),
        ("/srv/images/.hidden", None),
        ("/dev/sdb1", None),
    ],
)
def test_what_a_pool_does_not_list_is_looked_for_before_it_counts_as_missing(image: str, there: bool | None) -> None:
    """Only of a folder that is all a pool does libvirt know that something is not in it."""
    pool = FakePool("/srv/images", "a", "new", listed=("a",))
    found = storage.present(Connection(pool, FakePool("/dev", kind="disk")), [image])
    assert found.get(image) is there


def test_a_pool_whose_error_cannot_be_read_takes_no_other() -> None:
    """libvirt names the file that it cannot open, and libvirt-python takes only UTF-8."""

    class Odd(FakePool):
        def refresh(self, _flags: int) -> None:
            raise SystemError("<built-in function virStoragePoolRefresh> returned a result with an exception set")

    pools = Odd("/srv/odd"), FakePool("/srv/images", "a")
    assert storage.present(Connection(*pools), ["/srv/odd/b", "/srv/images/a"]) == {"/srv/images/a": True}


@pytest.mark.hostile
@pytest.mark.parametrize(
    "answer", ["<pool>", "", "<a/>" * 2**20, SystemError("an exception set"), failed(1, "it hangs"), failed(49, "gone")]
)
def test_a_pool_that_cannot_be_described_takes_no_other(answer: str | Exception) -> None:
    class Odd(FakePool):
        def XMLDesc(self) -> str:  # noqa: N802
            if isinstance(answer, Exception):
                raise answer
            return answer

    connection = Connection(Odd("/srv/odd"), FakePool("/srv/images", "a"))
    images = Pool(target="/srv/images", free_bytes=1 << 40)
    assert storage.pools(connection, free=True) == {"srv-odd": Pool(type=""), "srv-images": images}
    assert storage.present(connection, ["/srv/odd/b", "/srv/images/a"]) == {"/srv/images/a": True}
    assert storage.make_room(connection, [disk("/srv/images/b")]) == ["/srv/images/b"]


@pytest.mark.hostile
def test_what_a_pool_has_free_may_be_anything_and_takes_no_other_pool() -> None:
    class Huge(FakePool):
        def info(self) -> tuple[int, int, int, int]:
            return 2, 2**64 - 1, 1, 2**64 - 1

    class Odd(FakePool):
        def info(self) -> tuple[int, int, int, int]:
            raise failed(1, "it hangs")

    found = storage.pools(Connection(Huge("/srv/huge"), Odd("/srv/odd"), FakePool("/srv/images")), free=True)
    assert found == {
        "srv-huge": Pool(target="/srv/huge", free_bytes=2**63 - 1),  # no snapshot has more
        "srv-odd": Pool(target="/srv/odd"),
        "srv-images": Pool(target="/srv/images", free_bytes=1 << 40),
    }


def test_a_pool_is_refreshed_once_and_one_with_many_volumes_never() -> None:
    pool = FakePool("/srv/images", "a")
    storage.present(Connection(pool), ["/srv/images/a"])
    assert pool.refreshed == 0
    storage.present(Connection(pool), ["/srv/images/b", "/srv/images/c"])
    assert pool.refreshed == 1
    pool.many = 501
    assert storage.present(Connection(pool), ["/srv/images/b"]) == {}
    assert pool.refreshed == 1


def test_room_is_made_sparsely_where_the_pool_can() -> None:
    folder, group = FakePool("/srv/images"), FakePool("/dev/vg0", kind="logical")
    paths = ["/srv/images/a", "/dev/vg0/b"]
    made = storage.make_room(Connection(folder, group), [disk(paths[0], kind="qcow2"), disk(paths[1], 20)])
    assert made == paths
    assert '<allocation unit="bytes">0</allocation>' in folder.created[0]
    assert '<format type="qcow2" />' in folder.created[0]
    assert "allocation" not in group.created[0]
    assert '<capacity unit="bytes">20</capacity>' in group.created[0]


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (disk("/srv/images/taken"), "exists already"),
        (disk("/srv/images/b", 1 << 50), "bytes free"),
        (disk("/elsewhere/b"), "no storage pool is at /elsewhere"),
    ],
    ids=["taken", "no-room", "no-pool"],
)
def test_where_one_disk_has_no_room_none_is_left(second: dict[str, object], why: str) -> None:
    pool = FakePool("/srv/images", "taken", listed=())
    said = storage.make_room(Connection(pool), [disk("/srv/images/a"), second])
    assert why in str(said)
    assert pool.there == {"taken"}


def test_where_the_connection_breaks_nobody_knows_what_was_created() -> None:
    class Broken(Connection):
        def getLibVersion(self) -> int:  # noqa: N802
            raise failed(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed")

    with pytest.raises(libvirt.libvirtError, match="client socket is closed"):
        storage.make_room(Broken(FakePool("/srv/images")), [disk("/elsewhere/b")])


def test_what_sparse_volumes_may_still_take_is_not_free() -> None:
    pool = FakePool("/srv/images", "thin", "full", "larger")
    pool.free, pool.sizes = 100, {"thin": (50, 10), "full": (30, 30), "larger": (20, 21)}
    pools = Connection(pool)
    assert storage.pools(pools, free=True) == {"srv-images": Pool(target="/srv/images", free_bytes=60)}
    assert "60 bytes free besides" in str(storage.make_room(pools, [disk("/srv/images/a", 61)]))
    assert storage.make_room(pools, [disk("/srv/images/a", 60)]) == ["/srv/images/a"]
    pool.free = 30
    assert storage.pools(pools, free=True) == {"srv-images": Pool(target="/srv/images", free_bytes=0)}
    pool.many = 501
    assert storage.pools(pools, free=True) == {"srv-images": Pool(target="/srv/images", free_bytes=30)}


def test_of_what_may_be_others_only_the_empty_is_deleted() -> None:
    pool = FakePool("/srv/images", "empty", "precious")
    pool.sizes = {"empty": (1 << 30, 200 << 10), "precious": (1 << 30, 2 << 20)}
    paths = ["/srv/images/empty", "/srv/images/precious", "/srv/images/gone"]
    storage.discard(Connection(pool), "u", paths, None, True)
    assert pool.there == {"precious"}


def test_what_no_domain_has_is_deleted() -> None:
    pool = FakePool("/srv/images", "a", "b")
    others = FakeDomain("v", "file='/srv/images/ab'"), FakeDomain("u", "file='/elsewhere'", active=False)
    storage.discard(Connection(pool, domains=others), "u", ["/srv/images/a", "/srv/images/gone"])
    assert pool.there == {"b"}


@pytest.mark.parametrize(
    ("domain", "why"),
    [
        (FakeDomain("u", "file='/elsewhere'"), "is active here"),
        (FakeDomain("v", "file='/srv/images/a&amp;b'"), "has one of the volumes"),
        (FakeDomain("v", "dev='/srv/images/a&amp;b'"), "has one of the volumes"),
        (FakeDomain("v", "pool='srv-images' volume='a&amp;b'"), "has one of the volumes"),
        (FakeDomain("v", "file='/srv/images/a&amp;b'", active=False), "has one of the volumes"),
    ],
    ids=["its-own-domain", "a-file", "a-device", "a-volume", "shut-off"],
)
def test_what_a_domain_may_use_is_not_deleted(domain: FakeDomain, why: str) -> None:
    pool = FakePool("/srv/images", "a&b")
    with pytest.raises(StorageError, match=why):
        storage.discard(Connection(pool, domains=[domain]), "u", ["/srv/images/a&b"])
    assert pool.there == {"a&b"}


def test_metadata_of_another_domain_keeps_no_volume_and_gives_none_up() -> None:
    """Its owner writes there what libvirt keeps and no parser takes, and whatever path."""
    pool = FakePool("/srv/images", "a", "b")
    other = FakeDomain("v", "file='/srv/images/b'")
    other.metadata = "<metadata><y:z><source file='/srv/images/a'/></y:z></metadata>"
    storage.discard(Connection(pool, domains=[other]), "u", ["/srv/images/a"])
    assert pool.there == {"b"}
    with pytest.raises(StorageError, match="has one of the volumes"):
        storage.discard(Connection(pool, domains=[other]), "u", ["/srv/images/b"])
    assert pool.there == {"b"}


@pytest.mark.parametrize(("changed", "stays"), [(99.5, False), (100.0, True), (None, True)])
def test_what_has_changed_since_is_another_volume_and_stays(changed: float | None, stays: bool) -> None:
    pool = FakePool("/srv/images", "a")
    pool.changed = changed
    if stays:
        with pytest.raises(StorageError, match="has changed since"):
            storage.discard(Connection(pool), "u", ["/srv/images/a"], 100.0)
    else:
        storage.discard(Connection(pool), "u", ["/srv/images/a"], 100.0)
    assert bool(pool.there) is stays

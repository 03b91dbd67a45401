"""Labs side by side share this machine's folders of libvirt."""

from pathlib import Path

from virtpoise_lab.mountpoints import claimed, release


def test_a_folder_that_a_lab_has_made_stays_until_the_last_lab_is_down(tmp_path: Path) -> None:
    """Once the first one removed it, and the hosts of the other one lost what they had mounted over it."""
    folder = tmp_path / "libvirt"
    first, second = claimed([folder], "first"), claimed([folder], "second")
    release(first, "first")
    assert folder.exists()
    release(second, "second")
    assert not folder.exists()


def test_the_machines_own_folder_is_left_as_it_is(tmp_path: Path) -> None:
    made = claimed([tmp_path], "lab")
    assert list(tmp_path.iterdir()) == []
    release(made, "lab")
    assert tmp_path.exists()

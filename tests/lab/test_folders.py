"""Folders of the machine that labs share."""

from pathlib import Path

from virtpoise_lab.folders import claim, release


def test_what_labs_have_made_goes_with_the_last_one(tmp_path: Path) -> None:
    folder = tmp_path / "lib" / "libvirt"
    assert claim([folder], "one") == claim([folder], "two") == (folder,)
    release([folder], "one")
    assert folder.is_dir()
    release([folder], "two")
    assert not folder.exists()


def test_what_was_there_or_is_used_stays(tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert claim([tmp_path, made], "one") == (made,)
    (made / "dnsmasq").mkdir()
    release([made], "one")
    assert [entry.name for entry in made.iterdir()] == ["dnsmasq"]

"""What is compiled and measured once on a machine, on one that has nothing yet."""

import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from virtpoise_lab import artefacts
from virtpoise_lab.errors import LabError

pytestmark = [pytest.mark.lab, pytest.mark.second_lab]


def test_guests_that_start_side_by_side_on_a_new_machine_are_told_one_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "CACHE", tmp_path)
    with ThreadPoolExecutor(8) as guests:
        told = {asked.result() for asked in [guests.submit(artefacts.tsc_khz) for _ in range(8)]}
    assert len(told) == 1
    assert 100_000 < told.pop() < 10_000_000


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bytes], Path]:
    """Makes a packaged kernel of a compressed part: 3 sectors, and 100 bytes further that part and its size."""
    monkeypatch.setattr(artefacts, "CACHE", tmp_path)

    def make(payload: bytes) -> Path:
        image = tmp_path / "linux-image-cloud-amd64" / "boot" / "vmlinuz-6.1"
        image.parent.mkdir(parents=True)
        head = bytearray(3 * 512 + 100)
        head[0x1F1] = 2
        struct.pack_into("<II", head, 0x248, 100, len(payload) + 4)
        image.write_bytes(bytes(head) + payload + bytes(4) + b"what follows")
        return image

    return make


def test_a_kernel_is_decompressed_once(packaged: Callable[[bytes], Path]) -> None:
    plain = b"\x7fELF" + bytes(range(256)) * 99
    packaged(subprocess.run(["lz4", "-lc"], input=plain, capture_output=True, check=True).stdout)
    kernel = artefacts.kernel()
    assert kernel.read_bytes() == plain
    assert artefacts.kernel() == kernel


def test_a_kernel_that_is_compressed_in_another_way_is_booted_as_it_is(packaged: Callable[[bytes], Path]) -> None:
    image = packaged(b"\x28\xb5\x2f\xfd and so on")
    assert artefacts.kernel() == image


def test_without_lz4_it_is_booted_as_it_is(
    packaged: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a demo host, whose image has no such program."""
    image = packaged(b"\x02\x21\x4c\x18 and so on")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert artefacts.kernel() == image


def test_a_damaged_kernel_is_one_line(packaged: Callable[[bytes], Path]) -> None:
    packaged(b"\x02\x21\x4c\x18\xff\x00")
    with pytest.raises(LabError, match=r"^lz4 cannot decompress .*/vmlinuz-6.1: "):
        artefacts.kernel()

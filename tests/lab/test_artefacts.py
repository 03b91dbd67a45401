"""What is compiled and measured once on a machine, on one that has nothing yet."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from virtpoise_lab import artefacts

pytestmark = [pytest.mark.lab, pytest.mark.second_lab]


def test_guests_that_start_side_by_side_on_a_new_machine_are_told_one_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "CACHE", tmp_path)
    with ThreadPoolExecutor(8) as guests:
        told = {asked.result() for asked in [guests.submit(artefacts.tsc_khz) for _ in range(8)]}
    assert len(told) == 1
    assert 100_000 < told.pop() < 10_000_000

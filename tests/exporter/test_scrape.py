"""A scrape: whoever fails or hangs is left out, said to be, and does no harm to the others."""

import threading
from collections.abc import Iterator

import pytest

from builders import FakeClock
from virtpoise_exporter import metrics
from virtpoise_exporter.exposition import Family
from virtpoise_exporter.scrape import Scraper


class Good:
    name = "good"

    def collect(self, _seconds: float) -> list[Family]:
        family = Family(metrics.LIBVIRT_UP)
        family.add(1)
        return [family]


class Broken:
    name = "broken"

    def collect(self, _seconds: float) -> list[Family]:
        raise OSError("the disk is gone")


class Hanging:
    name = "hanging"

    def __init__(self) -> None:
        self.entered = self.left = 0
        self.go_on = threading.Event()

    def collect(self, _seconds: float) -> list[Family]:
        self.entered += 1
        self.go_on.wait(60)
        self.left += 1
        return []


class Flaky:
    """Fails each second time, for another reason each time."""

    name = "flaky"

    def __init__(self) -> None:
        self.count = 0

    def collect(self, _seconds: float) -> list[Family]:
        self.count += 1
        if self.count % 2:
            raise OSError(str(self.count))
        return []


def success(text: str, name: str) -> bool:
    return f'virtpoise_exporter_collector_success{{collector="{name}"}} 1\n' in text


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    collector = Hanging()
    yield collector
    collector.go_on.set()


def test_a_broken_collector_is_reported_and_the_others_are_there() -> None:
    text = Scraper([Good(), Broken()]).scrape(5.0).decode()
    assert "virtpoise_libvirt_up 1\n" in text
    assert success(text, "good")
    assert not success(text, "broken")


def test_a_hanging_collector_costs_the_deadline_and_no_more(hanging: Hanging) -> None:
    scraper = Scraper([Good(), hanging])
    text = scraper.scrape(0.3).decode()
    assert (hanging.entered, hanging.left) == (1, 0)  # it hangs still
    assert "virtpoise_libvirt_up 1\n" in text
    assert not success(text, "hanging")


def test_scrapes_that_a_collector_missed_are_not_made_up_for(hanging: Hanging) -> None:
    scraper = Scraper([hanging])
    for _ in range(5):
        scraper.scrape(0.05)
    hanging.go_on.set()
    assert success(scraper.scrape(5.0).decode(), "hanging")
    assert hanging.entered == 2


def test_who_scrapes_impatiently_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "virtpoise_exporter")
    collector, clock = Flaky(), FakeClock()
    scraper = Scraper([collector], clock=clock)
    for _ in range(20):
        scraper.scrape(5.0)
    said = ["collector flaky failed: OSError('1')", "collector flaky succeeds again"]
    assert caplog.messages == said
    clock.at += 61
    scraper.scrape(5.0)
    scraper.scrape(5.0)
    assert caplog.messages == [*said, "collector flaky failed: OSError('21')", "collector flaky succeeds again"]


def test_a_scrape_through_many_threads_is_whole() -> None:
    scraper, texts = Scraper([Good()]), []
    threads = [threading.Thread(target=lambda: texts.append(scraper.scrape(5.0).decode())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 20
    assert all("virtpoise_libvirt_up 1\n" in text for text in texts)

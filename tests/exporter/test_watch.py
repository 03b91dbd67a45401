"""The laws that the lab's tests hold scrapes to."""

import pytest

from exporter.exporter_watch import CPU, Scrape, hold_to_the_laws

HERE = 'domain="vm1",uuid="u"'


def scrapes(*values: float | None) -> list[Scrape]:
    return [Scrape(0.0, 0.1, {} if value is None else {(CPU, HERE): value}) for value in values]


def test_a_domain_that_went_away_may_begin_anew() -> None:
    hold_to_the_laws(scrapes(5.0, 6.0, None, 0.5, 0.7), always=(), lasting=(), moving={"vm1"})


@pytest.mark.parametrize("values", [(5.0, 4.0), (None, 5.0, 6.0, 5.9)])
def test_a_domain_that_stayed_may_not(values: tuple[float | None, ...]) -> None:
    with pytest.raises(AssertionError):
        hold_to_the_laws(scrapes(*values), always=(), lasting=(), moving={"vm1"})


def test_a_lasting_domain_may_not_even_after_a_gap() -> None:
    with pytest.raises(AssertionError):
        hold_to_the_laws(scrapes(5.0, None, 4.0), always=(), lasting={"vm1"})

"""The text format: what goes in comes out of Prometheus' own parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from virtpoise_exporter.exposition import Family, Metric, SharedLabels, escape, labels, render

GAUGE = Metric("virtpoise_test", "gauge", "", "A test.", ("domain", "uuid"))


@given(st.text(st.characters(codec="utf-8")), st.floats(allow_nan=False, allow_infinity=False))
def test_any_name_and_any_value_survive(name: str, value: float) -> None:
    family = Family(GAUGE)
    family.add(value, name, "178a5bcc")
    (parsed,) = text_string_to_metric_families(render([family]).decode())
    (sample,) = parsed.samples
    assert sample.labels == {"domain": name, "uuid": "178a5bcc"}
    assert sample.value == value


@given(st.text(st.characters(codec="utf-8")))
def test_an_escaped_name_never_ends_its_line_or_its_quotes(name: str) -> None:
    escaped = escape(name)
    assert "\n" not in escaped
    assert '"' not in escaped.replace('\\"', "")


@given(st.binary())
def test_bytes_that_are_no_text_do_not_break_the_page(raw: bytes) -> None:
    family = Family(GAUGE)
    family.add(1, raw.decode("utf-8", "surrogateescape"), "u")
    assert len(list(text_string_to_metric_families(render([family]).decode("utf-8")))) == 1


def test_a_metric_of_two_collectors_is_written_once() -> None:
    first, second = Family(GAUGE), Family(GAUGE)
    first.add(1, "a", "1")
    second.add(2, "b", "2")
    assert render([first, second]).decode() == (
        "# HELP virtpoise_test A test.\n"
        "# TYPE virtpoise_test gauge\n"
        'virtpoise_test{domain="a",uuid="1"} 1\n'
        'virtpoise_test{domain="b",uuid="2"} 2\n'
    )


def test_a_family_without_samples_leaves_no_trace() -> None:
    assert render([Family(GAUGE)]) == b""


def test_shared_labels_are_written_as_all_labels_at_once_are() -> None:
    disk = Metric("virtpoise_disk", "gauge", "", "A test.", ("domain", "uuid", "device"))
    shared = SharedLabels(("domain", "uuid"), labels(("domain", "uuid"), ('a"b', "178a5bcc")))
    once, twice = Family(disk), Family(disk)
    once.add(1.0, 'a"b', "178a5bcc", "v\\da")
    twice.add_shared(shared, 1.0, "v\\da")
    assert once.samples == twice.samples


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (("domain", "uuid", "device"), ()),  # a label without a value
        (("domain", "uuid"), ("vda",)),  # a value without a label
        (("uuid", "domain", "device"), ("vda",)),  # in another order
        (("device",), ()),
    ],
)
def test_labels_that_are_not_the_metrics_are_refused(names: tuple[str, ...], values: tuple[str, ...]) -> None:
    shared = SharedLabels(("domain", "uuid"), 'domain="web",uuid="178a5bcc"')
    with pytest.raises(ValueError, match=r"virtpoise_test|zip"):
        Family(Metric("virtpoise_test", "gauge", "", "A test.", names)).add_shared(shared, 1.0, *values)

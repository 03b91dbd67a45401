"""Variables as Grafana's Prometheus data source writes them into queries."""

from __future__ import annotations

import pytest

from virtpoise_preview.variables import substitute


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('up{instance=~"$host(:[0-9]+)?"}', 'up{instance=~"(h1|h2)(:[0-9]+)?"}'),
        ('up{instance=~"${host}"}', 'up{instance=~"(h1|h2)"}'),
        ('up{instance=~"$one"}', r'up{instance=~"10\\.0\\.0\\.1"}'),
        ('up{instance=~"$any"}', 'up{instance=~".*"}'),
        ('label_replace(up, "a", "$1", "b", "(.*)")', 'label_replace(up, "a", "$1", "b", "(.*)")'),
        ("rate(a[$__rate_interval])", "rate(a[40s])"),
        ("$hosts", "$hosts"),
    ],
)
def test_substitute(text: str, expected: str) -> None:
    values: dict[str, str | tuple[str, ...]] = {
        "host": ("h1", "h2"),
        "one": ("10.0.0.1",),
        "any": ".*",
        "__rate_interval": "40s",
    }
    assert substitute(text, values) == expected

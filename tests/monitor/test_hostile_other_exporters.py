"""One host's exporters give every metric of another source several times, with unexpected labels, on a real Prometheus.

PromQL fails as a whole where a label makes two series one: one host would blind the balancer to all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from filled_prometheus import filled_prometheus
from monitor.test_sources import END, OTHERS, Exposition, Labels, add_domains, add_node, observer
from virtpoise_balancer.model import Domain, Host
from virtpoise_balancer.monitor.observe import Observation, Observer
from virtpoise_balancer.monitor.sources import SourceName

pytestmark = pytest.mark.hostile

# What a query joins, groups or replaces by, but for a target's own, which no exporter sets.
LABELS = ("virtpoise_host", "virtpoise_query", "uuid", "instance_id", "domain", "device", "target_device", "extra")


class Varied(Exposition):
    """Each series in two versions for each label: with a value of it in place of its own."""

    label, value = "", ""

    def __init__(self) -> None:
        super().__init__()
        self._there: set[tuple[str, tuple[tuple[str, str], ...]]] = set()

    def _add(self, name: str, kind: str, labels: Labels, samples: list[tuple[float, float]]) -> None:
        varied = {**labels, **({self.label: self.value} if self.label else {})}
        series = name, tuple(sorted(varied.items()))
        if series not in self._there:  # it may be the same without
            self._there.add(series)
            super()._add(name, kind, varied, samples)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    to = Varied()
    for source in OTHERS:
        for place in ("honest", "hostile"):
            own = {"source": source, "place": place}
            to.label = ""
            for name, domains in (("h1", "a"), ("h2", "b")):
                add_node(to, f"{name}:9100", source=source, place=place)
                add_domains(to, source, {"job": "libvirt", "instance": f"{name}:9177", **own}, domains)
            for to.label in LABELS if place == "hostile" else ():
                for to.value in ("1", "2"):
                    add_node(to, "h3:9100", source=source, place=place)
                    add_domains(to, source, {"job": "libvirt", "instance": "h3:9177", **own}, "ce")
    with filled_prometheus(str(to), tmp_path_factory.mktemp("prometheus")) as address:
        yield address


@pytest.mark.parametrize("source", OTHERS)
def test_the_balancer_sees_the_other_hosts_as_before(url: str, source: SourceName) -> None:
    def of_others(observed: Observation) -> tuple[list[Host], list[Domain]]:
        snapshot = observed.snapshot
        hosts = [replace(host, labels={}) for host in snapshot.hosts if host.name in others]
        return hosts, [one for one in snapshot.domains if one.host in others]

    def look(place: str) -> Observer:
        found = observer(url, source)
        return replace(found, matchers=f'{found.matchers},place="{place}"')

    others = ("h1", "h2")
    honest = of_others(look("honest").observe(END))
    assert [host.known for host in honest[0]] == [True, True]
    assert len(honest[1]) == 2
    assert of_others(look("hostile").observe(END)) == honest
    # As the look before a move has it, whose queries are asked as one.
    assert of_others(look("hostile").observe_hosts({"h1", "h2", "h3"}, END)) == honest

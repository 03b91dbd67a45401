"""Exporters and Prometheus on top of a lab."""

from collections.abc import Iterator

import pytest
import requests

from virtpoise_lab.lab import Lab
from virtpoise_lab.processes import wait_until
from virtpoise_lab.stack import Stack

pytestmark = [pytest.mark.lab, pytest.mark.second_lab]

PORT = 19090


@pytest.fixture(scope="module")
def stack(machine: None) -> Iterator[Stack]:
    with Lab.up(hosts=2) as lab:
        yield Stack.start(lab, port=PORT)


def test_every_host_is_scraped_under_its_name(stack: Stack) -> None:
    assert {series["metric"]["instance"] for series in stack.query("virtpoise_host_cpus")} == {"h1:9807", "h2:9807"}
    assert stack.health() == {"h1:9807": "up", "h2:9807": "up"}


def test_an_exporter_speaks_to_the_libvirtd_of_its_own_host(stack: Stack) -> None:
    def hostnames() -> dict[str, str]:
        answer = stack.query('virtpoise_host_info{job="virtpoise-exporter"}')
        return {r["metric"]["instance"]: r["metric"]["hostname"] for r in answer}

    wait_until(lambda: hostnames() == {"h1:9807": "h1", "h2:9807": "h2"}, 20, "both exporters have found libvirt", 0.2)


def test_an_exporter_that_is_stopped_is_down_until_it_is_started_again(stack: Stack) -> None:
    stack.stop_exporter("h2")
    wait_until(lambda: stack.health()["h2:9807"] == "down", 10, "h2 is down")
    stack.start_exporter("h2")
    stack.wait_up("h2")


def test_a_host_joins_and_leaves_while_prometheus_runs(stack: Stack) -> None:
    stack.join(stack.lab.add_host().name)
    assert stack.health()["h3:9807"] == "up"
    stack.leave("h3")
    assert sorted(stack.health()) == ["h1:9807", "h2:9807"]


def test_down_ends_prometheus_too(stack: Stack) -> None:
    """The last test of this lab."""
    stack.lab.down()
    with pytest.raises(requests.ConnectionError):
        requests.get(stack.url, timeout=2)

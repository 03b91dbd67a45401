"""Monitoring on top of a lab: one exporter in each host, and a real Prometheus on this machine that scrapes them."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from virtpoise_lab import state
from virtpoise_lab.artefacts import CACHE
from virtpoise_lab.errors import LabError
from virtpoise_lab.host import Host, last_words
from virtpoise_lab.lab import Lab
from virtpoise_lab.processes import wait_until

PROMETHEUS = CACHE / "prometheus" / "usr" / "bin" / "prometheus"
EXPORTER_PORT = 9807
_SECOND_PORT = 9999  # of a second target with the name of a host
BALANCER = "127.0.0.1:9808"
RULES = Path(__file__).parents[2] / "alerts"

_CONFIGURATION = """\
global:
  scrape_interval: {interval}
  scrape_timeout: {interval}
  evaluation_interval: {interval}
rule_files: [{rules}]
scrape_configs:
  - job_name: virtpoise-exporter
    file_sd_configs: [{{files: [{targets}], refresh_interval: 1s}}]
  - job_name: virtpoise-balancer
    file_sd_configs: [{{files: [{balancers}], refresh_interval: 1s}}]
"""


def virtpoise_exporter(host: Host) -> list[str]:
    """The command of the project's own exporter, listening on the host's address."""
    return [sys.executable, "-m", "virtpoise_exporter", "--web.listen-address", f"{host.address}:{EXPORTER_PORT}"]


class Stack:
    """Exporters and Prometheus over a lab; whatever it starts is the lab's, and ends with it."""

    def __init__(self, lab: Lab, exporter: Callable[[Host], list[str]], port: int) -> None:
        self.lab = lab
        self.url = f"http://127.0.0.1:{port}"
        self._exporter = exporter
        self.port = port
        self._folder = state.FOLDER / "prometheus"
        self._scraped: set[str] = set()
        self._through: str | None = None
        self._twofold: dict[str, str] = {}
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy does not lead to this machine's own Prometheus

    @classmethod
    def start(
        cls,
        lab: Lab,
        *,
        scrape_seconds: float = 1.0,
        exporter: Callable[[Host], list[str]] = virtpoise_exporter,
        port: int = 9090,
        balancer: bool = False,
        rules: Iterable[Path] | None = None,
    ) -> "Stack":
        """Starts an exporter in every host and Prometheus on 127.0.0.1:``port``; waits until each has been scraped.

        exporter: gives the command for a host; it must listen on the host's address, port 9807.
        balancer: whether to scrape the balancer's own metrics at 127.0.0.1:9808, as job "virtpoise-balancer".
        rules: rule files; by default those of the folder ``alerts``, as far as there are any.
        Raises LabError that says which part did not come up.
        """
        stack = cls(lab, exporter, port)
        stack._folder.mkdir()
        files = sorted(RULES.glob("*.rules.yml")) if rules is None else list(rules)
        (stack._folder / "prometheus.yml").write_text(
            _CONFIGURATION.format(
                interval=f"{round(scrape_seconds * 1000)}ms",
                rules=", ".join(json.dumps(str(file.resolve())) for file in files),
                targets=json.dumps(str(stack._targets)),
                balancers=json.dumps(str(stack._balancers)),
            )
        )
        stack._scraped.update(host.name for host in lab.hosts)
        stack._write_targets()
        stack.scrape_balancers(*[BALANCER] * balancer)
        stack.start_prometheus()  # first: it takes its list of targets only after some 5 s
        for host in lab.hosts:
            stack.start_exporter(host.name)
        stack.wait_up(*stack._scraped)
        return stack

    def start_exporter(self, host: str) -> None:
        """Starts the exporter of a host (again); returns before it answers."""
        self.lab.host(host).popen(self._exporter(self.lab.host(host)), name="exporter")

    def stop_exporter(self, host: str) -> None:
        """Ends the exporter of a host, which stays a target: to Prometheus it is down."""
        self.lab.stop("exporter", host)

    def scrape_balancers(self, *addresses: str) -> None:
        """Makes these balancers targets, and no others, within some 5 s."""
        _replace(self._balancers, [{"targets": list(addresses)}])

    def scrape(self, *hosts: str) -> None:
        """Makes these hosts targets, and waits until Prometheus has scraped them."""
        self._scraped.update(hosts)
        self._write_targets()
        self.wait_up(*hosts)

    def join(self, host: str) -> None:
        """A host (that add_host has booted) joins the group: its exporter runs and is scraped."""
        self.start_exporter(host)
        self.scrape(host)

    def leave(self, host: str) -> None:
        """A host leaves the group: it is no target any more, its last figures are stale, and its exporter ends."""
        self._scraped.discard(host)
        self._write_targets()
        wait_until(lambda: _instance(host) not in self.health(), 30, f"Prometheus drops {host}", 0.1)
        last = f'virtpoise_host_cpus{{instance="{_instance(host)}"}}'
        wait_until(lambda: not self.query(last), 30, f"the figures of {host} are stale", 0.1)
        self.stop_exporter(host)

    def route(self, through: str | None) -> None:
        """Has each exporter scraped by way of an address, at the host's name as its path; None: of itself."""
        self._through = through
        self._write_targets()

    @contextmanager
    def twofold(self, host: str, other: str) -> Iterator[None]:
        """In the block, a second target has the name of a host, and shows another host's figures.

        Prometheus takes its list of targets only after some 5 s.
        """
        self._twofold = {host: other}
        self._write_targets()
        try:
            yield
        finally:
            self._twofold = {}
            self._write_targets()

    def delete_samples(self) -> None:
        """Deletes all that was scraped so far. Alerts stay pending or firing until they are evaluated again."""
        form = {"match[]": '{__name__=~".+"}', "end": f"{time.time():.3f}"}
        self._http.post(f"{self.url}/api/v1/admin/tsdb/delete_series", data=form, timeout=10).raise_for_status()

    def forget(self) -> None:
        """Restarts Prometheus without its data and alerts; waits until each host has been scraped again.

        Prometheus takes its list of targets only after some 5 s.
        """
        self.lab.stop("prometheus")
        shutil.rmtree(self._folder / "data")
        self.start_prometheus()
        self.wait_up(*self._scraped)

    def health(self) -> dict[str, str]:
        """The health of each exporter by instance ("h1:9807"): "up", "down" or "unknown" (not scraped yet)."""
        targets = self._get("/api/v1/targets", state="active")["activeTargets"]
        return {t["labels"]["instance"]: t["health"] for t in targets if t["labels"]["job"] == "virtpoise-exporter"}

    def wait_up(self, *hosts: str, seconds: float = 30) -> None:
        """Waits until Prometheus has scraped these hosts successfully, and answers with the samples.

        Raises LabError that names those it has not scraped.
        """
        wanted = {_instance(host): host for host in hosts}

        def missing() -> list[str]:
            up = {instance for instance, health in self.health().items() if health == "up"}
            # A target counts as up right before the samples of its scrape are written.
            found = self.query('up{job="virtpoise-exporter"} == 1')
            up &= {series["metric"]["instance"] for series in found}
            return [host for instance, host in wanted.items() if instance not in up]

        try:
            wait_until(lambda: not missing(), seconds, "scrapes", 0.1)
        except LabError:
            late = missing()
            if late:
                raise LabError(
                    f"Prometheus has not scraped {', '.join(late)} within {seconds:g} s; "
                    f"the exporter of {late[0]} says: {last_words(f'{late[0]}-exporter')}"
                ) from None

    def query(self, promql: str) -> list[dict[str, Any]]:
        """An instant query's result, as the API gives it; for tests and the demo."""
        answer: list[dict[str, Any]] = self._get("/api/v1/query", query=promql)["result"]
        return answer

    @property
    def _targets(self) -> Path:
        return self._folder / "targets.json"

    @property
    def _balancers(self) -> Path:
        return self._folder / "balancers.json"

    def start_prometheus(self) -> None:
        """Starts Prometheus (again) with the data that it has; waits until it answers."""
        if not PROMETHEUS.exists():
            raise LabError(f"{PROMETHEUS} is missing: run scripts/setup")
        options = [f"--config.file={self._folder / 'prometheus.yml'}", f"--storage.tsdb.path={self._folder / 'data'}"]
        options += [f"--web.listen-address=127.0.0.1:{self.port}", "--web.enable-admin-api", "--log.level=warn"]
        prometheus = self.lab.spawn([str(PROMETHEUS), *options], name="prometheus")

        def ready() -> bool:
            if prometheus.poll() is not None:
                raise LabError(f"Prometheus ended at once: {last_words('prometheus')}")
            try:
                return self._http.get(f"{self.url}/-/ready", timeout=2).ok
            except requests.RequestException:
                return False

        wait_until(ready, 60, f"Prometheus is ready at {self.url}", 0.05)

    def _write_targets(self) -> None:
        groups = [self._target(name, _instance(name)) for name in sorted(self._scraped)]
        groups += [self._target(other, f"{name}:{_SECOND_PORT}") for name, other in self._twofold.items()]
        _replace(self._targets, groups)

    def _target(self, host: str, instance: str) -> dict[str, Any]:
        if self._through is None:
            return {"targets": [f"{self.lab.host(host).address}:{EXPORTER_PORT}"], "labels": {"instance": instance}}
        return {"targets": [self._through], "labels": {"instance": instance, "__metrics_path__": f"/{host}"}}

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._http.get(f"{self.url}{path}", params=parameters, timeout=10)
        answer.raise_for_status()
        return answer.json()["data"]


def _replace(file: Path, groups: Sequence[Mapping[str, Any]]) -> None:
    """Replaces a list of targets as a whole: Prometheus reads the old list or the new one."""
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(groups))
    partial.replace(file)


def _instance(host: str) -> str:
    return f"{host}:{EXPORTER_PORT}"

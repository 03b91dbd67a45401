"""Stands between two that talk by HTTP, and changes what they say: a Prometheus and its balancer, an exporter and its
Prometheus.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from urllib.parse import parse_qsl

import requests

from virtpoise_lab.host import Host
from virtpoise_lab.stack import EXPORTER_PORT

_PATIENCE_SECONDS = 10.0
_HOUR_SECONDS = 3600.0
_SLOW_SECONDS = 0.4
# The fields of a query that are moments.
_MOMENTS = ("time", "start", "end")
_GARBAGE = (
    b"",
    b"<html>502</html>",
    b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{"instance":"h1:9807"},"value":[1,"NaN"]}]}}',
    b'{"status":"success","data":{"resultType":"matrix","result":[[]]}}',
    b'{"status":"success","data":' + b"[" * 2000,
    b"\xff\xfe\x00",
)

# What is answered to a request for a path, with its form.
Answer = Callable[[str, Mapping[str, str]], bytes]


class Between:
    """A server on a port of its own, until ``close``. Unless an answer is set, it answers as ``plain`` does."""

    def __init__(self, plain: Answer) -> None:
        self.plain = plain
        self._answer = plain
        between = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                self._reply(dict(parse_qsl(body)))

            def do_GET(self) -> None:
                self._reply({})

            def _reply(self, form: Mapping[str, str]) -> None:
                with suppress(OSError):  # who asked has gone
                    try:
                        body = between._answer(self.path, form)
                    except requests.RequestException as error:
                        self.send_error(502, str(error))
                        return
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json" if form else "text/plain; version=0.0.4")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_words: object) -> None:
                """Nothing is logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @contextmanager
    def answering(self, answer: Answer) -> Iterator[None]:
        """In the block, it answers as ``answer`` does."""
        self._answer = answer
        try:
            yield
        finally:
            self._answer = self.plain

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def of_prometheus(url: str) -> Answer:
    """What the Prometheus at ``url`` answers."""

    def ask(path: str, form: Mapping[str, str]) -> bytes:
        return _asked(url + path, form)

    return ask


def of_exporters(hosts: tuple[Host, ...]) -> Answer:
    """What a host's exporter answers; the host's name is the path."""
    urls = {f"/{host.name}": f"http://{host.address}:{EXPORTER_PORT}/metrics" for host in hosts}
    return lambda path, form: _asked(urls[path], form)


def _asked(url: str, form: Mapping[str, str]) -> bytes:
    with requests.Session() as session:
        session.trust_env = False
        method = "POST" if form else "GET"
        return session.request(method, url, data=form or None, timeout=_PATIENCE_SECONDS).content


def slow(plain: Answer) -> Answer:
    def ask(path: str, form: Mapping[str, str]) -> bytes:
        time.sleep(_SLOW_SECONDS)
        return plain(path, form)

    return ask


def behind(plain: Answer) -> Answer:
    """The answer of a Prometheus whose clock and figures are an hour behind."""

    def ask(path: str, form: Mapping[str, str]) -> bytes:
        if not form:  # no query
            return plain(path, form)
        moments = {name: float(form[name]) for name in _MOMENTS if name in form} or {"time": time.time()}
        return plain(path, {**form, **{name: f"{at - _HOUR_SECONDS:.3f}" for name, at in moments.items()}})

    return ask


def garbage(_plain: Answer) -> Answer:
    """What no Prometheus answers."""
    replies = cycle(_GARBAGE)
    return lambda _path, _form: next(replies)


def without_domains(host: str, plain: Answer) -> Answer:
    """The answer of an exporter that finds no domain on its host, and counts none."""
    return _changed(host, plain, lambda line: "" if line.startswith("virtpoise_domain") else line)


def miscounted(host: str, plain: Answer) -> Answer:
    """The answer of an exporter that counts domains, and lists none."""
    return _changed(host, plain, lambda line: "" if line.startswith("virtpoise_domain_") else line)


def lies(host: str, plain: Answer) -> Answer:
    """The answer of an exporter with figures that cannot be."""
    figures = {"virtpoise_host_cpus": "65536", "virtpoise_host_memory_available_bytes": "1e18"}

    def change(line: str) -> str:
        name = line.partition(" ")[0]
        return f"{name} {figures[name]}" if name in figures else line

    return _changed(host, plain, change)


def _changed(host: str, plain: Answer, change: Callable[[str], str]) -> Answer:
    def ask(path: str, form: Mapping[str, str]) -> bytes:
        found = plain(path, form)
        if path != f"/{host}":
            return found
        lines = found.decode().splitlines()
        return "".join(f"{line}\n" for line in map(change, lines) if line).encode()

    return ask

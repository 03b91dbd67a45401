"""The exporter's HTTP server."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from virtpoise_exporter import exposition

_PAGE = b"""<!DOCTYPE html><html lang="en"><head><title>virtpoise exporter</title></head>
<body><h1>virtpoise exporter</h1><p><a href="/metrics">Metrics</a></p></body></html>
"""
DEFAULT_TIMEOUT_SECONDS = 10.0
TIMEOUT_OFFSET_SECONDS = 0.5


def serve(host: str, port: int, scrape: Callable[[float], bytes]) -> ThreadingHTTPServer:
    """Starts to serve in a thread of its own. Raises OSError if the address cannot be had."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    self._answer(scrape(self._deadline()), exposition.CONTENT_TYPE)
                case "/":
                    self._answer(_PAGE, "text/html; charset=utf-8")
                case "/-/healthy":
                    self._answer(b"healthy\n", "text/plain; charset=utf-8")
                case _:
                    self.send_error(HTTPStatus.NOT_FOUND)

        def _deadline(self) -> float:
            try:
                seconds = float(self.headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
            except ValueError:
                seconds = DEFAULT_TIMEOUT_SECONDS
            return max(0.1, min(seconds, 60.0) - TIMEOUT_OFFSET_SECONDS)

        def _answer(self, body: bytes, content_type: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Scrapes are not worth a line each."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name=f"http-{port}", daemon=True).start()
    return server

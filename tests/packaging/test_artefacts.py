"""What is handed out: a wheel and a source distribution, each installed outside the checkout, on each Python that is
here.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13")

pytestmark = [pytest.mark.early, pytest.mark.timeout(900)]


def run(*command: str | Path, cwd: Path) -> str:
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both artefacts. As pip does it, the wheel is made from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


def python(version: str) -> str | None:
    """A Python of this version: on the path, or beside this one where versions lie side by side."""
    beside = sorted(Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python{version}"))
    for found in (*map(str, beside), shutil.which(f"python{version}")):
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return found
    return None


@contextmanager
def running(*command: str | Path, cwd: Path, until: str) -> Iterator[re.Match[str]]:
    """A daemon that has written a line in which ``until`` is found. It is ended by SIGTERM, and in good order."""
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        written = ""
        for line in process.stderr:
            written += line
            if found := re.search(until, line):
                break
        else:
            pytest.fail(f"it ended: {written}")
        try:
            yield found
        finally:
            process.send_signal(signal.SIGTERM)
            _, rest = process.communicate(timeout=60)
    assert process.returncode == 0, written + rest


def empty_prometheus(request: Request) -> Response:
    """The answer of a Prometheus without targets: its own time, and nothing else."""
    kind = "matrix" if request.path.endswith("_range") else "vector"
    asks_time = request.form["query"] == "vector(time())"
    result = [{"metric": {}, "value": [time.time(), str(time.time())]}] if asks_time else []
    answer = {"status": "success", "data": {"resultType": kind, "result": result}}
    return Response(json.dumps(answer), content_type="application/json")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read(), "utf-8")


def both_start(programs: Path, folder: Path, prometheus: str) -> None:
    """Starts both commands, and looks at what they serve."""
    here = folder / "elsewhere"
    here.mkdir(exist_ok=True)
    flags = ["--web.listen-address=127.0.0.1:0", f"--path.state={here}", "--libvirt.uri=test:///default"]
    with running(programs / "virtpoise-exporter", *flags, cwd=here, until=r"serves http .* port (\d+)") as port:
        assert "virtpoise_exporter_build_info" in read(f"http://127.0.0.1:{port[1]}/metrics")
    config = here / "virtpoise.yml"
    config.write_text(
        f"prometheus: {{url: '{prometheus}'}}\n"
        f"state: {{url: 'sqlite:///{here}/virtpoise.db'}}\n"
        f"web: {{listen_address: '127.0.0.1:{free_port()}'}}\n"
    )
    with running(
        programs / "virtpoise", "run", "--config", config, cwd=here, until=r"virtpoise runs.* listen=(\S+)"
    ) as address:
        page = f"http://{address[1]}"
        assert "virtpoise" in read(page)
        assert "Mitigation" in read(f"{page}/runbooks/VirtpoiseHostUnknown.md")
        assert "virtpoise_leader" in read(f"{page}/metrics")


def test_the_wheel_has_all_that_an_administrator_copies(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = {name.rpartition("share/virtpoise/")[2] for name in zipfile.ZipFile(wheel).namelist() if "/share/" in name}
    manual = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("install.md", "security.md"))
    asked = set(re.findall(r"share/virtpoise/([\w.-]+)", manual))
    assert asked <= names
    assert {"alerts.rules.yml", "recording.rules.yml", "virtpoise.service", "virtpoise-exporter.service"} <= names


@pytest.mark.parametrize("version", PYTHONS)
def test_both_commands_start_outside_the_checkout(
    version: str, dist: Path, tmp_path: Path, httpserver: HTTPServer
) -> None:
    program = python(version)
    if program is None:
        pytest.skip(f"there is no Python {version} here")
    httpserver.expect_request("/api/v1/query").respond_with_handler(empty_prometheus)
    httpserver.expect_request("/api/v1/query_range").respond_with_handler(empty_prometheus)
    # With our own pip, and compiled as far as it is used: a pip for each, and compiling all, take longer than the rest.
    run(program, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    programs = tmp_path / "venv" / "bin"
    pip = (sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet", "--no-compile")
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    run(*pip, f"{wheel}[exporter,balancer]", cwd=tmp_path)
    both_start(programs, tmp_path, httpserver.url_for(""))
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        run(*pip, "--force-reinstall", "--no-deps", source, cwd=tmp_path)
        both_start(programs, tmp_path, httpserver.url_for(""))

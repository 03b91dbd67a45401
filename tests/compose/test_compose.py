"""docker-compose.yml and what it mounts: valid, on loopback only, pinned, checked for health, and nothing missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from virtpoise_balancer.config import read_config
from virtpoise_balancer.execute import executor, migrate

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
PROMTOOL = Path(os.environ.get("VIRTPOISE_CACHE", "/var/cache/virtpoise-lab")) / "prometheus/usr/bin/promtool"
HOSTS = ("h1", "h2")


def mounts() -> list[tuple[str, str, str, str]]:
    """Service, source, target and mode of every mount."""
    found = []
    for name, service in SERVICES.items():
        for entry in service["volumes"]:
            source, target, mode = f"{entry}:rw".split(":")[:3]
            found.append((name, source, target, mode))
    return found


def run(*command: str | Path) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_it_is_what_the_compose_specification_allows() -> None:
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE)


@pytest.mark.parametrize("name", SERVICES)
def test_every_port_is_on_loopback(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check_and_comes_back(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_names_its_version_and_a_foreign_one_its_digest(name: str) -> None:
    digest = "" if "build" in SERVICES[name] else "@sha256:[0-9a-f]{64}"
    assert re.search(rf":v?\d+\.\d+\.\d+{digest}$", SERVICES[name]["image"])


def test_the_base_image_names_its_day_and_its_digest() -> None:
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - set(re.findall(r" AS (\S+)", DOCKERFILE))
    assert bases == {"${BASE}"}
    base = r"^ARG BASE=docker\.io/library/debian:bookworm-20\d{6}-slim@sha256:[0-9a-f]{64}$"
    assert re.search(base, DOCKERFILE, re.MULTILINE)


def test_what_an_image_has_of_its_base_is_upgraded_when_it_is_built() -> None:
    """The base is that of a day long past, with the holes of that day in its libraries."""
    stages = re.findall(r"^FROM \$\{BASE\} AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    upgraded = "RUN apt-get update \\\n  && apt-get upgrade -y \\\n  && apt-get install"
    assert {name for name, text in stages if upgraded in text} == {name for name, _ in stages} - {"tools"}


@pytest.mark.parametrize("target", ["balancer", "exporter"])
def test_an_image_has_only_packages_of_its_lock_file(target: str) -> None:
    assert f"FROM tools AS built-{target}\nRUN docker/install {target}\n" in DOCKERFILE
    installs = (ROOT / "docker/install").read_text(encoding="utf-8").replace("\\\n", "")
    assert '--requirement "requirements/$part.txt"' in installs
    commands = re.findall(r"pip (?:install|wheel) .*", installs)
    assert len(commands) == 3
    for command in commands:
        assert "--require-hashes" in command or "--no-deps" in command


def test_only_the_demo_hosts_are_privileged() -> None:
    assert {name for name, service in SERVICES.items() if service.get("privileged")} == set(HOSTS)
    for name in set(SERVICES) - set(HOSTS):
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("target", ["balancer", "exporter"])
def test_the_daemons_images_are_not_root(target: str) -> None:
    stage = re.search(rf"^FROM \S+ AS {target}$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert stage is not None
    assert re.search(r"^USER virtpoise", stage[1], re.MULTILINE)


def test_libvirt_without_a_password_is_out_of_everybody_elses_reach() -> None:
    assert COMPOSE["networks"]["hosts"]["internal"] is True
    for host in HOSTS:
        assert SERVICES[host]["networks"] == ["hosts"]
        assert "ports" not in SERVICES[host]
    assert {name for name, service in SERVICES.items() if "hosts" in service["networks"]} == {
        *HOSTS,
        "prometheus",
        "balancer",
    }


def test_what_is_written_is_in_named_volumes_and_what_is_ours_is_mounted_read_only() -> None:
    named = {source for _, source, _, _ in mounts() if not source.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    assert {name for name, source, _, _ in mounts() if source in named} == set(SERVICES)
    for _, source, _, mode in mounts():
        if source.startswith("."):
            assert (ROOT / source).exists()
            assert mode == "ro"


def test_what_a_service_needs_is_healthy_before_it_starts() -> None:
    assert {"prometheus", *HOSTS} <= set(SERVICES["balancer"]["depends_on"])
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES
            assert how == {"condition": "service_healthy"}


def test_what_the_images_are_built_from_is_there_and_not_ignored() -> None:
    sources = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    allowed = {
        line.removeprefix("!").rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for source in sources:
        assert (ROOT / source).exists()
        assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), source
    assert all((ROOT / entry).exists() for entry in allowed)


def test_the_balancer_takes_its_configuration() -> None:
    config = read_config(ROOT / "docker/balancer/virtpoise.yml")
    assert config.mode == "automatic"
    port = config.web.listen_address.rpartition(":")[2]
    assert SERVICES["balancer"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    grace = int(SERVICES["balancer"]["stop_grace_period"].removesuffix("s"))
    assert grace > config.migration.stop_grace_seconds + migrate.ABORT_SECONDS + executor.HANDOVER_SECONDS


def test_prometheus_takes_its_configuration_and_scrapes_the_stack_under_the_names_that_the_alerts_know() -> None:
    path = ROOT / "docker/prometheus/prometheus.yml"
    run(PROMTOOL, "check", "config", "--syntax-only", path)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    targets = {
        job["job_name"]: {target for group in job["static_configs"] for target in group["targets"]}
        for job in config["scrape_configs"]
    }
    assert targets["virtpoise-exporter"] == {f"{host}:9807" for host in HOSTS}
    assert targets["virtpoise-balancer"] == {"balancer:9808"}
    rules = next(target for name, source, target, _ in mounts() if name == "prometheus" and source == "./alerts")
    assert config["rule_files"] == [f"{rules}/*.rules.yml"]


def test_grafana_finds_its_dashboards_and_prometheus() -> None:
    where = {target: source for name, source, target, _ in mounts() if name == "grafana"}
    provider = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/virtpoise.yml").read_text())["providers"][0]
    dashboards = where[provider["options"]["path"]]
    assert dashboards == "./grafana/dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / dashboards / Path(home).relative_to(provider["options"]["path"])).exists()
    source = yaml.safe_load((ROOT / "grafana/provisioning/datasources/virtpoise.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert set(SERVICES["grafana"]["networks"]) & set(SERVICES["prometheus"]["networks"])

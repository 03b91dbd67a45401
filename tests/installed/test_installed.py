"""virtpoise as it is shipped and installed by docs/install.md: units, users, ssh, rights."""

import json
import re

import pytest

from installed.installation import GUESTS, HOSTS, Installation
from virtpoise_lab.errors import LabError

pytestmark = [pytest.mark.installed, pytest.mark.timeout(1200)]


def test_libvirt_is_up_for_every_exporter_without_libnss_systemd(installation: Installation) -> None:
    for name in HOSTS:
        machine = installation.machines[name]
        assert "systemd" not in machine.run("grep ^passwd /etc/nsswitch.conf")
        assert "\nvirtpoise_libvirt_up 1\n" in machine.run("curl -s http://$(hostname):9807/metrics")


@pytest.mark.parametrize(
    ("place", "unit", "most"), [("manager", "virtpoise", 1.3), ("kvm1", "virtpoise-exporter", 1.3)]
)
def test_the_units_leave_little_to_whoever_breaks_in(
    installation: Installation, place: str, unit: str, most: float
) -> None:
    judged = installation.machines[place].run(f"systemd-analyze security --no-pager {unit}").splitlines()[-1]
    assert float(re.findall(r": ([\d.]+) ", judged)[0]) <= most


def test_doctor_finds_healthy_machines_healthy_each_time(installation: Installation) -> None:
    for _ in range(3):
        findings = json.loads(installation.manager.run("runuser -u virtpoise -- virtpoise doctor --output json"))
        wrong = {one["subject"]: one["text"] for one in findings if one["verdict"] != "good"}
        # kvm3 has the newer Debian, which is all that there is to say.
        assert sorted(wrong) == ["kvm3 → kvm1", "kvm3 → kvm2"]
        assert all(text.startswith("the hypervisor is older there") for text in wrong.values())


def test_a_drain_migrates_over_ssh_under_the_shipped_units(installation: Installation) -> None:
    manager = installation.manager
    manager.run("virtpoise drain kvm1 --wait", seconds=300)
    assert not installation.machines["kvm1"].run("virsh list --name").strip()
    running = [name for host in HOSTS for name in installation.machines[host].run("virsh list --name").split()]
    assert sorted(running) == sorted(GUESTS)
    history = json.loads(manager.run("runuser -u virtpoise -- virtpoise history --output json"))
    assert sorted(one["domain"] for one in history) == ["vm1", "vm2"]
    manager.run("virtpoise undrain kvm1")


def test_a_token_made_as_documented_is_read_by_the_service(installation: Installation) -> None:
    manager = installation.manager
    assert "good for the user virtpoise" in installation.administrator.type("Orders over HTTP: tokens")
    order = "curl -s -o /dev/null -w '%{http_code}' -X POST -H 'Content-Type: application/json' -d '{}' http://127.0.0.1:9808/api/v1/pause"
    assert manager.run(f'{order} -H "Authorization: Bearer $(sed s/alice:// /etc/virtpoise/tokens)"') == "200"
    assert manager.run(f"{order} -H 'Authorization: Bearer wrong'") == "401"
    manager.run("virtpoise resume")


def test_check_config_names_the_file_that_the_service_may_not_read(installation: Installation) -> None:
    manager = installation.manager
    manager.run(
        "install -m 0600 /etc/virtpoise/tokens /root/tokens; cp /root/tokens /etc/virtpoise/roots; chmod 600 /etc/virtpoise/roots"
    )
    manager.run(
        "sed 's#/etc/virtpoise/tokens#/etc/virtpoise/roots#' /etc/virtpoise/virtpoise.yml > /etc/virtpoise/other.yml"
    )
    with pytest.raises(LabError, match=r"web\.token_file: /etc/virtpoise/roots: .*checked as the user virtpoise"):
        manager.run("virtpoise check-config /etc/virtpoise/other.yml")
    with pytest.raises(LabError, match="--user root: only root can check as another user"):
        manager.run("runuser -u virtpoise -- virtpoise check-config /etc/virtpoise/virtpoise.yml --user root")


def test_the_page_is_served_over_tls_with_a_key_that_only_root_reads(installation: Installation) -> None:
    printed = installation.administrator.type("The page over TLS")
    manager = installation.manager
    assert printed == "virtpoise is healthy.\n"
    assert manager.run("stat -c '%a %U' /etc/virtpoise/key.pem") == "600 root\n"
    assert manager.run("systemctl show -p NRestarts --value virtpoise") == "0\n"


def test_the_exporter_is_served_over_tls_with_a_key_that_only_root_reads(installation: Installation) -> None:
    printed = installation.administrator.type("The exporter over TLS")
    assert printed.count("virtpoise_libvirt_up 1\n") == len(HOSTS)
    for name in HOSTS:
        assert installation.machines[name].run("stat -c '%a %U' /etc/virtpoise/exporter.key") == "600 root\n"

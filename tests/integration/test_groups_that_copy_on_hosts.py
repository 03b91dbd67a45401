"""Four hosts in two groups with one Prometheus, and a domain with a disk of its host's own in each: on a drain the one
group has the disk copied, as its configuration says, and the other refuses with the reason.
"""

from __future__ import annotations

import subprocess
from typing import Any

import libvirt
import pytest

from integration.local_disks import DISK, POOL, create_image
from integration.pool import Pools
from integration.test_groups_on_hosts import ask, launch
from virtpoise_lab.lab import Lab
from virtpoise_lab.processes import wait_until

pytestmark = pytest.mark.lab

GROUPS = {
    "blue": {"matchers": 'instance=~"h[12]:.*"', "migration": {"copy_storage": True}},
    "red": {"matchers": 'instance=~"h[34]:.*"'},
}


def give_a_disk(lab: Lab, name: str, host: str) -> None:
    create_image(lab, host, name, 8)
    lab.host(host).connection().lookupByName(name).attachDeviceFlags(DISK.format(name), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def sum_of(lab: Lab, host: str, name: str) -> str:
    command = ["sha256sum", f"/run/images/{name}.img"]
    return str(lab.host(host).run(command, stdout=subprocess.PIPE, text=True).stdout).split()[0]


def migrations(group: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(f"history?group={group}")
    return found


def test_a_drain_copies_in_the_group_that_says_so(pool: Pools) -> None:
    group = pool({"h1": {"vm1": 5}, "h2": {}, "h3": {"vm2": 5}, "h4": {}})
    try:
        for name in ("h1", "h2", "h3", "h4"):
            group.lab.host(name).run(["mkdir", "-p", "/run/images"])
            group.lab.host(name).connection().storagePoolCreateXML(POOL)
        give_a_disk(group.lab, "vm1", "h1")
        give_a_disk(group.lab, "vm2", "h3")
        group.configure(strategy="default", groups=GROUPS)
        balancer = group.balancer
        launch(balancer)
        drained = balancer.run("drain", "h1", "--wait")
        assert drained.returncode == 0, drained.stderr
        (done,) = [one for one in migrations("blue") if one["result"] == "done"]
        assert (done["domain"], done["source"], done["destination"]) == ("vm1", "h1", "h2")
        assert done["transferred_bytes"] >= 8 * 2**20
        assert sum_of(group.lab, "h2", "vm1") == sum_of(group.lab, "h1", "vm1")
        balancer.run("drain", "h3")

        def explained() -> str:
            return str(balancer.run("explain", "vm2", "--group", "red").stdout)

        wait_until(lambda: "without shared storage" in explained(), 60, "the reason why vm2 stays")
        assert [one for one in migrations("red") if one["result"] == "done"] == []
        assert group.lab.where("vm2") == "h3"
    finally:
        pool.close()  # no other scene has domains with disks

"""The topology that the exporter reads from a real kernel: network devices in a namespace that the test makes.

Its ``eth0`` is a veth whose other end is in a second namespace, as on a container or a host of the lab.
"""

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from virtpoise_exporter.virt.model import Forward, Nic

# A user namespace, so that no right is needed; /sys shows the devices of the namespace in which it is mounted.
ALONE = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
SERVED = """
    import json, subprocess, sys
    from pathlib import Path
    from virtpoise_exporter.kernel.topology import read_topology
    from virtpoise_exporter.virt.model import Forward, Nic

    subprocess.run(["mount", "-t", "sysfs", "none", "/sys"], check=True)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order, *words = json.loads(line)
        if order == "run":
            done = subprocess.run(words, capture_output=True, text=True)
            answer = [done.returncode, done.stderr]
        elif order == "uplinks":
            answer = read_topology(Path("/proc"), Path("/sys"), {}).uplinks
        elif order == "speeds":
            topology = read_topology(Path("/proc"), Path("/sys"), {})
            answer = {name: topology.devices[name].speed_bytes for name in topology.uplinks}
        else:
            nic, forward = words
            answer = read_topology(Path("/proc"), Path("/sys"), {}).uplink_of(
                Nic(**nic), Forward(**forward) if forward else None
            )
        print(json.dumps(answer), flush=True)
"""


@dataclass
class Kernel:
    """A network namespace of its own with the exporter's code in it. It ends with its standard input."""

    process: subprocess.Popen[str]

    def _ask(self, *words: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def works(self, command: str) -> bool:
        return self._run(command)[0] == 0

    def _run(self, command: str) -> tuple[int, str]:
        code, said = self._ask("run", *command.split())
        return int(code), str(said)

    def ip(self, *commands: str) -> None:
        for command in commands:
            code, said = self._run(f"ip {command}")
            assert code == 0, f"ip {command}: {said}"

    def tap(self, name: str, bridge: str) -> None:
        """A domain's device in a bridge."""
        self.ip(f"tuntap add {name} mode tap", f"link set {name} master {bridge} up")

    def bridge(self, name: str, *ports: str) -> None:
        self.ip(f"link add {name} type bridge", f"link set {name} up")
        self.ip(*(f"link set {port} master {name} up" for port in ports))

    def outside(self, *names: str) -> None:
        """Devices whose other end is in the second namespace."""
        for name in names:
            self.ip(f"link add {name} type veth peer name far-{name}", f"link set far-{name} netns outside")
            self.ip(f"link set {name} up")

    def uplink_of(self, nic: Nic, forward: Forward | None = None) -> object:
        fields = {"device": nic.device, "kind": nic.kind, "bridge": nic.bridge, "lower": nic.lower}
        return self._ask("uplink", fields, forward and {"mode": forward.mode, "device": forward.device})

    @property
    def uplinks(self) -> object:
        return self._ask("uplinks")

    @property
    def speeds(self) -> Mapping[str, float]:
        return dict(self._ask("speeds"))


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    command = [*ALONE, sys.executable, "-c", textwrap.dedent(SERVED)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        if not process.stdout.readline():
            pytest.skip(f"no namespaces for this user: {process.stderr.read().strip()[-200:]}")
        made = Kernel(process)
        try:
            assert made.works("mount -t tmpfs none /run")
            made.ip("netns add outside")
            made.outside("eth0")
            yield made
        finally:
            process.stdin.close()
            process.wait(30)


def tap_on(bridge: str, device: str = "vnet0") -> Nic:
    return Nic(device=device, kind="bridge", bridge=bridge)


def test_the_uplink_is_below_the_bridge_that_holds_the_tap_now(kernel: Kernel) -> None:
    """Not the one of the XML: the tap was put into another bridge, as scripts and Open vSwitch agents do."""
    kernel.bridge("br0", "eth0")
    kernel.bridge("br1")
    kernel.tap("vnet0", "br1")
    assert kernel.uplinks == ["eth0"]
    assert kernel.uplink_of(tap_on("br1")) == ""
    kernel.ip("link set vnet0 master br0")
    assert kernel.uplink_of(tap_on("br1")) == "eth0"


def test_a_veth_pair_between_two_bridges_of_the_host_is_followed(kernel: Kernel) -> None:
    kernel.ip("link add to-br0 type veth peer name to-br1")
    kernel.bridge("br0", "eth0", "to-br1")
    kernel.bridge("br1", "to-br0")
    kernel.tap("vnet0", "br1")
    assert kernel.uplinks == ["eth0"]
    assert kernel.uplink_of(tap_on("br1")) == "eth0"


def test_two_bridges_that_only_lead_to_each_other_lead_nowhere(kernel: Kernel) -> None:
    kernel.ip("link add to-br0 type veth peer name to-br1")
    kernel.bridge("br0", "to-br1")
    kernel.bridge("br1", "to-br0")
    kernel.tap("vnet0", "br1")
    assert kernel.uplink_of(tap_on("br1")) == ""


@pytest.mark.parametrize("over", ["remote 198.51.100.9", "group 239.1.1.1 dev eth0"])
def test_a_vxlan_leaves_by_its_device_or_else_by_the_default_route(kernel: Kernel, over: str) -> None:
    kernel.outside("eth1")
    kernel.ip("address add 192.0.2.2/24 dev eth0", "address add 198.18.0.2/24 dev eth1")
    kernel.ip(f"link add vx0 type vxlan id 5 dstport 4789 {over}")
    kernel.bridge("br0", "vx0")
    kernel.tap("vnet0", "br0")
    kernel.ip("route add default via 192.0.2.1")
    assert kernel.uplinks == ["eth0", "eth1"]
    assert kernel.uplink_of(tap_on("br0")) == "eth0"
    kernel.ip("route del default", "route add default via 198.18.0.1")
    assert kernel.uplink_of(tap_on("br0")) == ("eth0" if "dev" in over else "eth1")


def two_networks(kernel: Kernel) -> None:
    """The default routes are eth0's. 198.18.0.0/24 and 2001:db8:1::/64 are on eth1."""
    kernel.outside("eth1")
    kernel.ip("address add 192.0.2.2/24 dev eth0", "address add 198.18.0.2/24 dev eth1")
    kernel.ip("-6 address add 2001:db8::2/64 dev eth0 nodad", "-6 address add 2001:db8:1::2/64 dev eth1 nodad")
    kernel.ip("route add default via 192.0.2.1", "-6 route add default via 2001:db8::1")


@pytest.mark.parametrize(
    ("over", "uplink"),
    [
        ("remote 198.18.0.9", "eth1"),
        ("remote 198.18.0.9 local 198.18.0.2", "eth1"),
        ("remote 203.0.113.9", "eth0"),
        ("remote 203.0.113.9 dev eth1", "eth1"),
        ("remote 2001:db8:1::9", "eth1"),
        ("remote 2001:db8:1::9 local 2001:db8:1::2", "eth1"),
        ("remote 2001:db8:2::9", "eth0"),
        ("external", "eth0"),
        ("local 198.18.0.2", "eth0"),
    ],
)
def test_a_vxlan_leaves_by_the_route_to_its_remote(kernel: Kernel, over: str, uplink: str) -> None:
    two_networks(kernel)
    number = "" if over == "external" else "id 5"
    kernel.ip(f"link add vx0 type vxlan {number} dstport 4789 {over}")
    kernel.bridge("br0", "vx0")
    kernel.tap("vnet0", "br0")
    assert kernel.uplink_of(tap_on("br0")) == uplink


def test_the_route_to_a_remote_may_depend_on_the_local_address(kernel: Kernel) -> None:
    two_networks(kernel)
    kernel.ip("rule add from 198.18.0.2 table 7", "route add default via 198.18.0.1 table 7")
    for name, local in (("vx0", "192.0.2.2"), ("vx1", "198.18.0.2")):
        kernel.ip(f"link add {name} type vxlan id 5 dstport 47{name[-1]}9 remote 203.0.113.9 local {local}")
        kernel.bridge(f"br{name[-1]}", name)
    kernel.tap("vnet0", "br0")
    assert kernel.uplink_of(tap_on("br0")) == "eth0"
    kernel.ip("link set vnet0 master br1")
    assert kernel.uplink_of(tap_on("br0")) == "eth1"


def test_the_remotes_of_a_vxlan_may_be_in_its_forwarding_table(kernel: Kernel) -> None:
    two_networks(kernel)
    kernel.ip("link add vx0 type vxlan id 5 dstport 4789 local 198.18.0.2")
    kernel.bridge("br0", "vx0")
    kernel.tap("vnet0", "br0")
    assert kernel.works("bridge fdb append 00:00:00:00:00:00 dev vx0 dst 198.18.0.9")
    assert kernel.uplink_of(tap_on("br0")) == "eth1"


def test_a_vxlan_whose_remote_no_route_leads_to_has_no_uplink(kernel: Kernel) -> None:
    kernel.ip("address add 192.0.2.2/24 dev eth0", "link add vx0 type vxlan id 5 dstport 4789 remote 203.0.113.9")
    kernel.bridge("br0", "vx0")
    kernel.tap("vnet0", "br0")
    assert kernel.uplink_of(tap_on("br0")) == ""
    kernel.ip("route add 203.0.113.0/24 via 192.0.2.1")
    assert kernel.uplink_of(tap_on("br0")) == "eth0"


def test_the_default_route_may_be_one_of_ipv6_alone(kernel: Kernel) -> None:
    kernel.bridge("virbr0")
    kernel.tap("vnet0", "virbr0")
    kernel.ip("-6 address add 2001:db8::2/64 dev eth0 nodad")
    assert kernel.uplink_of(tap_on("virbr0"), Forward(mode="nat")) == ""
    kernel.ip("-6 route add default via 2001:db8::1")
    assert kernel.uplink_of(tap_on("virbr0"), Forward(mode="nat")) == "eth0"


def test_a_network_with_nat_leaves_by_the_default_route_or_by_the_device_that_it_names(kernel: Kernel) -> None:
    kernel.outside("eth1")
    kernel.bridge("virbr0")
    kernel.tap("vnet0", "virbr0")
    kernel.ip("address add 192.0.2.2/24 dev eth0", "route add default via 192.0.2.1")
    assert kernel.uplink_of(tap_on("virbr0"), Forward(mode="nat")) == "eth0"
    assert kernel.uplink_of(tap_on("virbr0"), Forward(mode="nat", device="eth1")) == "eth1"
    assert kernel.uplink_of(tap_on("virbr0")) == ""


def test_a_veth_has_the_speed_that_its_kernel_gives_it_and_a_bridge_is_no_uplink(kernel: Kernel) -> None:
    kernel.bridge("br0", "eth0")
    assert kernel.speeds == {"eth0": 10_000 * 125_000}


@pytest.mark.parametrize("kind", ["bond", "team"])
def test_a_bond_or_team_is_one_uplink(kernel: Kernel, kind: str) -> None:
    if not kernel.works(f"ip link add both type {kind}"):
        pytest.skip(f"the kernel has no {kind}")
    kernel.outside("eth1", "eth2")
    for member in ("eth1", "eth2"):
        kernel.ip(f"link set {member} down", f"link set {member} master both")
    kernel.bridge("br0", "both")
    kernel.tap("vnet0", "br0")
    kernel.ip("link delete eth0")
    assert kernel.uplinks == ["both"]
    assert kernel.uplink_of(tap_on("br0")) == "both"


class TestOpenVSwitch:
    """A real Open vSwitch in the namespace, whose switch is a program: no module of the kernel is needed."""

    @pytest.fixture
    def switch(self, kernel: Kernel) -> Callable[[str], None]:
        """Gives orders to ``ovs-vsctl``."""
        server, daemon = shutil.which("ovsdb-server"), shutil.which("ovs-vswitchd")
        if server is None or daemon is None:
            pytest.skip("Open vSwitch is not installed")
        schema = Path(server).parents[1] / "share/openvswitch/vswitch.ovsschema"
        run, database = "/run/openvswitch", "unix:/run/openvswitch/db.sock"
        for command in (
            f"mkdir {run}",
            f"ovsdb-tool create {run}/conf.db {schema}",
            f"ovsdb-server {run}/conf.db --remote=p{database} --unixctl={run}/a --pidfile={run}/a.pid --detach --no-chdir",
            f"ovs-vsctl --db={database} --no-wait init",
            f"ovs-vswitchd {database} --unixctl={run}/b --pidfile={run}/b.pid --detach --no-chdir --log-file={run}/log",
        ):
            assert kernel.works(command), command

        def order(words: str) -> None:
            assert kernel.works(f"ovs-vsctl --timeout=20 --db={database} {words}"), words

        return order

    @pytest.mark.parametrize(("mode", "members_at_once"), [("balance-slb", 2), ("active-backup", 1)])
    def test_a_tap_leaves_by_the_bond_behind_two_patched_bridges(
        self, kernel: Kernel, switch: Callable[[str], None], mode: str, members_at_once: int
    ) -> None:
        kernel.outside("eth1", "eth2")
        for bridge in ("br-int", "br-ex"):
            switch(f"add-br {bridge} -- set bridge {bridge} datapath_type=netdev")
        switch(f"add-bond br-ex bond1 eth1 eth2 bond_mode={mode}")
        for here, there in (("int", "ex"), ("ex", "int")):
            patch = f"to-{there}"
            switch(f"add-port br-{here} {patch} -- set interface {patch} type=patch options:peer=to-{here}")
        kernel.ip("tuntap add vnet0 mode tap")
        switch("add-port br-int vnet0")
        assert kernel.uplinks == ["bond1", "eth0"]
        assert kernel.speeds["bond1"] == members_at_once * kernel.speeds["eth0"]
        assert kernel.uplink_of(tap_on("br-int")) == "bond1"

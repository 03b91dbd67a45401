"""The parts of the lab that decide and do nothing: they need no host."""

from pathlib import Path

import pytest

from virtpoise_lab import cgroups, procstat
from virtpoise_lab.cgroups import Group, Hierarchies, hierarchies
from virtpoise_lab.cli import main
from virtpoise_lab.errors import LabError
from virtpoise_lab.model import DomainSpec, Load, checked, placed
from virtpoise_lab.procstat import Account, Steal, Times

V1 = """\
30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 29 0:27 / /sys/fs/cgroup/cpuset rw,relatime shared:3 - cgroup cgroup rw,cpuset
32 29 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
"""
V2 = "29 23 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_domains_without_a_host_go_where_the_fewest_are() -> None:
    specs = (DomainSpec("a"), DomainSpec("b", "h1"), DomainSpec("c"), DomainSpec("d"))
    assert [(s.name, s.host) for s in placed(specs, ("h1", "h2"))] == [
        ("a", "h2"),
        ("b", "h1"),
        ("c", "h1"),
        ("d", "h2"),
    ]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (DomainSpec("a", "h9"), "domain a: host h9: expected one of h1, h2"),
        (DomainSpec("../a"), "domain name '../a'"),
        (DomainSpec("a", vcpus=0), "domain a: vcpus 0: expected 1 to 16"),
        (DomainSpec("a", memory_mib=32), "domain a: memory 32 MiB"),
        (DomainSpec("a", load=Load(101)), "domain a: CPU load 101: expected 0 to 100 percent"),
        (DomainSpec("a", load=Load(float("nan"))), "domain a: CPU load nan: expected 0 to 100 percent"),
        (DomainSpec("a", load=Load(dirty=-1)), "domain a: dirty -1: expected 0 to 10000 MB per second"),
    ],
)
def test_a_domain_that_cannot_be_is_refused_with_its_field(spec: DomainSpec, line: str) -> None:
    with pytest.raises(LabError) as refusal:
        placed((spec,), ("h1", "h2"))
    assert str(refusal.value).startswith(line)


def test_two_domains_of_one_name_are_refused() -> None:
    with pytest.raises(LabError, match="two domains have the same name"):
        placed((DomainSpec("a"), DomainSpec("a")), ("h1",))


def test_the_same_name_has_the_same_uuid() -> None:
    assert checked(DomainSpec("a")).uuid == DomainSpec("a", "h2").uuid != DomainSpec("b").uuid


def test_cgroups_version_1_version_2_and_both() -> None:
    v1, v2, both = hierarchies(V1), hierarchies(V2), hierarchies(V1 + V2.replace("cgroup rw", "cgroup/unified rw"))
    assert [name for name, _ in v1.v1] == ["cpu", "cpuacct", "cpuset", "memory"]
    assert [str(root) for root in v1.roots] == [f"/sys/fs/cgroup/{n}" for n in ("cpu,cpuacct", "cpuset", "memory")]
    assert [str(root) for root in v2.roots] == ["/sys/fs/cgroup"]
    assert [str(root) for root in both.roots][-1] == "/sys/fs/cgroup/unified"


def test_a_missing_controller_is_named() -> None:
    with pytest.raises(LabError, match="cgroup controllers missing: memory"):
        hierarchies("".join(V1.splitlines(keepends=True)[:2]))


def test_a_group_of_version_2_is_limited_and_read_in_the_kernels_words(tmp_path: Path) -> None:
    """Documentation/admin-guide/cgroup-v2.rst; here the files are plain ones, so this holds on any machine."""
    group = Group(Hierarchies((), tmp_path), "h1")
    folder = tmp_path / cgroups.TOP / "h1"
    group.create()
    group.limit_memory(1 << 30)
    group.limit_cpu(3, 0.5)
    (folder / "cpu.stat").write_text("usage_usec 3500000\nuser_usec 2500000\nsystem_usec 1000000\nnr_periods 0\n")

    assert (folder.parent / "cgroup.subtree_control").read_text() == "+cpu +cpuset +memory"
    assert {name: (folder / name).read_text() for name in ("cpuset.cpus", "cpu.max", "memory.max")} == {
        "cpuset.cpus": "3",
        "cpu.max": "50000 100000",
        "memory.max": "1073741824",
    }
    assert group.usage() == (2.5, 1.0)
    assert group.share() == 0.5
    group.limit_cpu(3, None)
    assert (folder / "cpu.max").read_text() == "max 100000"
    assert group.share() == 1.0


def test_a_hosts_cpu_time_is_what_it_used_and_what_it_could_have_used() -> None:
    def fields(text: str) -> list[int]:
        first, second, rest = text.split("\n", 2)
        assert (second, rest) == (first.replace("cpu ", "cpu0"), "btime 1\n")
        return [int(field) for field in first.split()[1:]]

    account = Account(now=100.0)
    rest = "btime 1\n"
    assert fields(account.text(110.0, 0.5, 1.0, 0.5, 0.0, rest)) == [100, 0, 50, 350, 0, 0, 0, 0, 0, 0]
    # a smaller share from here on, and all of it used, and a little more: idle stands still
    assert fields(account.text(120.0, 0.25, 3.5, 0.55, 0.0, rest)) == [350, 0, 55, 350, 0, 0, 0, 0, 0, 0]


def test_what_others_took_of_a_hosts_cpu_is_steal_and_no_longer_idle() -> None:
    def idle_and_steal(text: str) -> tuple[int, int]:
        fields = text.split("\n", 1)[0].split()[1:]
        return int(fields[3]), int(fields[7])

    account = Account(now=100.0)
    assert idle_and_steal(account.text(110.0, 1.0, 4.0, 1.0, 2.0, "")) == (300, 200)
    # more than was left unused cannot have been stolen, and neither counter falls
    assert idle_and_steal(account.text(120.0, 1.0, 14.0, 1.0, 9.0, "")) == (300, 500)
    assert idle_and_steal(account.text(130.0, 1.0, 24.0, 1.0, 9.0, "")) == (300, 500)


@pytest.mark.parametrize(
    ("share", "spare", "stolen"),
    [(None, 0.0, 1.0 + 0.25), (None, 0.1, 1.0 + 0.25 - 0.1 * 5), (None, 0.5, 0.0), (0.9, 0.0, 1.0 + 0.25 - 0.1 * 5)],
)
def test_what_others_took_is_stolen_unless_the_host_could_spare_it(
    share: float | None, spare: float, stolen: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host waits for 1.5 of 5 s. Its own limit explains 0.5 s of them.

    The hypervisor takes 1 s. The host made a quarter of what ran, so a quarter of that second is its own.
    """
    cpus = {3: Times(busy=100.0, stolen=7.0)}
    monkeypatch.setattr(procstat, "_times", lambda cpu: cpus[cpu])
    group = Group(Hierarchies((), tmp_path), "h1")
    group.create()
    group.limit_cpu(3, share)
    folder = tmp_path / cgroups.TOP / "h1"

    def kernel_shows(used: int, full: int, throttled: int) -> None:
        averages = "avg10=0.00 avg60=0.00 avg300=0.00"
        (folder / "cpu.pressure").write_text(f"some {averages} total={2 * full}\nfull {averages} total={full}\n")
        (folder / "cpu.stat").write_text(f"user_usec {used}\nsystem_usec 0\nthrottled_usec {throttled}\n")

    kernel_shows(1_000_000, 2_000_000, 1_000_000)
    steal = Steal(group, 100.0)
    kernel_shows(1_800_000, 3_500_000, 1_500_000)
    cpus[3] = Times(busy=103.2, stolen=8.0)
    assert steal.seconds(105.0, spare) == pytest.approx(stolen)
    assert steal.seconds(110.0, spare) == pytest.approx(stolen)  # what was spared later makes up for nothing


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["up", "--place", "h1=x"], "lab: --place h1=x: expected NAME=NUMBER\n"),
        (["up", "--place", "h2=1,h1=2.7"], "lab: --place h1=2.7: expected a whole number of domains\n"),
        (["up", "--place", "h1=nan"], "lab: --place h1=nan: expected a whole number of domains\n"),
        (["up", "--place", "h1=inf"], "lab: --place h1=inf: expected a whole number of domains\n"),
        (["up", "--domains", "1", "--load", "vm7=10"], "lab: --load vm7: there is no such domain\n"),
        (["up", "--domains", "-1"], "lab: domains -1: expected 0 to 1000\n"),
    ],
)
def test_a_wrong_argument_is_said_in_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == line

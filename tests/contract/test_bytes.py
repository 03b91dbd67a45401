"""Whatever bytes come in, nothing ends in a traceback, hangs, or moves a domain on figures that cannot be.

``VIRTPOISE_EXAMPLES=10000 pytest --timeout 0 tests/contract/test_bytes.py`` plays ten thousand cases of each. Stores
have theirs in tests/knowledge/test_damaged.py.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from xml.etree.ElementTree import ParseError

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from builders import domain, group, host
from virtpoise_balancer.config import check_secrets, parse_config
from virtpoise_balancer.errors import BadInput, MonitorError
from virtpoise_balancer.formats import read_plan, read_snapshot, write_plan, write_snapshot
from virtpoise_balancer.knowledge.documents import pack_inputs, unpack_inputs, unpack_plan
from virtpoise_balancer.knowledge.records import Inputs
from virtpoise_balancer.model import Placement, Policy, Snapshot
from virtpoise_balancer.monitor.client import PrometheusClient
from virtpoise_balancer.monitor.http import Reply
from virtpoise_balancer.monitor.observe import Observer
from virtpoise_balancer.monitor.queries import OF_THE_PAST, QUERIES, SATURATED_LATELY, Ranges, of_the_past, render
from virtpoise_balancer.plan import plan
from virtpoise_exporter.errors import UsageError
from virtpoise_exporter.virt.xml import domain_facts
from virtpoise_exporter.web.config import load

EXAMPLES = settings(
    max_examples=int(os.environ.get("VIRTPOISE_EXAMPLES", "150")),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
)
NOW = 1000.0
STEP = 10.0
GIB = 2**30


def bent(whole: bytes, words: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Like ``whole``, with some places overwritten, cut out or filled with one of these words or any bytes."""
    piece = st.one_of(st.sampled_from(words), st.binary(max_size=6))
    change = st.tuples(st.integers(0, len(whole)), st.integers(0, 12), piece)

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        made = whole
        for at, length, put in changes:
            made = made[:at] + put + made[at + length :]
        return made

    return st.lists(change, min_size=1, max_size=4).map(apply)


def no_move_on_what_cannot_be(snapshot: Snapshot, policy: Policy) -> None:
    """A plan is made, and its moves are between known hosts whose figures are in range."""
    for move in plan(snapshot, policy).moves:
        for name in (move.source, move.destination):
            found = snapshot.host(name)
            assert found is not None, move
            assert found.known, (move, found.why_unknown)
            assert all(math.isfinite(one) and 0 <= one <= 1.05 for one in found.cpu_ratio), found
            assert 0 < found.cpus <= 65536, found
            assert 0 < found.cpu_speed < 1e3, found
            assert 0 <= found.memory_used_bytes <= found.memory_bytes, found
        assert all(math.isfinite(one.cpu_ratio) for one in (move.predicted.source, move.predicted.destination)), (
            move.predicted
        )


# --- Prometheus -------------------------------------------------------------------------------------------------------

RANGES = Ranges.of(step_seconds=STEP, scrape_interval_seconds=5.0, consecutive=2, saturation_ratio=0.98)
NAMES = {
    **{render(text, RANGES, ""): name for name, text in QUERIES.items()},
    **{of_the_past(name, (), RANGES, ""): name for name in OF_THE_PAST},
    render(SATURATED_LATELY, RANGES, ""): "saturated_lately",
}
FIGURES: Mapping[str, Mapping[str, float]] = {
    "host_cpus": {"h1": 8, "h2": 8},
    "host_memory_bytes": {"h1": 16 * GIB, "h2": 16 * GIB},
    "host_memory_available_bytes": {"h1": 8 * GIB, "h2": 12 * GIB},
    "host_sample_time": {"h1": NOW - 1, "h2": NOW - 1},
    "host_libvirt_up": {"h1": 1, "h2": 1},
    "host_domains_active": {"h1": 2, "h2": 0},
    "host_domains_inactive": {"h1": 0, "h2": 0},
    "domain_running": {"h1": 1},
    "domain_vcpus": {"h1": 4},
    "domain_memory_bytes": {"h1": GIB},
    "domain_cpu_cores": {"h1": 3.5},
}
LOADS = {"h1": 0.93, "h2": 0.1}
WORDS = tuple(
    b'"NaN" "+Inf" "-Inf" "1e308" "-1" "0" "1e-320" 1e999 null true [] {} "x" "h2:1" "\\ud800" "\\u0000" '
    b'"instance" "uuid" ,, ]} "success" "error" "matrix" "vector" [1,"2"] 999999999999999999999'.split()
)


def reply(name: str) -> bytes:
    """A sound reply to a query."""
    is_window = name.endswith("_ratio") and name.startswith("host_")
    values = LOADS if name == "host_cpu_ratio" else FIGURES.get(name, {})
    found = []
    for at, value in values.items():
        for number in range(2) if name.startswith("domain_") else (0,):
            labels = {"instance": f"{at}:9807"}
            if name.startswith("domain_"):
                labels |= {"uuid": f"u{number}", "domain": f"vm{number}"}
            samples = [[NOW - STEP * age, str(value)] for age in (3, 2, 1, 0)]
            found.append({"metric": labels} | ({"values": samples} if is_window else {"value": [NOW, str(value)]}))
    data = {"resultType": "matrix" if is_window else "vector", "result": found}
    return json.dumps({"status": "success", "data": data}).encode()


def with_other_figures(whole: bytes) -> st.SearchStrategy[bytes]:
    """Sound but for some of its figures."""
    figures = [match.span(1) for match in re.finditer(rb'"(\d[\d.e+]*)"', whole)]
    if not figures:
        return st.just(whole)
    other = st.sampled_from((b"-1", b"0", b"0.5", b"1.5", b"40", b"1e6", b"65537", b"1e18", b"1e-9", b"NaN"))

    def apply(changes: dict[tuple[int, int], bytes]) -> bytes:
        made = whole
        for (begin, end), put in sorted(changes.items(), reverse=True):
            made = made[:begin] + put + made[end:]
        return made

    return st.dictionaries(st.sampled_from(figures), other, min_size=1, max_size=len(figures)).map(apply)


class Server:
    """Stands for the connection. ``bent``: the bytes of some replies, by the query's name."""

    def __init__(self, bent: Mapping[str, bytes]) -> None:
        self.bent = bent

    def exchange(self, _method: str, _path: str, _seconds: float, form: Mapping[str, str]) -> Reply:
        if form["query"] == "vector(time())":
            body = {"resultType": "vector", "result": [{"metric": {}, "value": [NOW, str(NOW)]}]}
            sound = json.dumps({"status": "success", "data": body}).encode()
            return Reply(status=200, reason="OK", headers={}, content=self.bent.get("time", sound))
        name = NAMES[form["query"]]
        return Reply(status=200, reason="OK", headers={}, content=self.bent.get(name, reply(name)))


def observer(bent: Mapping[str, bytes]) -> Observer:
    client = PrometheusClient(url="http://server", timeout_seconds=0.001)
    client._http = Server(bent)  # type: ignore[assignment]
    return Observer(
        client=client,
        step_seconds=STEP,
        scrape_interval_seconds=5.0,
        consecutive=2,
        saturation_ratio=0.98,
        queries={},
        matchers="",
        admits=lambda _name: True,
    )


def test_the_sound_replies_lead_to_a_move() -> None:
    """Otherwise the test below would find nothing."""
    assert plan(observer({}).observe(NOW).snapshot, Policy()).moves


@EXAMPLES
@given(st.data())
def test_whatever_prometheus_replies(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([*sorted(QUERIES), "time"]), min_size=1, max_size=3, unique=True))
    sound = {name: reply(name) for name in names if name != "time"} | {"time": b'{"status":"success"}'}
    changed = {
        name: data.draw(st.one_of(bent(sound[name], WORDS), with_other_figures(sound[name])), label=name)
        for name in names
    }
    with suppress(MonitorError):
        snapshot = observer(changed).observe(NOW).snapshot
        for strategy in ("default", "thesis"):
            no_move_on_what_cannot_be(snapshot, Policy(strategy=strategy))


# --- files ------------------------------------------------------------------------------------------------------------

SEEN = group(
    host("h1", 0.9, 0.9, 0.9),
    host("h2", 0.1, 0.1, 0.1),
    domain("a", "h1", 3.0, placement=Placement(together=("web",))),
    domain("b", "h1", 2.0),
)
SNAPSHOT = write_snapshot(SEEN).encode()
JSON = tuple(
    b'null true -1 0 1e308 1e999 NaN Infinity "x" "" [] {} "h2" "\\ud800" "\\u0000" 99999999999999999999 ,,'.split()
)


@EXAMPLES
@given(bent(SNAPSHOT, JSON))
@example(SNAPSHOT)
def test_whatever_a_saved_snapshot_holds(raw: bytes) -> None:
    with suppress(BadInput):
        snapshot = read_snapshot(raw, "the file")
        for strategy in ("default", "thesis"):
            no_move_on_what_cannot_be(snapshot, Policy(strategy=strategy))


PLAN = write_plan(plan(SEEN, Policy())).encode()


@EXAMPLES
@given(bent(PLAN, JSON))
@example(PLAN)
def test_whatever_a_saved_plan_holds(raw: bytes) -> None:
    with suppress(BadInput):
        write_plan(read_plan(raw, "the file"))


INPUTS = pack_inputs(Inputs(snapshot=SEEN, policy=Policy(), version="0"))


@EXAMPLES
@given(bent(INPUTS, (b"x", b"\x00")))
def test_whatever_a_packed_document_holds(raw: bytes) -> None:
    with suppress(BadInput):
        unpack_inputs(raw, "the store")
    with suppress(BadInput):
        unpack_plan(raw, "the store")


CONFIG = b"""\
mode: automatic
interval_seconds: 10
prometheus: {url: 'http://127.0.0.1:9090', scrape_interval_seconds: 5}
libvirt: {pattern: 'h*', hosts: [h1, h2]}
policy:
  cpu: {threshold: 0.8, consecutive: 3}
  rules:
    - {kind: together, domains: [a, b]}
migration: {timeout_seconds: 600}
state: {url: 'sqlite:////tmp/state.db'}
"""
YAML = tuple(
    b"!!timestamp !!binary !!float !!int !!python/object:os.system !!set !!omap !!pairs !!merge << &a *a ? : - | > { } "
    b"[ ] ' \" # % @ ` ~ .nan .inf -.inf 1e999 0x1F 0o7 1_0 190:20:30 2024-01-01 2024-99-99 yes null 99999999999999999999 "
    b"\n \t \x00 \xff \xc2\x85 --- ...".split(b" ")
)


@EXAMPLES
@given(bent(CONFIG, YAML))
@example(CONFIG)
@example(b"interval_seconds: !!timestamp x")
@example(b"mode: !!timestamp 2024-99-99")
@example(b"? {a: b}\n: c")
@example(b"a: &a [*a]")
@example(b'prometheus: {token_file: "\\0"}')
@example(b'web: {token_file: "\\0"}')
@example(b'state: {url: "sqlite:////\\0"}')
def test_whatever_a_configuration_holds(raw: bytes) -> None:
    with suppress(BadInput):
        config = parse_config(raw.decode(errors="replace"), "the file")
        check_secrets(config)
        if config.state.file is not None:
            config.state.file.exists()


WEB = b"""\
tls_server_config: {cert_file: x.pem, key_file: x.key, client_auth_type: NoClientCert}
http_server_config: {http2: true, headers: {X-Frame-Options: deny}}
basic_auth_users: {alice: $2y$10$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}
rate_limit: {interval: 1s, burst: 2}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web") / "web.yml"


@EXAMPLES
@given(raw=bent(WEB, YAML))
@example(raw=WEB)
@example(raw=b"rate_limit: !!timestamp x")
@example(raw=b'tls_server_config: {cert_file: "\\0"}')
def test_whatever_the_web_configuration_of_an_exporter_holds(file: Path, raw: bytes) -> None:
    file.write_bytes(raw)
    file.chmod(0o600)
    with suppress(UsageError):
        load(file)


# --- metadata ---------------------------------------------------------------------------------------------------------

DOMAIN = b"""\
<domain><vcpu>4</vcpu><memory unit='KiB'>1048576</memory><metadata>
<p:placement xmlns:p='urn:virtpoise:1'><p:together>web</p:together><p:only-on>h1 h2</p:only-on></p:placement>
</metadata><devices><interface type='bridge'><target dev='vnet0'/></interface></devices></domain>
"""
XML = tuple(
    b"<p:apart>x</p:apart> <p:ignore/> <p:evil>x</p:evil> &lt; &#0; &a; <!DOCTYPE <![CDATA[ ]]> \x00 \xff "
    b"xmlns:p='urn:other' -1 1e9 99999999999999999999 unit='EiB' <vcpu/> *".split(b" ")
)


@EXAMPLES
@given(bent(DOMAIN, XML))
@example(DOMAIN)
def test_whatever_the_metadata_of_a_domain_holds(raw: bytes) -> None:
    with suppress(ParseError, ValueError):  # the collector names the domain and leaves it out
        facts = domain_facts(raw.decode(errors="replace"))
        assert len(facts.placement) <= 16
        assert all(len(value) <= 128 for _, value in facts.placement)


NAMES_OF_RULES = st.lists(st.text(min_size=1, max_size=12), max_size=4).map(tuple)


@EXAMPLES
@given(
    st.lists(
        st.builds(
            Placement,
            together=NAMES_OF_RULES,
            apart=NAMES_OF_RULES,
            only_on=NAMES_OF_RULES,
            never_on=NAMES_OF_RULES,
            prefer=NAMES_OF_RULES,
            ignore=st.booleans(),
        ),
        max_size=4,
    )
)
def test_whatever_placements_ask_for(placements: list[Placement]) -> None:
    found = [domain(f"d{number}", "h1", 1.5, placement=one) for number, one in enumerate(placements)]
    seen = group(host("h1", 0.9, 0.9, 0.9), host("h2", 0.1, 0.1, 0.1), domain("a", "h1", 3.0), *found)
    assert read_snapshot(write_snapshot(seen), "what was seen") == seen
    no_move_on_what_cannot_be(seen, Policy())

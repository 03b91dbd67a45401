"""An IPv6 address in a rule, a reserve, a pattern or metadata is that address however it is written."""

from __future__ import annotations

import pytest

from hostile.test_mangled import HONEST, NOW, look
from virtpoise_balancer.config import parse_config
from virtpoise_balancer.hosts import of_pattern
from virtpoise_balancer.monitor.replies import Series

WRITTEN = ["2001:db8::1", "2001:DB8::1", "[2001:db8::1]", "2001:db8:0:0::1"]


@pytest.mark.parametrize("written", WRITTEN)
def test_an_address_in_the_configuration_is_brought_to_its_shortest_form(written: str) -> None:
    rules = f'rules: [{{name: r, kind: only_on, domains: [a], hosts: ["{written}"]}}]'
    policy = f'{{{rules}, reserve: [{{memory_bytes: 1, hosts: ["{written}"]}}]}}'
    config = parse_config(f'libvirt: {{pattern: "{written}"}}\npolicy: {policy}', "f")
    assert config.policy.rules[0].hosts == config.policy.reserve[0].hosts == ("2001:db8::1",)
    assert config.libvirt.admission()("2001:db8::1")
    assert not config.libvirt.admission()("2001:db8::2")
    groups = f"groups: {{blue: {{matchers: 'c=\"b\"', policy: {policy}}}}}"
    (group,) = parse_config(groups, "f").groups.values()
    assert group.policy.rules[0].hosts == ("2001:db8::1",)


@pytest.mark.parametrize("written", WRITTEN)
def test_an_address_in_metadata_is_brought_to_its_shortest_form(written: str) -> None:
    found = {name: list(answer) for name, answer in HONEST.items()}
    first, *others = found["domain_placement"]
    found["domain_placement"] = [Series({**first.labels, "value": written}, first.samples), *others]
    seen = look(found).observe(NOW).snapshot
    (placement,) = (one.placement for one in seen.domains if one.uuid == first.labels["uuid"])
    assert placement is not None
    assert placement.prefer == ("2001:db8::1",)


@pytest.mark.parametrize(
    ("pattern", "same"),
    [
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("[FE80::1%eth0]", "fe80::1%eth0"),
        ("kvm[1-3]", "kvm[1-3]"),
        ("[a:c]*", "[a:c]*"),
        ("[a:c]", "[a:c]"),
        ("2001:db8::*", "2001:db8::*"),
        ("rack=[a:c]", "rack=[a:c]"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_any_other_pattern_stays_as_it_is(pattern: str, same: str) -> None:
    assert of_pattern(pattern) == same

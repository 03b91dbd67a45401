"""Pages and examples say what the program does: generated ones are regenerated, the example is held to the schema."""

import dataclasses
import re
import types
import typing
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from pydantic import BaseModel

from virtpoise_balancer.config import Config, parse_config
from virtpoise_docs import PAGES
from virtpoise_docs.configuration import EXAMPLE, settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES_BY_HAND = [
    *ROOT.glob("*.md"),
    *(page for folder in ("docs", "alerts", "grafana", "lab", "exporter") for page in (ROOT / folder).rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_is_what_the_code_says(page: str) -> None:
    written = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert written == PAGES[page](), "run scripts/generate-docs"


def test_the_generators_are_not_part_of_the_wheel() -> None:
    files = [file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()]
    assert "virtpoise_balancer/command/main.py" in files
    assert "virtpoise_exporter/metrics.py" in files
    assert {file.partition("/")[0] for file in files} == {"virtpoise_balancer", "virtpoise_exporter"}
    sources = [ROOT / kind / file for file in files if file.endswith(".py") for kind in ("balancer", "exporter")]
    assert [file for file in sources if file.exists() and "Generated from" in file.read_text(encoding="utf-8")] == []


def keys(kind: object, prefix: str = "") -> set[str]:
    """The paths of all keys that the schema knows below a type; a list's are those of its items."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType, tuple, typing.Annotated):
        return set().union(*(keys(part, prefix) for part in typing.get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {name: field.annotation for name, field in kind.model_fields.items()}
    elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    else:
        return set()
    return {f"{prefix}{name}" for name in fields}.union(
        *(keys(annotation, f"{prefix}{name}.") for name, annotation in fields.items())
    )


def test_the_example_explains_every_key_once_and_no_other() -> None:
    found = list(settings(EXAMPLE.read_text(encoding="utf-8")))
    paths = [one.path for one in found]
    assert sorted(paths) == sorted(keys(Config))
    assert [one.path for one in found if not one.text.endswith(".")] == []


def test_the_example_has_the_defaults() -> None:
    assert parse_config(EXAMPLE.read_text(encoding="utf-8"), "example") == Config()


@pytest.mark.parametrize("kept", ["#token_file", "#basic_auth", "#authorization"])
def test_what_is_only_an_example_in_it_can_be_used(kept: str) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    for one in {"#token_file", "#basic_auth", "#authorization"} - {kept}:  # one excludes the others
        text = re.sub(rf"(?m)^ *{one}:.*\n(?:      .*\n)*", "", text, count=1)
    text = re.sub(r"(?m)^      #ca_file:.*\n", "", text)  # ca_file stands once
    text = re.sub(r"(?m)^( *)#((?:- )?[a-z_]+:)", r"\1\2", text)
    read = parse_config(text, "example")
    assert read.policy.rules[0].name == "databases-apart"
    assert read.policy.imbalance is not None
    assert read.web.token_file == Path("/etc/virtpoise/tokens")


@pytest.mark.parametrize("page", PAGES_BY_HAND, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    inside = [target.partition("#")[0] for target in targets if "://" not in target and not target.startswith("#")]
    assert [target for target in inside if not (page.parent / target).exists()] == []

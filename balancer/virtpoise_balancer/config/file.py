"""Reads the configuration file. What it refuses is named in one line a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from virtpoise_balancer.config.schema import Config
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.formats import kind_of, problems
from virtpoise_balancer.secret_files import check_secret
from virtpoise_balancer.tokens import read_tokens
from virtpoise_balancer.visible import visible

# The most values of a configuration; what an alias stands for counts each time. Ten rules for each of 1,000 hosts have
# a fifth of it.
_MOST_VALUES = 1_000_000
# What PyYAML quotes of the file, such as the name of an alias: a secret may begin with its asterisk.
_OF_FILE = re.compile("'[^<'][^']+'")
# Python refuses to write down a whole number of more than 4,300 digits, in a message as well.
_WHOLE, _LONGEST_NUMBER = "tag:yaml.org,2002:int", 1000
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class _Endless(Exception):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines


def check_secrets(config: Config) -> None:
    """Check that this user can use all files with secrets that the configuration names. BadInput names one that is
    wrong.
    """
    config.prometheus.access().check()
    if config.web.token_file is not None:
        read_tokens(config.web.token_file)
    if config.state.password_file is not None:
        check_secret(config.state.password_file, "state.password_file")
    if config.web.key_file is not None:
        check_secret(config.web.key_file, "web.key_file")


def read_config(path: Path) -> Config:
    """The configuration in the file; BadInput names the file, the key and what was expected."""
    return parse_config(_read(path), str(path))


def parse_config(text: str, source: str) -> Config:
    """The configuration in the text. BadInput names the source and each wrong key."""
    values, mistakes = parse_values(text, source, "sections such as `policy:`")
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise BadInput.of(source, [*mistakes, *_once(problems(error))]) from None
    if mistakes:
        raise BadInput.of(source, mistakes)
    return config


def read_values(path: Path, expected: str) -> tuple[dict[Any, Any], list[str]]:
    """The values of a file in YAML, and a line for each mistake in it that leaves the values readable.

    ``expected``: what a file of its kind has. BadInput where there are no values.
    """
    return parse_values(_read(path), str(path), expected)


def parse_values(text: str, source: str, expected: str) -> tuple[dict[Any, Any], list[str]]:
    """The values of a text, and what is wrong with them. ``source``: names the text in a BadInput."""
    try:
        values, mistakes = _yaml(text)
    except _Endless as error:
        raise BadInput.of(source, error.lines) from None
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: a date that is none, a number without end
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or (str(error) or "unreadable").splitlines()[0]
        problem = _OF_FILE.sub("'...'", problem)
        raise BadInput(f"{source}: expected YAML: {problem}{where}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise BadInput(f"{source}: expected {expected}, got {kind_of(values)}")
    return values, mistakes


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadInput(f"{path}: cannot be read: {reason}") from None


def _once(problems: list[str]) -> Iterator[str]:
    """The problems without those that groups have from the common settings alone."""
    for problem in problems:
        common = problem.removeprefix("groups.").partition(".")[2]
        if not problem.startswith("groups.") or common not in problems:
            yield problem


def _yaml(text: str) -> tuple[Any, list[str]]:
    """The values, and a line for each key that stands twice in its mapping and for each text that is none.

    The last one of two keys counts in the values. No file's name, address or pattern has a zero byte, and half of a
    surrogate pair cannot be sent or written. _Endless names each value that contains itself.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if endless := list(_endless(node)):
            raise _Endless([visible(line) for line in endless])
        mistakes = [visible(line) for line in _mistakes(node, "", set())]
        return (None if node is None else loader.construct_document(node)), mistakes
    except (AttributeError, LookupError, TypeError) as error:  # PyYAML trusts a tag on what its value is
        raise ValueError("a value is not of the kind that its tag (such as !!timestamp) says") from error
    finally:
        loader.dispose()


def _endless(root: yaml.Node | None) -> Iterator[str]:
    """A line for each alias of an anchor around it, and one for aliases that make the configuration huge."""
    around: set[int] = set()
    sizes: dict[int, int] = {}
    found: list[str] = []

    def size(node: yaml.Node, path: str) -> int:
        if id(node) in around:
            found.append(f"{path}: expected a value that does not contain itself, got an alias of what it stands in")
            return 1
        if id(node) not in sizes:
            around.add(id(node))
            sizes[id(node)] = 1 + sum(size(one, f"{path}.{key}".strip(".")) for key, one in _children(node))
            around.remove(id(node))
        return sizes[id(node)]

    if root is not None and size(root, "") > _MOST_VALUES:
        yield f"expected at most {_MOST_VALUES} values, got more by aliases of aliases"
    yield from found


def _children(node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.SequenceNode):
        yield from ((str(number), one) for number, one in enumerate(node.value))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else f"(key at line {key.start_mark.line + 1})"
            yield name, key
            yield name, value


def _mistakes(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[str]:
    if node is None or id(node) in seen:  # an alias, which may lead to itself
        return
    seen.add(id(node))
    _check_number(node)
    if isinstance(node, yaml.ScalarNode) and _NO_TEXT.search(node.value):
        yield f"{path.removesuffix('.')}: expected text without a zero byte or half of a surrogate pair"
    if isinstance(node, yaml.SequenceNode):
        for number, one in enumerate(node.value):
            yield from _mistakes(one, f"{path}{number}.", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            _check_number(key)
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    yield f"{path}{key.value}: expected each key once, got it again at line {line} (first at {lines[key.value]})"
                lines.setdefault(key.value, line)
                yield from _mistakes(value, f"{path}{key.value}.", seen)
            else:
                yield from _mistakes(value, path, seen)


def _check_number(node: yaml.Node) -> None:
    """ValueError for a whole number that is too long."""
    if isinstance(node, yaml.ScalarNode) and node.tag == _WHOLE and len(node.value) > _LONGEST_NUMBER:
        raise ValueError(f"a number of more than {_LONGEST_NUMBER} characters")

"""The commands and files of docs/install.md and docs/security.md, and of the README, and a way to type them on
machines.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from virtpoise_lab.machines.machine import Machine

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "install.md", ROOT / "docs" / "security.md")
_BLOCK = re.compile(r"^```(\S*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_KEYS, _HOST_KEYS, _AUTHORITY = "/root/virtpoise-keys", "/root/virtpoise-known-hosts", "/root/virtpoise-ca"


@dataclass(frozen=True)
class Block:
    """A fenced block. where: hosts, manager or checkout; file: the path it is the text of, or None for commands."""

    section: str
    where: str
    text: str
    file: str | None = None
    append: bool = False


def blocks() -> list[Block]:
    """All blocks of the pages. Each must say where it belongs: a block that no test types would rot."""
    return [block for page in PAGES for block in _of_page(page.read_text(encoding="utf-8"))]


def _of_page(page: str) -> list[Block]:
    found = []
    for match in _BLOCK.finditer(page):
        section = re.findall(r"^##+ (.*)$", page[: match.start()], re.MULTILINE)[-1]
        words = dict(word.partition("=")[::2] for word in match[2].split())
        where = [word[3:] for word in words if word.startswith(("on-", "in-"))]
        assert len(where) == 1, f"say after the fence where this is typed: {match[0]}"
        file = words.get("file") or words.get("append")
        found.append(Block(section, where[0], match[3], file, "append" in words))
    return found


@dataclass
class Administrator:
    """Types the pages' blocks. What the pages have people carry from machine to machine, this carries."""

    hosts: Sequence[Machine]
    manager: Machine
    typed: set[str] = field(default_factory=set)
    _keys: list[str] = field(default_factory=list)
    _host_keys: list[str] = field(default_factory=list)

    def type(self, section: str, also: Sequence[Machine] = ()) -> str:
        """Types all blocks of a section, and returns what the machines printed. LabError when a command fails.

        ``also``: machines on which those of the manager are typed, too.
        """
        wanted = [block for block in blocks() if block.section == section]
        assert wanted, f"no section {section} with commands"
        self.typed.add(section)
        return "".join(self._type(block, also) for block in wanted)

    def _type(self, block: Block, also: Sequence[Machine]) -> str:
        machines = {"hosts": self.hosts, "manager": [self.manager, *also]}[block.where]
        if block.file is not None:
            for machine in machines:
                redirect = ">>" if block.append else ">"
                path = shlex.quote(block.file)
                machine.run(f"mkdir -p $(dirname {path}); cat {redirect} {path}", text=block.text)
            return ""
        for path, lines in ((_KEYS, self._keys), (_HOST_KEYS, self._host_keys)):
            if path in block.text:
                for machine in machines:
                    machine.run(f"cat > {path}", text="".join(lines))
        if block.where == "hosts" and " ca.pem " in block.text:
            for machine in machines:
                for name in ("ca.pem", f"{machine.name}.pem", f"{machine.name}.key"):
                    machine.run(f"cat > /root/{name}", text=self.manager.run(f"cat {_AUTHORITY}/{name}"))
        with ThreadPoolExecutor() as pool:
            printed = list(pool.map(lambda machine: machine.run(f"set -euo pipefail\n{block.text}"), machines))
        if "cat" in block.text and "id_ed25519.pub" in block.text:
            self._keys.extend(printed)
        if "ssh_host_ed25519_key.pub" in block.text:
            self._host_keys.extend(printed)
        return "".join(printed)


def readme_commands() -> list[str]:
    """The commands of virtpoise in the README's text on one's own hosts, in its order."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = readme.partition("## On your own hosts")[2].partition("\n## ")[0]
    return [
        command
        for command in re.findall(r"`((?:runuser -u virtpoise -- )?virtpoise [^`]*)`", text)
        if "--help" not in command and "--install" not in command
    ]


def readme_configuration() -> str:
    """The configuration that the README shows."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition("```yaml\n")[2].partition("```")[0]


def build(checkout: Path) -> Path:
    """Types what the page says to type in a checkout, and returns the wheel that it makes."""
    (block,) = [block for block in blocks() if block.where == "checkout"]
    programs = Path(sys.executable).parent
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f'PATH="{programs}:$PATH"\n{block.text}'],
        cwd=checkout,
        check=True,
        capture_output=True,
    )
    (wheel,) = (checkout / "dist").glob("*.whl")
    return wheel

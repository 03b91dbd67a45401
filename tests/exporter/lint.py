"""What ``promtool check metrics`` says about an exposition."""

import shutil
import subprocess
from pathlib import Path

PROMTOOL = Path(shutil.which("promtool") or "/var/cache/virtpoise-lab/prometheus/usr/bin/promtool")
# The contract gives this gauge its name: the size of a pool, after the kernel's own HugePages_Total.
_OF_THE_CONTRACT = 'virtpoise_host_hugepages_total non-counter metrics should not have "_total" suffix'


def complaints(exposition: bytes) -> list[str]:
    """The lines that promtool writes, without the one that the contract accepts."""
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=exposition, capture_output=True, timeout=60)
    lines = (checked.stdout + checked.stderr).decode().splitlines()
    if checked.returncode and not lines:
        lines = [f"promtool ended with {checked.returncode}"]
    return [line for line in lines if line != _OF_THE_CONTRACT]

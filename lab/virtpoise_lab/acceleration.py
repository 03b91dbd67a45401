"""Whether this machine really runs guests with KVM. A /dev/kvm alone does not say so: it may refuse, or run nothing."""

import subprocess
import tempfile
import time
from pathlib import Path

from virtpoise_lab import artefacts, console
from virtpoise_lab.errors import LabError
from virtpoise_lab.model import Load


def found() -> str:
    """Returns "kvm" if guests run with it here, "tcg" otherwise. Tried out once after each boot of the machine."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = artefacts.CACHE / "guest" / f"acceleration-{boot}"
    if not known.exists():
        known.write_text("kvm" if Path("/dev/kvm").exists() and _runs() else "tcg")
    return known.read_text()


def _runs(seconds: float = 10) -> bool:
    """Boots one guest with KVM: whether it comes up and answers in that time."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "console"
        machine = "-machine pc -accel kvm -cpu host -m 96 -nodefaults -display none -no-reboot -serial chardev:c"
        boot = ["-kernel", str(artefacts.kernel()), "-initrd", str(artefacts.initramfs())]
        line = ["-append", console.command_line("probe", Load(), 1)]
        port = ["-chardev", f"socket,id=c,path={socket},server=on,wait=off"]
        guest = subprocess.Popen(
            ["qemu-system-x86_64", *machine.split(), *boot, *line, *port],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + seconds
            while guest.poll() is None and time.monotonic() < end:
                try:
                    console.tell(lambda: socket, console.words(Load(), 1), 0.6)
                except LabError:
                    continue
                return True
            return False
        finally:
            guest.kill()
            guest.wait()

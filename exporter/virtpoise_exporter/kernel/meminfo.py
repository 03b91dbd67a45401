"""Reads ``/proc/meminfo`` (proc(5))."""


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name, from lines such as ``MemTotal: 24684096 kB``; what has no such unit is left out.

    Raises ValueError when a figure is none, or the memory's size is missing.
    """
    sizes = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields = value.split()
        if len(fields) == 2 and fields[1] == "kB":
            sizes[name] = int(fields[0]) * 1024
    if "MemTotal" not in sizes:
        raise ValueError("meminfo has no MemTotal")
    return sizes

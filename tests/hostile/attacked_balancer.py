"""A balancer in a process of its own: the real server, store and cycle over a group of 300 hosts that a test makes up.

Answers lines on standard input: ``memory`` with its resident MiB now and at most; ``cycles N`` with the seconds of N
cycles.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from virtpoise_balancer.config import Web  # noqa: E402
from virtpoise_balancer.service.logs import set_up  # noqa: E402
from virtpoise_balancer.web import connections, guard  # noqa: E402
from web.serving import Balancer, large, token_file  # noqa: E402 - found by the path above

HOSTS, DOMAINS = 300, 3000
PAUSE_SECONDS = 0.5  # far shorter than the interval of any balancer


def memory() -> list[float]:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")]


def cycle(balancer: Balancer) -> float:
    time.sleep(PAUSE_SECONDS)
    began = time.perf_counter()
    balancer.cycle()
    return time.perf_counter() - began


def main(folder: Path, options: dict[str, str]) -> None:
    # Addresses of this machine stand for as many machines; else all of loopback is one address.
    for module in (connections, guard):
        vars(module)["place_of"] = str
    set_up("info", "logfmt")
    web = Web.model_validate({"listen_address": "127.0.0.1:0", "token_file": token_file(folder), **options})
    balancer = Balancer(folder, large(HOSTS, DOMAINS), web)
    balancer.cycle()
    with balancer.served() as url:
        print(url.rpartition(":")[2], flush=True)
        for line in sys.stdin:
            asked, _, number = line.strip().partition(" ")
            if asked == "memory":
                answer: object = memory()
            elif asked == "orders":
                answer = [[one.who, one.origin, one.answer] for one in balancer.store.actions(1000)]
            else:
                answer = [cycle(balancer) for _ in range(int(number))]
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))

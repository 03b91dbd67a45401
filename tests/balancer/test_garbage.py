"""The garbage collector rests while many objects are made, and runs again afterwards."""

import gc
import itertools
import threading
from contextlib import suppress

from virtpoise_balancer.garbage import no_collections


def test_it_runs_again_when_none_needs_it_to_rest() -> None:
    """Whichever of two threads begins or ends first, and also where one of them fails."""
    for first, fails in itertools.product((0, 1), (None, 0, 1)):
        begun, may_end = threading.Barrier(3, timeout=30), (threading.Event(), threading.Event())

        def read(number: int, begun: threading.Barrier, may_end: threading.Event, fails: int | None) -> None:
            with suppress(ZeroDivisionError), no_collections():
                begun.wait()
                may_end.wait(30)
                if fails == number:
                    raise ZeroDivisionError

        threads = [threading.Thread(target=read, args=(n, begun, may_end[n], fails)) for n in (0, 1)]
        for thread in threads:
            thread.start()
        begun.wait()
        assert not gc.isenabled()
        for number in (first, 1 - first):
            may_end[number].set()
            threads[number].join(30)
        assert gc.isenabled()

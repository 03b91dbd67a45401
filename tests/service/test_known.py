"""What people have set, while the store does not answer."""

import threading

from virtpoise_balancer.errors import StoreError
from virtpoise_balancer.knowledge.records import Overrides, OverrideValue
from virtpoise_balancer.service.known import KnownOverrides

PAUSED = Overrides(paused=OverrideValue(value="yes", instead_of="no", at=1.0, who="ann"))


class Store:
    """Counts who asks. It does not answer while it ``hangs``, and fails while ``broken``."""

    def __init__(self) -> None:
        self.answer, self.asked, self.broken = Overrides(), 0, False
        self.hangs = threading.Event()
        self.answers = threading.Event()

    def overrides(self) -> Overrides:
        self.asked += 1
        if self.hangs.is_set():
            self.answers.wait()
        if self.broken:
            raise StoreError("state.url: gone")
        return self.answer


def test_each_call_reads_what_is_set_now() -> None:
    store = Store()
    known = KnownOverrides(store.overrides)
    assert known() == Overrides()
    store.answer = PAUSED
    assert known() == PAUSED


def test_what_was_read_last_counts_while_the_store_fails() -> None:
    store = Store()
    store.answer = PAUSED
    known = KnownOverrides(store.overrides)
    known()
    store.broken = True
    assert known() == PAUSED


def test_of_many_readers_one_waits_for_a_store_that_does_not_answer() -> None:
    store = Store()
    store.answer = PAUSED
    known = KnownOverrides(store.overrides)
    known()
    store.hangs.set()
    try:
        assert [known() for _ in range(100)] == [PAUSED] * 100
        assert store.asked == 2
    finally:
        store.answers.set()

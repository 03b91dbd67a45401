"""Questions to libvirt about one domain each, so that a domain that libvirt holds locked holds up only itself.

libvirt locks a domain while a hook runs for it, while it waits for storage, and while it waits for the end of a QEMU
that does not go. Every call that touches the domain then waits for the lock, the list of all domains included.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

_T = TypeVar("_T")

PATIENCE_SECONDS = 1.0
# libvirtd works on five questions of a client at once and has some twenty threads for all its clients.
_MOST_HELD = 3


# What libvirt-python raises in place of an error of libvirt whose message is not UTF-8, as one with a domain's name.
UNREADABLE = (SystemError, UnicodeDecodeError)


class HeldUpError(Exception):
    """libvirt does not answer this question now."""


class Questions:
    """Asks over one connection, and does not repeat a question that libvirt still holds up.

    At most three such questions are open.
    """

    def __init__(self) -> None:
        self._held: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def ask(self, subject: str, question: Callable[[], _T]) -> _T:
        """The answer about ``subject``, e.g. a domain's uuid.

        Raises HeldUpError after a second without an answer, or at once if an earlier question about the subject is
        open, or too many questions are. Raises what the question raises.
        """
        with self._lock:
            self._held = {held: future for held, future in self._held.items() if not future.done()}
            if subject in self._held or len(self._held) >= _MOST_HELD:
                raise HeldUpError(subject)
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(question())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="libvirt-question", daemon=True).start()
        try:
            return future.result(PATIENCE_SECONDS)
        except FutureTimeoutError:
            with self._lock:
                self._held[subject] = future
            raise HeldUpError(subject) from None


def text_of(ask: Callable[[], str]) -> str:
    """libvirt's answer. Bytes that are not UTF-8 are kept as lone surrogates, as Python keeps them in file names."""
    try:
        return ask()
    except UnicodeDecodeError as error:  # libvirt-python decodes strictly; its error holds all of the answer
        return error.object.decode("utf-8", "surrogateescape")

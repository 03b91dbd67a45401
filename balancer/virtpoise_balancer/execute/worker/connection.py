"""A worker's connection to one host's libvirt daemon at a time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import libvirt

# Keepalive: a daemon that has not answered for this long is gone, and calls that wait for it end.
_KEEPALIVE_SECONDS = 5
_KEEPALIVE_COUNT = 4
_MOST_MESSAGE = 1000
# What libvirt-python raises in place of an error of libvirt whose message is not UTF-8, as one with a domain's name.
UNREADABLE = (SystemError, UnicodeDecodeError)
# What may stand in XML: https://www.w3.org/TR/xml/#charsets
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def prepare() -> None:
    """Run libvirt's event loop, which keepalive needs, in a thread. Call once, before anything is opened."""
    libvirt.virEventRegisterDefaultImpl()
    # Errors are raised to the caller; libvirt would also print them.
    libvirt.registerErrorHandler(lambda _context, _error: None, None)

    def loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=loop, name="libvirt-events", daemon=True).start()


class LibvirtConnection:
    """Opened when it is needed, and kept until another host is asked or it dies.

    A worker makes one call at a time, so no connection is ever closed with a call under way.
    """

    def __init__(self) -> None:
        self._uri = ""
        self._open: libvirt.virConnect | None = None

    def to(self, uri: str) -> libvirt.virConnect:
        """An open connection to the daemon at ``uri``. libvirtError when it does not answer."""
        if self._open is not None and self._uri == uri and self._open.isAlive():
            return self._open
        self.close()
        opened = libvirt.open(uri)
        self._uri, self._open = uri, opened
        try:
            opened.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # a driver without a daemon
                self.close()
                raise
        return opened

    @property
    def lost(self) -> bool:
        """Whether it has died since it was asked for, so that what was sent may not have been answered."""
        return self._open is not None and not self._open.isAlive()

    def close(self) -> None:
        """Close it; one that is dead already is no error."""
        opened, self._open = self._open, None
        if opened is not None:
            try:
                opened.close()
            except libvirt.libvirtError:
                return


def message(error: libvirt.libvirtError) -> str:
    """libvirt's message in one line. A host may send megabytes, which would be journalled, logged and shown."""
    return _line(text_of(lambda: error.get_error_message() or str(error)))


def hidden_message(error: Exception) -> str | None:
    """The message of libvirt's error that libvirt-python could not decode, in one line; None where it is none."""
    cause = error.__cause__ if isinstance(error, SystemError) else error
    return _line(text_of(lambda: cause.object.decode())) if isinstance(cause, UnicodeDecodeError) else None


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_MESSAGE else f"{line[:_MOST_MESSAGE]}..."


def text_of(ask: Callable[[], str]) -> str:
    """libvirt's answer, with U+FFFD for bytes that are not UTF-8 and for characters that XML does not allow.

    libvirt passes on what a name, a title or a description was set to, and libvirt-python decodes strictly.
    """
    try:
        text = ask()
    except UnicodeDecodeError as error:  # it holds the whole answer
        text = error.object.decode("utf-8", "replace")
    return _NO_XML.sub("\ufffd", text)

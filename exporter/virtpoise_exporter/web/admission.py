"""Who may hold a connection, and which connection ends when there is no room for a new one. No I/O.

A scraper always gets in: room is made by ending a connection of the address that holds most of them.
"""

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Stage(IntEnum):
    """What a connection is doing; the lower, the sooner it ends when room is needed."""

    WAITING = 0  # for a handshake or a request
    SENDING = 1  # an answer, which the client has not read yet
    WORKING = 2  # on an answer


class Ending(Protocol):
    """Something that can be ended from outside, such as an asyncio task."""

    def cancel(self) -> object:
        """Asks it to end. It may live on for a moment."""


@dataclass(eq=False, slots=True)
class Guest:
    """One connection that was let in. ``unread_bytes`` is the part of an answer that its client has not read yet."""

    address: str
    ending: Ending
    stage: Stage = Stage.WAITING
    since: int = 0  # when it came to its stage: a count, not a time
    unread_bytes: int = 0


class Door:
    """Keeps the guests. At most ``most`` in all, ``most_of_one`` of one address, ``most_unread_bytes`` of answers."""

    def __init__(self, most: int, most_of_one: int, most_unread_bytes: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._most_unread_bytes = most_unread_bytes
        self._guests: set[Guest] = set()
        self._count = 0

    def __len__(self) -> int:
        return len(self._guests)

    def enter(self, address: str, ending: Ending) -> Guest:
        """Lets a connection in, and ends another one if there is no room."""
        place = place_of(address)
        own = [guest for guest in self._guests if guest.address == place]
        if len(own) >= self._most_of_one:
            self._end(min(own, key=_patience))
        elif len(self._guests) >= self._most:
            counts: dict[str, int] = {}
            for guest in self._guests:
                counts[guest.address] = counts.get(guest.address, 0) + 1
            self._end(min(self._guests, key=lambda guest: (-counts[guest.address], *_patience(guest))))
        guest = Guest(place, ending)
        self._guests.add(guest)
        self.move(guest, Stage.WAITING)
        return guest

    def move(self, guest: Guest, stage: Stage, unread_bytes: int = 0) -> None:
        """Notes what the connection is doing now. Past the limit of unread bytes, other connections that send end."""
        self._count += 1
        guest.stage, guest.since, guest.unread_bytes = stage, self._count, unread_bytes
        while unread_bytes and self._unread() > self._most_unread_bytes:
            unread: dict[str, int] = {}
            for other in self._guests:
                unread[other.address] = unread.get(other.address, 0) + other.unread_bytes
            sending = [other for other in self._guests if other.unread_bytes and other is not guest]
            if not sending:
                return
            self._end(min(sending, key=lambda other: (-unread[other.address], other.since)))

    def leave(self, guest: Guest) -> None:
        """Forgets a connection that has ended."""
        self._guests.discard(guest)

    def _unread(self) -> int:
        return sum(guest.unread_bytes for guest in self._guests)

    def _end(self, guest: Guest) -> None:
        self._guests.discard(guest)
        guest.ending.cancel()


def _patience(guest: Guest) -> tuple[Stage, int]:
    return guest.stage, guest.since


def place_of(address: str) -> str:
    """What counts as one address: an IPv4 address, also if it is written as IPv6, or the /64 that a client has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))

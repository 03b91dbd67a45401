"""Who may hold a connection, and which connection ends when there is no room for a new one. No I/O.

A scraper always gets in: room is made by ending a connection of the address that holds most of them.
"""

import ipaddress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Stage(Enum):
    """What a connection is doing."""

    WAITING = "waiting"  # for a handshake or a request
    WORKING = "working"  # on an answer
    SENDING = "sending"  # an answer, which the client has not read yet


class Ending(Protocol):
    """Something that can be ended from outside, such as an asyncio task."""

    def cancel(self) -> object:
        """Asks it to end. It may live on for a moment."""


@dataclass(eq=False, slots=True)
class Guest:
    """One connection that was let in. ``places`` is how many it takes.

    ``unread_bytes`` is the part of an answer that its client has not read yet.
    """

    address: str
    ending: Ending
    places: int = 1
    stage: Stage = Stage.WAITING
    since: int = 0  # when it last got on: a count, not a time
    unread_bytes: int = 0


class Door:
    """Keeps the guests. There are ``most`` places in all, ``most_of_one`` for one address.

    Answers that clients have not read may have ``most_unread_bytes`` in all.
    """

    def __init__(self, most: int, most_of_one: int, most_unread_bytes: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._most_unread_bytes = most_unread_bytes
        self._guests: set[Guest] = set()
        self._count = 0

    def __len__(self) -> int:
        return len(self._guests)

    def enter(self, address: str, ending: Ending, places: int = 1) -> Guest | None:
        """Lets a connection in, and ends others if there is no room.

        None if there is no room: its own address has all its places, and an answer is being made for each.
        """
        place = place_of(address)
        while crowded := self._crowded(place, places):
            worst = min((guest for guest in self._guests if guest.address in crowded), key=_worth)
            if worst.stage is Stage.WORKING and worst.address == place:
                return None
            self._end(worst)
        guest = Guest(place, ending, places)
        self._guests.add(guest)
        self.move(guest, Stage.WAITING)
        return guest

    def _crowded(self, place: str, places: int) -> set[str]:
        """The addresses among which one has to make room for a new connection; none if there is room."""
        taken: dict[str, int] = {}
        for guest in self._guests:
            taken[guest.address] = taken.get(guest.address, 0) + guest.places
        if taken.get(place, 0) + places > self._most_of_one:
            return {place}
        if sum(taken.values()) + places > self._most:
            most = max(taken.values())
            return {place} if taken.get(place, 0) == most else {one for one, count in taken.items() if count == most}
        return set()

    def move(self, guest: Guest, stage: Stage, unread_bytes: int = 0) -> None:
        """Notes that the connection got on, and what it is doing now.

        Past the limit of unread bytes, other connections that send end.
        """
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


def _worth(guest: Guest) -> tuple[bool, int]:
    """The least ends first: the one whose client has let the server wait longest."""
    return guest.stage is Stage.WORKING, guest.since


def place_of(address: str) -> str:
    """What counts as one address: this machine, an IPv4 address, also if it is written as IPv6, or the /64 that a
    client has.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if parsed.is_loopback:  # it has 16 million addresses, and each local user can use them all
        return "loopback"
    return str(parsed) if parsed.version == 4 else str(ipaddress.IPv6Network((parsed, 64), strict=False))

"""Bounds of open connections: how many in all and from one address, and how long each may wait, send or not read.

A connection that waits (for TLS, for a request, for the next one) gives way to a newer one, so silent clients cannot
keep others out. The address with the most connections makes room, also of those that are being answered: clients of one
address cannot keep out another.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
MOST_PER_ADDRESS = 128
# Whose handshake of TLS is not complete, in all and of one address.
MOST_SHAKING_HANDS = 48
MOST_SHAKING_HANDS_PER_ADDRESS = 24
# asyncio holds a buffer of 256 KiB for each connection with TLS, and frees those of unfinished handshakes late. A
# record has 16 KiB.
asyncio.sslproto.SSLProtocol.max_size = 32 * 1024
# From the connection, or the last answer, to the whole head of a request. TLS has as long again before.
REQUEST_SECONDS = 10.0
# To read what fills the buffers of an answer.
READING_SECONDS = 10.0
# The kernel's queue, and how many of it are accepted before others have their turn: who stands behind a flood in the
# queue does not wait until each of it was answered.
QUEUED = 1024
ACCEPTED_AT_ONCE = 16
# What the kernel holds of requests and of answers for a connection, which would be megabytes; it takes twice as much.
RECEIVED_BYTES = 32 * 1024
SENT_BYTES = 128 * 1024
_PEER = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel knows it."""

    uid: int
    gid: int


@dataclass(eq=False, slots=True)
class Place:
    """One open connection. ``busy``: it is being answered and reads; ``new``: it has not shaken hands; ``number``: an
    older one has a lower one.
    """

    address: str
    end: Callable[[], None]
    number: int = 0
    busy: bool = False
    new: bool = True
    timer: asyncio.TimerHandle | None = None

    def waits(self, seconds: float) -> None:
        self.busy = False
        self._within(seconds)

    def works(self) -> None:
        self.busy = True
        self.stop()

    def stalls(self) -> None:
        """The client does not read."""
        self.busy = False
        self._within(READING_SECONDS)

    def _within(self, seconds: float) -> None:
        self.stop()
        self.timer = asyncio.get_running_loop().call_later(seconds, self.end)

    def stop(self) -> None:
        """Nothing is awaited any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(slots=True)
class Connections:
    """All open connections of a server, by address, the oldest first. Used in the server's thread alone.

    ``tls``: they shake hands. Without it, all that come at once are served.
    """

    tls: bool
    most: int = MOST_CONNECTIONS
    most_per_address: int = MOST_PER_ADDRESS
    most_new: int = MOST_SHAKING_HANDS
    most_new_per_address: int = MOST_SHAKING_HANDS_PER_ADDRESS
    _places: dict[str, dict[Place, None]] = field(default_factory=dict)
    _count: int = 0
    _taken: int = 0

    def take(self, address: str, end: Callable[[], None]) -> Place | None:
        """A place for a new connection, made by ending another one if need be.

        None when those of its own address are all busy and no other address has more.
        """
        self._limit_new(address)
        own = self._places.get(address, {})
        if len(own) >= self.most_per_address and not self._make_room(own):
            return None
        if self._count >= self.most and not self._make_room_for(address):
            return None
        self._taken += 1
        place = Place(address, end, self._taken, new=self.tls)
        self._places.setdefault(address, {})[place] = None
        self._count += 1
        place.waits(REQUEST_SECONDS)
        return place

    def _limit_new(self, address: str) -> None:
        """Ends the oldest handshake of this address, or of the one with most, where there is no room for another."""
        by_address = ([place for place in places if place.new] for places in self._places.values())
        new = {places[0].address: places for places in by_address if places}
        if len(new.get(address, ())) >= self.most_new_per_address:
            self._end(new[address][0])
        elif sum(map(len, new.values())) >= self.most_new:
            self._end(max(new.values(), key=lambda places: (len(places), -places[0].number))[0])

    def _make_room_for(self, address: str) -> bool:
        """Whether room was made by an address that has at least as many, first by the one that has most."""
        own = len(self._places.get(address, {}))
        crowd = max(self._places.values(), key=len)
        if len(crowd) > own + 1:
            self._end(next((place for place in crowd if not place.busy), next(iter(crowd))))
            return True
        as_many = [places for places in self._places.values() if len(places) >= own]
        return any(self._make_room(places) for places in sorted(as_many, key=len, reverse=True))

    def give_back(self, place: Place) -> None:
        """The connection has ended. It may be reported more than once."""
        place.stop()
        own = self._places.get(place.address, {})
        if place in own:
            del own[place]
            self._count -= 1
            if not own:
                del self._places[place.address]

    def _make_room(self, places: dict[Place, None]) -> bool:
        waiting = next((place for place in places if not place.busy), None)
        if waiting is None:
            return False
        self._end(waiting)
        return True

    def _end(self, place: Place) -> None:
        self.give_back(place)
        place.end()


class Listener(socket.socket):
    """A listening socket that accepts within the bounds."""

    connections: Connections
    file: tuple[int, int] | None = None  # of a Unix socket: the device and the number of its file

    def listen(self, _backlog: int = QUEUED, /) -> None:
        """The server asks for a queue as long as it accepts at once."""
        super().listen(QUEUED)

    def accept(self) -> tuple[socket.socket, Any]:
        accepted, address = super().accept()
        who = _who(accepted, address)
        bounded = Accepted(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        bounded.connections = self.connections
        bounded.place = self.connections.take(who, bounded.shut)
        if bounded.place is None:
            bounded.close()
            raise ConnectionAbortedError  # as if it had hung up; the server goes on with the next
        return bounded, address


class Accepted(socket.socket):
    """A connection that gives its place back when it is closed."""

    place: Place | None
    connections: Connections

    def shut(self) -> None:
        with suppress(OSError):  # it is closed already
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self.place is not None:
            self.connections.give_back(self.place)
        super().close()


def _who(accepted: socket.socket, address: Any) -> str:
    """Whom a connection counts for: the user at a Unix socket, or ``place_of`` an address."""
    return f"uid {peer_of(accepted).uid}" if accepted.family == socket.AF_UNIX else place_of(address[0])


def place_of(address: str) -> str:
    """What counts as one address: this machine, an IPv4 address, also if it is written as IPv6, or the /64 that a
    client has.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    found = getattr(found, "ipv4_mapped", None) or found
    if found.is_loopback:
        return "loopback"
    return str(found) if found.version == 4 else str(ip_network(f"{found}/64", strict=False))


def peer_of(connected: Any) -> Peer:
    """The process at the other end of a connected Unix socket."""
    _, uid, gid = _PEER.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return Peer(uid=uid, gid=gid)


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 whose connections have deadlines. The scope's state has ``peer`` where it came over a Unix socket."""

    _place: Place | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connected = transport.get_extra_info("socket")
        if connected.family == socket.AF_UNIX:
            self.app_state = {**self.app_state, "peer": peer_of(connected)}
        self._place = getattr(getattr(connected, "_sock", None), "place", None)
        if self._place is not None:
            self._place.end = self._cut_off
            self._place.new = False
            self._place.waits(REQUEST_SECONDS)

    def _cut_off(self) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True  # what is still sent would be an error
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._place is not None and self._answering and not self._place.busy:
            self._place.works()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._place is not None and not self._answering:
            self._place.waits(REQUEST_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._place is not None:
            self._place.stalls()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._place is not None and self._answering:
            self._place.works()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

"""The hosts' real libvirt daemons, asked through worker processes. Replies are checked before they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, TypeVar

from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from virtpoise_balancer.errors import LibvirtError, NoRoom
from virtpoise_balancer.execute.facts import Bound, Hardware, HardwareVerdict, HostFacts, Presence
from virtpoise_balancer.execute.hosts import Completed, RunningMigration
from virtpoise_balancer.execute.transfer import Transfer
from virtpoise_balancer.execute.workers import Worker, Workers
from virtpoise_balancer.hosts import in_uri
from virtpoise_balancer.model import MOST_BYTES, DiskCopy, Progress

# What libvirt may take to answer a question while a migration runs (calls wait for the job's lock).
_ANSWER_SECONDS = 30.0
_REACH_SECONDS = 20.0
# libvirt starts each QEMU binary once to find out what it can do.
_PROBE_SECONDS = 60.0
# libvirt's job statistics; of a running job not all keys are there at all times.
_Job = Mapping[str, int | str | bool | float]

_T = TypeVar("_T")
_JOB: TypeAdapter[_Job | None] = TypeAdapter(_Job | None)
_FACTS = TypeAdapter(HostFacts)
_PRESENCE = TypeAdapter(Presence)
_NAMED: TypeAdapter[tuple[tuple[str, str], ...]] = TypeAdapter(tuple[tuple[str, str], ...])
_WAY: TypeAdapter[tuple[bool, str | None]] = TypeAdapter(tuple[bool, str | None])
_PRESENT: TypeAdapter[dict[str, bool]] = TypeAdapter(dict[str, bool])
_WORDS_OF: TypeAdapter[dict[str, Bound | None]] = TypeAdapter(dict[str, Bound | None])
_VERDICTS: TypeAdapter[tuple[HardwareVerdict, ...]] = TypeAdapter(tuple[HardwareVerdict, ...])
_YES: TypeAdapter[bool] = TypeAdapter(bool)
_VERDICT: TypeAdapter[bool | None] = TypeAdapter(bool | None)
_PATHS: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[str, ...])
_ROOM: TypeAdapter[tuple[str, ...] | str] = TypeAdapter(tuple[str, ...] | str)
_RATE: TypeAdapter[float | None] = TypeAdapter(Annotated[float, Ge(0)] | None)
_COUNT: TypeAdapter[int] = TypeAdapter(Annotated[int, Ge(0)])
_NOTHING: TypeAdapter[None] = TypeAdapter(None)
_WORDS: TypeAdapter[str] = TypeAdapter(str)


@dataclass(slots=True)
class _Called:
    """A migration call that a worker makes."""

    worker: Worker
    error: str | None = None
    lost: bool = False
    waited_seconds: float | None = None

    def ended(self, seconds: float) -> bool:
        if self.worker.busy:
            try:
                reply = self.worker.reply(seconds)
            except LibvirtError as error:
                self.error, self.lost = str(error), True
                return True
            if reply is None:
                return False
            self.error, self.lost = reply.error, reply.lost
            self.waited_seconds = reply.value if isinstance(reply.value, float) else None
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtHosts:
    """Hosts as their libvirt daemons see them, asked in worker processes.

    ``uri_of``: a host's address for the balancer, ``peer_uri_of``: for the other hosts.

    ``address_of``: its address on the network of migrations, or None where it names one itself. ``transfer``: how
    domains are migrated; ``copies``: whether disks may be copied with them.
    """

    uri_of: Callable[[str], str]
    peer_uri_of: Callable[[str], str]
    address_of: Callable[[str], str | None]
    transfer: Transfer
    connect_timeout_seconds: float
    copies: bool = False
    workers: Workers = field(repr=False)

    def active_domains(self, host: str) -> int:
        return self._ask(_COUNT, host, "active_domains")

    def presence(self, host: str, uuid: str) -> Presence:
        return self._ask(_PRESENCE, host, "presence", uuid)

    def between_hosts(self, host: str) -> tuple[tuple[str, str], ...]:
        return self._ask(_NAMED, host, "between_hosts")

    def progress(self, host: str, uuid: str) -> Progress | None:
        job = self._ask(_JOB, host, "migration_job", uuid, what="job statistics")
        if job is None:
            return None
        pages = _number(job, "memory_dirty_rate")
        return Progress(
            elapsed_seconds=(_number(job, "time_elapsed") or 0) / 1000,
            total_bytes=_number(job, "data_total"),
            processed_bytes=_number(job, "data_processed"),
            remaining_bytes=_number(job, "data_remaining"),
            dirty_bytes_per_second=None if pages is None else float(pages * (_number(job, "memory_page_size") or 4096)),
            passes=_number(job, "memory_iteration"),
            disk_bytes=_number(job, "disk_total"),
            switched=job.get("switched") is True,
            throttle_ratio=min(_number(job, "auto_converge_throttle") or 0, 100) / 100,
        )

    def is_worked_on(self, host: str, uuid: str) -> bool:
        return self._ask(_YES, host, "is_worked_on", uuid, what="job statistics")

    def completed(self, host: str, uuid: str) -> Completed:
        job = self._ask(_JOB, host, "completed_job", uuid, what="job statistics") or {}
        downtime = _number(job, "downtime")
        return Completed(
            seconds=(_number(job, "time_elapsed") or 0) / 1000 or None,
            downtime_seconds=None if downtime is None else downtime / 1000,
            transferred_bytes=_number(job, "data_processed"),
        )

    @contextmanager
    def migration(
        self,
        uuid: str,
        source: str,
        destination: str,
        bandwidth_mib_per_second: int | None,
        copies: Sequence[DiskCopy] = (),
        *,
        post_copy: bool = False,
    ) -> Iterator[RunningMigration]:
        uri = self.uri_of(source)
        address = self.address_of(destination)
        memory_to = None if address is None else f"tcp://{in_uri(address)}"
        arguments = (uuid, self.peer_uri_of(destination), self.uri_of(destination), memory_to)
        # A worker of its own, since this one is busy until the migration ends.
        with self.workers.lent(uri) as worker:
            copied = [one.device for one in copies]
            how = asdict(self.transfer)
            worker.send(uri, "migrate", (*arguments, bandwidth_mib_per_second, how, copied, post_copy))
            yield _Called(worker)

    def dirty_rate(self, host: str, uuid: str, least_bytes: int) -> float | None:
        return self._ask(_RATE, host, "dirty_rate", uuid, least_bytes, what="dirty rate")

    def switch(self, host: str, uuid: str) -> None:
        self._ask(_NOTHING, host, "switch", uuid, what="post-copy")

    def set_bandwidth(self, host: str, uuid: str, bandwidth_mib_per_second: int | None) -> None:
        self._ask(_NOTHING, host, "set_bandwidth", uuid, bandwidth_mib_per_second, what="bandwidth")

    def abort(self, host: str, uuid: str) -> None:
        self._ask(_NOTHING, host, "abort", uuid, what="abort")

    def undefine(self, host: str, uuid: str) -> None:
        self._ask(_NOTHING, host, "undefine", uuid, what="undefine")

    def resume(self, host: str, uuid: str) -> None:
        self._ask(_NOTHING, host, "resume", uuid, what="resume")

    def suspend(self, host: str, uuid: str) -> None:
        self._ask(_NOTHING, host, "suspend", uuid, what="suspend")

    def describe(self, host: str, uuid: str) -> str:
        return self._ask(_WORDS, host, "describe", uuid)

    def facts(self, host: str) -> HostFacts:
        return self._ask(_FACTS, host, "facts", self.copies)

    def leaving(
        self, host: str, uuids: Sequence[str], copyable: Mapping[str, Sequence[str]]
    ) -> Mapping[str, Bound | None]:
        return self._ask(_WORDS_OF, host, "leaving", tuple(uuids), copyable, seconds=_PROBE_SECONDS)

    def present(self, host: str, images: Sequence[str]) -> Mapping[str, bool]:
        return self._ask(_PRESENT, host, "present", tuple(images), seconds=_PROBE_SECONDS)

    def make_room(self, host: str, copies: Sequence[DiskCopy]) -> tuple[str, ...]:
        made = self._ask(_ROOM, host, "make_room", [asdict(one) for one in copies], seconds=_PROBE_SECONDS)
        if isinstance(made, str):
            raise NoRoom(f"{host}: {made}")
        return made

    def discard(
        self,
        host: str,
        uuid: str,
        paths: Sequence[str],
        changed_before: float | None = None,
        *,
        only_empty: bool = False,
    ) -> None:
        given = uuid, tuple(paths), changed_before, only_empty
        self._ask(_NOTHING, host, "discard", *given, seconds=_PROBE_SECONDS)

    def verdicts(self, host: str, kinds: Sequence[Hardware]) -> tuple[HardwareVerdict, ...]:
        found = self._ask(_VERDICTS, host, "verdicts", [asdict(kind) for kind in kinds], seconds=_PROBE_SECONDS)
        if len(found) != len(kinds):
            raise LibvirtError(f"{host}: the answer to verdicts is not as expected: {len(found)} for {len(kinds)}")
        return found

    def reaches(self, host: str, destination: str) -> str | None:
        # The source connects to the destination first, which takes its own time, and may be asked again a few times.
        seconds = self.connect_timeout_seconds + _REACH_SECONDS
        asked, why = self._ask(_WAY, host, "reaches", host, self.peer_uri_of(destination), seconds=seconds)
        if not asked:
            raise LibvirtError(why or "")
        return why

    def runs_cpu(self, host: str, cpu: str) -> bool | None:
        return self._ask(_VERDICT, host, "runs_cpu", cpu)

    def unseen(self, host: str, paths: Sequence[str]) -> tuple[str, ...]:
        return self._ask(_PATHS, host, "unseen", tuple(paths))

    def _ask(
        self,
        kind: TypeAdapter[_T],
        host: str,
        call: str,
        *arguments: object,
        seconds: float = _ANSWER_SECONDS,
        what: str | None = None,
    ) -> _T:
        value: Any = self.workers.ask(
            self.uri_of(host),
            call,
            arguments,
            connect_seconds=self.connect_timeout_seconds,
            seconds=seconds,
            what=what or host,
        )
        try:
            return kind.validate_python(value)
        except ValidationError as error:
            raise LibvirtError(f"{host}: the answer to {call} is not as expected: {error.errors()[0]['msg']}") from None


def _number(job: _Job, key: str) -> int | None:
    """The number, or None. None also for one that no migration comes near and no database keeps."""
    value = job.get(key)
    return value if isinstance(value, int) and 0 <= value <= MOST_BYTES else None

"""What each host's libvirt reported at the last look: documents of ``execute``, which alone reads them."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, insert, select

from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.knowledge.documents import pack_text, unpack_text
from virtpoise_balancer.knowledge.rows import Query
from virtpoise_balancer.knowledge.schema import host_facts

_ALL = Query(select(host_facts), "facts of")
_ENTER = insert(host_facts)
_THAT_OF = delete(host_facts).where(host_facts.c.host == bindparam("name"))


def read(connection: Connection, broken: list[str]) -> dict[str, str]:
    """The documents by host."""
    found = {}
    for row in _ALL.rows(connection, broken):
        try:
            found[row.host] = unpack_text(row.document, f"state.url: facts of {row.host}")
        except BadInput as error:
            broken.append(str(error))
    return found


def write(connection: Connection, host: str, document: str, at: float) -> None:
    """Write what a host's libvirt reported at a look."""
    connection.execute(_THAT_OF, {"name": host})
    connection.execute(_ENTER, {"host": host, "at": at, "document": pack_text(document)})


def forget(connection: Connection, before: float) -> None:
    """Delete what hosts reported before this time."""
    connection.execute(delete(host_facts).where(host_facts.c.at < before))

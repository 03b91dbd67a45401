"""The page /domains/UUID: a domain's use, why it is (not) migrated, possible destinations, and its migrations."""

from __future__ import annotations

from starlette.requests import Request

from virtpoise_balancer.errors import NotKnown, Refused
from virtpoise_balancer.explain import wording
from virtpoise_balancer.model import Domain, DomainState, Host
from virtpoise_balancer.web.detail import domain_detail, seen
from virtpoise_balancer.web.kept import KeptAnswer
from virtpoise_balancer.web.page.parts import MOST_MIGRATIONS, Figure, host_link, migration_card, plural
from virtpoise_balancer.web.page.writer import Writer


def domain_page(writer: Writer, request: Request) -> KeptAnswer:
    """The page /domains/NAME: the domain's figures, why it moves or stays, and its migrations."""
    state = writer.state
    try:
        detail = domain_detail(writer.context, request.path_params["name"])
    except (NotKnown, Refused) as error:
        return writer.error(request, str(error), 404)
    domain = detail.domain
    return writer.page(
        request,
        "domain.html",
        domain=domain,
        host=host_link(domain.host),
        explanation=detail.explanation,
        figures=_figures(domain, seen(state).host(domain.host)),
        migrations=[migration_card(record, state) for record in detail.migrations[:MOST_MIGRATIONS]],
    )


def _figures(domain: Domain, host: Host | None) -> tuple[Figure, ...]:
    used, vcpus = domain.used_cores, plural(domain.vcpus, "vCPU")
    share = "" if used is None or host is None else f"{wording.percent(used / host.cpus)} of {domain.host}, "
    return (
        Figure(label="CPU", value=_cores(used), note=f"{share}{vcpus}"),
        Figure(label="Steal", value=_cores(domain.cpu_delay_cores), note=_steal(domain)),
        Figure(
            label="Memory",
            value=wording.size(domain.memory_bytes) if domain.memory_bytes else wording.UNKNOWN,
            note=_memory(domain),
        ),
        Figure(
            label="Network",
            value=wording.rate(domain.rx_bytes_per_second),
            note=f"received, {wording.rate(domain.tx_bytes_per_second)} sent",
        ),
    )


def _cores(amount: float | None) -> str:
    return wording.cores(amount) + ("" if amount is None else " cores")


def _steal(domain: Domain) -> str:
    if domain.cpu_delay_cores is None and domain.state is DomainState.RUNNING:
        return "no exporter reports it"
    return "ready to run, but waiting for a CPU"


def _memory(domain: Domain) -> str:
    """How its memory is meant: assigned, and beside that its maximum, where it lies in huge pages, and what is held."""
    words = ["assigned"]
    if (domain.memory_maximum_bytes or 0) > domain.memory_bytes:
        words.append(f"at most {wording.size(domain.memory_maximum_bytes)}")
    if domain.hugepages:
        words.append(f"{wording.size(sum(pages.memory_bytes for pages in domain.hugepages))} in huge pages")
    if domain.memory_resident_bytes is not None:
        words.append(f"{wording.size(domain.memory_resident_bytes)} resident")
    return ", ".join(words)

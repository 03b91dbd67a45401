"""The section prometheus: where the figures come from, and how the balancer connects to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from virtpoise_balancer.config.http_config import HttpConfig
from virtpoise_balancer.config.section import Seconds, Section, http_url, inconsistent
from virtpoise_balancer.monitor.http import Access
from virtpoise_balancer.monitor.matchers import EXAMPLE, label_name, read_matchers
from virtpoise_balancer.monitor.queries import QUERIES
from virtpoise_balancer.monitor.sources import DELAY_SECONDS, SOURCES, ServerName, SourceName


def _known_queries(queries: dict[str, str]) -> dict[str, str]:
    for name in queries:
        if name not in QUERIES:
            raise ValueError(f"names of queries ({', '.join(sorted(QUERIES))}); {name!r} is none")
    return queries


# Beyond that, the alert about old figures would fire. Servers that show samples late have 30 seconds as the default.
MOST_DELAY_SECONDS = 60


class Prometheus(Section):
    """Where the figures come from."""

    url: Annotated[str, AfterValidator(http_url)] = "http://127.0.0.1:9090"
    timeout_seconds: Seconds = 5.0
    scrape_interval_seconds: Seconds | None = None
    server: ServerName = ServerName.PROMETHEUS
    delay_seconds: Annotated[float, Field(ge=0, le=MOST_DELAY_SECONDS)] = 0.0
    source: SourceName = SourceName.VIRTPOISE
    matchers: Annotated[str, AfterValidator(read_matchers)] = EXAMPLE
    replica_label: Annotated[str, AfterValidator(label_name)] | None = None
    exporter_port: Annotated[int, Field(ge=1, le=65535)] = 9807
    token_file: Path | None = None
    ca_file: Path | None = None
    http_config: HttpConfig = HttpConfig()
    queries: Annotated[dict[str, str], AfterValidator(_known_queries)] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, values: Any) -> Any:
        """The values with the matchers of their source and the delay of their server, where they have none."""
        if not isinstance(values, Mapping):
            return values
        matchers = next(({"matchers": SOURCES[one].matchers} for one in SourceName if one == values.get("source")), {})
        delay = next(({"delay_seconds": DELAY_SECONDS[one]} for one in ServerName if one == values.get("server")), {})
        return {**matchers, **delay, **values}

    @model_validator(mode="after")
    def _one_of_each(self) -> Prometheus:
        http = self.http_config
        if sum(one is not None for one in (self.token_file, http.basic_auth, http.authorization)) > 1:
            raise inconsistent(["http_config: expected one of token_file, basic_auth and authorization"])
        if self.ca_file is not None and http.tls_config.ca_file is not None:
            raise inconsistent(["http_config.tls_config.ca_file: expected ca_file once, got it in prometheus as well"])
        return self

    def access(self) -> Access:
        """How Prometheus is asked."""
        http, tls = self.http_config, self.http_config.tls_config
        file, key, scheme, user = self.token_file, "prometheus.token_file", "Bearer", None
        if http.authorization is not None:
            file, scheme = http.authorization.credentials_file, http.authorization.type
            key = "prometheus.http_config.authorization.credentials_file"
        elif http.basic_auth is not None:
            file, user = http.basic_auth.password_file, http.basic_auth.username
            key = "prometheus.http_config.basic_auth.password_file"
        return Access(
            secret_file=file,
            secret_key=key,
            scheme=scheme,
            user=user,
            ca_file=self.ca_file or tls.ca_file,
            cert_file=tls.cert_file,
            key_file=tls.key_file,
            server_name=tls.server_name,
            insecure_skip_verify=tls.insecure_skip_verify,
            proxy_url=http.proxy_url,
            headers={name: one.values[0] for name, one in http.http_headers.items() if one.values},
            header_files={name: one.files[0] for name, one in http.http_headers.items() if one.files},
        )

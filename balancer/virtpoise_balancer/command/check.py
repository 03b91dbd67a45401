"""Whether the balancer can use a configuration: checked as the user that it runs as, since root may read more."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virtpoise_balancer.config import Config, read_config
from virtpoise_balancer.errors import BadInput
from virtpoise_balancer.secret_files import check_secret
from virtpoise_balancer.tokens import read_tokens

# Where systemd puts the credentials of a service (LoadCredential=), for as long as it runs.
_CREDENTIALS = Path("/run/credentials")

_SECRET = frozenset(
    {
        "state.password_file",
        "prometheus.token_file",
        "prometheus.http_config.authorization.credentials_file",
        "prometheus.http_config.basic_auth.password_file",
        "prometheus.http_config.tls_config.key_file",
        "web.key_file",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A configuration that can be used by ``user``; ``unchecked``: credentials that are only there while the service
    runs.
    """

    config: Config
    user: str
    unchecked: tuple[Path, ...]


def check(file: Path, user: str | None) -> Checked:
    """The configuration, when ``user`` can read it and every file that it names. BadInput names each that it cannot.

    ``user``: by default the owner of the folder of state.url, where root asks, and else whoever asks. This process goes
    on as that user.
    """
    config = read_config(file)
    name = user or runs_as(config)
    _become(name)
    if problems := list(_problems(file, config)):
        raise BadInput("\n".join(f"{file}: {problem} (checked as the user {name})" for problem in problems))
    unchecked = tuple(path for path in _files(config).values() if _comes_with_the_service(path))
    return Checked(config=config, user=name, unchecked=unchecked)


def runs_as(config: Config) -> str:
    """Who the balancer runs as: the owner of its state's folder, as far as root asks; else whoever asks."""
    folder = config.state.file.parent if config.state.file else None
    if os.geteuid() == 0 and folder is not None and folder.is_dir():
        return _name(folder.stat().st_uid)
    return asks()


def asks() -> str:
    """Who runs this command."""
    return _name(os.geteuid())


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # as in a container
        return str(uid)


def _become(name: str) -> None:
    """Makes this process the user's, with the user's groups."""
    if name == asks():
        return
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise BadInput(f"--user {name}: no such user on this machine") from None
    try:
        os.initgroups(found.pw_name, found.pw_gid)
        os.setgid(found.pw_gid)
        os.setuid(found.pw_uid)
    except PermissionError:
        raise BadInput(f"--user {name}: only root can check as another user") from None


def _problems(file: Path, config: Config) -> Iterator[str]:
    if reason := _unreadable(file):
        yield f"cannot be read: {reason}"
        return
    for key, path in _files(config).items():
        if _comes_with_the_service(path):
            continue
        if key == "web.token_file":
            try:
                read_tokens(path)
            except BadInput as error:
                yield str(error)
        elif key in _SECRET:
            try:
                check_secret(path, key)
            except BadInput as error:
                yield str(error)
        elif reason := _unreadable(path):
            yield f"{key}: {path}: cannot be read: {reason}"
    folder = config.state.file.parent if config.state.file else None
    if folder is not None and folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        yield f"state.url: {folder}: cannot be written to"


def _files(config: Config) -> dict[str, Path]:
    """The files that the configuration names, by their keys."""
    http = config.prometheus.http_config
    named = {
        "prometheus.token_file": config.prometheus.token_file,
        "prometheus.http_config.authorization.credentials_file": http.authorization.credentials_file
        if http.authorization
        else None,
        "prometheus.http_config.basic_auth.password_file": http.basic_auth.password_file if http.basic_auth else None,
        "prometheus.http_config.tls_config.ca_file": http.tls_config.ca_file,
        "prometheus.http_config.tls_config.cert_file": http.tls_config.cert_file,
        "prometheus.http_config.tls_config.key_file": http.tls_config.key_file,
        "prometheus.ca_file": config.prometheus.ca_file,
        "state.password_file": config.state.password_file,
        "web.token_file": config.web.token_file,
        "web.cert_file": config.web.cert_file,
        "web.key_file": config.web.key_file,
    }
    return {key: path for key, path in named.items() if path is not None}


def _comes_with_the_service(path: Path) -> bool:
    return path.is_relative_to(_CREDENTIALS) and not path.exists()


def _unreadable(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return error.strerror
    return None

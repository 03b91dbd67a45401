"""The databases that the store is tested with."""

from collections.abc import Iterator

import pytest

from postgresql import Server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()

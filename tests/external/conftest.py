"""One external server for the tests of this directory; each of them leaves roles, databases and schema as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud import CloudSettings
from cloud.startup import upkeep
from tests.support.external import ExternalServer, external_server
from tests.support.homes import temporary_home


@pytest.fixture(scope="package")
def server() -> Iterator[ExternalServer]:
    """A running server with roles and databases, brought to this version's schema by its owner."""
    with external_server() as running:
        upkeep.upgrade(CloudSettings(**running.settings()))  # type: ignore[arg-type]
        yield running


@pytest.fixture
def empty_server() -> Iterator[ExternalServer]:
    """As `server`, and of this test alone: it has no tenant, so a new home may make its keyring."""
    with external_server() as running:
        upkeep.upgrade(CloudSettings(**running.settings()))  # type: ignore[arg-type]
        yield running


@pytest.fixture
def fresh_home() -> Iterator[Path]:
    """A home that nobody has opened."""
    with temporary_home() as home:
        yield home

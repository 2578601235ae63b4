"""Installations for the crash tests; each has a home of its own, and nothing of it is left afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.homes import postmaster_pid, temporary_home
from tests.support.processes import Installation, processes_naming

_numbers = itertools.count(1)


@contextmanager
def opened(*, prepared: bool = True, **settings: object) -> Iterator[Installation]:
    """A new home; when it is given back, no process of it runs and it is removed."""
    with temporary_home(prepared=prepared) as home:
        with Installation(home, {"embedder": "hashing", "worker": "thread", **settings}) as installation:
            yield installation
        assert postmaster_pid(home) is None, "the last process to leave stops the server"
        assert processes_naming(home) == [], "a process of this home is left"
    assert not Path(home).exists()


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """An installation that the tests of a module share; a child killed by one test is replaced for the next."""
    with opened() as made:
        yield made


@pytest.fixture
def tenant_id(installation: Installation) -> str:
    """A tenant of this test's own, made by the installation's child."""
    name = f"crash-{next(_numbers)}"
    installation.child().ask("tenant", tenant=name, limit=100_000)
    return name

"""One real installation for the whole run: embedded PostgreSQL, Pixeltable, keyring, and a materializer beside it.

Pixeltable has one home per process, so tests that need a home of their own start a process of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from cloud import CloudRuntime, CloudSettings, init_cloud_extensions
from tests.support.homes import temporary_home

# A shared machine is sometimes slow; how long one example takes says nothing about it being right.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Allow other threads their random numbers: connecting to PostgreSQL draws some, which Hypothesis would report."""
    ours = "ignore:Do not use the `random` module inside strategies:hypothesis.errors.HypothesisDeprecationWarning"
    config.addinivalue_line("filterwarnings", ours)


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """The home directory of the run's installation."""
    with temporary_home() as path:
        yield path


@pytest.fixture(scope="session")
def runtime(home: Path) -> Iterator[CloudRuntime]:
    """The run's installation, with its extensions registered.

    Every refusal has an event of its own: tests of one minute are one source, and each looks for its own event.
    """
    settings = CloudSettings(home=home, worker="thread", refusals_recorded_each=1_000_000)
    with init_cloud_extensions(settings) as opened:
        yield opened


@pytest.fixture
def tenant_id(runtime: CloudRuntime) -> str:
    """A tenant of this test's own, with room for 100,000 memories."""
    name = f"tenant-{next(_numbers)}"
    runtime.tenants.create(name, plan="team")
    return name

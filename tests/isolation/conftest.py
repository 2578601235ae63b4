"""An onlooker of the run's installation."""

from __future__ import annotations

import pytest

from cloud import CloudRuntime
from tests.isolation.probes import Onlooker


@pytest.fixture(scope="session")
def onlooker(runtime: CloudRuntime) -> Onlooker:
    """Sees the installation past its API."""
    return Onlooker(runtime)

"""The protocols take what the published ones take, so that one object serves both."""

from __future__ import annotations

import inspect
import re

import pytest
from luminescent_cluster.extensions import protocols as published

import src.extensions as ours
from src.memory.providers.local import LocalMemoryProvider

SHARED = [
    (protocol, name)
    for protocol in ("TenantProvider", "UsageTracker", "AuditLogger", "MemoryProvider")
    for name, member in vars(getattr(published, protocol)).items()
    if inspect.isfunction(member) and not name.startswith("_")
]


@pytest.mark.parametrize(("protocol", "name"), SHARED)
def test_method_takes_the_published_parameters(protocol: str, name: str) -> None:
    theirs, mine = getattr(getattr(published, protocol), name), getattr(getattr(ours, protocol), name)
    assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(theirs)
    parameters = [[(p.name, p.default) for p in inspect.signature(f).parameters.values()] for f in (mine, theirs)]
    assert parameters[0] == parameters[1]


def test_every_published_method_was_compared() -> None:
    assert len(SHARED) == 3 + 3 + 4 + 5


def test_local_provider_satisfies_the_published_protocol() -> None:
    assert isinstance(LocalMemoryProvider(), published.MemoryProvider)


def test_versions_are_semantic() -> None:
    versions = [value for name, value in vars(ours).items() if name.endswith("_VERSION")]
    assert len(versions) == 5
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)

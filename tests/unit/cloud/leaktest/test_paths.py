"""No method escapes the table of paths, and hostile input is hostile."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloud import CloudRuntime
from cloud.kernel.ids import is_tenant_id
from cloud.leaktest import hostile, paths
from cloud.leaktest.paths import NO_READS, PATHS, Arguments, Asked, ReadPath, Shows, paths_of, stale, unclassified
from cloud.memory import CloudMemoryProvider


class _Wider(CloudMemoryProvider):
    async def peek(self, user_id: str) -> list[str]:
        return [user_id]


def test_every_method_of_every_service_is_classified(runtime: CloudRuntime) -> None:
    assert list(unclassified(runtime)) == []


def test_a_method_or_a_service_that_nobody_classified_is_named(runtime: CloudRuntime) -> None:
    served = cast(Any, SimpleNamespace(memory=_Wider.__new__(_Wider), another=runtime.pixeltable_config.hot))
    named = list(unclassified(served))
    assert "memory.peek" in named
    assert "another.get" in named


def test_no_method_is_in_both_tables() -> None:
    assert not [path.name for path in PATHS if path.method in NO_READS.get(path.surface, {})]


def test_both_tables_name_only_what_the_installation_has(runtime: CloudRuntime) -> None:
    assert list(stale(runtime)) == []
    assert paths_of(runtime) == list(PATHS)
    assert len({path.name for path in PATHS}) == len(PATHS)


def test_what_stands_in_a_table_and_is_not_there_is_named(
    runtime: CloudRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = ReadPath("memory", "no_such_method", Asked.PERSON, Shows.CONTENT)
    monkeypatch.setattr(paths, "PATHS", (*PATHS, gone))
    monkeypatch.setattr(paths, "NO_READS", {**NO_READS, "tenants": {"no_more": "gone"}, "nothing": {"at_all": "gone"}})
    assert list(stale(runtime)) == ["memory.no_such_method", "tenants.no_more", "nothing.at_all"]


async def test_every_argument_without_a_default_has_a_value(runtime: CloudRuntime, tmp_path: Path) -> None:
    """Otherwise a path raises `TypeError` and attacks nothing."""
    for number, path in enumerate(PATHS):
        method = getattr(getattr(runtime, path.surface), path.method)
        given = path._given(method, Arguments("acme", directory=tmp_path / str(number)))
        inspect.signature(method).bind(**given)


def test_hostile_input_is_never_the_thing_itself_and_every_kind_is_there() -> None:
    names = hostile.names_like("acme-a")
    assert "acme-a" not in names
    assert {"ACME-A", "acme-a%", "acme-_", "acme-a2", "acme-", " acme-a", "../acme-a"} <= set(names)
    assert any(len(name) > 10_000 for name in names)
    assert any("\u200b" in name for name in names)
    assert [name for name in names if is_tenant_id(name)] != names
    assert "2bob" in set(hostile.joined_names("acme-a", "acme-a2", "bob"))
    memory_id = "018f2b6e-7c1a-7def-8123-456789abcdef"
    assert memory_id not in hostile.ids_like(memory_id)

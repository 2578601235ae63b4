"""No query of the data plane without a tenant: every method of the one module that queries it, enumerated."""

from __future__ import annotations

import ast
import inspect
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import cloud
from cloud import CloudRuntime
from cloud.kernel.errors import TenantIsolationError
from cloud.kernel.ids import new_memory_id
from cloud.kernel.scope import TenantPredicate
from cloud.memory.model import SealedRow
from cloud.memory.ports import Rows
from cloud.tenancy.system import system_predicate

_SOURCE = Path(cloud.__file__).parent / "memory/pixeltable.py"
_PLACEMENT = "isolation_test"
_QUERIES = {"newer", "revisions", "remove_subject", "count_subject", "remove_tenant", "count_tenant"}
_WRITES = {"write"}
_READING_CALLS = {"where", "select", "delete", "update", "collect", "count", "head", "tail", "sample", "order_by"}


class TwoTenants:
    """Rows of two tenants whose subjects have the same id, in one table: only the tenant tells them apart."""

    def __init__(self) -> None:
        self.subject_id = str(uuid.uuid4())
        self.mine = [self._row("acme"), self._row("acme")]
        self.theirs = [self._row("acme2"), self._row("acme2"), self._row("acme2")]

    def _row(self, tenant_id: str) -> SealedRow:
        return SealedRow(
            memory_id=new_memory_id(),
            tenant_id=tenant_id,
            subject_id=self.subject_id,
            revision=1,
            generation=1,
            memory_type="fact",
            confidence=1.0,
            created_at=datetime(2024, 5, 1, tzinfo=UTC),
            expires_at=None,
            envelope=b"sealed elsewhere",
        )

    def ids(self) -> set[str]:
        return {row.memory_id for row in (*self.mine, *self.theirs)}


@pytest.fixture
def held(runtime: CloudRuntime) -> Iterator[TwoTenants]:
    held = TwoTenants()
    rows = runtime.pixeltable_config.rows
    rows.write(_PLACEMENT, [*held.mine, *held.theirs], [])
    yield held
    for tenant_id in ("acme", "acme2"):
        rows.remove_subject(predicate(tenant_id), _PLACEMENT, held.subject_id)


def predicate(tenant_id: str) -> TenantPredicate:
    return system_predicate(tenant_id, "test")


def test_every_method_is_classified(runtime: CloudRuntime) -> None:
    kind = type(runtime.pixeltable_config.rows)
    methods = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    assert methods == _QUERIES | _WRITES
    assert methods == {name for name, _ in inspect.getmembers(Rows, inspect.isfunction) if not name.startswith("_")}


def test_every_query_takes_a_predicate(runtime: CloudRuntime) -> None:
    for name in _QUERIES:
        first = list(inspect.signature(getattr(runtime.pixeltable_config.rows, name)).parameters.values())[0]
        assert first.name in {"predicate", "predicates"}
        assert first.default is inspect.Parameter.empty


def test_newer_shows_the_tenants_own_rows(runtime: CloudRuntime, held: TwoTenants) -> None:
    rows = runtime.pixeltable_config.rows
    for tenant_id, own in (("acme", held.mine), ("acme2", held.theirs)):
        found = rows.newer(predicate(tenant_id), _PLACEMENT, held.subject_id, since=0)
        assert {row.memory_id for row in found} == {row.memory_id for row in own}
        assert {row.tenant_id for row in found} == {tenant_id}
    assert rows.newer(predicate("acme-1"), _PLACEMENT, held.subject_id, since=0) == []


def test_revisions_are_those_of_the_tenants_named(runtime: CloudRuntime, held: TwoTenants) -> None:
    rows = runtime.pixeltable_config.rows
    assert set(rows.revisions([predicate("acme")], _PLACEMENT, held.ids())) == {row.memory_id for row in held.mine}
    both = [predicate("acme"), predicate("acme2")]
    assert set(rows.revisions(both, _PLACEMENT, held.ids())) == held.ids()
    with pytest.raises(TenantIsolationError):
        rows.revisions([], _PLACEMENT, held.ids())


def test_counting_and_removing_touch_the_tenants_own_rows(runtime: CloudRuntime, held: TwoTenants) -> None:
    rows = runtime.pixeltable_config.rows
    assert rows.count_subject(predicate("acme"), _PLACEMENT, held.subject_id) == 2
    assert rows.remove_subject(predicate("acme-1"), _PLACEMENT, held.subject_id) == 0
    assert rows.remove_subject(predicate("acme"), _PLACEMENT, held.subject_id) == 2
    assert rows.count_subject(predicate("acme"), _PLACEMENT, held.subject_id) == 0
    assert rows.count_subject(predicate("acme2"), _PLACEMENT, held.subject_id) == 3


@pytest.mark.parametrize("name", sorted(_QUERIES))
def test_what_is_no_predicate_opens_nothing(runtime: CloudRuntime, held: TwoTenants, name: str) -> None:
    rows = runtime.pixeltable_config.rows
    for forged in (None, "acme", {"tenant_id": {"$eq": "acme"}}):
        calls: dict[str, Any] = {
            "newer": lambda forged=forged: rows.newer(forged, _PLACEMENT, held.subject_id, since=0),
            "revisions": lambda forged=forged: rows.revisions([forged], _PLACEMENT, held.ids()),
            "remove_subject": lambda forged=forged: rows.remove_subject(forged, _PLACEMENT, held.subject_id),
            "count_subject": lambda forged=forged: rows.count_subject(forged, _PLACEMENT, held.subject_id),
            "remove_tenant": lambda forged=forged: rows.remove_tenant(forged, _PLACEMENT),
            "count_tenant": lambda forged=forged: rows.count_tenant(forged, _PLACEMENT),
        }
        with pytest.raises(TenantIsolationError):
            calls[name]()
    assert rows.count_subject(predicate("acme"), _PLACEMENT, held.subject_id) == 2


@pytest.mark.usefixtures("runtime")
def test_a_handle_cannot_be_built_without_a_tenant() -> None:
    # Not above: the import needs the environment that the runtime prepares.
    from cloud.memory.pixeltable import TenantTable

    table: Any = object()
    for predicates in ((), (None,), ("acme",), ({"tenant_id": "acme"},)):
        with pytest.raises(TenantIsolationError):
            TenantTable(table, predicates)  # type: ignore[arg-type]


def test_each_condition_in_the_source_goes_through_the_handle() -> None:
    tree = ast.parse(_SOURCE.read_text())
    conditions = 0
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in _READING_CALLS:
            continue
        receiver = ast.unparse(call.func.value)
        match call.func.attr:
            case "where" if receiver == "mine":
                continue
            case "where":
                (condition,) = call.args
            case "delete" | "update":
                (condition,) = (keyword.value for keyword in call.keywords if keyword.arg == "where")
            case _:
                # What reads comes after a condition: `table.where(…).select(…).collect()`.
                assert receiver.startswith("table.where("), ast.unparse(call)
                continue
        assert ast.unparse(condition).startswith("mine.where("), ast.unparse(call)
        conditions += 1
    assert conditions == len(_QUERIES)


def test_pixeltable_is_imported_where_it_is_started_and_queried_and_nowhere_else() -> None:
    root = Path(cloud.__file__).parent
    importing = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "pixeltable" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pixeltable")
    }
    assert "memory/pixeltable.py" in importing
    assert all(name == "memory/pixeltable.py" or name.startswith("storage/") for name in importing), importing

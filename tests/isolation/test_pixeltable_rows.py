"""No query of the data plane without a tenant: every method of the one module that queries it, enumerated."""

from __future__ import annotations

import ast
import inspect
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import cloud
from cloud import CloudRuntime
from cloud.kernel.errors import ProviderUnavailableError, TenantIsolationError
from cloud.kernel.ids import new_memory_id
from cloud.kernel.scope import TenantPredicate
from cloud.memory.model import SealedRow
from cloud.memory.ports import Columns, Rows
from cloud.tenancy.system import system_predicate

_MODULES = ("pixeltable.py", "pixeltable_columns.py", "pixeltable_handles.py")
_SOURCES = [Path(cloud.__file__).parent / "memory" / name for name in _MODULES]
_PLACEMENT = "isolation_test"
_LATER = datetime(2024, 5, 2, tzinfo=UTC)
_QUERIES = {
    "newer",
    "page",
    "older",
    "named",
    "revisions",
    "all_revisions",
    "remove",
    "remove_subject",
    "remove_tenant",
    "count_subject",
    "count_tenant",
}
_COLUMN_QUERIES = {"compute": 2, "empty": 2, "lacking": 1}
"""Of `PixeltableColumns`, with the conditions that each comes to; two share theirs."""
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
        rows.remove_tenant(predicate(tenant_id), _PLACEMENT)


def predicate(tenant_id: str) -> TenantPredicate:
    return system_predicate(tenant_id, "test")


def test_every_method_is_classified(runtime: CloudRuntime) -> None:
    kind = type(runtime.pixeltable_config.rows)
    methods = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    assert methods == _QUERIES | _WRITES
    assert methods == {name for name, _ in inspect.getmembers(Rows, inspect.isfunction) if not name.startswith("_")}


def test_every_method_on_columns_is_classified(runtime: CloudRuntime) -> None:
    kind = type(runtime._installation.columns)
    methods = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    # `name` changes an expression and reads no row.
    assert methods == _COLUMN_QUERIES.keys() | {"name"}
    assert methods == {name for name, _ in inspect.getmembers(Columns, inspect.isfunction) if not name.startswith("_")}


def test_every_query_takes_a_predicate(runtime: CloudRuntime) -> None:
    queries = [getattr(runtime.pixeltable_config.rows, name) for name in _QUERIES]
    queries += [getattr(runtime._installation.columns, name) for name in _COLUMN_QUERIES]
    for query in queries:
        first = list(inspect.signature(query).parameters.values())[0]
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


def test_named_and_removed_rows_are_the_tenants_own(runtime: CloudRuntime, held: TwoTenants) -> None:
    rows = runtime.pixeltable_config.rows
    own = {row.memory_id for row in held.mine}
    assert {row.memory_id for row in rows.named(predicate("acme"), _PLACEMENT, held.ids())} == own
    assert rows.named(predicate("acme-1"), _PLACEMENT, held.ids()) == []
    assert rows.remove(predicate("acme-1"), _PLACEMENT, held.ids()) == 0
    assert rows.remove(predicate("acme"), _PLACEMENT, held.ids()) == len(own)
    assert rows.count_subject(predicate("acme2"), _PLACEMENT, held.subject_id) == len(held.theirs)


def test_an_update_replaces_the_row_of_its_own_tenant(runtime: CloudRuntime, held: TwoTenants) -> None:
    rows = runtime.pixeltable_config.rows
    newer = replace(held.mine[0], revision=2)
    foreign = replace(held.theirs[0], tenant_id="acme", revision=2)
    rows.write(_PLACEMENT, [], [newer])
    assert rows.revisions([predicate("acme")], _PLACEMENT, [newer.memory_id]) == {newer.memory_id: 2}
    with pytest.raises(ProviderUnavailableError):
        rows.write(_PLACEMENT, [], [foreign])
    assert rows.revisions([predicate("acme2")], _PLACEMENT, held.ids()) == {row.memory_id: 1 for row in held.theirs}


def test_counting_and_removing_touch_the_tenants_own_rows(runtime: CloudRuntime, held: TwoTenants) -> None:
    rows = runtime.pixeltable_config.rows
    assert rows.count_subject(predicate("acme"), _PLACEMENT, held.subject_id) == 2
    assert rows.remove_subject(predicate("acme-1"), _PLACEMENT, held.subject_id) == 0
    assert rows.remove_subject(predicate("acme"), _PLACEMENT, held.subject_id) == 2
    assert rows.count_subject(predicate("acme"), _PLACEMENT, held.subject_id) == 0
    assert rows.count_subject(predicate("acme2"), _PLACEMENT, held.subject_id) == 3


def test_pages_revisions_and_removals_of_a_tenant_are_its_own(runtime: CloudRuntime, held: TwoTenants) -> None:
    rows = runtime.pixeltable_config.rows
    for tenant_id, own in (("acme", held.mine), ("acme2", held.theirs), ("acme-1", [])):
        ids = {row.memory_id for row in own}
        page = rows.page(predicate(tenant_id), _PLACEMENT, after="", limit=100)
        named = rows.named(predicate(tenant_id), _PLACEMENT, held.ids(), column=None)
        for found in (page, named):
            assert {row.memory_id for row in found} == ids
            assert {row.tenant_id for row in found} <= {tenant_id}
        assert set(rows.older(predicate(tenant_id), _PLACEMENT, "fact", _LATER, after="", limit=100)) == ids
        assert rows.all_revisions(predicate(tenant_id), _PLACEMENT).keys() == ids
        assert rows.count_tenant(predicate(tenant_id), _PLACEMENT) == len(ids)
    assert rows.remove(predicate("acme"), _PLACEMENT, held.ids()) == 2
    assert rows.remove_tenant(predicate("acme"), _PLACEMENT) == 0
    assert rows.count_tenant(predicate("acme2"), _PLACEMENT) == 3
    assert rows.remove_tenant(predicate("acme2"), _PLACEMENT) == 3


def test_computing_and_emptying_a_column_touch_the_tenants_own_rows(runtime: CloudRuntime, held: TwoTenants) -> None:
    columns, foreign, own = runtime._installation.columns, predicate("acme-1"), predicate("acme")
    for work in (columns.compute, columns.empty):
        assert work(foreign, _PLACEMENT, "embedding_2", after="", limit=100) is None
    # Nobody's envelopes: without a vector before and after, so each is a row to compute.
    last = columns.compute(own, _PLACEMENT, "embedding_2", after="", limit=100)
    assert last == max(row.memory_id for row in held.mine)
    assert columns.lacking(own, _PLACEMENT, "embedding_2", beside="embedding") == 0


@pytest.mark.parametrize("name", sorted(_COLUMN_QUERIES))
@pytest.mark.usefixtures("held")
def test_what_is_no_predicate_opens_no_column(runtime: CloudRuntime, name: str) -> None:
    columns = runtime._installation.columns
    for forged in (None, "acme", {"tenant_id": {"$eq": "acme"}}):
        calls: dict[str, Any] = {
            "compute": lambda forged=forged: columns.compute(forged, _PLACEMENT, "embedding", after="", limit=1),
            "empty": lambda forged=forged: columns.empty(forged, _PLACEMENT, "embedding", after="", limit=1),
            "lacking": lambda forged=forged: columns.lacking(forged, _PLACEMENT, "embedding", beside="embedding_2"),
        }
        with pytest.raises(TenantIsolationError):
            calls[name]()


@pytest.mark.parametrize("name", sorted(_QUERIES))
def test_what_is_no_predicate_opens_nothing(runtime: CloudRuntime, held: TwoTenants, name: str) -> None:
    rows = runtime.pixeltable_config.rows
    for forged in (None, "acme", {"tenant_id": {"$eq": "acme"}}):
        calls: dict[str, Any] = {
            "newer": lambda forged=forged: rows.newer(forged, _PLACEMENT, held.subject_id, since=0),
            "named": lambda forged=forged: rows.named(forged, _PLACEMENT, held.ids()),
            "revisions": lambda forged=forged: rows.revisions([forged], _PLACEMENT, held.ids()),
            "remove_subject": lambda forged=forged: rows.remove_subject(forged, _PLACEMENT, held.subject_id),
            "count_subject": lambda forged=forged: rows.count_subject(forged, _PLACEMENT, held.subject_id),
            "page": lambda forged=forged: rows.page(forged, _PLACEMENT, after="", limit=9),
            "older": lambda forged=forged: rows.older(forged, _PLACEMENT, "fact", _LATER, after="", limit=9),
            "all_revisions": lambda forged=forged: rows.all_revisions(forged, _PLACEMENT),
            "remove": lambda forged=forged: rows.remove(forged, _PLACEMENT, held.ids()),
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
    calls = [node for source in _SOURCES for node in ast.walk(ast.parse(source.read_text()))]
    conditions = 0
    for call in (node for node in calls if isinstance(node, ast.Call)):
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
        said = ast.unparse(condition)
        assert said == "mine.all" or said.startswith("mine.where("), ast.unparse(call)
        conditions += 1
    # What `compute` and `empty` share is written once.
    # A write takes out older revisions.
    expected = len(_QUERIES) + len(_WRITES) + sum(_COLUMN_QUERIES.values()) - _COLUMN_QUERIES["empty"]
    assert conditions == expected


def test_pixeltable_is_imported_where_it_is_started_and_queried_and_nowhere_else() -> None:
    root = Path(cloud.__file__).parent
    importing = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "pixeltable" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pixeltable")
    }
    querying = {f"memory/{name}" for name in _MODULES}
    assert "memory/pixeltable.py" in importing
    assert all(name in querying or name.startswith("storage/") for name in importing), importing

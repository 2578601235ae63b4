"""The data map is complete: what is there is listed, what is listed is there, and a place that is not is found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import cloud
from cloud import CloudRuntime, request_context
from cloud.gdpr.catalog import CATALOG, DELETED_FROM, Holds, Kind, OnErasure, Place
from cloud.gdpr.levels import Level
from cloud.gdpr.model import ErasurePreview
from cloud.gdpr.places import require_complete
from cloud.kernel.errors import ConfigurationError
from cloud.storage.roles import BACKUP_ROLE, CONTROL_DATABASE, DATA_DATABASE
from src.testing.samples import sample_memory
from tests.gdpr.finder import (
    PIXELTABLES_OWN,
    caches,
    listed,
    queues,
    relations,
    unlisted_columns,
    unlisted_data_tables,
    unlisted_files,
    unowned_storage,
)
from tests.support.homes import temporary_home

ROOT = Path(cloud.__file__).parents[1]
TABLES_OF_MEMORIES = "luminescent.*"
NO_QUEUE_OF_PEOPLE = {
    "cloud.kernel.threads.LoopThreads._jobs": "calls that have not begun; their callers wait, and a freeze meets them",
    "cloud.storage.calling.Calls._ready": "connections between two calls: what was asked and answered is gone by then",
    "src.memory.providers.local.LocalMemoryProvider._deletions": "of the provider for one user, in the open core",
}
"""What is a queue, and why it is no place of the cloud side."""
NO_CACHE_OF_PEOPLE = {
    "cloud.gdpr.catalog.Kind.CACHE": "a word of the data map",
    "cloud.kernel.telemetry._Instruments.hot_evictions": "a counter",
    "cloud.kernel.telemetry._Instruments.hot_reads": "a counter",
    "cloud.kernel.telemetry._hot_tiers": "refers to hot tiers, to ask for their size in bytes",
    "cloud.kernel.telemetry_names.HOT": "the name of an attribute",
    "cloud.kernel.telemetry_names.HOT_BYTES": "the name of an instrument",
    "cloud.kernel.telemetry_names.HOT_EVICTIONS": "the name of an instrument",
    "cloud.kernel.telemetry_names.HOT_READS": "the name of an instrument",
    "cloud.keys.cache.CachedKey": "what a KeyCache is made of",
    "cloud.keys.sqlite._CACHED_TENANTS": "a number",
    "cloud.memory.config.PixeltableConfig.hot": "refers to the hot tier",
    "cloud.memory.hot.HotTier._snapshots": "the hot tier itself",
    "cloud.memory.model.HotMemory": "what a snapshot is made of",
    "cloud.memory.model.SubjectSnapshot": "what the hot tier is made of",
    "cloud.memory.snapshots.SnapshotLoader": "fills the hot tier and keeps nothing",
    "cloud.memory.snapshots.SnapshotLoader._hot": "refers to the hot tier",
    "cloud.settings.CloudSettings.hot_tier_mb": "a number",
    "src.memory.embedding._load_wordllama.cache": "the embedding model",
    "src.memory.ranking.IndexSnapshot": "part of a snapshot",
}
"""What is called like a cache, and why it is no place of its own."""


@pytest.fixture
async def used(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> CloudRuntime:
    """The installation after every sort of operation."""
    with request_context(tenant_id=tenant_id, roles={"service"}):
        # A long one too: Pixeltable keeps large values in files, unless they are kept as text.
        long = sample_memory("alice", content="a long story " * 5_000)
        stored = [sample_memory("alice"), sample_memory("bob"), long]
        ids = await runtime.memory.store_many(stored, {"idempotency_key": "k"})
        await runtime.drain()
        await runtime.memory.retrieve("tabs", "alice")
        await runtime.memory.delete(ids[1])
    runtime.api_keys.create(tenant_id, roles={"member"}, user_id="alice")
    runtime.usage.track("query", 1, {"tenant_id": tenant_id})
    runtime.audit.log_event("e", "alice", "r", "x", "success", {"tenant_id": tenant_id})
    runtime.audit.export(tenant_id, tmp_path / "audit")
    await runtime.gdpr.export_user_data("alice", tenant_id, tmp_path / "alice")
    await runtime.gdpr.delete_user_data("bob", tenant_id, confirmed=True)
    return runtime


def engine(runtime: CloudRuntime, database: str, role: str = BACKUP_ROLE) -> sa.Engine:
    return sa.create_engine(runtime._installation.server.url(role, database), poolclass=sa.NullPool)


def pixeltable_tables(runtime: CloudRuntime) -> dict[str, Any]:
    """Every table that Pixeltable knows, by its path."""
    import pixeltable as pxt

    def call() -> dict[str, Any]:
        return {path.replace("/", "."): pxt.get_table(path) for path in pxt.list_tables()}

    pool = runtime.pixeltable_config.rows._tables._pool  # type: ignore[attr-defined]
    return dict(pool.run_blocking(call))


# Tables and columns


def test_every_table_and_column_of_the_control_database_is_listed(runtime: CloudRuntime) -> None:
    with engine(runtime, CONTROL_DATABASE).connect() as connection:
        assert unlisted_columns(relations(connection), listed(Kind.CONTROL_TABLE)) == set()


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("CREATE TABLE notes (body text)", "table notes"),
        ("CREATE SCHEMA other CREATE TABLE notes (body text)", "table other.notes"),
        ("CREATE VIEW shown AS SELECT event FROM audit_events", "table shown"),
        ("CREATE MATERIALIZED VIEW kept AS SELECT event FROM audit_events", "table kept"),
        ("ALTER TABLE memories ADD COLUMN content text", "column memories.content"),
        ("ALTER TABLE memories DROP COLUMN revision CASCADE", "column memories.revision"),
        ("DROP TABLE usage_events", "table usage_events"),
    ],
)
def test_a_table_or_column_that_is_not_listed_is_found(runtime: CloudRuntime, statement: str, found: str) -> None:
    with engine(runtime, CONTROL_DATABASE, "luminescent_owner").connect() as connection:
        try:
            connection.execute(sa.text(statement))
            assert unlisted_columns(relations(connection), listed(Kind.CONTROL_TABLE)) == {found}
        finally:
            connection.rollback()


async def test_every_table_of_pixeltable_is_listed_and_has_the_listed_columns(used: CloudRuntime) -> None:
    tables = pixeltable_tables(used)
    assert tables
    assert {path.partition(".")[0] for path in tables} == {"luminescent"}
    expected = listed(Kind.PIXELTABLE_TABLE)[TABLES_OF_MEMORIES].columns.keys()
    for path, table in tables.items():
        assert set(table.columns()) == expected, path


async def test_the_data_database_holds_nothing_but_pixeltables_catalog_and_listed_tables(used: CloudRuntime) -> None:
    known = {f"tbl_{table.get_metadata()['id'].hex}" for table in pixeltable_tables(used).values()}
    with engine(used, DATA_DATABASE, "luminescent_pixeltable").connect() as connection:
        assert unlisted_data_tables(connection, known) == set()
        assert known <= relations(connection).keys(), "the tables' names in the database are others"
        connection.execute(sa.text("CREATE TABLE stray (body text)"))
        assert unlisted_data_tables(connection, known) == {"stray"}
        assert unlisted_data_tables(connection, set()) == {"stray", *known}
        connection.rollback()


async def test_every_index_and_toast_table_belongs_to_a_listed_table(used: CloudRuntime) -> None:
    """They hold what their table holds, so they stand in the map with it, and one of nothing would be a place."""
    places = {place.name for place in CATALOG}
    assert {"postgres.indexes", "postgres.toast", "postgres.statistics", "postgres.wal"} <= places
    with engine(used, CONTROL_DATABASE, "luminescent_owner").connect() as connection:
        known = set(listed(Kind.CONTROL_TABLE))
        assert unowned_storage(connection, known) == set()
        without = unowned_storage(connection, known - {"memories"})
        assert {"public.memories of memories", "public.pk_memories of memories"} <= without
        assert any(name.startswith("pg_toast.") for name in unowned_storage(connection, known - {"audit_events"}))
    tables = {f"tbl_{table.get_metadata()['id'].hex}" for table in pixeltable_tables(used).values()}
    with engine(used, DATA_DATABASE, "luminescent_pixeltable").connect() as connection:
        assert unowned_storage(connection, tables | PIXELTABLES_OWN) == set()


# Files


def directories() -> list[Any]:
    return [place for place in CATALOG if place.kind in (Kind.DIRECTORY, Kind.KEYRING)]


async def test_every_file_of_the_home_is_under_an_entry(used: CloudRuntime, home: Path) -> None:
    assert unlisted_files(home, directories()) == set()
    for place in directories():
        assert (home / place.location).is_dir(), f"{place.name} is listed and not there"


async def test_pixeltables_own_directory_holds_no_rows(used: CloudRuntime, home: Path) -> None:
    """Media, caches and logs would be places that no erasure reaches."""
    files = {str(path.relative_to(home)) for path in (home / "pixeltable").rglob("*") if not path.is_dir()}
    assert files == {"pixeltable/config.toml"}


def test_a_file_or_directory_that_is_not_listed_is_found(tmp_path: Path) -> None:
    for name in ("postgres/data", "cache/people", "keyring"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "postgres/data/1").write_text("")
    (tmp_path / "dump.sql").write_text("")
    (tmp_path / "cache/people/alice").write_text("")
    found = {"dump.sql", "cache", "cache/people", "cache/people/alice"}
    assert unlisted_files(tmp_path, directories()) == found


ROUND = """
import asyncio, sys
from pathlib import Path
from cloud import CloudSettings, init_cloud_extensions, request_context
from src.testing.samples import sample_memory

async def main(home, out):
    with init_cloud_extensions(CloudSettings(home=home, worker="process")) as runtime:
        runtime.tenants.create("acme")
        with request_context(tenant_id="acme", roles={"service"}):
            await runtime.memory.store_many([sample_memory("alice")] * 3, {})
            await runtime.drain()
            await runtime.memory.retrieve("tabs", "alice")
        await runtime.gdpr.export_user_data("alice", "acme", out / "alice")
        await runtime.gdpr.delete_user_data("alice", "acme", confirmed=True)
        runtime.audit.export("acme", out / "audit")

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_an_installation_leaves_nothing_outside_its_home(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("tmp", "user", "work", "out")}
    for place in places.values():
        place.mkdir()
    environment = {**os.environ, "TMPDIR": str(places["tmp"]), "HOME": str(places["user"]), "PYTHONPATH": str(ROOT)}
    with temporary_home() as home:
        subprocess.run(
            [sys.executable, "-c", ROUND, home, places["out"]],
            check=True,
            env=environment,
            cwd=places["work"],
            timeout=120,
        )
        assert unlisted_files(home, directories()) == set()
    for name in ("tmp", "user", "work"):
        assert [str(path) for path in places[name].rglob("*")] == []


# Caches


def sources() -> Mapping[str, str]:
    return {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path.read_text()
        for package in ("cloud", "src")
        for path in (ROOT / package).rglob("*.py")
    }


def test_every_cache_of_the_process_is_listed() -> None:
    found = {name for module, source in sources().items() for name in caches(source, module)}
    assert found - NO_CACHE_OF_PEOPLE.keys() == listed(Kind.CACHE).keys()
    assert NO_CACHE_OF_PEOPLE.keys() <= found, "explains what is not there (any more)"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("class QueryCache:\n    pass", "m.QueryCache"),
        ("class Reader:\n    def __init__(self):\n        self._row_cache = {}", "m.Reader._row_cache"),
        ("class Reader:\n    hot_rows: dict", "m.Reader.hot_rows"),
        ("_SNAPSHOTS = {}", "m._SNAPSHOTS"),
        ("_snapshots: dict = {}", "m._snapshots"),
        ("import functools\n@functools.lru_cache(maxsize=9)\ndef load(user): ...", "m.load.cache"),
        ("from functools import cache\nclass A:\n    @cache\n    def load(self, user): ...", "m.A.load.cache"),
    ],
)
def test_a_cache_that_is_not_listed_is_found(source: str, name: str) -> None:
    assert caches(source, "m") == {name}


def test_every_queue_of_the_process_is_listed() -> None:
    found = {name for module, source in sources().items() for name in queues(source, module)}
    assert found - NO_QUEUE_OF_PEOPLE.keys() == listed(Kind.QUEUE).keys()
    assert NO_QUEUE_OF_PEOPLE.keys() <= found, "explains what is not there (any more)"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (
            "import queue\nclass A:\n    def __init__(self):\n        self._waiting = queue.SimpleQueue()",
            "m.A._waiting",
        ),
        ("from collections import deque\nLAST: deque[str] = deque(maxlen=9)", "m.LAST"),
        ("import asyncio\nasync def f():\n    waiting = asyncio.Queue()", "m.waiting"),
    ],
)
def test_a_queue_that_is_not_listed_is_found(source: str, name: str) -> None:
    assert queues(source, "m") == {name}


# The map itself


def test_every_place_has_a_name_and_a_location_of_its_own() -> None:
    assert len({place.name for place in CATALOG}) == len(CATALOG)
    assert len({(place.kind, place.location) for place in CATALOG}) == len(CATALOG)


def test_content_in_the_clear_is_in_memory_alone_and_no_user_id_is_anywhere() -> None:
    for place in CATALOG:
        if Holds.CLEAR in place.columns.values():
            assert place.kind is Kind.CACHE or place.on_erasure is OnErasure.HANDED_OUT
        assert not {"user_id", "content", "query"} & place.columns.keys()


def test_whatever_holds_more_than_facts_is_emptied_or_says_why_it_stays() -> None:
    for place in CATALOG:
        holds = set(place.columns.values())
        if place.kind not in (Kind.CONTROL_TABLE, Kind.PIXELTABLE_TABLE, Kind.KEYRING, Kind.CACHE):
            continue  # Copies and bytes: a deeper level reaches them, and a test says so below.
        if holds & {Holds.SEALED, Holds.CLEAR}:
            assert place.name in DELETED_FROM, place.name
        if Holds.SUBJECT in holds and place.name not in DELETED_FROM:
            assert place.on_erasure is OnErasure.ANONYMOUS
            assert "GDPR" in place.basis or "refuses" in place.basis


async def test_the_finder_looks_into_every_place_that_an_erasure_empties(used: CloudRuntime, tenant_id: str) -> None:
    preview = await used.gdpr.delete_user_data("alice", tenant_id)
    assert isinstance(preview, ErasurePreview)
    assert preview.counts.keys() == set(DELETED_FROM)


def test_a_place_that_does_not_say_what_becomes_of_it_cannot_be_written_down() -> None:
    person = {"subject_id": Holds.SUBJECT}
    Place("a", Kind.CONTROL_TABLE, "a", person, OnErasure.DELETED, exported_in="person.json")
    for wrong in (
        lambda: Place("a", Kind.CONTROL_TABLE, "a", person, OnErasure.UNTOUCHED, exported_in="person.json"),
        lambda: Place("a", Kind.CONTROL_TABLE, "a", person, OnErasure.DELETED),
        lambda: Place("a", Kind.CONTROL_TABLE, "a", person, OnErasure.DELETED, basis="", not_told="why"),
        lambda: Place("a", Kind.CONTROL_TABLE, "a", {}, OnErasure.UNTOUCHED),
        lambda: Place("a", Kind.CONTROL_TABLE, "a", {"n": Holds.NOTHING}, OnErasure.DELETED, not_told="why"),
    ):
        with pytest.raises(ValueError, match=r"^a "):
            wrong()


def test_every_place_about_a_person_has_a_level_or_is_in_other_hands() -> None:
    for place in CATALOG:
        if place.is_personal and place.on_erasure is not OnErasure.HANDED_OUT:
            assert place.level is not None, place.name
    assert {place.level for place in CATALOG} == {None, *Level}


@pytest.mark.parametrize(
    ("entries", "handled", "says"),
    [
        (["a", "b"], ["a"], "lists b, and nothing"),
        (["a"], ["a", "b"], "b is emptied by an erasure and stands in no entry"),
    ],
)
def test_a_map_that_is_not_handled_as_a_whole_cannot_be_composed(
    entries: list[str], handled: list[str], says: str
) -> None:
    require_complete(["a"], ["a"])
    with pytest.raises(ConfigurationError, match=says):
        require_complete(entries, handled)

"""Laws of the doctor: each fault is found by its check, named with its remedy, and hides no other."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cloud import CloudRuntime, CloudSettings, request_context
from cloud.kernel.findings import Finding, Level
from cloud.kernel.ids import new_memory_id
from cloud.memory.materializer import placement_lock
from cloud.startup import upkeep
from cloud.startup.doctor import CHECKS, Context, audit, backups, examine, host, keys, memories
from cloud.startup.doctor import database as databases
from cloud.startup.doctor.context import Check
from src.testing.samples import sample_memory

Altered = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def settings(runtime: CloudRuntime, home: Path) -> CloudSettings:
    return CloudSettings(home=home)


@pytest.fixture
def altered(runtime: CloudRuntime) -> Altered:
    """The control plane as one statement makes it, and after the block as another does."""

    @contextmanager
    def alter(there: str, back: str, *parameters: object, database: str = "luminescent_control") -> Iterator[None]:
        with admin(runtime, database) as connection:
            connection.execute(there.encode(), parameters or None)
            try:
                yield
            finally:
                connection.execute(back.encode(), parameters[:1] or None)

    return alter


def admin(runtime: CloudRuntime, database: str = "luminescent_control") -> psycopg.Connection[Any]:
    return runtime._installation.server._server.cluster.connect(database)  # type: ignore[attr-defined]


def look(settings: CloudSettings, *checks: Check) -> list[Finding]:
    with Context(settings) as context:
        return examine(context, checks)


def faults(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """What is not as it should be, by check and level. Each says how it is mended, or its own text does."""
    return [(f.check, f.level.value) for f in findings if f.level is not Level.OK]


async def stored(runtime: CloudRuntime, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many([sample_memory("alice"), sample_memory("bob")], {})
    await runtime.drain()


def test_every_check_is_in_the_list_once() -> None:
    assert len(set(CHECKS)) == len(CHECKS)
    assert set(CHECKS) == {
        *host.CHECKS,
        *databases.CHECKS,
        *keys.CHECKS,
        *memories.CHECKS,
        *audit.CHECKS,
        *backups.CHECKS,
    }


def test_a_home_that_is_not_there_is_one_fault_and_is_not_made(tmp_path: Path) -> None:
    findings = upkeep.doctor(CloudSettings(home=tmp_path / "none"))
    assert [f.check for f in findings if f.level is Level.PROBLEM] == ["home"]
    assert {f.level for f in findings[1:-1]} == {Level.SKIPPED}
    assert not (tmp_path / "none").exists()


# Host


@pytest.mark.parametrize("name", ["secrets", "keyring", "locks", "pixeltable"])
def test_a_place_that_others_can_enter_is_named(settings: CloudSettings, name: str) -> None:
    place = settings.home / name
    mode = place.stat().st_mode
    place.chmod(0o750)
    try:
        (found,) = look(settings, host.home)
    finally:
        place.chmod(mode)
    assert (found.level, str(place) in found.what) == (Level.PROBLEM, True)
    assert str(found.how_to_mend).endswith(f"chmod 700 {place}")


@pytest.mark.parametrize(("ahead_s", "level"), [(100.0, "problem"), (-100.0, "problem"), (10.0, "warning")])
def test_a_clock_that_is_wrong_is_noticed(
    settings: CloudSettings, monkeypatch: pytest.MonkeyPatch, ahead_s: float, level: str
) -> None:
    real = time.time
    monkeypatch.setattr(host.time, "time", lambda: real() + ahead_s)
    assert faults(look(settings, host.clock)) == [("clock", level)]


# Databases


def test_an_older_or_newer_schema_is_noticed_and_its_tables_are_left_alone(
    settings: CloudSettings, altered: Altered
) -> None:
    for revision, level in (("0001", "warning"), ("9999", "problem")):
        to_it = "WITH kept AS (SELECT version_num FROM alembic_version) UPDATE alembic_version SET version_num = %s"
        back = f"UPDATE alembic_version SET version_num = '{upkeep.revision(settings).wanted}' WHERE %s <> ''"
        with altered(to_it, back, revision):
            findings = look(settings, databases.revision, *memories.CHECKS[:3])
        assert faults(findings) == [
            ("revision", level),
            ("intake", "skipped"),
            ("erasures", "skipped"),
            ("counters", "skipped"),
        ]


@pytest.mark.parametrize("role", ["app", "worker", "keys", "maintenance"])
def test_a_role_above_row_level_security_is_named(settings: CloudSettings, altered: Altered, role: str) -> None:
    name = f"luminescent_{role}"
    with altered(f"ALTER ROLE {name} BYPASSRLS", f"ALTER ROLE {name} NOBYPASSRLS"):
        (found,) = look(settings, databases.row_level_security)
    assert (found.level, name in found.what) == (Level.PROBLEM, True)


@pytest.mark.parametrize("role", ["app", "maintenance", "pixeltable"])
def test_a_role_whose_writes_could_be_lost_is_found(settings: CloudSettings, altered: Altered, role: str) -> None:
    name = f"luminescent_{role}"
    with altered(f"ALTER ROLE {name} SET synchronous_commit = off", f"ALTER ROLE {name} RESET synchronous_commit"):
        (found,) = look(settings, databases.durability)
    assert (found.level, "synchronous_commit" in found.what) == (Level.PROBLEM, True)


def test_maintenance_without_its_rights_is_a_warning(settings: CloudSettings, altered: Altered) -> None:
    revoke, grant = (
        f"{verb} pg_checkpoint {to} luminescent_maintenance" for verb, to in (("REVOKE", "FROM"), ("GRANT", "TO"))
    )
    with altered(revoke, grant):
        assert faults(look(settings, databases.maintenance_rights)) == [("maintenance rights", "warning")]


def test_a_role_that_gets_no_connection_is_named_and_what_needs_it_is_skipped(
    settings: CloudSettings, altered: Altered
) -> None:
    """Of one fault there is one report."""
    with altered("ALTER ROLE luminescent_worker NOLOGIN", "ALTER ROLE luminescent_worker LOGIN"):
        findings = look(settings, databases.connections, databases.durability, memories.intake, memories.counters)
    assert faults(findings) == [("connections", "problem"), ("durability", "skipped"), ("intake", "skipped")]
    assert "luminescent_worker" in findings[1].what


def test_one_process_that_could_use_up_the_server_is_a_warning(settings: CloudSettings) -> None:
    greedy = settings.model_copy(update={"control_pool_size": 200})
    (found,) = [f for f in look(greedy, databases.server) if f.level is Level.WARNING]
    assert "422 connections" in found.what


# Keys


def test_another_root_key_is_one_fault(settings: CloudSettings) -> None:
    other = CloudSettings(home=settings.home, root_key="A" * 43 + "=")  # type: ignore[arg-type]
    assert faults(look(other, *keys.CHECKS)) == [("keyring", "problem"), ("keyring matches", "skipped")]


def test_a_root_key_that_others_can_read_is_one_fault(settings: CloudSettings) -> None:
    path = settings.home / "secrets/root.key"
    path.chmod(0o644)
    try:
        findings = look(settings, *keys.CHECKS)
    finally:
        path.chmod(0o600)
    assert faults(findings) == [("root key", "problem"), ("keyring", "skipped"), ("keyring matches", "skipped")]


async def test_a_keyring_that_is_older_than_the_database_is_noticed(
    runtime: CloudRuntime, settings: CloudSettings, altered: Altered, tenant_id: str
) -> None:
    await stored(runtime, tenant_id)
    memory_id = new_memory_id()
    (before,) = look(settings, keys.keyring_matches)
    # Other tests may have left somebody without a key.
    known = int(before.what.split()[0]) if before.level is Level.PROBLEM else 0
    with altered(
        "WITH person AS (INSERT INTO subjects (subject_id, tenant_id) VALUES (%s::uuid, %s) RETURNING subject_id)"
        " INSERT INTO memories (memory_id, tenant_id, subject_id, size_bytes, created_at, generation)"
        " SELECT %s::uuid, %s, subject_id, 1, now(), 1 FROM person",
        "WITH gone AS (SELECT %s::uuid AS subject_id),"
        " rows AS (DELETE FROM memories USING gone WHERE memories.subject_id = gone.subject_id)"
        " SELECT 1",
        *(someone := str(uuid.uuid4()), tenant_id, memory_id, tenant_id),
    ):
        findings = look(settings, keys.keyring_matches, memories.counters)
    with admin(runtime) as connection:
        connection.execute(b"DELETE FROM subjects WHERE subject_id = %s::uuid", [someone])
    assert faults(findings) == [("keyring matches", "problem"), ("counters", "problem")]
    assert findings[0].what.startswith(f"{known + 1} of the newest")
    assert someone not in findings[0].what


# Memories


@pytest.mark.parametrize(("waited", "level"), [("5 minutes", "warning"), ("2 hours", "problem")])
def test_memories_that_nobody_moves_are_noticed(
    runtime: CloudRuntime, settings: CloudSettings, tenant_id: str, waited: str, level: str
) -> None:
    """In a placement whose lock somebody holds, so that the worker of this run leaves it alone."""
    subject_id, memory_id = str(uuid.uuid4()), new_memory_id()
    person = [subject_id, tenant_id]
    with placement_lock(runtime._installation.engines.worker, "stuck", wait_s=5), admin(runtime) as connection:
        connection.execute(b"INSERT INTO subjects (subject_id, tenant_id) VALUES (%s, %s)", person)
        connection.execute(
            b"INSERT INTO memories (memory_id, tenant_id, subject_id, size_bytes, created_at, generation, stored_at,"
            b" state) VALUES (%s, %s, %s, 1, now(), 1, now() - %s::interval, 'deleted')",
            [memory_id, tenant_id, subject_id, waited],
        )
        connection.execute(
            b"INSERT INTO intake (memory_id, tenant_id, subject_id, placement, revision, generation, memory_type,"
            b" confidence, created_at, envelope) VALUES (%s, %s, %s, 'stuck', 1, 1, 'fact', 1, now(), '')",
            [memory_id, tenant_id, subject_id],
        )
        try:
            assert faults(look(settings, memories.intake)) == [("intake", level)]
        finally:
            connection.execute(b"DELETE FROM memories WHERE memory_id = %s", [memory_id])
            connection.execute(b"DELETE FROM subjects WHERE subject_id = %s", [subject_id])


def test_an_erasure_that_stopped_is_named_with_its_tenant_and_without_the_person(
    runtime: CloudRuntime, settings: CloudSettings, tenant_id: str
) -> None:
    erasure_id, subject_id = str(uuid.uuid4()), str(uuid.uuid4())
    with admin(runtime) as connection:
        connection.execute(
            b"INSERT INTO erasures (erasure_id, tenant_id, subject_id, state, received_at, due_at)"
            b" VALUES (%s, %s, %s, 'rows_deleted', now(), now())",
            [erasure_id, tenant_id, subject_id],
        )
        (found,) = look(settings, memories.erasures)
        connection.execute(b"DELETE FROM erasures WHERE erasure_id = %s", [erasure_id])
    assert (found.level, tenant_id in found.what, subject_id in found.what) == (Level.PROBLEM, True, False)


@pytest.mark.parametrize("by", [1, -1])
async def test_a_counter_that_is_off_by_one_is_noticed(
    runtime: CloudRuntime, settings: CloudSettings, altered: Altered, tenant_id: str, by: int
) -> None:
    await stored(runtime, tenant_id)
    change = "UPDATE usage_counters SET used = used {} WHERE tenant_id = %s AND meter = 'memories'"
    with altered(change.format(f"+ {by}"), change.format(f"- {by}"), tenant_id):
        (found,) = look(settings, memories.counters)
    assert found.what == f"tenant {tenant_id} is counted {2 + by} memories and holds 2"


async def test_vectors_of_another_model_are_noticed(
    runtime: CloudRuntime, settings: CloudSettings, tenant_id: str, altered: Altered
) -> None:
    """As they were if a table's model were replaced without the vectors."""
    await stored(runtime, tenant_id)
    other = "hashing" if settings.embedder == "wordllama" else "wordllama"
    # Of this tenant's table alone: other tests have tables with other models.
    here = f"WHERE placement = (SELECT placement FROM tenants WHERE tenant_id = '{tenant_id}')"
    # Other tests have left people without such vectors: what counts is who is added.
    before = without_vector(settings)
    with altered(
        f"UPDATE placements SET model = '{other}' {here}",
        f"UPDATE placements SET model = '{settings.embedder}' {here}",
    ):
        assert without_vector(settings) > before
    assert without_vector(settings) == before


def without_vector(settings: CloudSettings) -> int:
    """How many memories the doctor says to have no vector of the model that is read."""
    found = [f for f in look(settings, memories.embeddings) if f.level is Level.WARNING]
    assert all(f.check == "embeddings" and "embeddings status" in (f.how_to_mend or "") for f in found)
    return sum(int(f.what.split()[0]) for f in found)


def test_a_table_that_keeps_versions_is_named(runtime: CloudRuntime, settings: CloudSettings) -> None:
    """The one kind of table that erasure cannot reach."""
    import pixeltable as pxt

    pxt.create_dir("luminescent", if_exists="ignore")
    pxt.create_table("luminescent.versioned", {"text": pxt.String})
    try:
        (found,) = look(settings, memories.pixeltable)
    finally:
        pxt.drop_table("luminescent.versioned")
    assert (found.level, "luminescent.versioned" in found.what.replace("/", ".")) == (Level.PROBLEM, True)


# One at a time


def test_a_check_that_fails_ends_no_other_and_quotes_nothing(settings: CloudSettings) -> None:
    def wrong_query(context: Context) -> Iterator[Finding]:
        context.rows("luminescent_app", "SELECT CAST('alice@example.com' AS integer)")
        yield from ()

    def missing_file(_: Context) -> Iterator[Finding]:
        Path("/nonexistent/file").read_text()
        yield from ()

    findings = look(settings, wrong_query, missing_file, memories.erasures)
    assert [(f.check, f.level.value) for f in findings] == [
        ("wrong query", "problem"),
        ("missing file", "problem"),
        ("erasures", "ok"),
    ]
    assert "alice" not in findings[0].what
    assert "22P02" in findings[0].what

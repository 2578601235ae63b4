"""Every command leaves its one audit event. A command that is not listed here fails a test, and so does a reason to
leave none that does not hold."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from cloud import CloudRuntime, request_context
from cloud.memory.materializer import placement_lock
from src.testing.samples import sample_memory
from tests.isolation.operations import Stage, prepared, staged
from tests.isolation.probes import Event, Onlooker
from tests.support.commands import Command, app_over, command_of, names_of

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Typed:
    """A command as it is typed.

    Attributes:
        command: Its name.
        action: What its audit event says.
        arguments: What follows the name; `{…}` is of `Given`.
        outcome: `failed` where succeeding would take long, or change the installation that other tests share.
        finds: Whether it exits with 1 for what it finds, which other tests have left on purpose.
    """

    command: str
    action: str
    arguments: str = ""
    outcome: str = "allowed"
    finds: bool = False


TYPED: Final = (
    Typed("leak-test", "leak_test.run", "--tenants {two_while_another_runs}", outcome="failed"),
    Typed("doctor", "doctor.run", finds=True),
    Typed("tenants create", "tenant.create", "{tenant}-new"),
    Typed("tenants move", "tenant.move", "{tenant} --to own"),
    Typed("tenants list", "tenant.list"),
    Typed("tenants change", "tenant.change", "{tenant} --plan free"),
    Typed("tenants close", "tenant.close", "{tenant} --yes"),
    Typed("tenants certificate", "tenant.certificate", "{closed} --out {new}"),
    Typed("tenants suspend", "tenant.suspend", "{tenant}"),
    Typed("tenants resume", "tenant.resume", "{suspended}"),
    Typed("tenants access-review", "access.review", "--tenant {tenant}"),
    Typed("api-keys create", "api_key.create", "--tenant {tenant} --role service --out {new}"),
    Typed("api-keys list", "api_key.list", "--tenant {tenant}"),
    Typed("api-keys rotate", "api_key.rotate", "--tenant {tenant} --out {new} {key_id}"),
    Typed("api-keys revoke", "api_key.revoke", "--tenant {tenant} {key_id}"),
    Typed("tokens check", "token.check", "{memories}", outcome="failed"),
    Typed("tokens revoke", "token.revoke", "{memories}", outcome="failed"),
    Typed("memory import", "memory.import", "{memories} --no-wait {as_service}"),
    Typed("memory export", "memory.export", "--out {new} --user alice {as_service}"),
    Typed("memory retrieve", "memory.retrieve", "tabs? --user alice {as_service}"),
    Typed("memory search", "memory.search", "--user alice {as_service}"),
    Typed("memory list", "memory.list", "--user alice {as_service}"),
    Typed("memory count", "memory.count", "--user alice {as_service}"),
    Typed("memory get", "memory.get", "{memory_id} {as_service}"),
    Typed("memory history", "memory.history", "{memory_id} {as_service}"),
    Typed("memory store", "memory.store", "tabs --user alice {as_service}"),
    Typed("memory update", "memory.update", '{memory_id} --set {{"content":"spaces"}} {as_service}'),
    Typed("memory supersede", "memory.supersede", "{memory_id} spaces --user alice {as_service}"),
    Typed("memory delete", "memory.delete", "{memory_id} {as_service}"),
    Typed("memory undelete", "memory.undelete", "{deleted_id} {as_service}"),
    Typed("memory purge", "memory.purge", "--tenant {tenant}"),
    Typed("usage show", "usage.read", "--tenant {tenant}"),
    Typed("usage daily", "usage.read", "--tenant {tenant}"),
    Typed("usage monthly", "usage.read", "--tenant {tenant}"),
    Typed("usage reconcile", "usage.reconcile", "--tenant {tenant}"),
    Typed("audit export", "audit.export", "--tenant {tenant} --out {new}"),
    Typed("audit export", "audit.system", "--tenant _system --out {new}"),
    Typed("audit key", "audit.key", "--tenant {tenant}"),
    Typed("audit checkpoint", "audit.checkpoint", "--tenant {tenant}"),
    Typed("audit archive", "audit.archive"),
    Typed("audit accept", "audit.accept", "--tenant {tenant} --reason nothing", outcome="failed"),
    Typed("audit rotate-key", "audit.rotate_key"),
    Typed("gdpr preview", "gdpr.preview", "--user alice {as_admin}"),
    Typed("gdpr erase", "gdpr.erase", "--user alice --yes {as_admin}"),
    Typed("gdpr request", "gdpr.request", "--user alice {as_admin}"),
    Typed("gdpr list", "gdpr.list", "--due {as_admin}"),
    Typed("gdpr show", "gdpr.show", "{received} {as_admin}"),
    Typed("gdpr identify", "gdpr.verify_identity", "{received} --how passport {as_admin}"),
    Typed("gdpr preview", "gdpr.preview", "--request {identity_verified} {as_admin}"),
    Typed("gdpr confirm", "gdpr.erase", "{previewed} --seen {seen} {as_admin}"),
    Typed("gdpr cancel", "gdpr.cancel", "{received} --reason withdrawn {as_admin}"),
    Typed("gdpr reject", "gdpr.reject", "{received} --reason excessive {as_admin}"),
    Typed("gdpr extend", "gdpr.extend", "{received} --reason many --notified {now} {as_admin}"),
    Typed("gdpr resume", "gdpr.erase", "{failed} {as_admin}"),
    Typed("gdpr certificate", "gdpr.certificate", "{certified} --out {new} {as_admin}"),
    Typed("gdpr hold", "gdpr.hold", "--reason claim --authority court --review 2099-01-01 {as_admin}"),
    Typed("gdpr holds", "gdpr.holds", "{as_admin}"),
    Typed("gdpr release", "gdpr.release", "{hold} {as_admin}"),
    Typed("gdpr scan take", "gdpr.scan.take", "--user alice --out {new} {as_admin}"),
    Typed("gdpr scan search", "gdpr.scan.search", "{fingerprints}"),
    Typed("gdpr export", "gdpr.export", "--user alice --out {new} {as_admin}"),
    Typed("backup create", "backup.create", "{new}"),
    Typed("backup list", "backup.list"),
    Typed("backup expire", "backup.expire"),
    Typed("backup drill", "backup.drill", "{new}", outcome="failed"),
    Typed("backup ledger", "backup.ledger", "--rebuild"),
    Typed("restore", "backup.restore", "{new}", outcome="failed"),
    Typed("keyring status", "keyring.status"),
    Typed("keyring rotate", "keyring.rotate", "--tenant {tenant}"),
    Typed("keyring backup", "keyring.backup", "--out {new}"),
    Typed("keyring backups", "keyring.status"),
    Typed("keyring restore", "keyring.restore", "{memories}", outcome="failed"),
    Typed("keyring reconcile", "keyring.reconcile"),
    Typed("keyring accept", "keyring.accept", "--yes"),
    Typed("keyring destroy-root-key", "keyring.destroy_root_key", "there-is-none --yes"),
    Typed("db upgrade", "db.upgrade"),
    Typed("db current", "db.check"),
    Typed("db check", "db.check"),
    Typed("embeddings status", "embeddings.status"),
    Typed("embeddings migrate", "embeddings.migrate", "--to hashing --tolerance 1 --tenant {with_own_table}"),
    Typed("embeddings rollback", "embeddings.rollback", "--tenant {migrated}"),
    Typed("embeddings finish", "embeddings.finish", "--tenant {migrated}"),
)
_FILES: Final = "reads files that somebody holds already, where there need not be an installation"
WITHOUT_EVENT: Final = {
    "audit verify {bundle}": _FILES,
    "memory verify-export {exported}": _FILES,
    "gdpr verify {certificate}": _FILES,
    "bench recall --local --data {conversations}": "measures an installation of its own, or a provider in memory",
    "--home {home} demo": "plays in an installation of its own, and refuses one that is there",
    "worker": "does what is on record by who asked for it, or by the service's own events",
}
"""Commands that leave no event, as they are typed, and why."""
_PREPARED: Final = {"received", "identity_verified", "previewed", "failed", "certified", "hold"}


class Given(dict[str, str]):
    """What commands are tried on; what takes work is made when it is asked for."""

    def __init__(self, runtime: CloudRuntime, home: Path, stage: Stage) -> None:
        super().__init__(tenant=stage.tenant_id, home=str(home))
        self._runtime, self._stage = runtime, stage
        self.stack = contextlib.ExitStack()
        self["memory_id"], self["deleted_id"] = stage.memory_id, stage.deleted_id

    def __missing__(self, name: str) -> str:
        self[name] = self._prepared(name) if name in _PREPARED else str(getattr(self, f"_{name}")())
        return self[name]

    def _prepared(self, needs: str) -> str:
        with request_context(tenant_id=self["tenant"], roles={"tenant_admin"}):
            stage = asyncio.run(prepared(self._runtime.gdpr, self._stage, needs))
        self["seen"] = stage.seen
        return stage.hold_id if needs == "hold" else stage.request_id

    def _certificate(self) -> Path:
        path = self._new()
        with request_context(tenant_id=self["tenant"], roles={"tenant_admin"}):
            path.write_text(asyncio.run(self._runtime.gdpr.certificate(self["certified"], self["tenant"])))
        return path

    def _fingerprints(self) -> Path:
        path = self._new()
        with request_context(tenant_id=self["tenant"], roles={"tenant_admin"}):
            self._runtime.scan.take("alice", self["tenant"], path)
            asyncio.run(self._runtime.gdpr.delete_user_data("alice", self["tenant"], confirmed=True))
        return path

    def _now(self) -> str:
        return datetime.now(UTC).isoformat()

    def _new(self) -> Path:
        return self._stage.directory / f"new-{next(_numbers)}"

    def _as_service(self) -> str:
        return f"--api-key-file {self._key_file('service')}"

    def _as_admin(self) -> str:
        return f"--api-key-file {self._key_file('tenant_admin')}"

    def _key_file(self, role: str) -> Path:
        path = self._new()
        path.write_text(self._runtime.api_keys.create(self["tenant"], roles=[role]) + "\n")
        path.chmod(0o600)
        return path

    def _key_id(self) -> str:
        self._key_file("service")
        return self._runtime.api_keys.list(self["tenant"])[-1].key_id

    def _suspended(self) -> str:
        self._runtime.tenants.suspend(self["tenant"])
        return self["tenant"]

    def _closed(self) -> str:
        self._runtime.closing.close(self["tenant"], confirmed=True)
        return self["tenant"]

    def _with_own_table(self) -> str:
        self._runtime.tenants.move(self["tenant"], to="own")
        return self["tenant"]

    def _migrated(self) -> str:
        placement = self._runtime.tenants.move(self._with_own_table(), to="own").target
        self._runtime.embeddings.migrate(placement, "hashing", tolerance=1.0)
        return self["tenant"]

    def _memories(self) -> Path:
        path = self._new()
        path.write_text(sample_memory("alice").model_dump_json(exclude={"id"}) + "\n")
        path.chmod(0o600)
        return path

    def _exported(self) -> Path:
        path = self._new()
        with request_context(tenant_id=self["tenant"], roles={"service"}):
            asyncio.run(self._runtime.transfer.export(path, user_id="alice"))
        return path

    def _two_while_another_runs(self) -> str:
        engine = self._runtime._installation.engines.maintenance
        self.stack.enter_context(placement_lock(engine, "leak-test", wait_s=0))
        return "2"

    def _bundle(self) -> Path:
        path = self._new()
        self._runtime.audit.export(self["tenant"], path)
        return path

    def _conversations(self) -> Path:
        turn = {"speaker": "Ann", "dia_id": "D1:1", "text": "The harbour gate opens at six"}
        question = {"question": "When does it open?", "answer": "six", "evidence": ["D1:1"], "category": 4}
        session = {"session_1_date_time": "1:56 pm on 8 May, 2023", "session_1": [turn]}
        path = self._new()
        conversation = {"speaker_a": "Ann", "speaker_b": "Bea", **session}
        path.write_text(json.dumps([{"sample_id": "x", "conversation": conversation, "qa": [question]}]))
        return path


@pytest.fixture
def command(runtime: CloudRuntime, home: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command; nobody's API key is in the environment."""
    monkeypatch.delenv("LUMINESCENT_CLOUD_API_KEY", raising=False)
    return command_of(app_over(runtime, home))


@pytest.fixture
def given(runtime: CloudRuntime, home: Path, tenant_id: str, tmp_path: Path) -> Iterator[Given]:
    """What this test's command is tried on."""
    made = Given(runtime, home, asyncio.run(staged(runtime, tenant_id, tmp_path)))
    with made.stack:
        yield made


def by_a_caller(events: list[Event]) -> Iterator[Event]:
    """Those that are not of the service's own work in the background."""
    return (event for event in events if event["actor"]["kind"] != "system")


def test_every_command_is_listed(runtime: CloudRuntime, home: Path) -> None:
    commands = set(names_of(app_over(runtime, home)))
    # A line begins with the command, but for the options before it.
    exceptions = {name for name in commands for line in WITHOUT_EVENT if f" {name} " in f" {line} "}
    assert commands - exceptions == {typed.command for typed in TYPED}
    # It may only shrink: a command without an event is one that nobody can be asked about.
    assert len(exceptions) == len(WITHOUT_EVENT) <= 6


def intents_left(onlooker: Onlooker, steps: Sequence[Event]) -> set[str]:
    """Which of these have no outcome once every event has its leaf."""
    for log_id in {event["log_id"] for event in steps}:
        onlooker.installation.proofs.evidence.catch_up(log_id)
    left = {str(event_id) for (event_id,) in onlooker.rows("SELECT event_id FROM audit_intents")}
    return left & {event["event_id"] for event in steps}


@pytest.mark.parametrize("typed", TYPED, ids=lambda typed: typed.command)
def test_a_command_leaves_one_event(command: Command, onlooker: Onlooker, given: Given, typed: Typed) -> None:
    arguments = f"{typed.command} {typed.arguments}".format_map(given).split()
    with onlooker.new_events() as events:
        result = command(*arguments)
    failed = result.exit_code not in ((0, 1) if typed.finds else (0,))
    assert failed == (typed.outcome == "failed"), result.output
    ended = [event for event in by_a_caller(events) if event["action"] == typed.action]
    assert [event["outcome"] for event in ended] == [typed.outcome], result.output
    steps = [event for event in by_a_caller(events) if event["action"].endswith(".step")]
    assert all(event["details"]["process"] for event in steps), "otherwise nobody would know that it was cut off"
    assert not intents_left(onlooker, steps), "or it would be taken to be cut off"


@pytest.mark.parametrize("line", WITHOUT_EVENT)
def test_a_command_that_need_not_leave_an_event_leaves_none(
    command: Command, onlooker: Onlooker, given: Given, line: str
) -> None:
    arguments = line.format_map(given).split()
    with onlooker.new_events() as events:
        result = command(*arguments)
    assert "Usage:" not in result.output
    assert list(by_a_caller(events)) == []

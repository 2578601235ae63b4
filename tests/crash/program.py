"""The child program of the crash tests: opens an installation, does what it is told, says what was acknowledged.

Commands come as JSON lines on standard input. Each operation is announced before it begins and reported when it was
acknowledged, in one `write` each and before anything else happens, so that the lines are the truth however this
process ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cloud import CloudRuntime, CloudSettings, init_cloud_extensions, request_context
from cloud.audit.heads import compared
from cloud.kernel import failpoints
from cloud.kernel.errors import LuminescentError
from cloud.kernel.ids import new_request_id
from cloud.storage.engine import ControlEngine
from cloud.storage.roles import CONTROL_DATABASE, OWNER_ROLE
from cloud.tenancy.system import system_predicate
from cloud.transfer import importing
from cloud.usage.model import Reservation
from src.memory.schemas import Memory, MemoryType
from tests.support.books import Json
from tests.support.homes import fill
from tests.support.processes import kill_whole_server


def say(line: Json) -> None:
    """One line, whole, into the pipe; it is there even if this process is killed the next moment."""
    os.write(1, json.dumps(line).encode() + b"\n")


def memory(user_id: str, content: str, **fields: object) -> Memory:
    """A memory with this content."""
    return Memory.model_validate(
        {"user_id": user_id, "content": content, "memory_type": MemoryType.FACT, "source": "crash test", **fields}
    )


class Program:
    """Keeps the runtimes of this process and runs commands on them."""

    def __init__(self) -> None:
        self._runtimes: list[CloudRuntime] = []
        self._home = Path()
        self._reached = threading.Event()
        self._go = threading.Event()
        self._holds: list[Reservation] = []

    async def run(self) -> None:
        """Answer commands until `quit` or the end of the input."""
        say({"ready": os.getpid()})
        while text := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(text)
            do = command.pop("do")
            if do == "quit":
                break
            try:
                say({"reply": await getattr(self, f"do_{do}")(**command)})
            except LuminescentError as error:
                say({"reply": described(error, 0.0)})
            except Exception:  # noqa: BLE001 - the parent shall see it, whatever it is
                say({"trouble": traceback.format_exc()})
        await self.do_close()

    async def do_open(self, home: str, settings: Json) -> int:
        self._home = Path(home)
        opened = await asyncio.to_thread(init_cloud_extensions, CloudSettings(home=self._home, **settings))
        self._runtimes.append(opened)
        return os.getpid()

    async def do_close(self, *, which: int | None = None) -> None:
        for runtime in self._runtimes if which is None else [self._runtimes[which]]:
            await asyncio.to_thread(runtime.close)

    async def do_facts(self) -> Json:
        return {"server": self._runtime.server_pid, "worker": self._runtime.worker_pid}

    async def do_tenant(self, tenant: str, limit: int) -> None:
        await asyncio.to_thread(self._runtime.tenants.create, tenant, plan="team", limits={"memories": limit})

    async def do_move(self, tenant: str, to: str) -> Json:
        moved = await asyncio.to_thread(self._runtime.tenants.move, tenant, to=to)
        return {"state": moved.state.value, "source": moved.source, "target": moved.target, "copied": moved.copied}

    async def do_migrate(self, placement: str, model: str, tolerance: float = 1.0) -> Json:
        ended = await asyncio.to_thread(self._runtime.embeddings.migrate, placement, model, tolerance=tolerance)
        return {"outcome": ended.outcome, "model": ended.placement.model, "state": ended.placement.state.value}

    async def do_rollback(self, placement: str) -> str:
        return (await asyncio.to_thread(self._runtime.embeddings.rollback, placement)).model

    async def do_finish(self, placement: str) -> str:
        return (await asyncio.to_thread(self._runtime.embeddings.finish, placement)).state.value

    async def do_vectors(self, tenant: str, placement: str, model: str) -> dict[str, int]:
        """Rows of the tenant in a table, and how many have a vector of this model in each column."""
        config, predicate = self._runtime.pixeltable_config, system_predicate(tenant, "test")
        store, opens = self._runtime._installation.placements(), config.models.of(model)

        def count() -> dict[str, int]:
            counts = {"rows": config.rows.count_tenant(predicate, placement), "embedding": 0, "embedding_2": 0}
            for subject_id in store.people(tenant):
                person = config.keyring.subject_key(tenant, subject_id)
                assert person is not None
                for column in ("embedding", "embedding_2"):
                    for row in config.rows.newer(predicate, placement, subject_id, since=0, column=column):
                        counts[column] += opens.open_vector(person.key, row) is not None
            return counts

        return await asyncio.to_thread(count)

    async def do_hot_model(self, tenant: str, user: str) -> str | None:
        """The model of the snapshot that this process holds of a person."""
        config = self._runtime.pixeltable_config
        person = await asyncio.to_thread(config.keyring.resolve_subject, tenant, user, create=False)
        held = config.hot.get(tenant, person.subject_id) if person else None
        return held.model if held else None

    async def do_late_batch(self, tenant: str, placement: str, at: str, to: str) -> int:
        """One batch of a materializer that lost its lock and does not know; the tenant moves while it is at `at`."""

        def moves() -> None:
            failpoints.disarm_all()
            self._runtime.tenants.move(tenant, to=to)

        failpoints.arm(at, moves)
        return await self.do_batch(placement)

    async def do_move_past_batch(self, tenant: str, placement: str, to: str) -> Json:
        """A move; such a materializer took rows from intake before, and writes between its last look and its switch."""
        loop = self._runtime._installation.materializer()
        began, go = threading.Event(), threading.Event()
        late = threading.Thread(target=loop.batch, args=(placement,))

        def begin() -> None:
            began.set()
            go.wait(60)

        def let_go() -> None:
            failpoints.disarm_all()
            go.set()
            late.join(60)

        failpoints.arm("materializer.selected", begin)
        failpoints.arm("move.synced", let_go)
        late.start()
        await asyncio.to_thread(began.wait, 60)
        return await self.do_move(tenant, to)

    async def do_batch(self, placement: str) -> int:
        """One batch without the lock: nobody else materializes here."""
        return (await asyncio.to_thread(self._runtime._installation.materializer().batch, placement)).total

    async def do_store(
        self, tenant: str, user: str, contents: Sequence[str], tasks: int = 1, which: int = -1, **fields: object
    ) -> None:
        """Each content as a memory of its own, `tasks` at a time."""
        provider = self._runtimes[which].memory
        await in_parallel(
            [
                lambda content=content: operate(
                    "store",
                    tenant,
                    user,
                    {"contents": [content]},
                    lambda: provider.store(memory(user, content, **fields), {}),
                )
                for content in contents
            ],
            tasks,
        )

    async def do_store_many(self, tenant: str, user: str, contents: Sequence[str]) -> None:
        memories = [memory(user, content) for content in contents]
        await operate(
            "store_many", tenant, user, {"contents": contents}, lambda: self._runtime.memory.store_many(memories, {})
        )

    async def do_delete(self, tenant: str, user: str, ids: Sequence[str], tasks: int = 1) -> None:
        await in_parallel(
            [
                lambda memory_id=memory_id: operate(
                    "delete", tenant, user, {"id": memory_id}, lambda: self._runtime.memory.delete(memory_id)
                )
                for memory_id in ids
            ],
            tasks,
        )

    async def do_update(self, tenant: str, user: str, memory_id: str, contents: Sequence[str]) -> None:
        """Each content in turn, as the memory's own."""
        for content in contents:
            await operate(
                "update",
                tenant,
                user,
                {"id": memory_id, "content": content},
                lambda content=content: self._runtime.memory.update(memory_id, {"content": content}),
            )

    async def do_supersede(self, tenant: str, user: str, memory_id: str, content: str) -> Any:
        return await operate(
            "supersede",
            tenant,
            user,
            {"id": memory_id, "content": content},
            lambda: self._runtime.memory.supersede(memory_id, memory(user, content), {}),
        )

    async def do_undelete(self, tenant: str, user: str, memory_id: str) -> Any:
        return await operate(
            "undelete", tenant, user, {"id": memory_id}, lambda: self._runtime.memory.undelete(memory_id)
        )

    async def do_history(self, tenant: str, user: str, memory_id: str) -> list[Json]:
        async def work() -> list[Json]:
            lines = await self._runtime.memory.history(memory_id)
            return [{"revision": line.revision, "kind": line.kind.value, "actor": line.actor} for line in lines]

        return await operate("history", tenant, user, {"id": memory_id}, work)

    async def do_purge(self, tenant: str | None = None) -> Json:
        purged = await asyncio.to_thread(self._runtime.memory_purge.purge, tenant)
        return purged.by_tenant

    async def do_expire(self) -> None:
        """Take what has expired out of the stock, as the worker does twice a minute."""
        await asyncio.to_thread(self._runtime._installation.materializer().expire)

    async def do_switch_wal(self) -> None:
        """The server goes on in a new segment of its write-ahead log."""
        await asyncio.to_thread(self._runtime._installation.engines.maintenance.rows, sa.text("SELECT pg_switch_wal()"))

    async def do_get(self, tenant: str, user: str, memory_id: str) -> Json | None:
        async def work() -> Json | None:
            found = await self._runtime.memory.get_by_id(memory_id)
            return shown(found) if found else None

        return await operate("get", tenant, user, {"id": memory_id}, work)

    async def do_retrieve(self, tenant: str, user: str, query: str, limit: int = 5, which: int = -1) -> list[Json]:
        async def work() -> list[Json]:
            return [shown(found) for found in await self._runtimes[which].memory.retrieve(query, user, limit)]

        return await operate("retrieve", tenant, user, {}, work)

    async def do_search(
        self, tenant: str, user: str, limit: int = 1000, filters: Json | None = None, which: int = -1
    ) -> list[Json]:
        async def work() -> list[Json]:
            return [shown(found) for found in await self._runtimes[which].memory.search(user, filters or {}, limit)]

        return await operate("search", tenant, user, {}, work)

    async def do_erase(self, tenant: str, user: str) -> Json | None:
        async def work() -> Json:
            erasure = await self._runtime.gdpr.delete_user_data(user, tenant, confirmed=True, reason="crash test")
            return {"state": erasure.state.value, "subject": erasure.subject_id}

        return await operate("erase", tenant, "admin", {"user": user}, work, roles={"tenant_admin"})

    async def do_gdpr_upkeep(self) -> None:
        await asyncio.to_thread(self._runtime.gdpr.upkeep)

    async def do_close_tenant(self, tenant: str) -> Json:
        closed = await asyncio.to_thread(self._runtime.closing.close, tenant, confirmed=True)
        return dict(closed.counts)

    async def do_import(self, tenant: str, path: str, report: str | None = None) -> Json:
        """A file, by a service; its own operations are not announced."""
        with request_context(tenant_id=tenant, roles={"service"}):
            made = await self._runtime.transfer.import_file(path, report=report)
        stopped = described(made.stopped, 0.0) if made.stopped else None
        return {**made.counts(), "resumed": made.resumed_after is not None, "stopped": stopped}

    async def do_export(self, tenant: str, path: str) -> Json:
        with request_context(tenant_id=tenant, roles={"tenant_admin"}):
            made = await self._runtime.transfer.export(path)
        return {"memories": made.manifest.memories, "content_hash": made.manifest.content_hash}

    async def do_small_chunks(self, entries: int) -> None:
        """Files are imported in chunks of so many entries from now on."""
        importing.CHUNK_ENTRIES = entries  # type: ignore[misc]

    async def do_everything(self, tenant: str, user: str, memory_id: str) -> None:
        """One operation of each kind, all at once."""
        await asyncio.gather(
            self.do_store(tenant, user, ["stored meanwhile"]),
            self.do_store(tenant, "new person", ["of somebody new"]),
            self.do_store_many(tenant, user, ["one of many", "another of many"]),
            self.do_delete(tenant, user, [memory_id]),
            self.do_get(tenant, user, memory_id),
            self.do_retrieve(tenant, user, "tea"),
            self.do_search(tenant, user),
            self.do_erase(tenant, user),
        )

    async def do_subject(self, tenant: str, user: str) -> str | None:
        """The person's subject id, as the keyring links it now."""
        keyring = self._runtime.pixeltable_config.keyring
        person = await asyncio.to_thread(keyring.resolve_subject, tenant, user, create=False)
        return person.subject_id if person else None

    async def do_has_key(self, tenant: str, subject: str) -> bool:
        keyring = self._runtime.pixeltable_config.keyring
        return await asyncio.to_thread(keyring.subject_key, tenant, subject) is not None

    async def do_rotate(self, tenant: str | None = None) -> None:
        """A tenant's key, or the root key."""
        custody = self._runtime.keyring
        await asyncio.to_thread(custody.rotate_root if tenant is None else partial(custody.rotate_tenant, tenant))

    async def do_begin_rotation(self, tenant: str) -> None:
        """Rotate a tenant's key beside what is asked for next."""
        self._rotation = asyncio.create_task(self.do_rotate(tenant))

    async def do_end_rotation(self) -> None:
        await self._rotation

    async def do_audit_export(self, tenant: str, directory: str) -> Json:
        made = await asyncio.to_thread(self._runtime.audit.export_evidence, tenant, directory)
        return {"events": made.events, "resumed": made.resumed, "key": made.verifier_key, "size": made.size}

    async def do_audit_events(self, tenant: str, count: int) -> None:
        """That many small events in one transaction."""
        statement = sa.text(
            "SELECT count(lc_append(:log, jsonb_build_object('event_id', gen_random_uuid(), 'action', 'external.event',"
            " 'category', 'external'), 'allowed', NULL, '{}', '{}')) FROM generate_series(1, :count)"
        )
        engine = self._runtime._installation.engines.maintenance
        await asyncio.to_thread(
            engine.transaction, lambda c: c.execute(statement, {"log": tenant, "count": count}).scalar()
        )

    def _sequence(self) -> None:
        """Every event has its leaf afterwards, also in a log that had none before."""
        installation = self._runtime._installation
        for (log_id,) in installation.engines.maintenance.rows(sa.text("SELECT DISTINCT log_id FROM audit_pending")):
            installation.proofs.evidence.catch_up(log_id)

    async def do_audit_faults(self) -> list[str]:
        """What the trees and the heads that were kept outside disagree about; every event has its leaf afterwards."""
        proofs = self._runtime._installation.proofs

        def faults() -> list[str]:
            self._sequence()
            return [str(fault) for fault in compared(proofs.trees, proofs.outside.heads(), proofs.keys.keys()).faults]

        return await asyncio.to_thread(faults)

    async def do_audit_age(self, tenant: str, leaves: int, days: int) -> None:
        """The first leaves, and the times of their events in the table, are of so many days ago."""
        server = self._runtime._installation.server
        statement = (
            "WITH aged AS (UPDATE audit_leaves SET sequenced_at = clock_timestamp() - make_interval(days => :days)"
            " WHERE log_id = :log AND leaf_index < :leaves RETURNING event_id) UPDATE audit_events e SET occurred_at ="
            " clock_timestamp() - make_interval(days => :days) FROM aged a WHERE e.event_id = a.event_id"
        )

        def age() -> None:
            engine = ControlEngine(server.url(OWNER_ROLE, CONTROL_DATABASE), pool_size=1)
            bound = {"log": tenant, "leaves": leaves, "days": days}
            month = sa.text("SELECT lc_audit_month(clock_timestamp() - make_interval(days => :days))")
            engine.transaction(lambda c: (c.execute(month, {"days": days}), c.execute(sa.text(statement), bound)))
            engine.close()

        await asyncio.to_thread(age)

    async def do_audit_archive(self) -> Json:
        done = await asyncio.to_thread(self._runtime.audit_archives.archive)
        return {"events": done.events, "deleted": len(done.deleted), "failed": sorted(done.failed)}

    async def do_report_unknown(self) -> int:
        """As after a day: what has no outcome by now is unknown."""
        proofs = self._runtime._installation.proofs

        def report() -> int:
            self._sequence()
            return proofs.sequencing.report_unknown(timedelta(0))

        return await asyncio.to_thread(report)

    async def do_forget(self) -> None:
        """The next read is a cold one."""
        self._runtime.pixeltable_config.hot.clear()

    async def do_drain(self, which: int = -1) -> None:
        await self._runtimes[which].drain(timeout_s=60)

    async def do_arm(self, name: str, action: str, nth: int = 1, how: str = "everything") -> None:
        """The `nth` time that `name` is reached, kill this process or the server, fill the disk, or wait for a `go`."""
        remaining = [nth]
        once = threading.Lock()
        self._reached.clear()
        self._go.clear()

        def reached() -> None:
            with once:
                remaining[0] -= 1
                if remaining[0] != 0:
                    return
            if action == "kill_self":
                os.kill(os.getpid(), signal.SIGKILL)
            if action == "fill_disk":
                fill(self._home / "ballast")
            if action in ("kill_server", "kill_server_and_wait"):
                kill_whole_server(self._home, how)  # type: ignore[arg-type]
            self._reached.set()
            if action in ("wait", "kill_server_and_wait"):
                self._go.wait(60)

        failpoints.arm(name, reached)

    async def do_reached(self) -> bool:
        """Wait until what was armed has happened."""
        return await asyncio.to_thread(self._reached.wait, 60)

    async def do_go(self) -> None:
        self._go.set()
        failpoints.disarm_all()

    async def do_disarm(self) -> None:
        failpoints.disarm_all()

    async def do_rush(self, tenant: str, users: Sequence[str], at: float) -> None:
        """One writer per user, all at once, at that time of the day."""
        provider = self._runtime.memory

        async def writer(user: str) -> None:
            await asyncio.sleep(max(0.0, at - time.time()))
            await operate("store", tenant, user, {"contents": [user]}, lambda: provider.store(memory(user, user), {}))

        await asyncio.gather(*(writer(user) for user in users))

    async def do_limited(self, tenant: str, limits: Json) -> None:
        """A tenant with these limits and no other."""
        await asyncio.to_thread(self._runtime.tenants.create, tenant, plan="enterprise", limits=limits)

    async def do_read_rush(self, tenant: str, user: str, readers: int, at: float) -> None:
        """As `do_rush`, with readers."""
        provider = self._runtime.memory

        async def reader() -> None:
            await asyncio.sleep(max(0.0, at - time.time()))
            await operate("retrieve", tenant, user, {}, lambda: answered(provider.retrieve("tea", user)))

        await asyncio.gather(*(reader() for _ in range(readers)))

    async def do_hold(self, tenant: str, amount: int, times: int = 1, ttl_s: float = 60.0, at: float = 0.0) -> int:
        """Reserve tokens, `times` at once, and keep what was got; returns how often that was."""
        await asyncio.sleep(max(0.0, at - time.time()))

        async def hold() -> str:
            got = await asyncio.to_thread(self._runtime.usage.reserve, tenant, "tokens", amount, ttl_s=ttl_s)
            self._holds.append(got)
            return got.reservation_id

        answers = await asyncio.gather(
            *(operate("reserve", tenant, "agent", {"amount": amount}, hold) for _ in range(times))
        )
        return sum(isinstance(answer, str) for answer in answers)

    async def do_commit(self, actual: int | None = None) -> list[int]:
        """Commit everything that is held, twice."""
        commit = self._runtime.usage.commit
        return [await asyncio.to_thread(commit, hold, actual) for hold in self._holds for _ in range(2)]

    async def do_usage(self, tenant: str) -> Json:
        """Each meter's used and held, and what differs between the books."""
        usage = self._runtime.usage
        summary: Json = await asyncio.to_thread(usage.get_usage_summary, tenant)
        differing = await asyncio.to_thread(usage.reconcile, tenant)
        meters = {name: [meter["used"], meter["held"]] for name, meter in summary["meters"].items()}
        return {**meters, "differences": len(differing)}

    async def do_registry(self) -> Json:
        """Which runtime's extensions are registered: its number, or `None`."""
        from src.extensions import ExtensionRegistry

        provider = ExtensionRegistry.get().memory_provider
        numbers = [number for number, runtime in enumerate(self._runtimes) if runtime.memory is provider]
        return {"memory_provider": numbers[0] if numbers else None}

    @property
    def _runtime(self) -> CloudRuntime:
        return self._runtimes[-1]


async def operate(
    name: str,
    tenant: str,
    user: str,
    facts: Json,
    work: Callable[[], Awaitable[Any]],
    *,
    roles: frozenset[str] | set[str] = frozenset({"service"}),
) -> Any:
    """Do one operation under a request id of its own; say that it begins, and how it ended."""
    request_id = new_request_id()
    say({"begin": request_id, "operation": name, "tenant": tenant, "user": user, "facts": facts})
    begun = time.monotonic()
    with request_context(tenant_id=tenant, user_id=user, roles=roles, request_id=request_id):
        try:
            answer = await work()
        except LuminescentError as error:
            described_error = described(error, time.monotonic() - begun)
            say({"failed": request_id, "error": described_error})
            return described_error
    say({"done": request_id, "answer": answer})
    return answer


async def answered(work: Awaitable[object]) -> bool:
    """That it was answered is all that is said of it."""
    await work
    return True


async def in_parallel(works: Sequence[Callable[[], Awaitable[Any]]], tasks: int) -> None:
    """All of it, at most `tasks` at a time, begun in order."""
    waiting = iter(works)

    async def one() -> None:
        for work in waiting:
            await work()

    await asyncio.gather(*(one() for _ in range(tasks)))


def described(error: LuminescentError, seconds: float) -> Json:
    """An error as the parent reads it."""
    return {
        "error": type(error).__name__,
        "retryable": error.retryable,
        "limit": getattr(error, "limit", None),
        "reason": str(getattr(error, "reason", "")),
        "seconds": seconds,
    }


def shown(found: Memory) -> Json:
    """A memory as the parent reads it."""
    return {"id": found.id, "user": found.user_id, "content": found.content}


if __name__ == "__main__":
    asyncio.run(Program().run())

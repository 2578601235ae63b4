"""The child of the residue test: a life of one person among others, its erasure, and a scan before and after.

Prints one JSON document. Run with the home, a directory for its files, sizes, and `plain` for a sealer that does not
encrypt, so that the plaintext itself has to be found and to be gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cloud import CloudRuntime, CloudSettings, init_cloud_extensions, request_context
from cloud.gdpr import fingerprints
from cloud.gdpr.fingerprints import FingerprintSet
from cloud.gdpr.model import Erasure
from cloud.gdpr.scan import ScanReport
from cloud.kernel.errors import SealBrokenError
from cloud.keys.model import Place, encode_place
from cloud.startup import installation
from cloud.tenancy.system import system_predicate
from src.memory.schemas import Memory, MemoryType

TENANT = "acme"
ALICE = "alice.wonderland@rabbit-hole.example.org"
BOB = "bob.builder@construction.example.org"


class PlainSealer:
    """Seals nothing: what was to be sealed, after a tag of its place."""

    def seal(self, key: bytes, plaintext: bytes, *, place: Place) -> bytes:
        """The tag and the plaintext."""
        return hashlib.sha256(key + encode_place(place)).digest()[:16] + plaintext

    def unseal(self, key: bytes, sealed: bytes, *, place: Place) -> bytes:
        """The plaintext, if the tag is that of the place."""
        if sealed[:16] != hashlib.sha256(key + encode_place(place)).digest()[:16]:
            raise SealBrokenError("sealed elsewhere")
        return sealed[16:]


@dataclass(frozen=True, slots=True)
class Life:
    """The installation, and what was taken and seen of Alice in it."""

    runtime: CloudRuntime
    files: Path

    def memory(self, user_id: str, number: int, **changed: object) -> Memory:
        """A memory of its own: no word of it is another one's. Each tenth is long."""
        said = " ".join(f"word{os.urandom(6).hex()}" for _ in range(120 if number % 10 == 9 else 6))
        memory = Memory(
            user_id=user_id,
            content=f"Memory {number} says {said}",
            memory_type=MemoryType.FACT,
            source="conversation",
            raw_source=f"raw {os.urandom(12).hex()}",
            metadata={"note": f"noted {os.urandom(12).hex()}"},
        )
        return memory.model_copy(update=changed)

    async def store(self, memories: list[Memory], **context: object) -> list[str]:
        """Store as the service, in batches."""
        ids: list[str] = []
        with request_context(tenant_id=TENANT, roles={"service"}):
            for at in range(0, len(memories), 500):
                ids += await self.runtime.memory.store_many(memories[at : at + 500], dict(context) if at == 0 else {})
        return ids

    def take(self, name: str) -> FingerprintSet:
        """Fingerprints of what is kept of Alice now."""
        with request_context(tenant_id=TENANT, user_id="admin", roles={"tenant_admin"}):
            return self.runtime.scan.take(ALICE, TENANT, self.files / name)

    async def live(self, mine: int) -> tuple[FingerprintSet, FingerprintSet]:
        """Stored, updated, superseded, soft-deleted, expired, exported, imported, hot here, pending elsewhere.

        Returns:
            What was taken before the updates, and at the end.
        """
        memory, soon = self.runtime.memory, datetime.now(UTC) + timedelta(seconds=1)
        ids = await self.store([self.memory(ALICE, number) for number in range(mine)], idempotency_key="of alice")
        await self.store([self.memory(ALICE, 1, expires_at=soon), self.memory(ALICE, 2, expires_at=soon)])
        await self.runtime.drain()
        # What an update replaces is in no later set.
        taken = self.take("before-update")
        with request_context(tenant_id=TENANT, roles={"service"}):
            for memory_id in ids[:5]:
                await memory.update(memory_id, {"content": self.memory(ALICE, 7).content})
            await memory.supersede(ids[5], self.memory(ALICE, 8), {})
            for memory_id in ids[6:9]:
                await memory.delete(memory_id)
            await memory.retrieve("word", ALICE)
        self.runtime.api_keys.create(TENANT, roles={"member"}, user_id=ALICE)
        with request_context(tenant_id=TENANT, user_id="admin", roles={"tenant_admin"}):
            await self.runtime.gdpr.export_user_data(ALICE, TENANT, self.files / "export")
        imported = self.files / "import.jsonl"
        lines = [self.memory(ALICE, number).model_dump_json(exclude={"id"}) for number in range(3)]
        imported.write_text("\n".join(lines) + "\n")
        with request_context(tenant_id=TENANT, roles={"service"}):
            await self.runtime.transfer.import_file(imported)
        await self.runtime.drain()
        self.other_process("hot")
        self.other_process("pending")
        return taken, self.take("after-update")

    def other_process(self, what: str) -> None:
        """Another process on the same home, which is killed: hot with Alice, or with a write that still waits."""
        home = str(self.runtime._installation.settings.home)
        done = subprocess.run(
            [sys.executable, "-m", "tests.gdpr.residue_program", "other", home, what, *sys.argv[6:]], check=False
        )
        assert done.returncode == -9, f"the other process ended with {done.returncode}"


async def other(home: Path, what: str) -> None:
    """What a process does that dies without leaving in good order."""
    with init_cloud_extensions(CloudSettings(home=home, worker="off", embedder="hashing")) as runtime:
        life = Life(runtime, Path())
        with request_context(tenant_id=TENANT, roles={"service"}):
            if what == "hot":
                assert await runtime.memory.retrieve("word", ALICE)
            else:
                await life.store([life.memory(ALICE, 3), life.memory(ALICE, 9)])
        os.kill(os.getpid(), 9)


def told(report: ScanReport) -> dict[str, Any]:
    """What a scan found, as JSON; items as numbers."""
    return {
        "found": {
            where: sorted([trace.value, item] for trace, item in things) for where, things in report.found.items()
        },
        "residue": [[one.where, one.what, one.trace.value, one.items] for one in report.residue],
        "kept": sorted({one.what for one in report.findings if one.is_kept}),
        "unreachable": list(report.unreachable),
        "files": report.files,
        "size_bytes": report.size_bytes,
        "taken_s": report.taken_s,
    }


async def main(home: Path, files: Path, mine: int, others: int) -> dict[str, Any]:
    """The whole story."""
    with init_cloud_extensions(CloudSettings(home=home, worker="thread", embedder="hashing")) as runtime:
        runtime.tenants.create(TENANT, plan="enterprise", limits={"memories": 1_000_000})
        life = Life(runtime, files)
        await life.store([life.memory(BOB, number) for number in range(others)])
        first, last = await life.live(mine)
        early = first.joined(last)
        latest = {one.pattern for one in last.fingerprints}
        # What waits for the worker of this process is the other's write; it may have gone on meanwhile.
        taken = files / "fingerprints"
        fingerprints.write(early, taken)
        before = runtime.scan.search(taken)
        config = runtime.pixeltable_config
        person = config.keyring.resolve_subject(TENANT, ALICE, create=False)
        assert person is not None
        placement = runtime._installation.placements().placement_of(TENANT)
        theirs = contents_of(runtime, BOB)
        with request_context(tenant_id=TENANT, user_id="admin", roles={"tenant_admin"}):
            erased = await runtime.gdpr.delete_user_data(ALICE, TENANT, confirmed=True, reason="request 17")
        assert isinstance(erased, Erasure)
        after = runtime.scan.search(taken)
        rewriter = runtime._installation.rewriter()
        levels = [rewriter.row_versions(system_predicate(TENANT, "test"), (placement,))]
        levels += rewriter.rewrite(system_predicate(TENANT, "test"), (placement,))
        late = runtime.scan.search(taken)
        # The same person again, with the words that were erased.
        with request_context(tenant_id=TENANT, roles={"service"}):
            found = await runtime.memory.retrieve("memory says word", ALICE)
            await life.store([life.memory(ALICE, 1)])
            await runtime.drain()
            found_again = await runtime.memory.retrieve("memory says word", ALICE)
        again = config.keyring.resolve_subject(TENANT, ALICE, create=False)
        return {
            "items": sorted({(one.trace.value, one.item) for one in early.fingerprints}),
            "current": sorted({(one.trace.value, one.item) for one in early.fingerprints if one.pattern in latest}),
            "too_short": early.too_short,
            "before": told(before),
            "after": told(after),
            "late": told(late),
            "levels": {one.level.value: [one.reached_at is not None, dict(one.evidence)] for one in levels},
            "state": erased.state.value,
            "others_are_whole": contents_of(runtime, BOB) == theirs and len(theirs) == others,
            "found_of_the_erased": len(found),
            "found_of_the_new": len(found_again),
            "is_another_subject": again is not None and again.subject_id != person.subject_id,
        }


def contents_of(runtime: CloudRuntime, user_id: str) -> dict[str, str]:
    """What is kept of a person, opened, by memory id, from Pixeltable itself."""
    config = runtime.pixeltable_config
    person = config.keyring.resolve_subject(TENANT, user_id, create=False)
    assert person is not None
    placement = runtime._installation.placements().placement_of(TENANT)
    rows = config.rows.newer(system_predicate(TENANT, "test"), placement, person.subject_id, since=0)
    return {row.memory_id: config.vectorizer.open_envelope(person.key, row).content for row in rows}


if __name__ == "__main__":
    if sys.argv[-1] == "plain":
        installation.AesGcmSealer = PlainSealer  # type: ignore[misc, assignment]
    if sys.argv[1] == "other":
        asyncio.run(other(Path(sys.argv[2]), sys.argv[3]))
    else:
        document = asyncio.run(main(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
        print(json.dumps(document))

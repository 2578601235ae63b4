"""Several processes on one external server: exact quotas, one memory for all, and no second keyring."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.external import ExternalServer
from tests.support.homes import temporary_home
from tests.support.nursery import ROOT
from tests.support.typed import Finished, environment, run

LIMIT = 25
WRITER = """
import asyncio, json, sys
from pathlib import Path
from cloud import CloudSettings, init_cloud_extensions, request_context
from cloud.kernel.errors import QuotaExceededError
from src.testing.samples import sample_memory

async def write(runtime):
    admitted = []
    for _ in range(20):
        try:
            admitted.append(await runtime.memory.store(sample_memory("alice"), {}))
        except QuotaExceededError:
            pass
    return admitted

with init_cloud_extensions(CloudSettings(home=Path(sys.argv[1]), embedder="hashing", worker="thread")) as runtime:
    with request_context(tenant_id="shared", roles={"service"}):
        print("ready", flush=True)
        sys.stdin.readline()
        admitted = asyncio.run(write(runtime))
        print(json.dumps(admitted), flush=True)
        sys.stdin.readline()
        found = asyncio.run(runtime.memory.search("alice", {}, limit=100))
        print(json.dumps([m.id for m in found]), flush=True)
        asyncio.run(runtime.drain())
"""


def command(home: Path, server: ExternalServer, *arguments: str) -> Finished:
    return run(*arguments, home=home, variables=server.environment(owner=False))


def test_two_processes_share_one_server_exactly(empty_server: ExternalServer, fresh_home: Path) -> None:
    made = command(fresh_home, empty_server, "tenants", "create", "shared", "--limit", f"memories={LIMIT}")
    assert made.returncode == 0, made.stderr
    variables = environment() | empty_server.environment(owner=False) | {"PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(fresh_home)],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]

    def answers() -> list[str]:
        lines = []
        for writer in writers:
            assert writer.stdout is not None
            lines.append(writer.stdout.readline().strip())
        return lines

    def go_on() -> None:
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()

    try:
        assert answers() == ["ready", "ready"]
        go_on()
        admitted = [memory_id for line in answers() for memory_id in json.loads(line)]
        assert len(set(admitted)) == len(admitted) == LIMIT
        go_on()
        for line in answers():
            assert set(json.loads(line)) == set(admitted), "a process does not see what the other one wrote"
        assert [writer.wait(60) for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_a_home_without_the_keyring_of_the_servers_people_is_refused(
    empty_server: ExternalServer, fresh_home: Path
) -> None:
    """A second keyring beside the first would give the same people other keys."""
    made = command(fresh_home, empty_server, "tenants", "create", "elsewhere")
    assert made.returncode == 0, made.stderr
    with temporary_home() as other:
        refused = command(other, empty_server, "tenants", "list")
        assert refused.returncode == 1
        assert not (other / "keyring").exists()
    assert "root key" in refused.stderr or "keyring" in refused.stderr

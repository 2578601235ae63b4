"""`tenants move` and `embeddings`, as they are typed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from cloud import CloudRuntime, request_context
from cloud.tenancy.model import pooled_placement
from cloud.tenancy.placements import own_placement
from src.testing.samples import sample_memory
from tests.support.commands import Command

_WORDS = "harbour gate opens early forklift repair cold store keys captain tide invoice crane fog rope ledger".split()


def stored(runtime: CloudRuntime, tenant_id: str) -> None:
    async def work() -> None:
        with request_context(tenant_id=tenant_id, roles={"service"}):
            texts = [" ".join(_WORDS[(n * 7 + k * 3) % len(_WORDS)] for k in range(6)) + f" {n}" for n in range(20)]
            await runtime.memory.store_many([sample_memory("alice", content=text) for text in texts], {})
        await runtime.drain()

    asyncio.run(work())


def test_a_tenant_is_moved_and_it_is_said_where_it_is(runtime: CloudRuntime, tenant_id: str, command: Command) -> None:
    stored(runtime, tenant_id)
    own, pool = own_placement(tenant_id), pooled_placement(tenant_id)
    moved = json.loads(command("--json", "tenants", "move", tenant_id, "--to", "own").stdout)
    assert (moved["from"], moved["to"], moved["state"], moved["rows"]) == (pool, own, "done", 20)
    again = command("tenants", "move", tenant_id, "--to", own)
    assert (again.exit_code, again.stdout) == (0, f"Tenant {tenant_id} is in {own} already.\n")
    back = command("tenants", "move", tenant_id, "--to", "pooled")
    assert f"is in {pool} now, with 20 memories; none is left in {own}" in back.stdout
    for wrong, said in (("pool_99", "a placement is"), ("", "a placement is")):
        refused = command("tenants", "move", tenant_id, "--to", wrong)
        assert refused.exit_code == 1
        assert said in refused.stderr


def test_a_model_is_changed_back_and_finished_by_commands(runtime: CloudRuntime, command: Command) -> None:
    made = command("--json", "tenants", "create", "by-command", "--plan", "team", "--placement", "own")
    name = json.loads(made.stdout)["placement"]
    assert name == own_placement("by-command")
    stored(runtime, "by-command")
    chosen = ("--tenant", "by-command")
    migrated = json.loads(
        command("--json", "embeddings", "migrate", "--to", "hashing", *chosen, "--tolerance", "1").stdout
    )["migrations"]
    assert [(m["placement"], m["outcome"], m["model"], m["tenants"]) for m in migrated] == [
        (name, "switched", "hashing", ["by-command"])
    ]
    assert migrated[0]["rankings"].keys() == {"dense", "mixed"}
    status = json.loads(command("--json", "embeddings", "status").stdout)["placements"]
    (mine,) = [placement for placement in status if placement["placement"] == name]
    assert (mine["model"], mine["other_model"], mine["state"]) == ("hashing", "wordllama", "switched")
    assert mine["gate"]["passed"] is True
    shown = command("embeddings", "status")
    assert "passed: wordllama to hashing" in shown.stdout
    assert "wordllama again" in command("embeddings", "rollback", *chosen).stdout
    again = command("embeddings", "rollback", *chosen)
    assert again.exit_code != 0
    assert "rolled back already" in again.stderr
    passed_over = command("embeddings", "rollback", "--all")
    assert passed_over.exit_code == 0
    assert "rolled back already" in passed_over.stderr
    assert "wordllama alone" in command("embeddings", "finish", *chosen).stdout
    refused = command("embeddings", "migrate", "--to", "hashing", *chosen, "--tolerance", "0")
    assert refused.exit_code == 1
    assert "still read with wordllama" in refused.stdout
    assert "recall@10" in refused.stdout


def test_known_answers_are_asked_for_with_a_file(runtime: CloudRuntime, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "questions.json"
    turn = {"speaker": "Ann", "dia_id": "D1:1", "text": "The harbour gate opens at six in the morning"}
    other = {"speaker": "Bea", "dia_id": "D1:2", "text": "Forklift seven is out for repair"}
    question = {"question": "When does the harbour gate open?", "answer": "six", "evidence": ["D1:1"], "category": 4}
    conversation = {
        "speaker_a": "Ann",
        "speaker_b": "Bea",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [turn, other],
    }
    file.write_text(json.dumps([{"sample_id": "x", "conversation": conversation, "qa": [question]}]))
    command("tenants", "create", "with-file", "--placement", "own")
    done = command("--json", "embeddings", "migrate", "--to", "wordllama-128", "--tenant", "with-file", "--data", file)
    (migrated,) = json.loads(done.stdout)["migrations"]
    assert migrated["outcome"] == "switched"
    assert migrated["rankings"]["labelled"]["new"]["questions"] == 1


def test_no_tenant_and_everything_at_once_are_both_no_choice(command: Command) -> None:
    for arguments in ((), ("--all", "--tenant", "x")):
        wrong = command("embeddings", "migrate", "--to", "hashing", *arguments)
        assert wrong.exit_code == 2
        assert "--all" in wrong.output

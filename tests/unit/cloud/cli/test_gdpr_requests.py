"""The commands of requests and holds, as an administrator types them one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.cli import gdpr_requests
from src.testing.samples import sample_memory
from tests.unit.cloud.cli.conftest import Command

KeyFile = Callable[..., Path]
Typed = Callable[..., dict[str, Any]]


@pytest.fixture
def typed(command: Command, key_file: KeyFile) -> Typed:
    """What `gdpr …` answers an administrator, as a document; it must succeed."""
    admin = key_file("tenant_admin")

    def run(*arguments: object) -> dict[str, Any]:
        result = command("--json", "gdpr", *arguments, "--api-key-file", admin)
        assert result.exit_code == 0, result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    return run


@pytest.fixture
async def alice(runtime: CloudRuntime, tenant_id: str) -> None:
    """Alice has two memories."""
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many([sample_memory("alice")] * 2, {})


@pytest.mark.usefixtures("alice")
def test_a_request_is_taken_from_receipt_to_the_end(typed: Typed) -> None:
    asked = datetime.now(UTC) - timedelta(days=20)
    made = typed("request", "--user", "alice", "--received", asked.isoformat(), "--reason", "by letter")
    request = made["erasure_id"]
    assert (made["state"], datetime.fromisoformat(made["received_at"])) == ("received", asked)
    (due,) = typed("list", "--due")["requests"]
    assert (due["erasure_id"], due["days_left"] in range(7, 12)) == (request, True)
    assert typed("identify", request, "--how", "passport")["identity_method"] == "passport"
    seen = typed("preview", "--request", request)
    assert seen["memories"] == 2
    erased = typed("confirm", request, "--seen", seen["digest"])
    assert (erased["memories"], erased["failed_step"]) == (2, None)
    assert erased["levels"]["store"]["reached_at"] is not None
    told = typed("show", request)
    assert (told["reason"], told["state"]) == ("by letter", erased["state"])
    assert typed("list", "--due")["requests"] == []
    assert len(typed("list")["requests"]) == 1


@pytest.mark.usefixtures("alice")
def test_a_hold_keeps_and_its_release_lets_go_on(
    typed: Typed, command: Command, key_file: KeyFile, runtime: CloudRuntime
) -> None:
    admin, review = key_file("tenant_admin"), (datetime.now(UTC) + timedelta(days=9)).isoformat()
    hold = typed("hold", "--user", "alice", "--reason", "a dispute", "--authority", "a court", "--review", review)
    refused = command("gdpr", "erase", "--user", "alice", "--yes", "--api-key-file", admin)
    assert refused.exit_code == 4
    assert "a legal hold keeps this; request" in refused.stderr
    assert "gdpr holds" in refused.stderr
    (due,) = typed("list", "--due")["requests"]
    assert due["state"] == "held"
    (told,) = typed("holds")["holds"]
    assert (told["authority"], told["subject_id"]) == ("a court", hold["subject_id"])
    assert typed("release", hold["hold_id"], "--reason", "settled")["released_at"] is not None
    runtime.gdpr.upkeep()
    assert typed("show", due["erasure_id"])["memories"] == 2
    assert typed("list", "--due")["requests"] == []


@pytest.mark.usefixtures("alice")
def test_a_stale_preview_a_wrong_state_and_an_absent_request_say_what_to_do(
    typed: Typed, command: Command, key_file: KeyFile
) -> None:
    admin = key_file("tenant_admin")
    request = typed("request", "--user", "alice", "--identity", "passport")["erasure_id"]
    typed("preview", "--request", request)
    for arguments, said in (
        (("confirm", request, "--seen", "0" * 64), "gdpr preview --request"),
        (("resume", request), "the request for erasure is previewed"),
        (("show", "nothing"), "there is no such request"),
    ):
        refused = command("gdpr", *arguments, "--api-key-file", admin)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert said in refused.stderr
    assert command("gdpr", "confirm", request, "--api-key-file", admin).exit_code == 2, "nobody can be asked"
    assert command("gdpr", "preview", "--api-key-file", admin).exit_code == 2
    wrong = command("gdpr", "confirm", request, "--seen", "0" * 64, "--api-key-file", key_file("service"))
    assert wrong.exit_code == 4


@pytest.mark.usefixtures("alice")
@pytest.mark.parametrize(("answer", "is_done"), [("y", True), ("n", False)])
def test_on_a_terminal_a_confirmation_shows_and_asks(
    typed: Typed, command: Command, key_file: KeyFile, monkeypatch: pytest.MonkeyPatch, answer: str, is_done: bool
) -> None:
    monkeypatch.setattr(gdpr_requests, "somebody_can_be_asked", lambda: True)
    request = typed("request", "--user", "alice", "--identity", "passport")["erasure_id"]
    result = command("gdpr", "confirm", request, "--api-key-file", key_file("tenant_admin"), typed=f"{answer}\n")
    assert "control.memories" in result.stdout
    assert (typed("show", request)["completed_at"] is not None) == is_done


def test_refusing_and_extending(typed: Typed) -> None:
    first = typed("request", "--user", "nobody")["erasure_id"]
    told = datetime.now(UTC).isoformat()
    extended = typed("extend", first, "--reason", "many systems", "--notified", told)
    assert extended["extended_until"] > extended["due_at"]
    assert typed("cancel", first, "--reason", "withdrawn")["state"] == "cancelled"
    second = typed("request", "--user", "nobody")["erasure_id"]
    assert typed("reject", second, "--reason", "excessive")["state"] == "rejected"
    assert typed("show", second)["closing_reason"] == "excessive"

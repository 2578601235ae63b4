"""What each command does, says and refuses, over a real installation."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime
from cloud.cli import gdpr, tenants
from cloud.kernel.context import current_context
from tests.support.commands import Command
from tests.support.ledgers import as_owner

KeyFile = Callable[..., Path]
Events = Callable[[str], list[dict[str, Any]]]
LINES = [
    {"user_id": "alice", "content": "Alice writes firmware in Helix", "memory_type": "preference", "source": "talk"},
    {
        "user_id": "alice",
        "content": "Releases happen on Thursday \x1b[31m",
        "memory_type": "decision",
        "source": "talk",
    },
    {"user_id": "bob", "content": "Bob drinks tea", "memory_type": "preference", "source": "talk"},
]


@pytest.fixture
def stored(command: Command, key_file: KeyFile, tmp_path: Path) -> Path:
    """The file of the service key with which `LINES` were imported."""
    path, key = tmp_path / "memories.jsonl", key_file("service")
    path.write_text("\n".join(map(json.dumps, LINES)), "utf-8")
    assert command("memory", "import", path, "--no-wait", "--api-key-file", key).exit_code == 0
    return key


class TestOperator:
    def test_a_tenant_is_created_suspended_and_served_again(self, command: Command, tenant_id: str) -> None:
        name = f"{tenant_id}-made"
        made = json.loads(command("--json", "tenants", "create", name, "--limit", "memories=7").stdout)
        assert (made["tenant_id"], made["plan"], made["limits"]) == (name, "free", {"memories": 7})
        assert command("tenants", "suspend", name).exit_code == 0
        listed = {
            one["tenant_id"]: one["state"] for one in json.loads(command("--json", "tenants", "list").stdout)["tenants"]
        }
        assert listed[name] == "suspended"
        assert command("tenants", "resume", name).exit_code == 0
        assert name in command("tenants", "list").stdout

    def test_terms_are_changed_and_dropped_again(self, command: Command, tenant_id: str) -> None:
        changed = ("--json", "tenants", "change", tenant_id)
        made = json.loads(command(*changed, "--plan", "free", "--limit", "memories=7").stdout)
        assert (made["plan"], made["limits"]) == ("free", {"memories": 7})
        again = json.loads(command(*changed, "--limit", "memories=plan").stdout)
        assert (again["plan"], again["limits"]) == ("free", {})

    def test_a_tenant_is_closed_once_somebody_says_yes(
        self, command: Command, stored: Path, tenant_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert command("tenants", "close", tenant_id).exit_code == 2
        monkeypatch.setattr(tenants, "somebody_can_be_asked", lambda: True)
        asked = command("tenants", "close", tenant_id, typed="n\n")
        assert (asked.exit_code, "control.memories" in asked.stdout) == (1, True)
        closed = json.loads(command("--json", "tenants", "close", tenant_id, "--yes").stdout)
        assert (closed["state"], closed["counts"]["control.memories"]) == ("closed", len(LINES))
        refused = command("memory", "search", "--user", "alice", "--api-key-file", stored)
        assert refused.exit_code == 4
        again = command("tenants", "create", tenant_id)
        assert (again.exit_code, "was closed" in again.stderr) == (1, True)

    def test_who_runs_it_is_on_record(self, command: Command, tenant_id: str, events: Events) -> None:
        command("tenants", "suspend", tenant_id)
        actors = {event["actor"]["id"] for event in events(tenant_id) if event["action"] == "tenant.suspend"}
        assert actors == {f"local-operator:{os.geteuid()}"}

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (("tenants", "suspend", "nobody-here"), 4),
            (("tenants", "create", "Not A Name"), 1),
            (("tenants", "create", "x", "--plan", "platinum"), 1),
            (("tenants", "create", "x", "--limit", "memories"), 2),
            (("tenants", "create", "x", "--limit", "wishes=3"), 1),
            (("usage", "show", "--tenant", "nobody-here"), 4),
            (("audit", "export", "--tenant", "nobody-here", "--out", "x", "--since", "yesterday"), 2),
            (("memory", "forget"), 2),
        ],
    )
    def test_a_mistake_is_one_line_and_no_traceback(
        self, command: Command, arguments: tuple[str, ...], code: int
    ) -> None:
        result = command(*arguments)
        assert result.exit_code == code
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        assert "rror" in result.stderr

    def test_a_key_in_a_file_is_private_and_in_no_output(
        self, command: Command, tenant_id: str, tmp_path: Path
    ) -> None:
        out = tmp_path / "new.key"
        result = command("--json", "api-keys", "create", "--tenant", tenant_id, "--role", "service", "--out", out)
        made, secret = json.loads(result.stdout), out.read_text().strip().rpartition("_")[2]
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert secret not in result.output
        listed = json.loads(command("--json", "api-keys", "list", "--tenant", tenant_id).stdout)["api_keys"]
        assert [(key["key_id"], key["state"], key["roles"]) for key in listed] == [
            (made["key_id"], "active", ["service"])
        ]
        again = command("api-keys", "create", "--tenant", tenant_id, "--role", "service", "--out", out)
        assert again.exit_code == 1
        assert len(json.loads(command("--json", "api-keys", "list", "--tenant", tenant_id).stdout)["api_keys"]) == 1

    def test_a_revoked_key_opens_nothing(self, command: Command, tenant_id: str, stored: Path) -> None:
        key_id = stored.read_text().split("_")[1]
        assert command("api-keys", "revoke", "--tenant", tenant_id, key_id).exit_code == 0
        assert command("memory", "search", "--user", "alice", "--api-key-file", stored).exit_code == 4
        assert "revoked" in command("api-keys", "list", "--tenant", tenant_id).stdout
        assert command("api-keys", "revoke", "--tenant", tenant_id, key_id).exit_code == 1

    @pytest.mark.usefixtures("stored")
    def test_usage_shows_stock_and_limit(self, command: Command, tenant_id: str) -> None:
        summary = json.loads(command("--json", "usage", "show", "--tenant", tenant_id).stdout)
        assert summary["memories"] == {"used": 3, "limit": 100_000}
        assert "3 of 100,000" in command("usage", "show", "--tenant", tenant_id).stdout

    @pytest.mark.usefixtures("stored")
    def test_usage_shows_each_meter_and_what_the_ledger_says_of_days_and_months(
        self, command: Command, tenant_id: str
    ) -> None:
        summary = json.loads(command("--json", "usage", "show", "--tenant", tenant_id).stdout)
        assert summary["meters"]["writes"]["used"] == 3
        assert summary["meters"]["writes"]["resets_at"]
        assert "memories_per_subject" in command("usage", "show", "--tenant", tenant_id).stdout
        for verb in ("daily", "monthly"):
            (period,) = json.loads(command("--json", "usage", verb, "--tenant", tenant_id).stdout)["periods"]
            assert (period["memories"], period["writes"]) == (3, 3)
            shown = command("usage", verb, "--tenant", tenant_id, "--since", "2001-01-01", "--until", "2001-02-01")
            assert "Nothing was used" in shown.stdout

    @pytest.mark.usefixtures("stored")
    def test_reconciling_ends_with_1_if_a_counter_is_wrong_and_mends_it_when_asked(
        self, command: Command, tenant_id: str, runtime: CloudRuntime
    ) -> None:
        assert command("usage", "reconcile", "--tenant", tenant_id).exit_code == 0
        as_owner(runtime, "UPDATE usage_counters SET used = 9 WHERE tenant_id = :t AND meter = 'writes'", t=tenant_id)
        found = command("--json", "usage", "reconcile", "--tenant", tenant_id)
        (difference,) = json.loads(found.stdout)["differences"]
        assert (found.exit_code, difference["counted"], difference["expected"]) == (1, 9, 3)
        assert "--repair" in command("usage", "reconcile", "--tenant", tenant_id).stdout
        assert command("usage", "reconcile", "--tenant", tenant_id, "--repair").exit_code == 1
        assert command("usage", "reconcile", "--tenant", tenant_id).exit_code == 0
        assert command("usage", "reconcile", "--tenant", "nobody-here").exit_code == 4

    @pytest.mark.usefixtures("stored")
    def test_an_export_says_where_it_is_and_never_overwrites(
        self, command: Command, tenant_id: str, tmp_path: Path
    ) -> None:
        arguments = (
            "--json",
            "audit",
            "export",
            "--tenant",
            tenant_id,
            "--format",
            "ndjson",
            "--out",
            tmp_path / "log",
        )
        document = json.loads(command(*arguments).stdout)
        lines = Path(document["file"]).read_bytes().splitlines()
        assert document["events"] == len(lines) > 0
        assert command(*arguments).exit_code == 1
        assert Path(document["file"]).read_bytes().splitlines() == lines

    def test_an_export_of_a_period_leaves_out_the_rest(self, command: Command, tenant_id: str, tmp_path: Path) -> None:
        arguments = (
            "--json",
            "audit",
            "export",
            "--tenant",
            tenant_id,
            "--until",
            "2020-01-01",
            "--out",
            tmp_path / "log",
        )
        # The log's first event is there, to show that nothing was before it.
        found = json.loads(command(*arguments).stdout)
        assert (found["first"], found["events"]) == (0, 1)


class TestMemory:
    def test_what_was_imported_is_retrieved_and_searched(self, command: Command, stored: Path) -> None:
        found = json.loads(
            command(
                "--json", "memory", "retrieve", "editor firmware", "--user", "alice", "--api-key-file", stored
            ).stdout
        )["memories"]
        assert found[0]["content"] == LINES[0]["content"]
        arguments = ("--json", "memory", "search", "--user", "alice", "--api-key-file", stored, "--filter")
        decided = json.loads(command(*arguments, '{"memory_type": "decision"}').stdout)["memories"]
        assert [one["content"] for one in decided] == [LINES[1]["content"]]

    def test_what_users_stored_cannot_steer_the_terminal(self, command: Command, stored: Path) -> None:
        shown = command("memory", "search", "--user", "alice", "--api-key-file", stored).stdout
        assert "Releases happen on Thursday \\x1b[31m" in shown
        assert "\x1b" not in shown

    def test_the_key_may_come_from_the_environment(self, command: Command, stored: Path) -> None:
        result = command(
            "memory", "search", "--user", "bob", env={"LUMINESCENT_CLOUD_API_KEY": stored.read_text().strip()}
        )
        assert (result.exit_code, result.stderr) == (0, "")
        assert "Bob drinks tea" in result.stdout

    def test_a_key_on_the_command_line_works_and_warns(self, command: Command, stored: Path) -> None:
        result = command("memory", "search", "--user", "bob", "--api-key", stored.read_text().strip())
        assert result.exit_code == 0
        assert result.stderr.startswith("warning: other accounts can see the key")

    def test_a_key_file_that_others_can_read_warns(self, command: Command, stored: Path) -> None:
        stored.chmod(0o644)
        result = command("memory", "search", "--user", "bob", "--api-key-file", stored)
        assert result.exit_code == 0
        assert "chmod 600" in result.stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            ("memory", "retrieve", "editor", "--user", "alice"),
            ("memory", "search", "--user", "alice"),
            ("gdpr", "preview", "--user", "alice"),
            ("gdpr", "erase", "--user", "alice", "--yes"),
            ("gdpr", "export", "--user", "alice", "--out", "nowhere"),
            ("gdpr", "request", "--user", "alice"),
            ("gdpr", "list", "--due"),
            ("gdpr", "confirm", "0", "--seen", "0"),
            ("gdpr", "hold", "--reason", "r", "--authority", "a", "--review", "2999-01-01"),
        ],
        ids=lambda arguments: " ".join(arguments[:2]),
    )
    def test_content_is_not_shown_and_nobody_erased_without_a_key(
        self, command: Command, stored: Path, arguments: tuple[str, ...]
    ) -> None:
        for key in ((), ("--api-key", "")):
            result = command(*arguments, *key)
            assert (result.exit_code, result.stdout) == (4, "")
            assert "it needs an API key" in result.stderr
        for key in (("--api-key", "lc_0_0"), ("--api-key", stored.read_text()[:-3])):
            result = command(*arguments, *key)
            assert (result.exit_code, result.stdout) == (4, "")
        assert not Path("nowhere").exists()

    def test_another_tenants_name_is_refused_and_recorded(
        self, command: Command, stored: Path, tenant_id: str, events: Events
    ) -> None:
        before = len(events("_system"))
        result = command("memory", "search", "--user", "alice", "--tenant", f"{tenant_id}-x", "--api-key-file", stored)
        assert result.exit_code == 4
        assert [event["outcome"] for event in events("_system")[before:] if event["action"] == "memory.search"] == [
            "denied"
        ]

    def test_the_keys_own_tenant_may_be_named(self, command: Command, stored: Path, tenant_id: str) -> None:
        result = command("memory", "search", "--user", "bob", "--tenant", tenant_id, "--api-key-file", stored)
        assert result.exit_code == 0

    @pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"colour": 1}', '{"confidence": {"$near": 1}}'])
    def test_a_filter_that_cannot_be_understood_is_a_usage_error(
        self, command: Command, stored: Path, text: str
    ) -> None:
        result = command("memory", "search", "--user", "alice", "--filter", text, "--api-key-file", stored)
        assert (result.exit_code, result.stdout) == (2, "")

    def test_nobody_acts_once_a_command_has_ended(self, command: Command, stored: Path) -> None:
        command("memory", "search", "--user", "bob", "--api-key-file", stored)
        assert current_context() is None

    def test_faults_of_a_file_are_listed_by_line(self, command: Command, key_file: KeyFile, tmp_path: Path) -> None:
        path = tmp_path / "bad.jsonl"
        path.write_bytes(json.dumps(LINES[2]).encode() + b"\nnonsense\n\xff\n")
        result = command("--json", "memory", "import", path, "--no-wait", "--api-key-file", key_file("service"))
        document = json.loads(result.stdout)
        assert result.exit_code == 1
        assert (document["entries"], document["stored"], document["failed"]) == (3, 1, 2)
        assert [fault["entry"] for fault in document["faults"]] == [2, 3]
        assert "line 2: invalid JSON" in result.stderr

    def test_a_member_cannot_import_for_another(self, command: Command, key_file: KeyFile, tmp_path: Path) -> None:
        path = tmp_path / "bob.jsonl"
        path.write_text(json.dumps(LINES[2]))
        key = key_file("member", user_id="alice")
        result = command("--json", "memory", "import", path, "--no-wait", "--api-key-file", key)
        assert result.exit_code == 4
        assert json.loads(result.stdout)["error"]["code"] == "permission_denied"


class TestPerson:
    def test_erasing_previews_then_removes(self, command: Command, stored: Path, key_file: KeyFile) -> None:
        admin = key_file("tenant_admin")
        preview = json.loads(command("--json", "gdpr", "preview", "--user", "alice", "--api-key-file", admin).stdout)
        assert preview["memories"] == 2
        erased = json.loads(
            command("--json", "gdpr", "erase", "--user", "alice", "--yes", "--api-key-file", admin).stdout
        )
        assert (erased["memories"], erased["state"] in ("verified", "certified")) == (2, True)
        assert "Nothing found" in command("memory", "search", "--user", "alice", "--api-key-file", stored).stdout
        assert "Bob drinks tea" in command("memory", "search", "--user", "bob", "--api-key-file", stored).stdout

    @pytest.mark.parametrize("flags", [(), ("--json",)])
    def test_nobody_is_erased_without_a_confirmation(
        self, command: Command, stored: Path, key_file: KeyFile, flags: tuple[str, ...]
    ) -> None:
        result = command(
            *flags, "gdpr", "erase", "--user", "alice", "--api-key-file", key_file("tenant_admin"), typed="y\n"
        )
        assert result.exit_code == 2
        assert "Helix" in command("memory", "search", "--user", "alice", "--api-key-file", stored).stdout

    @pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 2), ("", 1, 2), ("y", 0, 0)])
    def test_who_is_asked_decides(
        self,
        command: Command,
        stored: Path,
        key_file: KeyFile,
        monkeypatch: pytest.MonkeyPatch,
        answer: str,
        code: int,
        left: int,
    ) -> None:
        monkeypatch.setattr(gdpr, "somebody_can_be_asked", lambda: True)
        result = command(
            "gdpr", "erase", "--user", "alice", "--api-key-file", key_file("tenant_admin"), typed=f"{answer}\n"
        )
        assert result.exit_code == code
        found = command("--json", "memory", "search", "--user", "alice", "--api-key-file", stored)
        assert len(json.loads(found.stdout)["memories"]) == left

    @pytest.mark.parametrize("verb", [("preview",), ("erase", "--yes"), ("export", "--out", "nowhere")])
    def test_a_service_key_may_not(self, command: Command, stored: Path, verb: tuple[str, ...]) -> None:
        result = command("gdpr", *verb, "--user", "alice", "--api-key-file", stored)
        assert result.exit_code == 4
        assert "role_missing" in result.stderr
        assert "alice" not in result.output

    def test_an_export_is_written_and_never_mixed_with_another(
        self, command: Command, stored: Path, key_file: KeyFile, tmp_path: Path
    ) -> None:
        arguments = (
            "gdpr",
            "export",
            "--user",
            "alice",
            "--out",
            tmp_path / "b",
            "--api-key-file",
            key_file("tenant_admin"),
        )
        document = json.loads(command("--json", *arguments).stdout)
        assert document["counts"]["memories"] == 2
        assert {path.name for path in (tmp_path / "b").iterdir()} == set(document["files"])
        assert command(*arguments).exit_code == 1


class TestSettings:
    def test_a_setting_that_cannot_be_used_is_named_without_its_value(self, command: Command) -> None:
        result = command("tenants", "list", env={"LUMINESCENT_CLOUD_WORKER": "secret-4711"})
        assert result.exit_code == 1
        assert "LUMINESCENT_CLOUD_WORKER" in result.stderr
        assert "4711" not in result.output

    def test_the_demo_refuses_a_directory_that_is_in_use(self, command: Command, home: Path) -> None:
        result = command("--home", home, "demo")
        assert result.exit_code == 1
        assert "not empty" in result.stderr

    def test_help_opens_nothing_and_names_every_noun(self, command: Command) -> None:
        shown = command("--help").stdout
        for noun in ("tenants", "api-keys", "memory", "usage", "audit", "gdpr", "worker", "demo"):
            assert noun in shown


def test_every_public_noun_is_documented() -> None:
    text = (Path(__file__).parents[4] / "docs" / "cli.md").read_text("utf-8")
    for noun in ("tenants", "api-keys", "memory", "usage", "audit", "gdpr", "keyring", "embeddings", "db", "doctor"):
        assert f"| `{noun}`" in text


def test_the_runtime_is_the_one_that_commands_need(runtime: CloudRuntime) -> None:
    for name in ("memory", "tenant_provider", "tenants", "api_keys", "tokens", "usage", "audit", "gdpr", "drain"):
        assert hasattr(runtime, name)


def test_a_backup_is_made_listed_and_expired(command: Command, tmp_path: Path) -> None:
    made = json.loads(command("--json", "backup", "--days", "2", tmp_path / "backup").stdout)
    assert made["directory"] == str(tmp_path / "backup")
    assert made["complete"] is True
    listed = {one["backup_id"]: one for one in json.loads(command("--json", "backup", "list").stdout)["backups"]}
    assert listed[made["backup_id"]]["expired"] is False
    shown = command("backup", "create", tmp_path / "another")
    assert shown.exit_code == 0
    assert "backup expire" in shown.output
    assert command("backup", "expire").exit_code in (0, 1)
    refused = command("backup", "expire", "--deleted", made["backup_id"])
    assert refused.exit_code == 1
    assert "not every id is one of a backup that has expired" in refused.output
    for wrong in (("backup", "ledger"), ("backup", tmp_path / "b", "--days", "0"), ("backup", "--no-such", "x")):
        assert command(*wrong).exit_code == 2
    refused = command("backup", tmp_path / "another")
    assert refused.exit_code == 1

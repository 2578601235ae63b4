"""Keys from some networks, rotation, the access review and tokens, as a person types them."""

from __future__ import annotations

import json
import re
import resource
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.jwt import TokenPolicy
from cloud.tenancy.key_sets import FileTokenKeys
from cloud.tenancy.postgres_tokens import PostgresTokenRegister
from cloud.tenancy.tokens import Tokens
from tests.support.commands import Command
from tests.support.issuer import AUDIENCE, ISSUER, SigningKey, claims, key_set, token

KEY = SigningKey("RS256", "key-1")
JSONL = '{"user_id": "alice", "content": "Prefers tea", "memory_type": "preference", "source": "conversation"}\n'


def test_a_key_is_made_for_some_networks_and_shown_so(command: Command, tenant_id: str) -> None:
    made = command(
        "--json", "api-keys", "create", "--tenant", tenant_id, "--role", "service",
        "--ip-range", "192.0.2.0/24", "--ip-range", "2001:db8::/32",
    )  # fmt: skip
    key_id = json.loads(made.stdout)["key_id"]
    (key,) = json.loads(command("--json", "api-keys", "list", "--tenant", tenant_id).stdout)["api_keys"]
    assert (key["prefix"], key["ip_ranges"], key["last_used_at"]) == (
        f"lc_{key_id}_",
        ["192.0.2.0/24", "2001:db8::/32"],
        None,
    )
    shown = command("api-keys", "list", "--tenant", tenant_id).stdout
    assert f"lc_{key_id}_" in shown
    assert "192.0.2.0/24" in shown
    bad = command("api-keys", "create", "--tenant", tenant_id, "--role", "service", "--ip-range", "office")
    assert (bad.exit_code, "ip_ranges" in bad.stderr) == (2, True)


def test_a_command_comes_from_this_host(command: Command, tenant_id: str, tmp_path: Path) -> None:
    (tmp_path / "memories.jsonl").write_text(JSONL)
    for name, ranges, code in (("here", "127.0.0.0/8", 0), ("there", "192.0.2.0/24", 4)):
        out = tmp_path / f"{name}.key"
        command("api-keys", "create", "--tenant", tenant_id, "--role", "service", "--ip-range", ranges, "--out", out)
        result = command("memory", "import", tmp_path / "memories.jsonl", "--no-wait", "--api-key-file", out)
        assert result.exit_code == code, result.stderr
    refused = command("memory", "search", "--user", "alice", "--api-key-file", out)
    assert (refused.exit_code, "127.0.0.1" in refused.stderr) == (4, True)


def test_a_key_is_rotated_into_a_file(command: Command, tenant_id: str, tmp_path: Path) -> None:
    old = json.loads(command("--json", "api-keys", "create", "--tenant", tenant_id, "--role", "service").stdout)
    out = tmp_path / "new.key"
    rotate = ("api-keys", "rotate", "--tenant", tenant_id, old["key_id"])
    result = command("--json", *rotate, "--grace-hours", "2", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "2 hours" in result.stderr
    assert out.read_text().strip() not in result.output
    again = command(*rotate)
    assert again.exit_code == 1
    assert json.loads(result.stdout)["key_id"] in again.stderr


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_no_key_is_made_or_rotated_where_its_file_cannot_be(
    command: Command, tenant_id: str, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / folder / "new.key"
    old = json.loads(command("--json", "api-keys", "create", "--tenant", tenant_id, "--role", "service").stdout)
    for verb in (("create", "--role", "service"), ("rotate", old["key_id"], "--grace-hours", "0")):
        refused = command("api-keys", *verb, "--tenant", tenant_id, "--out", out)
        assert (refused.exit_code, f"{out} cannot be written" in refused.stderr) == (1, True)
    (key,) = json.loads(command("--json", "api-keys", "list", "--tenant", tenant_id).stdout)["api_keys"]
    assert (key["key_id"], key["state"], key["successor_id"]) == (old["key_id"], "active", None)


def test_what_was_refused_leaves_no_key_file(command: Command, tenant_id: str, tmp_path: Path) -> None:
    out = tmp_path / "new.key"
    assert command("api-keys", "create", "--tenant", tenant_id, "--role", "root", "--out", out).exit_code == 1
    assert command("api-keys", "rotate", "--tenant", tenant_id, "0" * 12, "--out", out).exit_code == 1
    assert not out.exists()


def test_a_key_that_could_not_be_written_is_named(
    command: Command, runtime: CloudRuntime, tenant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, make, limits = tmp_path / "new.key", runtime.api_keys.create, resource.getrlimit(resource.RLIMIT_FSIZE)

    def create(*given: Any, **named: Any) -> str:
        text = make(*given, **named)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        return text

    monkeypatch.setattr(runtime.api_keys, "create", create)
    try:
        failed = command("api-keys", "create", "--tenant", tenant_id, "--role", "service", "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (key,) = runtime.api_keys.list(tenant_id)
    assert failed.exit_code == 1
    assert f"key {key.key_id} opens and nobody has its text: rotate or revoke it" in failed.stderr
    assert not out.exists()


def test_the_access_review_names_every_key_and_says_what_to_do(command: Command, tenant_id: str) -> None:
    made = json.loads(command("--json", "api-keys", "create", "--tenant", tenant_id, "--role", "auditor").stdout)
    document = json.loads(command("--json", "tenants", "access-review", "--tenant", tenant_id).stdout)
    (key,) = document["api_keys"]
    assert (key["key_id"], key["roles"], key["state"]) == (made["key_id"], ["auditor"], "active")
    assert key["findings"] == ["never_used", "no_expiry"]
    assert (document["stale_days"], document["tokens"]) == (90, None)
    shown = command("tenants", "access-review", "--tenant", tenant_id, "--stale-days", "30").stdout
    assert "never_used (1): " in shown
    assert "--days" in shown
    assert tenant_id in command("tenants", "access-review").stdout
    assert command("tenants", "access-review", "--tenant", "nobody-here").exit_code == 4
    assert command("tenants", "access-review", "--stale-days", "0").exit_code == 2


# Tokens


@pytest.fixture
def issuer(runtime: CloudRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The run's installation as one that accepts an issuer's tokens; makes files with tokens in them."""
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(KEY))
    config, engines = runtime.pixeltable_config, runtime._installation.engines
    policy = TokenPolicy(ISSUER, AUDIENCE, frozenset({"RS256"}))
    register = PostgresTokenRegister(engines.app)
    tokens = Tokens(policy, FileTokenKeys(path, policy.algorithms), register, config.keyring, config.clock)
    resolver: IdentityResolver = config.identities
    monkeypatch.setattr(resolver._credentials, "_tokens", tokens)
    monkeypatch.setattr(runtime.tokens, "_tokens", tokens)
    monkeypatch.setattr(runtime.api_keys, "_tokens", tokens.access())

    def make(tenant_id: str, name: str, **changed: object) -> Path:
        out = tmp_path / f"{name}.token"
        out.write_text(token(KEY, claims(time.time(), tenant_id, **changed)) + "\n")
        out.chmod(0o600)
        return out

    return make


def test_a_token_does_what_a_key_does(
    command: Command, tenant_id: str, tmp_path: Path, issuer: Callable[..., Path]
) -> None:
    (tmp_path / "memories.jsonl").write_text(JSONL)
    # Longer than the lines that keys are, as tokens are that name many groups.
    file = issuer(tenant_id, "service", groups=["group"] * 500)
    assert len(file.read_text()) > 4096
    stored = command("memory", "import", tmp_path / "memories.jsonl", "--no-wait", "--api-key-file", file)
    assert stored.exit_code == 0, stored.stderr
    found = command("memory", "search", "--user", "alice", "--api-key-file", file)
    assert "Prefers tea" in found.stdout
    inline = {"LUMINESCENT_CLOUD_API_KEY": file.read_text().strip()}
    assert command("memory", "search", "--user", "alice", env=inline).exit_code == 0
    refused = command("memory", "search", "--user", "alice", "--api-key-file", issuer(tenant_id, "old", exp=1))
    assert refused.exit_code == 4
    assert "token_expired" in refused.stderr
    assert "issuer" in refused.stderr


def test_a_token_is_checked_and_taken_back(command: Command, tenant_id: str, issuer: Callable[..., Path]) -> None:
    file = issuer(tenant_id, "one", sub="dana@acme.example", roles=["auditor", "service"])
    checked = command("--json", "tokens", "check", file)
    document = json.loads(checked.stdout)
    assert (document["tenant_id"], document["roles"], document["acts_as_person"]) == (
        tenant_id,
        ["auditor", "service"],
        True,
    )
    assert "dana" not in checked.output
    assert command("tokens", "check", issuer(tenant_id, "old", exp=1)).exit_code == 4
    revoked = command("tokens", "revoke", file)
    assert revoked.exit_code == 0, revoked.stderr
    assert re.search(r"20\d\d-", revoked.stdout)
    assert "token_revoked" in command("tokens", "check", file).stderr
    assert command("tokens", "revoke", issuer(tenant_id, "older", exp=1)).exit_code == 1
    assert ISSUER in command("tenants", "access-review", "--tenant", tenant_id).stdout


def test_without_an_issuer_there_is_no_token_to_check(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "a.token"
    file.write_text("a.b.c\n")
    file.chmod(0o600)
    for verb in ("check", "revoke"):
        result = command("tokens", verb, file)
        assert (result.exit_code, "jwt_issuer" in result.stderr) == (1, True)

"""Laws of the commands for certificates: written once, for one reader, and verified where nothing is installed."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud import CloudRuntime
from tests.unit.cloud.cli.conftest import Command

KeyFile = Callable[..., Path]


@pytest.fixture
def key(runtime: CloudRuntime, tenant_id: str) -> str:
    """The verifier key of the tenant's log."""
    return runtime._installation.proofs.evidence.verifier_key(tenant_id)


@pytest.fixture
def written(command: Command, key_file: KeyFile, tmp_path: Path) -> Path:
    """The certificate of an erasure."""
    out = tmp_path / "certificate.json"
    done = command(
        "gdpr", "erase", "--user", "alice", "--yes", "--out", out, "--api-key-file", key_file("tenant_admin")
    )
    assert done.exit_code == 0, done.stderr
    assert f"gdpr verify {out}" in done.stdout
    return out


def test_an_erasure_writes_its_certificate_and_verify_says_that_it_holds(
    command: Command, written: Path, key: str
) -> None:
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    holds = command("gdpr", "verify", written, "--key", key, "--user-id", "alice")
    assert holds.exit_code == 0
    assert "certificate 1 of erasure" in holds.stdout
    told = json.loads(command("--json", "gdpr", "verify", written, "--key", key, "--user-id", "alice").stdout)
    assert (told["holds"], told["user_matches"], told["origin_established"], told["number"]) == (True, True, True, 1)
    assert set(told["reached"]) | set(told["to_come"]) == {
        "logical",
        "cryptographic",
        "store",
        "file",
        "wal",
        "backups",
    }


def test_without_a_key_it_ends_with_3_and_where_something_does_not_hold_with_1(
    command: Command, written: Path, key: str
) -> None:
    unpinned = command("gdpr", "verify", written)
    assert unpinned.exit_code == 3
    assert "origin not established" in unpinned.stderr
    wrong = command("gdpr", "verify", written, "--key", key, "--user-id", "bob")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "does not hold: certificate.person: it is about another person" in wrong.stderr
    written.write_bytes(written.read_bytes().replace(b'"number":1', b'"number":2'))
    told = command("--json", "gdpr", "verify", written, "--key", key)
    assert told.exit_code == 1
    assert json.loads(told.stdout)["holds"] is False
    assert command("gdpr", "verify", written.parent / "nothing.json").exit_code == 2


def test_a_certificate_can_be_had_again_and_nothing_is_overwritten(
    command: Command, key_file: KeyFile, written: Path, key: str, tmp_path: Path
) -> None:
    admin, again = key_file("tenant_admin"), tmp_path / "again.json"
    erasure_id = json.loads(written.read_bytes())["certificate"]["request"]["id"]
    refused = command("gdpr", "certificate", erasure_id, "--out", written, "--api-key-file", admin)
    assert refused.exit_code == 1
    assert "is there already" in refused.stderr
    assert command("gdpr", "certificate", "nothing", "--out", again, "--api-key-file", admin).exit_code == 1
    assert (
        command("gdpr", "certificate", erasure_id, "--out", again, "--api-key-file", key_file("auditor")).exit_code == 4
    )
    assert not again.exists(), "what was refused leaves no file"
    assert command("gdpr", "certificate", erasure_id, "--out", again, "--api-key-file", admin).exit_code == 0
    assert again.read_bytes() == written.read_bytes()


def test_an_erasure_is_not_begun_where_its_certificate_cannot_be_written(
    command: Command, key_file: KeyFile, runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    admin = key_file("tenant_admin")
    before = len(list(runtime.audit._store.events(tenant_id, since=None, until=None)))
    for out in (tmp_path, tmp_path / "missing" / "certificate.json"):
        refused = command("gdpr", "erase", "--user", "alice", "--yes", "--out", out, "--api-key-file", admin)
        assert refused.exit_code in (1, 2)
    assert len(list(runtime.audit._store.events(tenant_id, since=None, until=None))) == before

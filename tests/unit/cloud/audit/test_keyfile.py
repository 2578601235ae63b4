"""Laws of the audit keys: made once, never removed, wrapped under the root key that is in use."""

from __future__ import annotations

import json
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud.audit.keyfile import AuditKeyFile
from cloud.audit.verify import Checkpoint, open_checkpoint
from cloud.kernel.errors import ConfigurationError
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.rootkeys import RootKeys

NOW = datetime(2026, 1, 31, tzinfo=UTC)
ROOT, NEXT = LocalRootKey(bytes(32)), LocalRootKey(bytes([1]) * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit-keys.json"


def file_of(path: Path, *roots: LocalRootKey) -> AuditKeyFile:
    return AuditKeyFile(path, RootKeys(*(roots or (ROOT,))))


def test_it_is_made_once_and_closed_to_others(path: Path) -> None:
    made = file_of(path).create(NOW)
    assert file_of(path).create(NOW) == made == file_of(path).keys()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.current.secret.hex() not in path.read_text()


def test_processes_that_make_it_at_once_make_one(path: Path) -> None:
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(file_of(path).create(NOW))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({keys.installation for keys in seen}) == 1
    assert len(seen) == 8


def test_a_rotation_is_seen_by_who_has_it_open_and_forgets_no_key(path: Path) -> None:
    held = file_of(path)
    first = held.create(NOW)
    note = first.current.checkpoint(Checkpoint(first.origin("acme"), 3, bytes(32)))
    file_of(path).rotate(NOW)
    now = held.keys()
    assert now.keys[0] == first.keys[0]
    assert len(now.keys) == 2
    assert now.current != first.current
    assert open_checkpoint(note, now.verifiers("acme")).size == 3
    (handover,) = now.handovers("acme")
    assert handover.count("\n— ") == 2, "signed by both"


def test_another_root_key_opens_nothing_and_says_so(path: Path) -> None:
    file_of(path).create(NOW)
    with pytest.raises(ConfigurationError, match="root key does not open"):
        file_of(path, NEXT).keys()


def test_it_follows_the_root_key(path: Path) -> None:
    made = file_of(path).create(NOW)
    file_of(path).rotate(NOW)
    both = file_of(path, ROOT, NEXT)
    both.rewrap(NEXT.key_id)
    assert file_of(path, NEXT).keys().keys[0] == made.current
    assert {entry["root_key_id"] for entry in json.loads(path.read_text())["keys"]} == {NEXT.key_id}
    with pytest.raises(ConfigurationError):
        file_of(path).keys()
    with pytest.raises(ConfigurationError, match="not within reach"):
        both.rewrap("0000000000000000")


def test_a_key_made_after_the_root_key_changed_is_under_the_new_one(path: Path) -> None:
    held = file_of(path, ROOT, NEXT)
    held.create(NOW)
    held.rewrap(NEXT.key_id)
    held.rotate(NOW)
    assert len(file_of(path, NEXT).keys().keys) == 2, "the root key of before may be destroyed by now"


@pytest.mark.parametrize(
    "spoil", [b"", b"[]", b"{", b'{"format": 2}', b'{"format": 1, "installation": "x", "keys": []}']
)
def test_a_file_that_is_damaged_is_named(path: Path, spoil: bytes) -> None:
    file_of(path).create(NOW)
    path.write_bytes(spoil)
    with pytest.raises(ConfigurationError, match="damaged"):
        file_of(path).keys()


def test_a_file_that_is_missing_or_open_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing"):
        file_of(path).keys()
    file_of(path).create(NOW)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="open to others"):
        file_of(path).keys()

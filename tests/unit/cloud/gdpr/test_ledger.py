"""The erasure ledger: durable, only added to, and nothing of it forged, missing or reordered goes unnoticed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud.audit.keyfile import AuditKeys
from cloud.audit.signing import SigningKey
from cloud.gdpr.ledger import Entry, FileErasureLedger, LedgerPlace, LedgerRecord
from cloud.gdpr.model import Erasure, ErasureState
from cloud.kernel.errors import ConfigurationError
from cloud.kernel.ids import new_event_id

NOW = datetime(2026, 11, 24, tzinfo=UTC)
KEYS = AuditKeys("0123456789abcdef", (SigningKey.new(), SigningKey.new()))


@pytest.fixture
def ledger(tmp_path: Path) -> FileErasureLedger:
    return FileErasureLedger(tmp_path / "ledger", lambda: KEYS, lambda: NOW)


def erasure(subject_id: str | None = None) -> Erasure:
    return Erasure(new_event_id(), "acme", subject_id or new_event_id(), ErasureState.FROZEN, {}, NOW, None)


def records(ledger: FileErasureLedger) -> list[LedgerRecord]:
    return [record for _, record in ledger.since(LedgerPlace())]


def test_what_was_appended_is_there_in_order_and_once(ledger: FileErasureLedger) -> None:
    erasures = [erasure() for _ in range(3)]
    for one in (*erasures, erasures[1]):
        ledger.append(one)
    closing = Erasure(new_event_id(), "acme", None, ErasureState.FROZEN, {}, NOW, None, whole_tenant=True)
    for _ in range(2):
        ledger.append(closing)
    assert [record.subject_id for record in records(ledger)] == [*(one.subject_id for one in erasures), None]
    last = records(ledger)[-1]
    assert (last.entry, last.tenant_id, last.reference) == (Entry.CLOSING, "acme", closing.erasure_id)
    assert ledger.path.stat().st_mode & 0o777 == 0o600


def test_what_was_seen_is_not_read_again(ledger: FileErasureLedger) -> None:
    ledger.append(erasure())
    seen = ledger.end()
    assert ledger.since(seen) == []
    ledger.append(later := erasure())
    assert [record.reference for _, record in ledger.since(seen)] == [later.erasure_id]


def test_an_erasure_that_found_nobody_leaves_no_record(ledger: FileErasureLedger) -> None:
    ledger.append(Erasure(new_event_id(), "acme", None, ErasureState.VERIFIED, {}, NOW, NOW))
    assert not ledger.exists()


def test_a_torn_last_line_is_no_record_and_is_mended(ledger: FileErasureLedger) -> None:
    ledger.append(first := erasure())
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + whole[: len(whole) // 2])
    assert [record.reference for record in records(ledger)] == [first.erasure_id]
    ledger.append(second := erasure())
    assert [record.reference for record in records(ledger)] == [first.erasure_id, second.erasure_id]


def test_any_changed_byte_is_noticed(ledger: FileErasureLedger) -> None:
    for _ in range(2):
        ledger.append(erasure())
    whole, seen = ledger.path.read_bytes(), ledger.end()
    unnoticed = []
    for at in range(len(whole)):
        ledger.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            ledger.since(LedgerPlace())
            ledger.since(seen)
        except ConfigurationError:
            continue
        unnoticed.append(at)
    assert unnoticed == []


@pytest.mark.parametrize("kept", [(0, 2), (1, 2), (1, 0, 2), (0, 0, 1, 2), (0, 1)])
def test_a_line_that_is_removed_doubled_or_moved_is_noticed(ledger: FileErasureLedger, kept: tuple[int, ...]) -> None:
    for _ in range(3):
        ledger.append(erasure())
    seen = ledger.end()
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[at] for at in kept))
    with pytest.raises(ConfigurationError, match="does not hold"):
        # Cut off at the end it is a shorter ledger: whoever saw it longer notices.
        ledger.since(seen if kept == (0, 1) else LedgerPlace())


def test_a_record_that_another_installation_signed_is_refused(ledger: FileErasureLedger, tmp_path: Path) -> None:
    ledger.append(erasure())
    others = AuditKeys(KEYS.installation, (SigningKey.new(),))
    forger = FileErasureLedger(tmp_path / "ledger", lambda: others, lambda: NOW)
    forger.append(erasure())
    with pytest.raises(ConfigurationError, match="not signed by this installation"):
        ledger.since(LedgerPlace())


def test_a_key_that_was_rotated_still_holds(ledger: FileErasureLedger, tmp_path: Path) -> None:
    before = FileErasureLedger(tmp_path / "ledger", lambda: AuditKeys(KEYS.installation, KEYS.keys[:1]), lambda: NOW)
    before.append(erasure())
    assert len(records(ledger)) == 1
    ledger.append(erasure())
    assert len(records(ledger)) == 2


def test_threads_that_append_at_once_lose_nothing(ledger: FileErasureLedger) -> None:
    erasures = [erasure() for _ in range(16)]
    threads = [threading.Thread(target=ledger.append, args=(one,)) for one in erasures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.reference for record in records(ledger)} == {one.erasure_id for one in erasures}


def test_a_full_disk_is_said_and_nothing_is_half_written(ledger: FileErasureLedger) -> None:
    ledger.append(erasure())
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f" resource.setrlimit(resource.RLIMIT_FSIZE, ({ledger.path.stat().st_size + 100},) * 2);"
        " from pathlib import Path; from tests.unit.cloud.gdpr.test_ledger import *;"
        f" FileErasureLedger(Path({str(ledger.path.parent)!r}), lambda: KEYS, lambda: NOW).append(erasure())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert "cannot be written" in done.stderr
    assert len(records(ledger)) == 1
    ledger.append(erasure())
    assert len(records(ledger)) == 2


def test_what_the_disk_may_not_have_is_no_record_and_is_written_again(
    ledger: FileErasureLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a flush that failed the next one succeeds, whatever became of what was written."""
    ledger.append(first := erasure())
    second = erasure()

    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(ConfigurationError, match="cannot be written: Input/output error"):
            ledger.append(second)
    assert [record.reference for record in records(ledger)] == [first.erasure_id]
    ledger.append(second)
    assert [record.reference for record in records(ledger)] == [first.erasure_id, second.erasure_id]


def test_a_ledger_that_is_set_aside_takes_no_other_ones_place(ledger: FileErasureLedger) -> None:
    assert ledger.set_aside() is None
    contents = []
    for _ in range(3):
        ledger.append(erasure())
        contents.append(ledger.path.read_bytes())
        assert ledger.set_aside() is not None
        assert not ledger.exists()
    assert {path.read_bytes() for path in ledger.path.parent.glob("*.aside")} == set(contents)

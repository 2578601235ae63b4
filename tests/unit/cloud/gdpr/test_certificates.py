"""Every erasure ends with a certificate that holds where nothing of the service is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cloud.gdpr import verify
from cloud.gdpr.levels import Level, LevelState
from cloud.gdpr.model import Erasure
from cloud.gdpr.rewriting import PostgresRewriter
from cloud.gdpr.service import CloudGDPRService
from cloud.gdpr.verify import VerificationError, verify_certificate
from cloud.kernel import failpoints
from cloud.kernel.errors import ErasureRequestError
from cloud.kernel.ids import new_event_id
from cloud.startup.erasing import build_gdpr
from cloud.tenancy.system import system_predicate
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker


async def erase(look: Looker, user_id: str) -> Erasure:
    erased = await look.runtime.gdpr.delete_user_data(user_id, look.tenant_id, confirmed=True, reason="request 17")
    assert isinstance(erased, Erasure)
    return erased


def key_of(look: Looker) -> str:
    return look.runtime._installation.proofs.evidence.verifier_key(look.tenant_id)


def typed(folder: Path, certificate: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The verifier as somebody has it who has nothing else: one file, in an empty directory, without an environment."""
    shutil.copy(verify.__file__, folder / "verify.py")
    (folder / "certificate.json").write_text(certificate, "utf-8")
    return subprocess.run(
        [sys.executable, "-P", "-s", "verify.py", "certificate.json", *arguments],
        cwd=folder,
        env={"HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_an_erasure_ends_with_a_certificate_that_holds_without_the_service(look: Looker, tmp_path: Path) -> None:
    await look.store(*[sample_memory("alice@example.com")] * 3)
    subject_id = look.subject("alice@example.com")
    erased = await erase(look, "alice@example.com")
    assert erased.certificate is not None
    assert "alice" not in erased.certificate
    done = typed(tmp_path, erased.certificate, "--key", key_of(look), "--user-id", "alice@example.com")
    assert (done.returncode, done.stderr) == (0, "")
    result = verify_certificate(erased.certificate.encode(), key=key_of(look))
    assert (result.tenant, result.erasure_id, result.subject_id) == (look.tenant_id, erased.erasure_id, subject_id)
    assert result.counts == erased.counts
    assert set(result.reached) >= {"logical", "cryptographic", "store", "file", "wal"}


async def test_without_a_key_the_origin_is_not_established(look: Looker, tmp_path: Path) -> None:
    certificate = (await erase(look, "nobody")).certificate or ""
    assert typed(tmp_path, certificate).returncode == 3
    assert typed(tmp_path, certificate, "--key", key_of(look)).returncode == 0


async def test_a_certificate_of_nothing_found_is_evidence_too(look: Looker) -> None:
    erased = await erase(look, "nobody")
    result = verify_certificate((erased.certificate or "").encode(), key=key_of(look), user_id="nobody")
    assert result.subject_id is None
    assert any("nothing was kept" in note for note in result.notes)


async def test_every_byte_of_a_certificate_matters(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    raw = ((await erase(look, "alice")).certificate or "").encode()
    key = key_of(look)
    verify_certificate(raw, key=key)
    for at in range(len(raw)):
        for mask in (1, 32, 128):
            changed = bytearray(raw)
            changed[at] ^= mask
            with pytest.raises(VerificationError):
                verify_certificate(bytes(changed), key=key)


# Later levels


async def deepened(look: Looker, erased: Erasure, level: Level) -> str:
    """The certificate of the same erasure once a later level is reached."""
    erasing = look.runtime.gdpr._erasing
    store = erasing._store
    found = store.get(system_predicate(look.tenant_id, "test"), erased.erasure_id)
    now = look.runtime.pixeltable_config.clock()
    erasing.certify(store.mark(found, found.state, levels=(LevelState(level, now, evidence={"files": 4}),)))
    return await look.runtime.gdpr.certificate(erased.erasure_id, look.tenant_id)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Erasures return before the levels of the storage, as where windows are configured."""
    monkeypatch.setattr(PostgresRewriter, "at_once", lambda _: False)


@pytest.mark.usefixtures("later")
async def test_a_later_level_gets_a_new_certificate_that_follows_the_old_one(look: Looker, tmp_path: Path) -> None:
    await look.store(sample_memory("alice"))
    erased = await erase(look, "alice")
    first = erased.certificate or ""
    assert await look.runtime.gdpr.certificate(erased.erasure_id, look.tenant_id) == first
    await look.store(*[sample_memory("bob")] * 3)
    second, third = [await deepened(look, erased, level) for level in (Level.FILE, Level.WAL)]
    numbers = []
    for older, newer in ((first, second), (second, third)):
        (tmp_path / "old.json").write_text(older, "utf-8")
        done = typed(tmp_path, newer, "--key", key_of(look), "--user-id", "alice", "--previous", "old.json")
        assert (done.returncode, done.stderr) == (0, "")
        numbers.append(verify_certificate(newer.encode(), key=key_of(look)).number)
    assert numbers == [2, 3]
    assert "wal" in verify_certificate(third.encode(), key=key_of(look)).reached
    with pytest.raises(VerificationError, match="does not follow this certificate 1"):
        verify_certificate(third.encode(), key=key_of(look), previous=first.encode())


async def test_a_rotated_audit_key_certifies_for_who_holds_the_old_one_and_the_new(look: Looker) -> None:
    erased = await erase(look, "nobody")
    old = key_of(look)
    look.runtime.audit.rotate_key()
    new = key_of(look)
    second = await deepened(look, erased, Level.FILE)
    assert old != new
    for key in (old, new):
        assert verify_certificate(second.encode(), key=key, previous=(erased.certificate or "").encode()).number == 2
    with pytest.raises(VerificationError, match="does not vouch for"):
        # The first was made before there was a handover to the new key.
        verify_certificate((erased.certificate or "").encode(), key=new)


# Several at once


def another(look: Looker) -> CloudGDPRService:
    """The service as another process has it: nothing of this process keeps the two apart."""
    runtime = look.runtime
    return build_gdpr(
        runtime._installation, runtime.gdpr._admissions, runtime.audit, on_key_destroyed=runtime.keyring.note
    )


@pytest.mark.parametrize("step", ["erase.frozen", "erase.key_destroyed", "erase.rows_deleted", "erase.verified"])
@pytest.mark.usefixtures("later")
async def test_an_erasure_that_another_process_ends_meanwhile_keeps_what_was_certified(look: Looker, step: str) -> None:
    await look.store(*[sample_memory("alice")] * 3)
    found: list[Any] = []

    def overtaken() -> None:
        failpoints.disarm_all()
        another(look).resume()
        found.extend(look.erasures())

    failpoints.arm(step, overtaken)
    erased = await erase(look, "alice")
    ((first,), (now,)) = found, look.erasures()
    assert first.state == "certified"
    assert (now.levels, now.counts, now.certificate) == (first.levels, first.counts, first.certificate)
    second = await deepened(look, erased, Level.FILE)
    held = verify_certificate(second.encode(), key=key_of(look), previous=(erased.certificate or "").encode())
    assert held.number == 2


async def test_what_was_measured_before_an_erasure_was_cut_off_stays(look: Looker) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    await look.store(sample_memory("alice"))
    failpoints.arm("erase.rows_deleted", die)
    with pytest.raises(KeyboardInterrupt):
        await erase(look, "alice")
    failpoints.disarm_all()
    (before,) = look.erasures()
    assert look.runtime.gdpr.resume() == 1
    (after,) = look.erasures()
    assert after.state == "certified"
    assert {level: after.levels[level] for level in before.levels} == before.levels
    assert after.levels["cryptographic"]["evidence"]["destroyed_now"] == 1


async def test_no_two_certificates_of_an_erasure_have_the_same_number(look: Looker) -> None:
    """Two processes that read the row at the same time take the place of the same certificate: one does."""
    erased = await erase(look, "nobody")
    predicate, erasing = system_predicate(look.tenant_id, "test"), look.runtime.gdpr._erasing
    store, now = erasing._store, look.runtime.pixeltable_config.clock()

    def reached(level: Level) -> Erasure:
        found = store.get(predicate, erased.erasure_id)
        return store.mark(found, found.state, levels=(LevelState(level, now),))

    read = reached(Level.FILE)
    second, same = [erasing.handed_out(erasing.certify(read)).certificate for _ in range(2)]
    assert second == same, "what would be another number 2 is nobody's"
    reached(Level.WAL)
    third = erasing.handed_out(erasing.certify(read)).certificate
    key = key_of(look)
    chain = [text.encode() for text in (erased.certificate, second, third) if text is not None]
    assert [verify_certificate(text, key=key).number for text in chain] == [1, 2, 3]
    for older, newer in pairwise(chain):
        verify_certificate(newer, key=key, previous=older)
    assert set(verify_certificate(chain[2], key=key).reached) >= {"file", "wal"}, "no level is left uncertified"


# Whom it is about


async def test_who_knows_the_user_id_can_match_it_and_nobody_without_the_salt(look: Looker) -> None:
    raw = ((await erase(look, "alice@example.com")).certificate or "").encode()
    key = key_of(look)
    assert verify_certificate(raw, key=key, user_id="alice@example.com").user_matches
    with pytest.raises(VerificationError, match="about another person"):
        verify_certificate(raw, key=key, user_id="bob@example.com")
    without = json.loads(raw)
    del without["salt"]
    published = verify.canonical(without) + b"\n"
    verify_certificate(published, key=key)
    with pytest.raises(VerificationError, match="taken out of this file"):
        verify_certificate(published, key=key, user_id="alice@example.com")
    without["salt"] = "00" * 32
    with pytest.raises(VerificationError, match="not the one that this certificate was made with"):
        verify_certificate(verify.canonical(without) + b"\n", key=key)


async def test_nothing_that_is_kept_lets_a_user_id_be_guessed(look: Looker) -> None:
    """The salt is sealed in the control plane, and goes with the tenant's key."""
    erased = await erase(look, "alice")
    (row,) = look.erasures()
    salt = json.loads(erased.certificate or "")["salt"]
    assert salt not in row.certificate
    assert bytes.fromhex(salt) not in row.commitment_sealed
    certificates = look.runtime.gdpr._erasing._evidence.certifier
    assert certificates is not None
    look.runtime.closing.close(look.tenant_id, confirmed=True)
    handed_out = certificates.hand_out(look.tenant_id, row.certificate)
    assert "salt" not in json.loads(handed_out)
    verify_certificate(handed_out.encode(), key=key_of(look))


async def test_an_erasure_that_was_killed_is_certified_for_the_same_person(look: Looker) -> None:
    await look.store(sample_memory("alice"))

    def die() -> None:
        raise KeyboardInterrupt

    for step in ("erase.key_destroyed", "erase.verified"):
        await look.store(sample_memory("alice"))
        failpoints.arm(step, die)
        with pytest.raises(KeyboardInterrupt):
            await erase(look, "alice")
        failpoints.disarm_all()
        assert look.runtime.gdpr.resume() == 1
    for row in look.erasures():
        certificate = await look.runtime.gdpr.certificate(str(row.erasure_id), look.tenant_id)
        verify_certificate(certificate.encode(), key=key_of(look), user_id="alice")


async def test_there_is_no_certificate_of_what_is_not_there_or_not_done(look: Looker) -> None:
    request = await look.runtime.gdpr.request_erasure("alice", look.tenant_id)
    with pytest.raises(ErasureRequestError) as refused:
        await look.runtime.gdpr.certificate(request.erasure_id, look.tenant_id)
    assert refused.value.reason == "not_certified"
    with pytest.raises(ErasureRequestError) as absent:
        await look.runtime.gdpr.certificate(new_event_id(), look.tenant_id)
    assert absent.value.reason == "absent"


async def test_a_request_that_is_confirmed_is_certified_like_the_short_way(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    request = await look.runtime.gdpr.request_erasure("alice", look.tenant_id, identity="passport")
    seen = await look.runtime.gdpr.preview_request(request.erasure_id, look.tenant_id)
    done = await look.runtime.gdpr.confirm(request.erasure_id, look.tenant_id, seen=seen.digest)
    result = verify_certificate((done.certificate or "").encode(), key=key_of(look), user_id="alice")
    assert (result.erasure_id, result.number) == (request.erasure_id, 1)


async def test_what_joins_an_open_request_is_certified_under_that_one(look: Looker) -> None:
    await look.store(sample_memory("alice"))
    request = await look.runtime.gdpr.request_erasure("alice", look.tenant_id)
    done = await erase(look, "alice")
    assert done.erasure_id == request.erasure_id
    result = verify_certificate((done.certificate or "").encode(), key=key_of(look), user_id="alice")
    assert result.erasure_id == request.erasure_id

"""Every erasure ends with a certificate that holds where nothing of the service is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloud.gdpr import verify
from cloud.gdpr.model import Erasure
from cloud.gdpr.verify import VerificationError, verify_certificate
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
    assert set(result.reached) == {"logical", "cryptographic", "store"}


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

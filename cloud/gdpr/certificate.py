"""Builds certificates of erasure; pure. `cloud.gdpr.verify` verifies them, `docs/certificate-format.md` describes them.

Two forms of one certificate: *kept*, as the installation has it, with the commitment sealed under the tenant's key; and
*handed out*, with the salt instead. The signed part is the same, and tells without the salt of nobody.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import rfc8785

from cloud.audit.keyfile import AuditKeys
from cloud.audit.proofs import Proven, ProvenLeaf
from cloud.gdpr.catalog import CATALOG, OnErasure
from cloud.gdpr.levels import Level, LevelState
from cloud.gdpr.model import Erasure
from cloud.gdpr.verify import FORMAT, SALT_BYTES, commitment

SCRYPT: Final = {"n": 1 << 16, "r": 8, "p": 2}
"""64 MiB and a quarter of a second for each guess; one of the equivalent settings of OWASP's password storage sheet."""

KEPT: Final = {place.name: place.basis for place in CATALOG if place.on_erasure is OnErasure.ANONYMOUS}
"""Places that still hold the subject ids, and why."""


@dataclass(frozen=True, slots=True)
class Commitment:
    """Says whom a certificate is about to who knows the user id and the salt, and to nobody else.

    Attributes:
        salt: 32 random bytes.
        digest: 32 bytes.
    """

    salt: bytes = field(repr=False)
    digest: bytes

    @classmethod
    def to(cls, user_id: str, salt: bytes) -> Commitment:
        """A commitment to a user id."""
        return cls(salt, commitment(user_id, salt, **SCRYPT))

    @classmethod
    def parse(cls, raw: bytes) -> Commitment:
        """What `bytes` gave."""
        return cls(raw[:SALT_BYTES], raw[SALT_BYTES:])

    def bytes(self) -> bytes:
        """Salt and digest, to be sealed."""
        return self.salt + self.digest

    def document(self) -> dict[str, object]:
        """As a certificate has it: without the salt, which can be told apart from others by its own digest."""
        return {
            "algorithm": "scrypt",
            **SCRYPT,
            "digest": self.digest.hex(),
            "salt_sha256": hashlib.sha256(self.salt).hexdigest(),
        }


def certificate_body(
    erasure: Erasure,
    proven: Proven,
    keys: AuditKeys,
    *,
    person: object,
    previous: Mapping[str, object] | None,
    software: str,
    now: datetime,
) -> dict[str, object]:
    """What a certificate claims.

    Args:
        erasure: The erasure, with the levels as they are now.
        proven: The events that announced it, if there was something to erase, and ended it.
        keys: The installation's audit keys; the last one signs.
        person: `Commitment.document` of whom it is about, or `None`.
        previous: What the certificate claims whose place it takes.
        software: The version that issues it.
        now: The present (UTC).
    """
    log = keys.origin(erasure.tenant_id)
    intent, outcome = proven.leaves if len(proven.leaves) == 2 else (None, *proven.leaves)
    number = previous["number"] if previous is not None else 0
    assert isinstance(number, int)
    assert outcome is not None
    assert erasure.completed_at is not None
    return {
        "format": FORMAT,
        "number": number + 1,
        "previous": None if previous is None else hashlib.sha256(canonical(previous)).hexdigest(),
        "issued_at": instant(now),
        "software": {"name": "luminescent-cloud", "version": software},
        "key": keys.current.verifier(log).text(),
        "handovers": keys.handovers(erasure.tenant_id),
        "log": log,
        "tenant": erasure.tenant_id,
        "request": {
            "id": erasure.erasure_id,
            "requested_at": instant(erasure.requested_at),
            "completed_at": instant(erasure.completed_at),
        },
        "of": "tenant" if erasure.whole_tenant else "person",
        "subject": erasure.subject_id,
        "person": person,
        "counts": dict(erasure.counts),
        "kept": KEPT if erasure.whole_tenant or erasure.subject_id is not None else {},
        "levels": _levels(erasure.levels),
        "intent": None if intent is None else _witness(intent),
        "outcome": _witness(outcome),
        "checkpoint": proven.checkpoint,
    }


def kept_text(body: Mapping[str, object], keys: AuditKeys, sealed: bytes | None) -> str:
    """The certificate as the installation keeps it: signed, with the commitment sealed."""
    signature = keys.current.statement(FORMAT, canonical(body))
    document: dict[str, object] = {"certificate": body, "signature": base64.b64encode(signature).decode()}
    if sealed is not None:
        document["sealed"] = base64.b64encode(sealed).decode()
    return canonical(document).decode() + "\n"


def handed_out_text(kept: str, salt: bytes | None) -> str:
    """The certificate as whoever asked for it gets it."""
    document = json.loads(kept)
    document.pop("sealed", None)
    if salt is not None:
        document["salt"] = salt.hex()
    return canonical(document).decode() + "\n"


def body_of(kept: str) -> dict[str, object]:
    """What a certificate claims that this installation keeps."""
    body = json.loads(kept)["certificate"]
    assert isinstance(body, dict)
    return body


def tells_levels(kept: str, levels: Mapping[Level, LevelState]) -> bool:
    """Whether a certificate that this installation keeps claims these levels, and no others."""
    return body_of(kept)["levels"] == _levels(levels)


def sealed_of(kept: str) -> bytes | None:
    """The sealed commitment of a certificate that this installation keeps."""
    sealed = json.loads(kept).get("sealed")
    return None if sealed is None else base64.b64decode(sealed)


def canonical(document: Mapping[str, object]) -> bytes:
    """Canonical JSON (RFC 8785)."""
    return rfc8785.dumps(dict(document))  # type: ignore[arg-type]


def instant(moment: datetime) -> str:
    """A time as certificates have it: UTC, microseconds, `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _levels(known: Mapping[Level, LevelState]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for level in Level:
        state = known.get(level, LevelState(level, None))
        due_at = state.due_at if state.reached_at is None else None
        found.append(
            {
                "level": level.value,
                "reached_at": None if state.reached_at is None else instant(state.reached_at),
                "due_at": None if due_at is None else instant(due_at),
                "evidence": dict(state.evidence),
            }
        )
    return found


def _witness(leaf: ProvenLeaf) -> dict[str, object]:
    return {"event": leaf.event, "index": leaf.index, "proof": [step.hex() for step in leaf.proof]}

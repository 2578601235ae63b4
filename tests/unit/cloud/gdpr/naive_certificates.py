"""A second verifier of certificates, from `docs/certificate-format.md` alone: no code shared with the first."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
LEVELS = ["logical", "cryptographic", "store", "file", "wal", "backups"]
TOP = {
    *("format", "number", "previous", "issued_at", "software", "key", "handovers", "log", "tenant", "request"),
    *("of", "subject", "person", "counts", "kept", "levels", "intent", "outcome", "checkpoint"),
}


def agrees(raw: bytes, vkey: str, user_id: str | None = None) -> bool:
    """Whether the certificate holds under this key, and is about this user id."""
    try:
        check(raw, vkey, user_id)
    except (AssertionError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return False
    return True


def check(raw: bytes, vkey: str, user_id: str | None) -> None:
    document = json.loads(raw.decode("utf-8"), object_pairs_hook=no_name_twice, parse_float=refuse)
    assert rfc8785.dumps(document) + b"\n" == raw
    assert len(raw) <= 4 * 1024 * 1024
    assert set(document) in ({"certificate", "signature"}, {"certificate", "signature", "salt"})
    body = document["certificate"]
    form(body)
    keys = trusted(vkey, body["handovers"])
    assert body["key"] in keys
    name = vkey.split("+")[0]
    assert body["log"] == name
    assert name.endswith("/" + body["tenant"])
    signed = b"luminescent-erasure-certificate/1\n" + rfc8785.dumps(body)
    assert ed25519(body["key"], b64(document["signature"]), signed)
    (head,) = {text for key in keys if (text := opened(body["checkpoint"], key)) is not None}
    origin, size, root, end = head.split("\n")
    assert (origin, end) == (name, "")
    assert re.fullmatch("[1-9][0-9]*", size)
    begun, ended = {
        "person": ("gdpr.erase.step", "gdpr.erase"),
        "tenant": ("tenant.close.step", "tenant.close"),
    }[body["of"]]
    for which, action in (("intent", begun), ("outcome", ended)):
        found = body[which]
        if found is None:
            assert which == "intent"
            assert body["of"] == "person"
            assert body["subject"] is None
            continue
        event = found["event"]
        assert event["log_id"] == body["tenant"]
        assert event["subject_id"] == body["subject"]
        assert event["details"]["erasure_id"] == body["request"]["id"]
        assert (event["outcome"], event["action"]) == ("allowed", action)
        leaf = sha(b"\x00" + rfc8785.dumps(event))
        steps = [bytes.fromhex(step) for step in found["proof"]]
        assert climbed(leaf, found["index"], int(size), steps) == b64(root)
    assert body["outcome"]["event"]["counts"] == body["counts"]
    assert body["intent"] is None or body["intent"]["index"] < body["outcome"]["index"]
    if "salt" in document:
        assert re.fullmatch("[0-9a-f]{64}", document["salt"])
        assert sha(bytes.fromhex(document["salt"])).hex() == body["person"]["salt_sha256"]
    if user_id is not None:
        assert body["of"] == "person"
        person = body["person"]
        kdf = Scrypt(bytes.fromhex(document["salt"]), 32, person["n"], person["r"], person["p"])
        assert kdf.derive(user_id.encode()).hex() == person["digest"]


def form(body: Any) -> None:
    assert set(body) == TOP
    assert body["format"] == "luminescent-erasure-certificate/1"
    whole(body["number"], 1)
    assert (body["previous"] is None) == (body["number"] == 1)
    assert body["previous"] is None or re.fullmatch("[0-9a-f]{64}", body["previous"])
    assert set(body["software"]) == {"name", "version"}
    assert set(body["request"]) == {"id", "requested_at", "completed_at"}
    for text in (*body["software"].values(), *body["kept"].values(), *body["handovers"]):
        assert isinstance(text, str)
        assert text
    for text in (body["key"], body["log"], body["tenant"], body["checkpoint"]):
        assert isinstance(text, str)
        assert text
    assert isinstance(body["handovers"], list)
    for time in (body["issued_at"], body["request"]["requested_at"], body["request"]["completed_at"]):
        assert re.fullmatch(TIME, time)
    assert re.fullmatch(UUID, body["request"]["id"])
    assert body["subject"] is None or re.fullmatch(UUID, body["subject"])
    for count in body["counts"].values():
        whole(count, 0)
    assert body["of"] in ("person", "tenant")
    assert body["of"] == "person" or (body["subject"], body["person"]) == (None, None)
    person = body["person"]
    if person is not None:
        assert set(person) == {"algorithm", "n", "r", "p", "digest", "salt_sha256"}
        assert person["algorithm"] == "scrypt"
        n, r, p = (person[name] for name in "nrp")
        for number in (n, r, p):
            whole(number, 1)
        assert n >= 2
        assert bin(n).count("1") == 1
        assert p <= 64
        assert 128 * r * (n + p) <= 2**30
        assert all(re.fullmatch("[0-9a-f]{64}", person[name]) for name in ("digest", "salt_sha256"))
    assert [level["level"] for level in body["levels"]] == LEVELS
    for number, level in enumerate(body["levels"]):
        assert set(level) == {"level", "reached_at", "due_at", "evidence"}
        reached, due = level["reached_at"], level["due_at"]
        assert all(time is None or re.fullmatch(TIME, time) for time in (reached, due))
        assert reached is None or due is None
        assert reached is not None or number > 2
        assert all(type(fact) in (int, str) for fact in level["evidence"].values())
    for which in ("intent", "outcome"):
        if body[which] is not None:
            assert set(body[which]) == {"event", "index", "proof"}
            whole(body[which]["index"], 0)
            assert isinstance(body[which]["proof"], list)
            assert len(body[which]["proof"]) <= 64
            assert all(re.fullmatch("[0-9a-f]{64}", step) for step in body[which]["proof"])


def climbed(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """The root that a proof leads to, by the recursion that makes it (RFC 9162 §2.1.3.1)."""
    assert index < size
    if size == 1:
        assert not proof
        return leaf
    half = 1
    while half * 2 < size:
        half *= 2
    if index < half:
        return sha(b"\x01" + climbed(leaf, index, half, proof[:-1]) + proof[-1])
    return sha(b"\x01" + proof[-1] + climbed(leaf, index - half, size - half, proof[:-1]))


def trusted(vkey: str, handovers: list[str]) -> set[str]:
    keys = {vkey}
    for _ in handovers:
        for note in handovers:
            for key in list(keys):
                text = opened(note, key)
                if text is not None:
                    title, *named, end = text.split("\n")
                    assert (title, end) == ("luminescent audit key rotation", "")
                    assert len(named) == 2
                    assert key in named
                    assert all(one.split("+")[0] == vkey.split("+")[0] for one in named)
                    keys |= set(named)
    return keys


def opened(note: str, vkey: str) -> str | None:
    if not re.search("\n\n(— [^\\s]+ [^\\s]+\n)+$", note):
        return None
    text, _, signatures = note.rpartition("\n\n")
    name, _, encoded = vkey.split("+", 2)
    for line in signatures.removesuffix("\n").split("\n"):
        _, signer, blob = line.split(" ")
        try:
            raw = b64(blob)
        except (ValueError, AssertionError):
            return None
        if signer == name and raw[:4] == sha(name.encode() + b"\n" + b64(encoded))[:4]:
            return text + "\n" if ed25519(vkey, raw[4:], (text + "\n").encode()) else None
    return None


def ed25519(vkey: str, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(b64(vkey.split("+", 2)[2])[1:]).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def whole(number: Any, least: int) -> None:
    assert type(number) is int
    assert least <= number < 2**53


def no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def refuse(_: str) -> None:
    raise ValueError


def b64(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    assert base64.b64encode(raw).decode() == text
    return raw


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()

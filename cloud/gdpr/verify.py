"""Verifies a certificate of erasure: this one file, Python's standard library, and `cryptography` for Ed25519.

    python verify.py CERT --key VKEY [--user-id USER] [--previous OLD]

It needs nothing of the service and no network, and it shares no code with it, so that who trusts neither can read all
of it. `docs/certificate-format.md` describes the format, so that another program can be written from the text alone.

What holds when it ends with 0: the holder of VKEY signed every byte of what the certificate claims; the events that
announced and ended the erasure are leaves of the tenant's audit log, whose head is signed too, and say of the same
request, the same subject or the whole tenant, and the same counts what the certificate says; and, where they were
given, the certificate is about USER and follows OLD.

Exit codes: 0 all of it holds; 1 something does not; 2 the call cannot be understood; 3 everything fits together, but
without `--key` it is not established who signed it.

Source: RFC 8785 (canonical JSON); RFC 9162 §2.1 (inclusion); C2SP signed-note and tlog-checkpoint; RFC 7914 (scrypt).
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import hmac
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "luminescent-erasure-certificate/1"
ROTATION = "luminescent audit key rotation"
ACTIONS = {"person": ("gdpr.erase.step", "gdpr.erase"), "tenant": ("tenant.close.step", "tenant.close")}
WHAT = {"person": "erasure", "tenant": "closing"}
LEVELS = ("logical", "cryptographic", "store", "file", "wal", "backups")
ALWAYS_REACHED = LEVELS[:3]
SALT_BYTES = DIGEST_BYTES = 32
MAX_BYTES = 4 << 20
MAX_INTEGER = 2**53 - 1
MAX_SIGNATURES = 16
MAX_SCRYPT_BYTES = 1 << 30
_ED25519 = 1
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


class VerificationError(ValueError):
    """Something does not hold; the message says what and where."""


@dataclass(frozen=True)
class Result:
    """What was found to hold.

    Attributes:
        tenant: The tenant.
        erasure_id: The request.
        of: `person`, or `tenant` if everybody of the tenant was erased with it.
        subject_id: The subject that was erased; `None` if nothing was kept of the person, and for a tenant.
        number: Which certificate of this request it is, from 1 on.
        counts: What was removed, by entry of the data map.
        reached: Levels that are reached, each with its time.
        to_come: Levels that are not, each with the time at which it is due, if that is known.
        user_matches: Whether it is about the user id that the caller gave; `None` if none was given.
        origin_established: Whether it is signed by a key that the caller gave.
        notes: What else there is to say, a sentence each.
    """

    tenant: str
    erasure_id: str
    of: str
    subject_id: str | None
    number: int
    counts: Mapping[str, int]
    reached: Mapping[str, str]
    to_come: Mapping[str, str | None]
    user_matches: bool | None
    origin_established: bool
    notes: tuple[str, ...]


def verify_certificate(
    raw: bytes, *, key: str | None = None, user_id: str | None = None, previous: bytes | None = None
) -> Result:
    """Return what holds of a certificate, after checking all of it.

    Args:
        raw: The file.
        key: The verifier key of the tenant's log, from a source that whoever issued it does not control.
        user_id: Whom it should be about.
        previous: The certificate that it should follow.

    Raises:
        VerificationError: Something does not hold.
    """
    certificate = opened(raw, "the certificate")
    body, where = certificate["certificate"], "certificate"
    keys = _trusted_keys(body, key)
    _require_signature(certificate, keys)
    if body["log"] != keys[0].name or not body["log"].endswith(f"/{body['tenant']}"):
        _fail(f"{where}.log", f"{body['log']!r} is not the log of tenant {body['tenant']!r} under this key")
    _require_witnesses(body, keys)
    salt = _require_salt(certificate)
    if user_id is not None and body["of"] == "tenant":
        _fail("certificate.of", "it is about a whole tenant, and names nobody of it")
    matches = None if user_id is None else _require_user(body["person"], salt, user_id)
    if previous is not None:
        _require_follows(body, previous, keys)
    reached = {level["level"]: level["reached_at"] for level in body["levels"] if level["reached_at"] is not None}
    to_come = {level["level"]: level["due_at"] for level in body["levels"] if level["reached_at"] is None}
    return Result(
        tenant=body["tenant"],
        erasure_id=body["request"]["id"],
        of=body["of"],
        subject_id=body["subject"],
        number=body["number"],
        counts=body["counts"],
        reached=reached,
        to_come=to_come,
        user_matches=matches,
        origin_established=key is not None,
        notes=tuple(_remarks(body, key, user_id, previous)),
    )


def _remarks(body: Mapping[str, Any], key: str | None, user_id: str | None, previous: bytes | None) -> Iterator[str]:
    if key is None:
        yield "origin not established: give the log's verifier key with --key"
    if body["of"] == "tenant":
        yield "it is about the whole tenant: everybody of it was erased when it was closed"
    elif user_id is None:
        yield "not checked whom it is about: give the person's user id with --user-id"
    if body["of"] == "person" and body["subject"] is None:
        yield "nothing was kept of the person when the erasure was asked for"
    if body["number"] > 1 and previous is None:
        yield f"it takes the place of certificate {body['number'] - 1}: give that one with --previous to compare them"


# The file


def opened(raw: bytes, name: str) -> dict[str, Any]:
    """A certificate whose form is right, down to the last byte; nothing is said of signatures yet.

    Args:
        raw: The file.
        name: What messages call it.

    Raises:
        VerificationError: The form is not right.
    """
    if len(raw) > MAX_BYTES:
        _fail(name, f"larger than {MAX_BYTES} bytes")
    try:
        document = json.loads(
            raw.decode(), object_pairs_hook=_object, parse_float=_no_fraction, parse_constant=_no_fraction
        )
        same = canonical(document) + b"\n" == raw
    except VerificationError as error:
        _fail(name, str(error))
    except UnicodeError:
        _fail(name, "not UTF-8")
    except (ValueError, RecursionError):
        _fail(name, "not JSON")
    if not same:
        _fail(name, "not in canonical form (RFC 8785) with one newline at its end: it was written by something else")
    _require_shape(document)
    return dict(document)


def canonical(value: object) -> bytes:
    """A value without fractions as canonical JSON (RFC 8785).

    Raises:
        VerificationError: It holds an integer that not every reader keeps exactly.
    """
    return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _ordered(value: object) -> object:
    match value:
        case dict():
            # By UTF-16 code units, as RFC 8785 §3.2.3 has it: code points sort otherwise beyond U+FFFF.
            return {key: _ordered(value[key]) for key in sorted(value, key=lambda key: key.encode("utf-16-be"))}
        case list():
            return [_ordered(item) for item in value]
        case bool():
            return value
        case int() if abs(value) > MAX_INTEGER:
            raise VerificationError("an integer is beyond 2^53 - 1")
        case _:
            return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for at, (key, _) in enumerate(pairs) if key in {earlier for earlier, _ in pairs[:at]})
        raise VerificationError(f"{twice!r} stands in one object twice")
    return found


def _no_fraction(text: str) -> NoReturn:
    raise VerificationError(f"the number {text} is no integer")


# Its shape


def _fail(where: str, problem: str) -> NoReturn:
    raise VerificationError(f"{where}: {problem}")


def _fields(value: object, where: str, required: Sequence[str], optional: Sequence[str] = ()) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        _fail(where, "not an object")
    for name in value:
        if name not in required and name not in optional:
            _fail(where, f"unknown field {name!r}")
    for name in required:
        if name not in value:
            _fail(where, f"{name!r} is missing")
    return value


def _text(value: object, where: str, form: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or not value or (form is not None and not form.fullmatch(value)):
        _fail(where, "not a text of the right form")
    return value


def _time(value: object, where: str) -> str:
    text = _text(value, where, _TIME)
    try:
        datetime.fromisoformat(text)
    except ValueError:
        _fail(where, f"{text} is no time")
    return text


def _integer(value: object, where: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        _fail(where, f"not an integer of at least {least}")
    return value


def _digest(value: object, where: str) -> bytes:
    raw = bytes.fromhex(_text(value, where, _HEX))
    if len(raw) != DIGEST_BYTES:
        _fail(where, f"not {DIGEST_BYTES} bytes in hexadecimal")
    return raw


def _entries(value: object, where: str) -> Iterable[tuple[str, object]]:
    if not isinstance(value, dict):
        _fail(where, "not an object")
    return value.items()


def _require_shape(document: object) -> None:
    top = _fields(document, "the file", ("certificate", "signature"), ("salt",))
    where = "certificate"
    body = _fields(
        top["certificate"],
        where,
        (
            *("format", "number", "previous", "issued_at", "software", "key", "handovers", "log", "tenant"),
            *("request", "of", "subject", "person", "counts", "kept", "levels", "intent", "outcome", "checkpoint"),
        ),
    )
    if body["format"] != FORMAT:
        _fail(f"{where}.format", f"{body['format']!r} is not {FORMAT!r}")
    number = _integer(body["number"], f"{where}.number", 1)
    if (body["previous"] is None) != (number == 1):
        _fail(f"{where}.previous", f"certificate {number} {'has none' if number == 1 else 'follows another one'}")
    if body["previous"] is not None:
        _digest(body["previous"], f"{where}.previous")
    _time(body["issued_at"], f"{where}.issued_at")
    for name in ("name", "version"):
        _text(_fields(body["software"], f"{where}.software", ("name", "version"))[name], f"{where}.software.{name}")
    for name in ("key", "log", "tenant", "checkpoint"):
        _text(body[name], f"{where}.{name}")
    if not isinstance(body["handovers"], list):
        _fail(f"{where}.handovers", "not an array")
    for at, note in enumerate(body["handovers"]):
        _text(note, f"{where}.handovers[{at}]")
    request = _fields(body["request"], f"{where}.request", ("id", "requested_at", "completed_at"))
    _text(request["id"], f"{where}.request.id", _UUID)
    for name in ("requested_at", "completed_at"):
        _time(request[name], f"{where}.request.{name}")
    if not isinstance(body["of"], str) or body["of"] not in ACTIONS:
        _fail(f"{where}.of", f"{body['of']!r} is none of {', '.join(ACTIONS)}")
    for name in ("subject", "person"):
        if body["of"] == "tenant" and body[name] is not None:
            _fail(f"{where}.{name}", "it is about a whole tenant, and names one person")
    if body["subject"] is not None:
        _text(body["subject"], f"{where}.subject", _UUID)
    _require_person_shape(body["person"], f"{where}.person")
    for name, count in _entries(body["counts"], f"{where}.counts"):
        _integer(count, f"{where}.counts.{name}")
    for name, reason in _entries(body["kept"], f"{where}.kept"):
        _text(reason, f"{where}.kept.{name}")
    _require_levels_shape(body["levels"], f"{where}.levels")
    for name in ("intent", "outcome"):
        if name == "outcome" or body[name] is not None:
            _require_witness_shape(body[name], f"{where}.{name}")


def _require_person_shape(value: object, where: str) -> None:
    if value is None:
        return
    person = _fields(value, where, ("algorithm", "n", "r", "p", "digest", "salt_sha256"))
    if person["algorithm"] != "scrypt":
        _fail(f"{where}.algorithm", f"{person['algorithm']!r} is not 'scrypt'")
    n, r, p = (_integer(person[name], f"{where}.{name}", 1) for name in ("n", "r", "p"))
    if n < 2 or n & (n - 1) or 128 * r * (n + p) > MAX_SCRYPT_BYTES or p > 64:
        _fail(where, "these parameters of scrypt are none, or ask for too much")
    _digest(person["digest"], f"{where}.digest")
    _digest(person["salt_sha256"], f"{where}.salt_sha256")


def _require_levels_shape(value: object, where: str) -> None:
    if not isinstance(value, list) or len(value) != len(LEVELS):
        _fail(where, f"not the {len(LEVELS)} levels {', '.join(LEVELS)}")
    for at, (name, entry) in enumerate(zip(LEVELS, value, strict=True)):
        level = _fields(entry, f"{where}[{at}]", ("level", "reached_at", "due_at", "evidence"))
        here = f"{where}[{at}] ({name})"
        if level["level"] != name:
            _fail(here, f"speaks of {level['level']!r}")
        for which in ("reached_at", "due_at"):
            if level[which] is not None:
                _time(level[which], f"{here}.{which}")
        if level["reached_at"] is not None and level["due_at"] is not None:
            _fail(here, "reached, and still to come")
        if level["reached_at"] is None and name in ALWAYS_REACHED:
            _fail(here, "not reached: an erasure is certified only after it")
        for key, fact in _entries(level["evidence"], f"{here}.evidence"):
            if isinstance(fact, bool) or not isinstance(fact, int | str):
                _fail(f"{here}.evidence.{key}", "neither an integer nor a text")


def _require_witness_shape(value: object, where: str) -> None:
    witness = _fields(value, where, ("event", "index", "proof"))
    if not isinstance(witness["event"], dict):
        _fail(f"{where}.event", "not an object")
    _integer(witness["index"], f"{where}.index")
    if not isinstance(witness["proof"], list) or len(witness["proof"]) > 64:
        _fail(f"{where}.proof", "not an array of at most 64 hashes")
    for at, step in enumerate(witness["proof"]):
        _digest(step, f"{where}.proof[{at}]")


# Who signed it


def _trusted_keys(body: Mapping[str, Any], key: str | None) -> list[VerifierKey]:
    """The caller's key, or else the one that the certificate names, and every key that one of them shared a handover
    with: a handover is signed by the former key and the next, so trust in either reaches the other."""
    pinned = VerifierKey.parse(body["key"] if key is None else key, "certificate.key" if key is None else "--key")
    keys = [pinned]
    handovers = body["handovers"]
    for note in (*handovers, *reversed(handovers)):
        for known in list(keys):
            text = signed_text(note, known)
            if text is not None:
                keys += [one for one in _handed_over(text, known) if one not in keys]
    return keys


def _handed_over(text: str, signer: VerifierKey) -> list[VerifierKey]:
    where, lines = "certificate.handovers", text.split("\n")
    if len(lines) != 4 or lines[0] != ROTATION or lines[3]:
        _fail(where, f"a note of {signer.name} says something else than a handover")
    keys = [VerifierKey.parse(line, where) for line in lines[1:3]]
    if signer not in keys or any(key.name != signer.name for key in keys):
        _fail(where, f"a handover of {signer.name} is between other keys")
    return keys


def _require_signature(certificate: Mapping[str, Any], keys: Sequence[VerifierKey]) -> None:
    body = certificate["certificate"]
    signer = VerifierKey.parse(body["key"], "certificate.key")
    if signer not in keys:
        _fail("certificate.key", f"signed by {signer.short()}, which {keys[0].short()} does not vouch for")
    signature = _base64(_text(certificate["signature"], "signature"), "signature")
    if not signer.signed(signature, statement(body)):
        _fail("signature", "it is not the one of this certificate: a byte of it was changed")


def statement(body: Mapping[str, Any]) -> bytes:
    """What is signed: a first line that no other signature of the same key has, and the certificate."""
    return FORMAT.encode() + b"\n" + canonical(body)


@dataclass(frozen=True)
class VerifierKey:
    """A public key that signs under a name."""

    name: str
    key_id: bytes
    public: bytes

    @classmethod
    def parse(cls, text: str, where: str) -> VerifierKey:
        """A key written as `<name>+<key id>+<base64(type ‖ public key)>`.

        Raises:
            VerificationError: It is none, or its id is not that of name and key.
        """
        name, key_id, encoded = (text.strip().split("+", 2) + ["", ""])[:3]
        raw = _base64(encoded, where)
        usable = name and name.isprintable() and not any(character.isspace() for character in name)
        if not usable or len(raw) != 33 or raw[0] != _ED25519:
            _fail(where, "no Ed25519 key of the form NAME+ID+KEY")
        if hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4].hex() != key_id:
            _fail(where, "the id of the verifier key is not that of its name and key")
        return cls(name, bytes.fromhex(key_id), raw[1:])

    def short(self) -> str:
        """Name and id."""
        return f"{self.name}+{self.key_id.hex()}"

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made this signature of this message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def signed_text(note: str, key: VerifierKey) -> str | None:
    """The text of a note with its final newline, if `key` signed it and the note is well formed."""
    text, separator, signatures = note.rpartition("\n\n")
    lines = signatures.split("\n")
    if not separator or lines.pop() != "" or not 0 < len(lines) <= MAX_SIGNATURES:
        return None
    for line in lines:
        found = re.fullmatch(r"— (\S+) (\S+)", line)
        if not found:
            return None
        try:
            blob = _base64(found[2], "a signature of a note")
        except VerificationError:
            return None
        if found[1] == key.name and blob[:4] == key.key_id:
            return f"{text}\n" if key.signed(blob[4:], f"{text}\n".encode()) else None
    return None


def _base64(text: str, where: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        _fail(where, "not base64")
    if base64.b64encode(raw).decode() != text:
        _fail(where, "not canonical base64")
    return raw


# What the audit log says


def _require_witnesses(body: Mapping[str, Any], keys: Sequence[VerifierKey]) -> None:
    """Both events are leaves of the log whose head is signed, and say what the certificate says."""
    size, root = _checkpoint(body, keys)
    wanted = {
        "log_id": body["tenant"],
        "subject_id": body["subject"],
        "details.erasure_id": body["request"]["id"],
        "outcome": "allowed",
    }
    for name, action in zip(("intent", "outcome"), ACTIONS[body["of"]], strict=True):
        witness, where = body[name], f"certificate.{name}"
        if witness is None:
            if body["of"] == "tenant" or body["subject"] is not None:
                _fail(where, "there is none: nobody announced what is erased")
            continue
        _require_facts(witness["event"], {**wanted, "action": action}, where)
        proof = [bytes.fromhex(step) for step in witness["proof"]]
        leaf = hashlib.sha256(b"\x00" + canonical(witness["event"])).digest()
        _require_inclusion(leaf, witness["index"], size, proof, root, where)
    if body["outcome"]["event"].get("counts") != body["counts"]:
        _fail("certificate.counts", "not what the event of the outcome says was removed")
    if body["intent"] is not None and body["intent"]["index"] >= body["outcome"]["index"]:
        _fail("certificate.intent", "the erasure was announced after it had ended")


def _require_facts(event: Mapping[str, Any], wanted: Mapping[str, str | None], where: str) -> None:
    details = event.get("details")
    facts = {**event, "details.erasure_id": details.get("erasure_id") if isinstance(details, dict) else None}
    for name, value in wanted.items():
        if name not in facts or facts[name] != value:
            _fail(f"{where}.event", f"{name} is not {value!r}: it is an event of something else")


def _checkpoint(body: Mapping[str, Any], keys: Sequence[VerifierKey]) -> tuple[int, bytes]:
    where = "certificate.checkpoint"
    text = next((text for key in keys if (text := signed_text(body["checkpoint"], key)) is not None), None)
    if text is None:
        _fail(where, "not signed by a key of this log")
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or lines[0] != body["log"] or not re.fullmatch(r"[1-9][0-9]{0,15}", lines[1]):
        _fail(where, "not a head of this log")
    root = _base64(lines[2], where)
    if len(root) != DIGEST_BYTES:
        _fail(where, f"the root does not have {DIGEST_BYTES} bytes")
    return int(lines[1]), root


def _require_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes, where: str) -> None:
    """Return if the leaf with this hash is leaf `index` of the tree with this size and root (RFC 9162 §2.1.3.2)."""
    if index >= size:
        _fail(f"{where}.index", f"the checkpoint's tree of {size} leaves has no leaf {index}")
    fn, sn, computed = index, size - 1, leaf
    for step in proof:
        if sn == 0:
            _fail(f"{where}.proof", "too long")
        if fn % 2 or fn == sn:
            computed = hashlib.sha256(b"\x01" + step + computed).digest()
            while not fn % 2 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            computed = hashlib.sha256(b"\x01" + computed + step).digest()
        fn, sn = fn >> 1, sn >> 1
    if sn:
        _fail(f"{where}.proof", "too short")
    if computed != root:
        _fail(f"{where}.proof", "it leads to another root than the checkpoint's: the event is not in the log as it is")


# Whom it is about, and what it follows


def commitment(user_id: str, salt: bytes, *, n: int, r: int, p: int) -> bytes:
    """What a certificate says of a person: 32 bytes that take scrypt's time and memory to compare a user id with."""
    password = user_id.encode("utf-8", "surrogatepass")
    memory = 128 * r * (n + p) + (1 << 20)
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=DIGEST_BYTES)


def _require_salt(certificate: Mapping[str, Any]) -> bytes | None:
    """The salt that was handed out with the certificate, if it is still there; it is the one that was committed to."""
    if "salt" not in certificate:
        return None
    person = certificate["certificate"]["person"]
    salt = _digest(certificate["salt"], "salt")
    if person is None or hashlib.sha256(salt).hexdigest() != person["salt_sha256"]:
        _fail("salt", "not the one that this certificate was made with")
    return salt


def _require_user(person: Mapping[str, Any] | None, salt: bytes | None, user_id: str) -> bool:
    if person is None:
        _fail("certificate.person", "it does not say whom it is about: whoever asked for it named nobody")
    if salt is None:
        _fail("salt", "it was taken out of this file: without it nobody can tell whom the certificate is about")
    found = commitment(user_id, salt, n=person["n"], r=person["r"], p=person["p"])
    if not hmac.compare_digest(found, bytes.fromhex(person["digest"])):
        _fail("certificate.person", "it is about another person than this user id")
    return True


def _require_follows(body: Mapping[str, Any], previous: bytes, keys: Sequence[VerifierKey]) -> None:
    earlier = opened(previous, "the previous certificate")
    _require_signature(earlier, keys)
    old = earlier["certificate"]
    if body["previous"] != hashlib.sha256(canonical(old)).hexdigest() or body["number"] != old["number"] + 1:
        _fail("certificate.previous", f"it does not follow this certificate {old['number']}")
    for name in ("tenant", "request", "of", "subject", "person", "counts"):
        if body[name] != old[name]:
            _fail(f"certificate.{name}", "not what the previous certificate says")
    for now, before in zip(body["levels"], old["levels"], strict=True):
        if before["reached_at"] is not None and now["reached_at"] != before["reached_at"]:
            _fail("certificate.levels", f"{now['level']} was reached at another time before")


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="verify.py", description="Verify a certificate of erasure.")
    parser.add_argument("certificate", type=Path, metavar="CERT", help="the certificate")
    parser.add_argument("--key", metavar="VKEY", help="verifier key of the tenant's log, from a source of your own")
    parser.add_argument("--user-id", metavar="USER", help="whom it should be about")
    parser.add_argument("--previous", type=Path, metavar="OLD", help="the certificate that it should follow")
    given = parser.parse_args(arguments)
    try:
        old = given.previous.read_bytes() if given.previous else None
        result = verify_certificate(given.certificate.read_bytes(), key=given.key, user_id=given.user_id, previous=old)
    except (VerificationError, OSError) as error:
        sys.stderr.write(f"does not hold: {error}\n")
        return 1
    for note in result.notes:
        sys.stderr.write(f"note: {note}\n")
    for level, reached_at in result.reached.items():
        sys.stdout.write(f"{level}: reached {reached_at}\n")
    for level, due_at in result.to_come.items():
        sys.stdout.write(f"{level}: {'due ' + due_at if due_at else 'to come'}\n")
    sys.stdout.write(
        f"certificate {result.number} of {WHAT[result.of]} {result.erasure_id} in {result.tenant}: holds\n"
    )
    return 0 if result.origin_established else 3


if __name__ == "__main__":
    sys.exit(main())

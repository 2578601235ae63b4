"""Laws of the verifier: it says what is wrong and where, and agrees with another one on any certificate."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.audit.canonical import canonical
from cloud.audit.heads import Head
from cloud.audit.keyfile import AuditKeys
from cloud.audit.merkle import root_of
from cloud.audit.proofs import Leaf, proven
from cloud.audit.signing import SigningKey
from cloud.audit.tiles import Place, appended, subtrees
from cloud.audit.verify import Checkpoint, leaf_hash
from cloud.gdpr import verify
from cloud.gdpr.certificate import Commitment, certificate_body, handed_out_text, kept_text
from cloud.gdpr.levels import AT_ONCE, Level, LevelState
from cloud.gdpr.model import Erasure, ErasureState
from cloud.gdpr.verify import VerificationError, verify_certificate
from tests.unit.cloud.gdpr.naive_certificates import agrees

NOW = datetime(2026, 11, 5, 9, 30, 17, 250_000, UTC)
KEYS = AuditKeys("0123456789abcdef", (SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)))
COMMITTED = Commitment.to("alice@example.com", b"\x07" * 32)
SUBJECT = "7d9f1c52-7a0f-4f50-9f4e-0f2b8a0c7e11"
ERASURE = "0199a3c0-1b2c-7d3e-8f40-5a6b7c8d9e0f"


def event(action: str, tenant: str, subject: str | None, counts: dict[str, int], more: str) -> dict[str, object]:
    return {
        "action": action,
        "log_id": tenant,
        "subject_id": subject,
        "outcome": "allowed",
        "reason": more,
        "details": {"erasure_id": ERASURE},
        "counts": counts,
        "latency_us": 2**60,
    }


def issued(
    *,
    tenant: str = "acme",
    subject: str | None = SUBJECT,
    counts: dict[str, int] | None = None,
    others: Sequence[int] = (3, 2, 1),
    reached: Sequence[Level] = AT_ONCE,
    evidence: dict[str, int | str] | None = None,
    text: str = "intent",
    named: bool = True,
    signers: int = 2,
    whole_tenant: bool = False,
) -> tuple[dict[str, Any], bytes, str]:
    """A certificate's claims, the certificate as it is handed out, and the key to verify it with."""
    keys = AuditKeys(KEYS.installation, KEYS.keys[:signers])
    counts = {"control.memories": 3} if counts is None else counts
    before, between, after = others
    action = "tenant.close" if whole_tenant else "gdpr.erase"
    subject, named = (None, False) if whole_tenant else (subject, named)
    intent = event(f"{action}.step", tenant, subject, {}, text)
    outcome = event(action, tenant, subject, counts, text)
    log: list[dict[str, object]] = [{"n": number} for number in range(before + between + after)]
    log.insert(before, intent)
    log.insert(before + 1 + between, outcome)
    tiles: dict[Place, bytes] = appended(0, [leaf_hash(canonical(one)) for one in log], lambda _: b"")
    load = tiles.__getitem__
    root = root_of(len(log), subtrees(load))
    head = keys.current.checkpoint(Checkpoint(keys.origin(tenant), len(log), root))
    leaves = [Leaf(before + 1 + between, outcome)]
    if whole_tenant or subject is not None:
        leaves.insert(0, Leaf(before, intent))
    levels = {
        level: LevelState(level, NOW, None, evidence or {})
        if level in reached
        else LevelState(level, None, NOW + timedelta(days=30))
        for level in Level
    }
    state = ErasureState.VERIFIED
    erasure = Erasure(ERASURE, tenant, subject, state, counts, NOW, NOW, levels=levels, whole_tenant=whole_tenant)
    body = certificate_body(
        erasure,
        proven(leaves, Head(len(log), head), load),
        keys,
        person=COMMITTED.document() if named else None,
        previous=None,
        software="1.0",
        now=NOW,
    )
    handed_out = handed_out_text(kept_text(body, keys, None), COMMITTED.salt if named else None)
    return body, handed_out.encode(), keys.current.verifier(keys.origin(tenant)).text()


def signed(body: object) -> bytes:
    """A certificate of any claims at all, signed all the same."""
    text = kept_text(body, KEYS, None)  # type: ignore[arg-type]
    return handed_out_text(text, COMMITTED.salt).encode()


texts = st.text(st.characters(exclude_categories=["Cs"]))
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
certificates = st.fixed_dictionaries(
    {
        "subject": st.none() | st.uuids().map(str),
        "counts": st.dictionaries(names, st.integers(0, 2**53 - 1), max_size=4),
        "others": st.tuples(st.integers(0, 300), st.integers(0, 40), st.integers(0, 300)),
        "reached": st.sets(st.sampled_from(list(Level)), max_size=6).map(lambda some: [*AT_ONCE, *some]),
        "evidence": st.dictionaries(
            names, st.integers(0, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"]))
        ),
        "text": st.text(st.characters(exclude_categories=["Cs"])),
        "named": st.booleans(),
        "signers": st.integers(1, 2),
        "whole_tenant": st.booleans(),
    }
)


@settings(max_examples=60)
@given(certificates)
def test_both_verifiers_accept_what_is_issued(made: dict[str, Any]) -> None:
    body, raw, key = issued(**made)
    result = verify_certificate(raw, key=key)
    assert agrees(raw, key)
    assert result.counts == made["counts"]
    assert (result.of, result.subject_id) == (("tenant", None) if made["whole_tenant"] else ("person", made["subject"]))
    assert set(result.reached) == {level.value for level in made["reached"]}
    assert verify.canonical(body) == rfc8785.dumps(body)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where anything stands in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, one in inner for path in paths(one, (*at, key)))]


OTHERS = (
    st.none()
    | st.booleans()
    | st.integers(-1, 9)
    | st.sampled_from(["", "0", "acme", "person", "tenant", SUBJECT, [], {}, "a" * 64])
)


@settings(max_examples=300)
@given(st.data())
def test_both_verifiers_agree_on_what_was_changed_and_signed_again(data: st.DataObject) -> None:
    """Whoever holds the key can sign what they like; it must still say what its own proofs say."""
    subject, whole_tenant = data.draw(st.sampled_from([(SUBJECT, False), (None, False), (None, True)]))
    body, _, key = issued(subject=subject, whole_tenant=whole_tenant)
    changed = copy.deepcopy(body)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([one for one in paths(changed) if one]))
        place: Any = changed
        for step in path[:-1]:
            place = place[step]
        if data.draw(st.booleans()):
            del place[path[-1]]
        else:
            place[path[-1]] = data.draw(OTHERS)
    try:
        raw = signed(changed)
    except (TypeError, ValueError):
        return
    try:
        verify_certificate(raw, key=key)
    except VerificationError:
        holds = False
    else:
        holds = True
    assert agrees(raw, key) == holds


def test_whom_it_is_about_is_found_by_both() -> None:
    _, raw, key = issued()
    for user_id, right in (("alice@example.com", True), ("bob", False), ("", False)):
        assert agrees(raw, key, user_id) == right
        if right:
            assert verify_certificate(raw, key=key, user_id=user_id).user_matches
        else:
            with pytest.raises(VerificationError, match=r"certificate\.person: it is about another person"):
                verify_certificate(raw, key=key, user_id=user_id)


def test_a_tenants_certificate_names_nobody_and_one_of_nobody_is_no_tenants() -> None:
    """Nobody can pass off that nothing was kept of a person as the end of a tenant, nor the other way round."""
    body, raw, key = issued(whole_tenant=True)
    assert verify_certificate(raw, key=key).of == "tenant"
    assert agrees(raw, key)
    assert not agrees(raw, key, "alice@example.com")
    with pytest.raises(VerificationError, match=r"certificate\.of: it is about a whole tenant"):
        verify_certificate(raw, key=key, user_id="alice@example.com")
    changes = [
        (put("of", value="person"), r"certificate\.intent\.event: action is not"),
        (put("of", value="everybody"), r"certificate\.of: 'everybody' is none of"),
        (put("subject", value=SUBJECT), r"certificate\.subject: it is about a whole tenant"),
        (put("person", value=COMMITTED.document()), r"certificate\.person: it is about a whole tenant"),
        (put("intent", value=None), r"certificate\.intent: there is none"),
    ]
    nobodys, _, _ = issued(subject=None, named=False)
    for claims, (change, says) in [
        *((body, one) for one in changes),
        (nobodys, (put("of", value="tenant"), r"certificate\.intent: there is none")),
    ]:
        changed = copy.deepcopy(claims)
        change(changed)
        bare = handed_out_text(kept_text(changed, KEYS, None), None).encode()
        with pytest.raises(VerificationError, match=says):
            verify_certificate(bare, key=key)
        assert not agrees(bare, key)


# What is wrong, and where


def put(*path: Any, value: object) -> Callable[[Any], None]:
    def change(body: Any) -> None:
        for step in path[:-1]:
            body = body[step]
        body[path[-1]] = value

    return change


def drop(*path: Any) -> Callable[[Any], None]:
    def change(body: Any) -> None:
        for step in path[:-1]:
            body = body[step]
        del body[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("format", value="luminescent-erasure-certificate/2"), r"certificate\.format: "),
        (put("subject", value=str(UUID(int=1))), r"certificate\.intent\.event: subject_id is not"),
        (put("subject", value=None), r"certificate\.intent\.event: subject_id is not None"),
        (put("intent", value=None), r"certificate\.intent: there is none"),
        (put("outcome", value=None), r"certificate\.outcome: not an object"),
        (put("request", "id", value=str(UUID(int=1))), r"certificate\.intent\.event: details\.erasure_id is not"),
        (put("counts", "control.memories", value=2), r"certificate\.counts: not what the event"),
        (put("counts", "control.memories", value=-1), r"certificate\.counts\.control\.memories: not an integer"),
        (put("outcome", "event", "counts", "control.memories", value=2), r"certificate\.outcome\.proof: it leads to"),
        (put("outcome", "event", "action", value="gdpr.export"), r"certificate\.outcome\.event: action is not"),
        (put("outcome", "event", "outcome", value="failed"), r"certificate\.outcome\.event: outcome is not"),
        (put("outcome", "index", value=400), r"certificate\.outcome\.index: .* has no leaf 400"),
        (put("outcome", "index", value=5), r"certificate\.outcome\.proof: "),
        (drop("intent", "proof", 0), r"certificate\.intent\.proof: "),
        (put("intent", "proof", 0, value="00"), r"certificate\.intent\.proof\[0\]: not 32 bytes"),
        (put("tenant", value="other"), r"certificate\.log: "),
        (put("log", value="luminescent-cloud/other/acme"), r"certificate\.log: "),
        (
            put("checkpoint", value="acme\n1\nAA==\n\n— a b\n"),
            r"certificate\.checkpoint: not signed by a key of this log",
        ),
        (put("checkpoint", value="acme"), r"certificate\.checkpoint: not signed by a key of this log"),
        (put("levels", 0, "reached_at", value=None), r"certificate\.levels\[0\] \(logical\): not reached"),
        (put("levels", 3, "reached_at", value="2026-11-05T09:30:17.250000Z"), r"\(file\): reached, and still to come"),
        (put("levels", 5, "level", value="wal"), r"certificate\.levels\[5\] \(backups\): speaks of 'wal'"),
        (put("levels", 3, "due_at", value="2026-02-30T09:30:17.250000Z"), r"is no time"),
        (put("levels", 0, "evidence", "x", value=True), r"\(logical\)\.evidence\.x: neither"),
        (drop("levels", 5), r"certificate\.levels: not the 6 levels"),
        (put("previous", value="00" * 32), r"certificate\.previous: certificate 1 has none"),
        (put("number", value=2), r"certificate\.previous: certificate 2 follows another one"),
        (put("number", value=0), r"certificate\.number: not an integer of at least 1"),
        (put("person", "n", value=65535), r"certificate\.person: these parameters"),
        (put("person", "n", value=1 << 40), r"certificate\.person: these parameters"),
        (put("person", "algorithm", value="md5"), r"certificate\.person\.algorithm: "),
        (put("person", value=None), r"salt: not the one"),
        (put("of", value="tenant"), r"certificate\.subject: it is about a whole tenant"),
        (drop("of"), r"certificate: 'of' is missing"),
        (put("more", value=1), r"certificate: unknown field 'more'"),
        (drop("kept"), r"certificate: 'kept' is missing"),
        (put("kept", value=5), r"certificate\.kept: not an object"),
    ],
)
def test_a_claim_that_the_proofs_do_not_bear_out_is_named(change: Callable[[Any], None], says: str) -> None:
    body, _, key = issued()
    change(body)
    raw = signed(body)
    try:
        verify_certificate(raw, key=key)
    except VerificationError as error:
        found = str(error)
    else:
        found = "holds"
    assert re.search(says, found), found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw[:-1], "canonical form"),
        (lambda raw: raw + b"\n", "canonical form"),
        (lambda raw: raw + b"{}", "not JSON"),
        (lambda raw: b" " + raw, "canonical form"),
        (lambda raw: b"\xef\xbb\xbf" + raw, "not JSON"),
        (lambda raw: raw.replace(b'"number":1', b'"number":1,"number":1'), "'number' stands in one object twice"),
        (lambda raw: raw.replace(b'"number":1', b'"number":1.0'), "1.0 is no integer"),
        (lambda raw: raw.replace(b'"number":1', b'"number":1e0'), "1e0 is no integer"),
        (lambda raw: raw.replace(b'"number":1', b'"number":NaN'), "NaN is no integer"),
        (lambda raw: raw.replace(b'"number":1', b'"number":-Infinity'), "-Infinity is no integer"),
        (lambda raw: raw.replace(b'"number":1', b'"number":9007199254740993'), "beyond 2"),
        (lambda raw: raw.replace(b'"number":1', b'"number":' + b"9" * 5_000), "not JSON"),
        (lambda raw: raw.replace(b'"number":1', b'"number":' + b"[" * 100_000), "not JSON"),
        (lambda raw: raw.replace(b'"intent"', b'"\\u0069ntent"', 1), "canonical form"),
        (lambda raw: raw.replace(b'"intent"', b'"\\ud800"', 1), "not UTF-8"),
        (lambda raw: raw.replace(b'"intent"', b'"\xff"', 1), "not UTF-8"),
        (lambda raw: json.dumps(json.loads(raw), indent=1).encode() + b"\n", "canonical form"),
        (lambda raw: json.dumps(json.loads(raw), separators=(",", ":")).encode(), "canonical form"),
        (lambda _: b"", "not JSON"),
        (lambda _: b"[]\n", "not an object"),
        (lambda _: b"{}\n", "is missing"),
        (lambda _: b"0\n", "not an object"),
        (lambda raw: raw * 3_000, "larger than"),
    ],
)
def test_any_other_form_is_refused(change: Callable[[bytes], bytes], says: str) -> None:
    _, raw, key = issued()
    with pytest.raises(VerificationError, match=says):
        verify_certificate(change(raw), key=key)
    assert not agrees(change(raw), key)


def test_a_key_that_does_not_vouch_for_it_is_refused() -> None:
    _, raw, key = issued()
    stranger = SigningKey(b"\x09" * 32).verifier(KEYS.origin("acme")).text()
    with pytest.raises(VerificationError, match="does not vouch for"):
        verify_certificate(raw, key=stranger)
    assert not agrees(raw, stranger)
    for broken in ("", "acme", key[:-2], key.replace("+", "-"), f"{key}A"):
        with pytest.raises(VerificationError, match="--key: "):
            verify_certificate(raw, key=broken)


def test_another_signature_of_the_same_key_is_none_of_a_certificate() -> None:
    """A note cannot be passed off as a certificate, nor the other way round: each begins with a line of its own."""
    for kind in ("luminescent audit key rotation", "luminescent-cloud/x/acme", "", "a\nb/1", "x"):
        with pytest.raises(ValueError, match="not a kind of document"):
            KEYS.current.statement(kind, b"{}")

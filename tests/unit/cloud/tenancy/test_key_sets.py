"""The issuer's keys: what of a set is usable, how often the issuer is asked, and how long anybody waits."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError, TokenKeysUnavailableError
from cloud.tenancy.jwt import ALGORITHMS
from cloud.tenancy.key_sets import MAX_SET_BYTES, FileTokenKeys, RemoteTokenKeys, parse_key_set
from tests.support.issuer import SigningKey, b64, key_set

ALLOWED = frozenset({"RS256", "ES256", "EdDSA", "Ed25519"})
RSA, EC, ED = SigningKey("RS256", "r"), SigningKey("ES256", "e"), SigningKey("EdDSA", "d")
WAIT_S = 5.0


# What of a set is usable


def test_a_key_verifies_the_algorithms_of_its_type_that_are_allowed() -> None:
    keys = parse_key_set(key_set(RSA, EC, ED), ALLOWED)
    found = {(kid, name) for kid in "red" for name in ALGORITHMS if keys.find(kid, name) is not None}
    assert found == {("r", "RS256"), ("e", "ES256"), ("d", "EdDSA"), ("d", "Ed25519")}
    assert keys.find("x", "RS256") is None


def test_keys_of_one_id_are_told_apart_by_their_type() -> None:
    keys = parse_key_set(key_set(RSA, EC.jwk() | {"kid": "r"}), ALLOWED)
    assert keys.find("r", "RS256") is not keys.find("r", "ES256")
    assert keys.find("r", "ES256") is not None


UNUSABLE: dict[str, Any] = {
    "for encryption": RSA.jwk() | {"use": "enc"},
    "for signing alone": RSA.jwk() | {"key_ops": ["sign"]},
    "operations that are no list": RSA.jwk() | {"key_ops": "verify"},
    "without an id": {name: value for name, value in EC.jwk().items() if name != "kid"},
    "an id that is a number": EC.jwk() | {"kid": 7},
    "symmetric": {"kty": "oct", "kid": "s", "k": b64(b"secret" * 8), "alg": "HS256"},
    "symmetric under another name": {"kty": "oct", "kid": "s", "k": b64(b"secret" * 8), "alg": "RS256"},
    "with its private part": RSA.jwk() | {"d": b64(b"private")},
    "of an algorithm that is not allowed": RSA.jwk() | {"alg": "RS512"},
    "of an algorithm of another type": EC.jwk() | {"alg": "RS256"},
    "of another curve": EC.jwk() | {"crv": "secp256k1"},
    "not on its curve": EC.jwk() | {"y": b64(bytes(32))},
    "of an unknown type": {"kty": "AKP", "kid": "post-quantum", "pub": "x"},
    "incomplete": {"kty": "RSA", "kid": "r", "alg": "RS256"},
    "nonsense": {"kty": ["RSA"], "kid": "r", "n": 7},
    "no object": "key",
}


@pytest.mark.parametrize("label", UNUSABLE)
def test_an_unusable_key_is_left_out_and_the_others_serve(label: str) -> None:
    keys = parse_key_set(key_set(UNUSABLE[label], ED), ALLOWED)
    assert set(keys.keys) == {"d"}
    with pytest.raises(ProviderUnavailableError):
        parse_key_set(key_set(UNUSABLE[label]), ALLOWED)


def test_a_short_rsa_key_is_left_out() -> None:
    short = SigningKey("RS256", "short", private=rsa.generate_private_key(65537, 1024))
    assert set(parse_key_set(key_set(short, ED), ALLOWED).keys) == {"d"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"keys": [' + b"{}," * 200 + b"{}]}",
        b" " * MAX_SET_BYTES + key_set(ED),
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_what_is_no_set_is_refused_with_one_error(raw: bytes) -> None:
    with pytest.raises(ProviderUnavailableError):
        parse_key_set(raw, ALLOWED)


# A set in a file


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(EC))
    keys = FileTokenKeys(path, ALLOWED)
    assert keys.find("e", "ES256") is not None
    path.write_bytes(key_set(ED, RSA))
    assert keys.find("e", "ES256") is None, "a key that was taken out still opens"
    assert keys.find("d", "EdDSA") is not None


def test_a_file_that_cannot_be_used_leaves_the_last_keys_in_force(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(EC))
    keys = FileTokenKeys(path, ALLOWED)
    for spoil in (lambda: path.write_text("{"), path.unlink):
        spoil()
        assert keys.find("e", "ES256") is not None
    path.write_bytes(key_set(ED))
    assert keys.find("e", "ES256") is None


@pytest.mark.parametrize("content", [None, b"{", key_set(UNUSABLE["symmetric"])])
def test_a_file_that_cannot_be_used_at_the_start_refuses_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="jwt_jwks_file"):
        FileTokenKeys(path, ALLOWED)


# A set that is published elsewhere


class Issuer:
    """A source that answers as the test has it, and counts how often it was asked."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = keys
        self.asked = 0
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self) -> bytes:
        self.asked += 1
        self.gate.wait(WAIT_S)
        if self.fails:
            raise ProviderUnavailableError("issuer")
        return key_set(*self.keys)


class Watch:
    """A clock that goes when it is told to."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer(EC)
    yield made
    made.gate.set()


def remote(issuer: Issuer, watch: Watch, **given: float) -> RemoteTokenKeys:
    return RemoteTokenKeys(
        issuer,
        ALLOWED,
        monotonic_s=watch,
        **{"deadline_s": 2.0, "refresh_s": 600.0, "refetch_s": 30.0, "max_age_s": 3600.0, **given},
    )


def settled(keys: RemoteTokenKeys, condition: Callable[[], bool]) -> None:
    """Wait for a fetch in the background."""
    ends_s = time.monotonic() + WAIT_S
    while not condition() or (keys._fetch is not None and not keys._fetch.done.is_set()):
        assert time.monotonic() < ends_s
        time.sleep(0.005)


def test_a_key_that_is_held_asks_nobody(issuer: Issuer, watch: Watch) -> None:
    keys = remote(issuer, watch)
    for _ in range(100):
        assert keys.find("e", "ES256") is not None
    assert issuer.asked == 1


def test_keys_that_the_issuer_changes_are_found_by_their_first_use(issuer: Issuer, watch: Watch) -> None:
    keys = remote(issuer, watch)
    assert keys.find("e", "ES256") is not None
    issuer.keys = (EC, ED)
    watch.now_s += 31
    assert keys.find("d", "EdDSA") is not None
    assert issuer.asked == 2
    issuer.keys = (ED,)
    watch.now_s += 601
    keys.find("d", "EdDSA")
    settled(keys, lambda: issuer.asked == 3)
    assert keys.find("e", "ES256") is None, "a key that the issuer took back still opens"


def test_unknown_key_ids_cannot_cause_a_flood(issuer: Issuer, watch: Watch) -> None:
    keys = remote(issuer, watch)
    for second in range(121):
        for number in range(20):
            assert keys.find(f"stranger-{second}-{number}", "ES256") is None
        watch.now_s += 1
    assert issuer.asked <= 1 + 121 // 30 + 1


def test_unknown_key_ids_of_many_threads_share_one_fetch(issuer: Issuer, watch: Watch) -> None:
    keys = remote(issuer, watch)
    keys.find("e", "ES256")
    watch.now_s += 31
    issuer.gate.clear()
    threads = [threading.Thread(target=_quietly, args=(keys, f"stranger-{number}")) for number in range(16)]
    for thread in threads:
        thread.start()
    begun_s = time.monotonic()
    assert keys.find("e", "ES256") is not None
    assert time.monotonic() - begun_s < 0.5, "a key that is held waited for a fetch"
    issuer.gate.set()
    for thread in threads:
        thread.join()
    assert issuer.asked == 2


def _quietly(keys: RemoteTokenKeys, key_id: str) -> None:
    try:
        keys.find(key_id, "ES256")
    except TokenKeysUnavailableError:
        return


def test_an_issuer_that_is_silent_holds_nobody_longer_than_the_deadline(issuer: Issuer, watch: Watch) -> None:
    issuer.gate.clear()
    keys = remote(issuer, watch, deadline_s=0.2)
    begun_s = time.monotonic()
    with pytest.raises(TokenKeysUnavailableError) as refused:
        keys.find("e", "ES256")
    assert time.monotonic() - begun_s < 1.5
    assert refused.value.retryable


def test_few_callers_wait_for_a_silent_issuer(issuer: Issuer, watch: Watch) -> None:
    """Threads that wait are threads that serve nobody, so the ninth is told at once to come again."""
    issuer.gate.clear()
    keys = remote(issuer, watch, deadline_s=WAIT_S)
    waiting = [threading.Thread(target=_quietly, args=(keys, "e")) for _ in range(8)]
    for thread in waiting:
        thread.start()
    while keys._waiting < 8:
        time.sleep(0.005)
    begun_s = time.monotonic()
    with pytest.raises(TokenKeysUnavailableError):
        keys.find("e", "ES256")
    assert time.monotonic() - begun_s < 1.0
    issuer.gate.set()
    for thread in waiting:
        thread.join()
    assert keys._waiting == 0


def test_the_last_set_serves_while_the_issuer_fails_until_it_is_too_old(issuer: Issuer, watch: Watch) -> None:
    keys = remote(issuer, watch)
    assert keys.find("e", "ES256") is not None
    issuer.fails = True
    for _ in range(5):
        watch.now_s += 700
        assert keys.find("e", "ES256") is not None
        asked = issuer.asked
        settled(keys, lambda asked=asked: issuer.asked >= asked)  # type: ignore[misc]
    watch.now_s += 700
    with pytest.raises(TokenKeysUnavailableError):
        keys.find("e", "ES256")
    issuer.fails = False
    watch.now_s += 31
    assert keys.find("e", "ES256") is not None


def test_whether_there_is_a_key_is_not_known_while_the_issuer_fails(issuer: Issuer, watch: Watch) -> None:
    keys = remote(issuer, watch)
    keys.find("e", "ES256")
    issuer.fails = True
    watch.now_s += 31
    with pytest.raises(TokenKeysUnavailableError):
        keys.find("d", "EdDSA")
    assert keys.find("e", "ES256") is not None


def test_warming_waits_for_nobody(issuer: Issuer, watch: Watch) -> None:
    issuer.gate.clear()
    keys = remote(issuer, watch)
    keys.warm()
    issuer.gate.set()
    assert keys.find("e", "ES256") is not None
    assert issuer.asked == 1


def test_a_child_process_asks_for_itself(issuer: Issuer, watch: Watch) -> None:
    """A fetch that ran when the process was forked does not go on in the child."""
    issuer.gate.clear()
    keys = remote(issuer, watch)
    keys.warm()
    keys._pid = os.getpid() + 1
    issuer.gate.set()
    assert keys.find("e", "ES256") is not None
    assert issuer.asked == 2


def test_a_set_can_be_written_by_hand() -> None:
    """What a set in a file looks like; the documentation shows the same."""
    raw = json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "2026-11", "x": ED.jwk()["x"]}]}).encode()
    assert parse_key_set(raw, ALLOWED).find("2026-11", "EdDSA") is not None

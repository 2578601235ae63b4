"""An issuer of tokens with real keys, and a server that publishes them as well or as badly as a test wants."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER = "https://issuer.example"
AUDIENCE = "luminescent"
_RSA = rsa.generate_private_key(65537, 2048)
"""Made once: a key takes long to make, and tests need few that differ."""


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _number(value: int, size: int | None = None) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class SigningKey:
    """A key pair of an issuer; signs with `cryptography` alone, so that a test does not trust what it tests."""

    def __init__(self, algorithm: str, key_id: str, *, private: Any = None) -> None:
        self.algorithm, self.key_id = algorithm, key_id
        if private is not None:
            self.private = private
        elif algorithm == "RS256":
            self.private = _RSA
        elif algorithm == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
        else:
            self.private = Ed25519PrivateKey.generate()

    def jwk(self) -> dict[str, str]:
        public = self.private.public_key()
        about = {"kid": self.key_id, "use": "sig", "alg": self.algorithm}
        if self.algorithm == "RS256":
            numbers = public.public_numbers()
            return about | {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        if self.algorithm == "ES256":
            numbers = public.public_numbers()
            return about | {"kty": "EC", "crv": "P-256", "x": _number(numbers.x, 32), "y": _number(numbers.y, 32)}
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return about | {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}

    def pem(self) -> bytes:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return bytes(self.private.public_key().public_bytes(serialization.Encoding.PEM, form))

    def sign(self, signed: bytes) -> bytes:
        if self.algorithm == "RS256":
            return bytes(self.private.sign(signed, padding.PKCS1v15(), hashes.SHA256()))
        if self.algorithm == "ES256":
            r, s = decode_dss_signature(self.private.sign(signed, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return bytes(self.private.sign(signed))


def key_set(*keys: SigningKey | dict[str, Any]) -> bytes:
    """The published form of these keys."""
    return json.dumps({"keys": [key.jwk() if isinstance(key, SigningKey) else key for key in keys]}).encode()


def claims(now_s: float, tenant_id: str = "acme", **changed: Any) -> dict[str, Any]:
    """Claims of a good token; `...` takes one out."""
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": int(now_s) - 10,
        "exp": int(now_s) + 300,
        "tenant_id": tenant_id,
        "roles": ["service"],
    }
    return {name: value for name, value in (good | changed).items() if value is not ...}


def token(
    key: SigningKey,
    payload: dict[str, Any] | bytes,
    *,
    sign: Callable[[bytes], bytes] | None = None,
    **header: Any,
) -> str:
    """A signed token; header fields given replace those of a good one, and `...` takes one out."""
    head = {"typ": "JWT", "alg": key.algorithm, "kid": key.key_id} | header
    raw_head = json.dumps({name: value for name, value in head.items() if value is not ...}).encode()
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    signed = f"{b64(raw_head)}.{b64(raw)}".encode()
    return f"{signed.decode()}.{b64((sign or key.sign)(signed))}"


def hmac_with(secret: bytes) -> Callable[[bytes], bytes]:
    """Signs as HS256 does."""
    return lambda signed: hmac.digest(secret, signed, hashlib.sha256().name)


class Publisher:
    """A server on the loopback interface; `answer` gets each connection, after its request was read."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.answer = answer
        self.asked = 0
        self.reads_first = True
        """Whether the request is read before `answer`; not so behind TLS, where `answer` shakes hands first."""
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/keys"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self.reads_first:
                connection.recv(65536)
            self.asked += 1
            self.answer(connection)

    def close(self) -> None:
        self._stop.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@contextmanager
def publishing(answer: Callable[[socket.socket], None] | bytes) -> Iterator[Publisher]:
    """A publisher that runs while the block does; bytes are served as the document."""
    publisher = Publisher(serve(answer) if isinstance(answer, bytes) else answer)
    try:
        yield publisher
    finally:
        publisher.close()


def serve(document: bytes, *, status: str = "200 OK", header: str = "") -> Callable[[socket.socket], None]:
    """Answers with a document."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(document)}\r\nConnection: close\r\n{header}\r\n".encode()
    return lambda connection: connection.sendall(head + document)


def hang(connection: socket.socket) -> None:
    """Takes the request and says nothing."""
    connection.settimeout(30)
    connection.recv(1)


def drip(head: bytes) -> Callable[[socket.socket], None]:
    """Says `head`, then one byte after another, for ever, faster than any timeout of a single read."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    return answer

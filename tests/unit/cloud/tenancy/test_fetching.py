"""Fetching keys from a server that is slow, silent, too large or elsewhere: bounded in time and size."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.tenancy.fetching import UrlKeySet
from cloud.tenancy.key_sets import MAX_SET_BYTES
from tests.support.issuer import SigningKey, drip, hang, key_set, publishing, serve

DOCUMENT = key_set(SigningKey("EdDSA", "d"))
DEADLINE_S = 0.5
PATIENCE_S = 2.0
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def fetched(url: str, *, ca_file: Path | None = None) -> bytes:
    return UrlKeySet(url, deadline_s=DEADLINE_S, ca_file=ca_file).fetch()


def test_a_document_is_fetched_as_it_is() -> None:
    with publishing(DOCUMENT) as publisher:
        assert fetched(publisher.url) == DOCUMENT


SLOW: dict[str, Callable[[socket.socket], None]] = {
    "says nothing": hang,
    "drips the status line": drip(b"HTT"),
    "drips headers": drip(b"HTTP/1.1 200 OK\r\nX-Header: "),
    "drips the body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    "drips a body without a length": drip(b"HTTP/1.1 200 OK\r\n\r\n"),
    "drips a chunk": drip(_CHUNKED + b"fffff\r\n"),
}


@pytest.mark.parametrize("label", SLOW)
def test_a_slow_server_is_cut_off_at_the_deadline(label: str) -> None:
    with publishing(SLOW[label]) as publisher:
        begun_s = time.monotonic()
        with pytest.raises(ProviderUnavailableError):
            fetched(publisher.url)
        assert time.monotonic() - begun_s < PATIENCE_S


def test_a_server_that_takes_no_connection_is_cut_off_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        full = [socket.socket() for _ in range(4)]
        for one in full:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        begun_s = time.monotonic()
        with pytest.raises(ProviderUnavailableError):
            fetched(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        assert time.monotonic() - begun_s < PATIENCE_S
        for one in full:
            one.close()


def test_nobody_listening_is_told_at_once() -> None:
    with publishing(DOCUMENT) as publisher:
        url = publisher.url
    with pytest.raises(ProviderUnavailableError):
        fetched(url)


BAD: dict[str, Callable[[socket.socket], None]] = {
    "another status": serve(DOCUMENT, status="500 Internal Server Error"),
    "nothing there": serve(b"", status="404 Not Found"),
    "no content": serve(b"", status="204 No Content"),
    "too large": serve(b" " * (MAX_SET_BYTES + 1)),
    "cut short": lambda c: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"),
    "no HTTP": lambda c: c.sendall(b"SSH-2.0-OpenSSH\r\n"),
    "closed at once": lambda c: None,
    "a length that is none": lambda c: c.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "headers without end": lambda c: c.sendall(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000),
}


@pytest.mark.parametrize("label", BAD)
def test_a_bad_answer_is_one_error(label: str) -> None:
    with publishing(BAD[label]) as publisher, pytest.raises(ProviderUnavailableError):
        fetched(publisher.url)


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent"])
def test_a_redirect_is_not_followed(status: str) -> None:
    with (
        publishing(DOCUMENT) as elsewhere,
        publishing(serve(b"", status=status, header=f"Location: {elsewhere.url}\r\n")) as publisher,
    ):
        with pytest.raises(ProviderUnavailableError):
            fetched(publisher.url)
        assert (publisher.asked, elsewhere.asked) == (1, 0)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with publishing(DOCUMENT) as publisher, publishing(b"{}") as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert fetched(publisher.url) == DOCUMENT
        assert proxy.asked == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/keys",
        "http://127.0.0.1.evil.example/keys",
        "http://10.0.0.1/keys",
        "ftp://127.0.0.1/keys",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@issuer.example/keys",
        "https://issuer.example/keys#part",
        "keys.json",
        "",
    ],
)
def test_a_url_that_others_could_answer_is_refused_unquoted(url: str) -> None:
    with pytest.raises(ConfigurationError, match="jwt_jwks_url") as refused:
        UrlKeySet(url, deadline_s=1)
    assert "secret" not in str(refused.value)


# TLS


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer of the test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    public, private = directory / "ca.pem", directory / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


def over_tls(certified: tuple[Path, Path], answer: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    """Answers as `answer` does, behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certified)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as inside:
            inside.recv(65536)
            answer(inside)

    return talk


def test_keys_come_over_tls_from_whom_the_certificate_names(certified: tuple[Path, Path]) -> None:
    with publishing(over_tls(certified, serve(DOCUMENT))) as publisher:
        publisher.reads_first = False
        url = publisher.url.replace("http://", "https://")
        assert fetched(url, ca_file=certified[0]) == DOCUMENT
        with pytest.raises(ProviderUnavailableError):
            fetched(url)
        with pytest.raises(ProviderUnavailableError):
            fetched(url.replace("127.0.0.1", "localhost"), ca_file=certified[0])


def test_a_server_that_drips_over_tls_is_cut_off_too(certified: tuple[Path, Path]) -> None:
    with publishing(over_tls(certified, drip(b"HTTP/1.1 200 OK\r\n\r\n"))) as publisher:
        publisher.reads_first = False
        begun_s = time.monotonic()
        with pytest.raises(ProviderUnavailableError):
            fetched(publisher.url.replace("http://", "https://"), ca_file=certified[0])
        assert time.monotonic() - begun_s < PATIENCE_S


def test_a_server_that_never_shakes_hands_is_cut_off(certified: tuple[Path, Path]) -> None:
    with publishing(hang) as publisher:
        begun_s = time.monotonic()
        with pytest.raises(ProviderUnavailableError):
            fetched(publisher.url.replace("http://", "https://"), ca_file=certified[0])
        assert time.monotonic() - begun_s < PATIENCE_S


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_certificates_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="jwt_jwks_ca_file"):
        UrlKeySet("https://issuer.example/keys", deadline_s=1, ca_file=path)

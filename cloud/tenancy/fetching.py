"""Fetches a small document over HTTPS within a deadline, whatever the other side does.

No redirect is followed and no proxy asked: the keys that decide who enters come from the place that the setting names,
or from nowhere. The deadline holds for all of it together, so that a server which sends a byte now and then is cut off
like one that sends none. Looking a name up is left to the operating system, which has a deadline of its own; callers
do not wait for it (`cloud.tenancy.key_sets`).
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from cloud.tenancy.key_sets import MAX_SET_BYTES

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_COMPONENT: Final = "the issuer's keys"


class UrlKeySet:
    """A key set at a URL.

    Args:
        url: `https://…`; `http://` to a loopback address alone.
        deadline_s: Seconds that connecting, asking and reading may take together.
        ca_file: Certificates to trust instead of the system's.

    Raises:
        ConfigurationError: The URL or the file cannot be used.
    """

    def __init__(self, url: str, *, deadline_s: float, ca_file: Path | None = None) -> None:
        self._url = _checked(url)
        self._deadline_s = deadline_s
        self._context: ssl.SSLContext | None = None
        if self._url.scheme == "https":
            try:
                self._context = ssl.create_default_context(cafile=ca_file)
            except OSError as exc:
                raise ConfigurationError("jwt_jwks_ca_file cannot be used: it must hold certificates in PEM") from exc

    def fetch(self) -> bytes:
        """The document, at most 256 KiB.

        Raises:
            ProviderUnavailableError: It did not come within the deadline, or not with status 200.
        """
        ends_s = time.monotonic() + self._deadline_s
        connection = self._connection()
        try:
            connection.connect()
            # The connection reads and writes through its socket alone; this one counts the time that is left.
            connection.sock = _Bounded(connection.sock, ends_s)
            path = self._url.path or "/"
            connection.request(
                "GET",
                f"{path}?{self._url.query}" if self._url.query else path,
                headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"},
            )
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise ProviderUnavailableError(_COMPONENT, reason=f"were answered with status {response.status}")
            document = response.read(MAX_SET_BYTES + 1)
            if response.length and len(document) <= MAX_SET_BYTES:
                raise http.client.IncompleteRead(b"", response.length)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise ProviderUnavailableError(_COMPONENT, reason=f"did not come ({type(exc).__name__})") from exc
        finally:
            connection.close()
        if len(document) > MAX_SET_BYTES:
            raise ProviderUnavailableError(_COMPONENT, reason=f"are more than {MAX_SET_BYTES} bytes")
        return document

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._context is None:
            return http.client.HTTPConnection(host, port, timeout=self._deadline_s)
        return http.client.HTTPSConnection(host, port, timeout=self._deadline_s, context=self._context)


class _Bounded:
    """A connected socket whose reads and writes end at one time together."""

    def __init__(self, sock: socket.socket, ends_s: float) -> None:
        self._sock = sock
        self._ends_s = ends_s

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def sendall(self, data: bytes) -> None:
        self._in_time().sendall(data)

    def recv_into(self, buffer: WriteableBuffer) -> int:
        return self._in_time().recv_into(buffer)

    def close(self) -> None:
        self._sock.close()

    def _in_time(self) -> socket.socket:
        left_s = self._ends_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        return self._sock


class _Reader(io.RawIOBase):
    """What an answer is read from; closing it leaves the socket to the connection."""

    def __init__(self, source: _Bounded) -> None:
        super().__init__()
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._source.recv_into(buffer)


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    if not parts.hostname or parts.username is not None or parts.fragment:
        raise ConfigurationError("jwt_jwks_url must be a URL with a host, without a user and a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ConfigurationError("jwt_jwks_url must begin with https:// (http:// only to a loopback address)")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

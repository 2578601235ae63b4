"""The issuer's public keys (JWK Set, RFC 7517): what of a published set is usable, and how long it is kept.

Rules of a set that is published elsewhere
1. A key that is in the set answers at once, however the issuer does.
2. A key id that is not in it asks the issuer again, once in `refetch_s` at most, whoever asks and with whatever ids.
3. One fetch runs at a time, on a thread of its own; a caller waits for it `deadline_s` at most, and few callers do.
4. While the issuer does not answer, the last set serves until it is `max_age_s` old. Then nothing opens.
5. Ages are measured by a clock that is never set: a clock that jumps makes no set older.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key

from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError, TokenKeysUnavailableError
from cloud.tenancy.jwt import ALGORITHMS
from cloud.tenancy.ports import KeySetSource

MAX_SET_BYTES: Final = 262_144
_MAX_KEYS: Final = 100
_MIN_RSA_BITS: Final = 2048
_MAX_WAITING: Final = 8
_PRIVATE: Final = frozenset({"d", "p", "q", "k"})
_COMPONENT: Final = "the issuer's keys"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Public keys by id, each with the algorithms that it may verify."""

    keys: Mapping[str, tuple[tuple[Key, frozenset[str]], ...]] = field(repr=False)

    def find(self, key_id: str, algorithm: str) -> Key | None:
        """The key with this id that may verify this algorithm, if there is one."""
        return next((key for key, algorithms in self.keys.get(key_id, ()) if algorithm in algorithms), None)


def parse_key_set(raw: bytes, allowed: frozenset[str]) -> SigningKeys:
    """The keys of a published set that can verify a token.

    Left out are keys without an id, for encryption, of a type or curve that no allowed algorithm has, shorter than
    2,048 bits (RSA), symmetric, or published with their private part: those are anybody's.

    Raises:
        ProviderUnavailableError: It is no key set, or holds no key that is usable.
    """
    try:
        found = json.loads(raw.decode("utf-8")) if len(raw) <= MAX_SET_BYTES else None
    except (ValueError, RecursionError):
        found = None
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
        raise ProviderUnavailableError(_COMPONENT, reason="are not a key set (RFC 7517)")
    keys: dict[str, tuple[tuple[Key, frozenset[str]], ...]] = {}
    for jwk in listed:
        algorithms = _algorithms_of(jwk) & allowed if isinstance(jwk, dict) else frozenset()
        key = _imported(jwk) if algorithms else None
        if key is not None:
            keys[jwk["kid"]] = (*keys.get(jwk["kid"], ()), (key, algorithms))
    if not keys:
        raise ProviderUnavailableError(_COMPONENT, reason="hold no key that an allowed algorithm can use")
    return SigningKeys(keys)


def _algorithms_of(jwk: Mapping[str, Any]) -> frozenset[str]:
    operations = jwk.get("key_ops")
    unfit = (
        not isinstance(jwk.get("kid"), str)
        or jwk.get("use", "sig") != "sig"
        or (operations is not None and not (isinstance(operations, list) and "verify" in operations))
        or jwk.keys() & _PRIVATE
    )
    if unfit:
        return frozenset()
    fitting = {name for name, (kind, curve) in ALGORITHMS.items() if (jwk.get("kty"), jwk.get("crv")) == (kind, curve)}
    named = jwk.get("alg")
    if named is not None:
        fitting &= (
            {"EdDSA", "Ed25519"} if named in ("EdDSA", "Ed25519") else {named} if isinstance(named, str) else set()
        )
    return frozenset(fitting)


def _imported(jwk: dict[str, Any]) -> Key | None:
    # Only what makes the key: whatever else the set says of it was decided on above.
    parts = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if isinstance(jwk.get(name), str)}
    try:
        if jwk["kty"] == "RSA" and len(parts.get("n", "")) * 6 < _MIN_RSA_BITS:
            return None
        return JWKRegistry.import_key(parts)
    except (JoseError, ValueError, TypeError, KeyError):
        return None


class FileTokenKeys:
    """The keys in a file, read again when the file changes; a file that cannot be used leaves the last keys in force.

    Args:
        path: The file.
        allowed: The allowed algorithms.

    Raises:
        ConfigurationError: The file cannot be used now.
    """

    def __init__(self, path: Path, allowed: frozenset[str]) -> None:
        self._path = path
        self._allowed = allowed
        self._lock = threading.Lock()
        try:
            self._version = self._look()
            self._keys = self._read()
        except OSError as exc:
            raise ConfigurationError(f"jwt_jwks_file: {path} cannot be read: {exc.strerror}") from exc
        except ProviderUnavailableError as exc:
            raise ConfigurationError(f"jwt_jwks_file: {path} does not hold usable keys: {exc.reason}") from exc

    def find(self, key_id: str, algorithm: str) -> Key | None:
        with self._lock:
            try:
                version = self._look()
                if version != self._version:
                    self._version = version
                    self._keys = self._read()
            except (OSError, ProviderUnavailableError):
                # Written in place, or removed by mistake. Who wants no token to open anything takes the setting away.
                _log.warning("jwt_jwks_file cannot be used; the keys that were read last stay in force")
            return self._keys.find(key_id, algorithm)

    def _look(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self) -> SigningKeys:
        with self._path.open("rb") as file:
            return parse_key_set(file.read(MAX_SET_BYTES + 1), self._allowed)

    def warm(self) -> None:
        """They are here already."""


@dataclass(slots=True)
class _Fetch:
    begun_s: float
    done: threading.Event = field(default_factory=threading.Event)
    failed: bool = False


class RemoteTokenKeys:
    """The keys behind a source that may be slow or silent; see the rules of the module.

    Args:
        source: Where the set is published.
        allowed: The allowed algorithms.
        deadline_s: Seconds that a caller waits for a fetch at most.
        refresh_s: Age in seconds from which on a set is fetched anew in the background.
        refetch_s: Seconds between two fetches at least.
        max_age_s: Age in seconds at which a set is not used any more.
        monotonic_s: A clock that is never set.
    """

    def __init__(
        self,
        source: KeySetSource,
        allowed: frozenset[str],
        *,
        deadline_s: float = 3.0,
        refresh_s: float = 600.0,
        refetch_s: float = 30.0,
        max_age_s: float = 86_400.0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._allowed = allowed
        self._deadline_s = deadline_s
        self._refresh_s = refresh_s
        self._refetch_s = refetch_s
        self._max_age_s = max_age_s
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._keys: SigningKeys | None = None
        self._fetched_s = 0.0
        self._fetch: _Fetch | None = None
        self._waiting = 0
        self._pid = os.getpid()

    def find(self, key_id: str, algorithm: str) -> Key | None:
        with self._lock:
            now_s = self._monotonic_s()
            held = self._held(now_s)
            key = held.find(key_id, algorithm) if held is not None else None
            if key is not None:
                if now_s - self._fetched_s > self._refresh_s:
                    self._begin(now_s)
                return key
            fetch = self._begin(now_s)
            if fetch is None and held is not None:
                return None
            if fetch is None or self._waiting >= _MAX_WAITING:
                raise TokenKeysUnavailableError
            self._waiting += 1
        answered = fetch.done.wait(self._deadline_s)
        with self._lock:
            self._waiting -= 1
            held = self._held(self._monotonic_s())
            if not answered or fetch.failed or held is None:
                # Whether the issuer has such a key is not known: not the same as that it has none.
                raise TokenKeysUnavailableError
            return held.find(key_id, algorithm)

    def warm(self) -> None:
        """Begin to fetch, so that the first token need not wait; nobody waits here."""
        with self._lock:
            self._begin(self._monotonic_s())

    def _held(self, now_s: float) -> SigningKeys | None:
        return self._keys if now_s - self._fetched_s <= self._max_age_s else None

    def _begin(self, now_s: float) -> _Fetch | None:
        """The fetch that runs, a new one where one may begin, or `None`."""
        last = self._fetch
        if last is not None and self._pid == os.getpid():
            if not last.done.is_set() and now_s - last.begun_s < 2 * self._deadline_s:
                return last
            if now_s - last.begun_s < self._refetch_s:
                return None
        self._pid = os.getpid()
        fetch = self._fetch = _Fetch(now_s)
        threading.Thread(target=self._run, args=(fetch,), name="luminescent-token-keys", daemon=True).start()
        return fetch

    def _run(self, fetch: _Fetch) -> None:
        try:
            keys = parse_key_set(self._source.fetch(), self._allowed)
        except ProviderUnavailableError as error:
            fetch.failed = True
            _log.warning("%s", error)
        else:
            with self._lock:
                # One that was given up for dead must not replace what a later one brought.
                if self._keys is None or fetch.begun_s >= self._fetched_s:
                    self._keys, self._fetched_s = keys, self._monotonic_s()
        finally:
            fetch.done.set()

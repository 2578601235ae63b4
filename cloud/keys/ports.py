"""Ports of the keyring: `Keyring` (who has which key), `RootKey` (what wraps all others), `Sealer` (the cipher)."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from cloud.keys.model import Place, SubjectKey, TenantKey
from cloud.keys.reports import KeyringBackup, Progress, Rotated, no_progress


class Sealer(Protocol):
    """Seals values for a place. `cloud.keys.sealing` holds the one that deployments use."""

    def seal(self, key: bytes, plaintext: bytes, *, place: Place) -> bytes:
        """Seals `plaintext` so that it opens only under `key` and at `place`."""
        ...

    def unseal(self, key: bytes, sealed: bytes, *, place: Place) -> bytes:
        """What was sealed there, or `SealBrokenError`; no other error, whatever the bytes are."""
        ...


class RootKey(Protocol):
    """The key above all keys: a file, an environment variable, or a key management service."""

    @property
    def key_id(self) -> str:
        """Names this key without telling anything about it; two keys have two names."""
        ...

    def wrap(self, plaintext: bytes, aad: bytes) -> bytes:
        """Seals a key of 32 bytes; the result has at most 254 bytes, what a slot can hold."""
        ...

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """What was wrapped with the same `aad`.

        Raises:
            SealBrokenError: It does not open under this root key.
        """
        ...


class Keyring(Protocol):
    """The only place that links a user id to a subject and a subject to its key.

    Safe for threads and, if it is durable, for processes. A key that was destroyed anywhere is not handed out by any
    keyring on the same files afterwards, whatever was cached. Every method raises `ProviderUnavailableError` if the
    keyring's storage does not answer in time, and `ConfigurationError` if it is damaged or was opened before a fork.
    """

    def resolve_subject(self, tenant_id: str, user_id: str, *, create: bool) -> SubjectKey | None:
        """The subject that stands for this person now; the same one for every caller.

        Args:
            tenant_id: The tenant.
            user_id: The person's id in that tenant, compared byte by byte.
            create: Whether to link a new subject if there is none; the link is durable before this returns.

        Returns:
            The subject's key, or `None` if there is no subject and `create` is false.

        Raises:
            KeyDestroyedError: `create` is true and the tenant has no key.
            SealBrokenError: The wrapped key is damaged.
        """
        ...

    def subject_key(self, tenant_id: str, subject_id: str) -> SubjectKey | None:
        """The key of a subject, or `None` if it was destroyed, never existed, or belongs to another tenant.

        Raises:
            SealBrokenError: The wrapped key is damaged.
        """
        ...

    def destroy_subject(self, tenant_id: str, subject_id: str) -> bool:
        """Destroys key and link for good before it returns; what they sealed is unreadable from then on.

        Returns:
            Whether there was something to destroy. Calling it again is harmless.

        Raises:
            ErasureIncompleteError: The storage still shows the key after it was overwritten.
        """
        ...

    def forget(self, tenant_id: str, subject_id: str) -> None:
        """Drops this process's copy of the subject's key from memory; the key itself stays."""
        ...

    def remembers(self, tenant_id: str, subject_id: str) -> bool:
        """Whether this process has a copy of the subject's key in memory, be the key destroyed or not."""
        ...

    def subjects(self, tenant_id: str) -> tuple[str, ...]:
        """The ids of all linked subjects of a tenant, sorted; empty for an unknown tenant."""
        ...

    def create_tenant(self, tenant_id: str) -> None:
        """Makes sure that the tenant has a key, durably; one that exists is kept."""
        ...

    def tenant_key(self, tenant_id: str) -> TenantKey:
        """The tenant's key, with its former ones.

        Raises:
            KeyDestroyedError: The tenant has none (any more).
            SealBrokenError: The wrapped key is damaged.
        """
        ...

    def rotate_tenant(self, tenant_id: str, *, now: datetime, progress: Progress = no_progress) -> Rotated:
        """Gives the tenant a new key; what was sealed before opens still, and subjects and their keys stay.

        Others use the keyring meanwhile. A rotation that was killed is finished by the next call.

        Args:
            tenant_id: The tenant.
            now: The present, UTC.
            progress: Told how many of how many keys are done.

        Raises:
            KeyDestroyedError: The tenant has no key (any more).
        """
        ...

    def backups(self) -> tuple[KeyringBackup, ...]:
        """Every backup of this keyring, oldest first; until the last of them has expired, an erasure is not final."""
        ...

    def destroy_tenant(self, tenant_id: str) -> bool:
        """Destroys the tenant's key and those of all its subjects, with their links, before it returns.

        Returns:
            Whether there was something to destroy.

        Raises:
            ErasureIncompleteError: The storage still shows a key after it was overwritten.
        """
        ...

    def close(self) -> None:
        """Gives back files and memory; every later call raises `ProviderUnavailableError`."""
        ...

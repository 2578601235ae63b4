"""A keyring and a sealer for tests: same contracts, nothing on a disk.

`PlaintextSealer` does not hide what it seals. A scan for remains of personal data must find what it sealed, which
shows that the scan can fail.
"""

from __future__ import annotations

import hmac
import os
import threading
from datetime import datetime
from typing import Final

from cloud.kernel.errors import KeyDestroyedError, ProviderUnavailableError, SealBrokenError
from cloud.kernel.ids import new_subject_id
from cloud.keys.model import KEY_BYTES, KeyringCounts, Place, SubjectKey, TenantKey, encode_place, require_key
from cloud.keys.reports import KeyringBackup, Progress, Rotated, no_progress

_CHECK_BYTES: Final = 29
"""As many as `cloud.keys.sealing` adds, so that sizes agree."""


class InMemoryKeyring:
    """A `Keyring` that ends with its process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tenants: dict[str, TenantKey] = {}
        self._keys: dict[tuple[str, str], SubjectKey] = {}
        self._links: dict[tuple[str, str], str] = {}
        self._closed = False

    def resolve_subject(self, tenant_id: str, user_id: str, *, create: bool) -> SubjectKey | None:
        """Finds or makes the subject."""
        with self._lock:
            self._require_open()
            subject_id = self._links.get((tenant_id, user_id))
            if subject_id is not None:
                return self._keys[tenant_id, subject_id]
            if not create:
                return None
            self._require_tenant(tenant_id)
            made = SubjectKey(tenant_id, new_subject_id(), os.urandom(KEY_BYTES))
            self._keys[tenant_id, made.subject_id] = made
            self._links[tenant_id, user_id] = made.subject_id
            return made

    def subject_key(self, tenant_id: str, subject_id: str) -> SubjectKey | None:
        """The key, or `None`."""
        with self._lock:
            self._require_open()
            return self._keys.get((tenant_id, subject_id))

    def destroy_subject(self, tenant_id: str, subject_id: str) -> bool:
        """Deletes key and link."""
        with self._lock:
            self._require_open()
            found = self._keys.pop((tenant_id, subject_id), None) is not None
            self._links = {
                link: linked for link, linked in self._links.items() if (link[0], linked) != (tenant_id, subject_id)
            }
            return found

    def forget(self, tenant_id: str, subject_id: str) -> None:
        """Does nothing: there is no second copy."""

    def remembers(self, tenant_id: str, subject_id: str) -> bool:
        """Whether there is one: memory is all that there is."""
        with self._lock:
            return (tenant_id, subject_id) in self._keys

    def subjects(self, tenant_id: str) -> tuple[str, ...]:
        """Sorted ids of the tenant's subjects."""
        with self._lock:
            self._require_open()
            return tuple(sorted(subject_id for tenant, subject_id in self._keys if tenant == tenant_id))

    def counts(self) -> KeyringCounts:
        """Without spares and slots."""
        with self._lock:
            return KeyringCounts(tenants=len(self._tenants), subjects=len(self._keys), spares=0, free_slots=0)

    def create_tenant(self, tenant_id: str) -> None:
        """Makes the tenant's key if there is none."""
        with self._lock:
            self._require_open()
            if tenant_id not in self._tenants:
                self._tenants[tenant_id] = TenantKey(tenant_id, os.urandom(KEY_BYTES))

    def tenant_key(self, tenant_id: str) -> TenantKey:
        """The tenant's key."""
        with self._lock:
            self._require_open()
            return self._require_tenant(tenant_id)

    def rotate_tenant(self, tenant_id: str, *, now: datetime, progress: Progress = no_progress) -> Rotated:
        """Changes the tenant's key; nothing is wrapped under it here."""
        with self._lock:
            self._require_open()
            before = self._require_tenant(tenant_id)
            after = TenantKey(tenant_id, os.urandom(KEY_BYTES), (*before.former, before.key))
            self._tenants[tenant_id] = after
            return Rotated(0, 0)

    def backups(self) -> tuple[KeyringBackup, ...]:
        """None: it ends with its process."""
        with self._lock:
            self._require_open()
            return ()

    def destroy_tenant(self, tenant_id: str) -> bool:
        """Deletes the tenant with all that is under it."""
        with self._lock:
            self._require_open()
            self._keys = {owner: key for owner, key in self._keys.items() if owner[0] != tenant_id}
            self._links = {link: linked for link, linked in self._links.items() if link[0] != tenant_id}
            return self._tenants.pop(tenant_id, None) is not None

    def close(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._closed = True
            self._tenants.clear()
            self._keys.clear()
            self._links.clear()

    def _require_tenant(self, tenant_id: str) -> TenantKey:
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            raise KeyDestroyedError("the tenant's key does not exist")
        return tenant

    def _require_open(self) -> None:
        if self._closed:
            raise ProviderUnavailableError("keyring", reason="is closed")


class PlaintextSealer:
    """A `Sealer` that keeps every promise but secrecy."""

    def seal(self, key: bytes, plaintext: bytes, *, place: Place) -> bytes:
        """`plaintext` behind a check value of its key and place."""
        require_key(key)
        return _check_value(key, plaintext, place) + plaintext

    def unseal(self, key: bytes, sealed: bytes, *, place: Place) -> bytes:
        """What was sealed, if the check value fits."""
        plaintext = sealed[_CHECK_BYTES:]
        if not hmac.compare_digest(sealed[:_CHECK_BYTES], _check_value(key, plaintext, place)):
            raise SealBrokenError("a value does not belong to this key and place")
        return plaintext


def _check_value(key: bytes, plaintext: bytes, place: Place) -> bytes:
    return hmac.digest(key, encode_place(place) + plaintext, "sha256")[:_CHECK_BYTES]

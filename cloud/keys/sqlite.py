"""The durable keyring: a slots file that holds every wrapped key, and a SQLite index that says whose it is.

Rules:

- Key material, wrapped, is only in slots. The root key wraps the lookup key (slot 1) and one key per tenant; a
  tenant's key wraps the data keys of its subjects. What is wrapped is bound to its owner and its slot number.
- A key is durable in its slot before the index names it. It leaves in the other order: the slot is overwritten and
  read back first, then row and link go in one transaction. Whatever stops in between is finished by whoever meets
  the overwritten slot next.
- One writer at a time, over all processes. A writer may die at any point: the index is transactional, and a slot that
  was written and is not named is free.
- A cached key counts only while its slot reads as it did (`CachedKey`), so what one process destroys is gone in all,
  and what one process wraps anew is loaded again by all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Final, Generic

from cloud.kernel.errors import ConfigurationError, KeyDestroyedError, ProviderUnavailableError, SealBrokenError
from cloud.kernel.ids import new_subject_id
from cloud.keys.cache import CachedKey, K, KeyCache
from cloud.keys.index import SubjectRow
from cloud.keys.layout import (
    KeyringFiles,
    create_keyring,
    is_absent,
    open_keyring,
    subject_place,
    tenant_place,
)
from cloud.keys.model import (
    KEY_BYTES,
    KeyringCounts,
    KeyTraces,
    SlotState,
    SubjectKey,
    TenantKey,
    encode_place,
    link_tag,
    pack_slot,
    parse_slot,
)
from cloud.keys.ports import RootKey
from cloud.keys.reports import KeyringBackup, Progress, Rotated, no_progress
from cloud.keys.rootkeys import RootKeys
from cloud.keys.rotation import former_keys, rotate_tenant
from cloud.keys.sealing import checked_key, unseal_with_any, wrap_key

_CACHED_TENANTS: Final = 4096
_ATTEMPTS: Final = 20
"""Looks at a slot before a key counts as gone: one rotation after the other may pass between two reads of a slow
process."""


@dataclass(frozen=True, slots=True)
class _Found(Generic[K]):
    """What the index says about an owner, and what to do with its slot."""

    owner_id: str
    slot: int
    tag: bytes
    unwrap: Callable[[bytes], K]
    finish_destruction: Callable[[], object]


class FileKeyring:
    """A `Keyring` in a directory of its own that many threads and processes of one machine may open."""

    _finishes: ClassVar[bool] = True
    """Whether a destruction that was cut off is finished by meeting it; what it began with is gone either way."""

    def __init__(self, files: KeyringFiles, *, spare_keys: int, cached_keys: int) -> None:
        """Use `open`."""
        self._files = files
        self._slots = files.slots
        self._index = files.index
        self._lock = files.lock
        self._lookup_key = files.lookup_key
        self._spare_keys = spare_keys
        self._subjects: KeyCache[SubjectKey] = KeyCache(cached_keys)
        self._tenants: KeyCache[TenantKey] = KeyCache(_CACHED_TENANTS)
        self._owner_pid = os.getpid()
        self._closed = False

    @classmethod
    def open(
        cls,
        directory: Path,
        root_key: RootKey | RootKeys,
        *,
        create: bool = False,
        spare_keys: int = 64,
        cached_keys: int = 10_000,
    ) -> FileKeyring:
        """Opens the keyring in `directory`, after checking that it is whole and belongs to `root_key`.

        Args:
            directory: Its own directory, mode 0700.
            root_key: What its keys are wrapped under; several, where one of them may be.
            create: Whether to make a new keyring if the directory is missing or empty. Of several processes that do
                so at once, one makes it and all open the same.
            spare_keys: How many keys are made at a time for each tenant, at least 1.
            cached_keys: How many subjects' keys this process keeps unwrapped, at least 1.

        Raises:
            ConfigurationError: There is no keyring and `create` is false; a part of it is missing or damaged; others
                may enter the directory; or it was made with another root key.
            ProviderUnavailableError: Its storage did not answer in time.
        """
        if spare_keys < 1 or cached_keys < 1:
            raise ConfigurationError("spare_keys and cached_keys must be at least 1")
        root_keys = RootKeys.of(root_key)
        if is_absent(directory):
            if not create:
                raise ConfigurationError(
                    f"there is no keyring in {directory}, and without it nothing that people stored can be read; "
                    "put it back, or restore its backup: luminescent-cloud keyring restore FILE"
                )
            create_keyring(directory, root_keys.first)
        files = open_keyring(directory, root_keys)
        return cls(files, spare_keys=spare_keys, cached_keys=cached_keys)

    def resolve_subject(self, tenant_id: str, user_id: str, *, create: bool) -> SubjectKey | None:
        """One HMAC and one read of the slot if the key is cached; a new link costs one transaction."""
        self._require_usable()
        tag = link_tag(self._lookup_key, tenant_id, user_id)
        cached = self._current(self._subjects, self._subjects.get_by_tag(tag))
        if cached is not None:
            return cached.key
        found = self._load(self._subjects, lambda: self._find_by_tag(tenant_id, tag))
        if found is None and create:
            self._link(tenant_id, tag)
            found = self._load(self._subjects, lambda: self._find_by_tag(tenant_id, tag))
            if found is None:
                raise KeyDestroyedError("the subject was destroyed while it was being made")
        return found.key if found is not None else None

    def subject_key(self, tenant_id: str, subject_id: str) -> SubjectKey | None:
        """One read of the slot if the key is cached."""
        self._require_usable()
        cached = self._current(self._subjects, self._subjects.get(subject_id))
        found = cached or self._load(self._subjects, lambda: self._find_by_id(tenant_id, subject_id))
        return found.key if found is not None and found.key.tenant_id == tenant_id else None

    def destroy_subject(self, tenant_id: str, subject_id: str) -> bool:
        """Overwrites the slot, then deletes row and link, then overwrites the journal's copies of them."""
        self._require_usable()
        with self._lock.held():
            row = self._index.subject_by_id(tenant_id, subject_id)
            if row is not None:
                self._slots.destroy((row.slot,))
                with self._index.transaction():
                    self._index.delete_subject(row)
            # Also when there was nothing: an earlier call may have stopped just before this.
            self._index.scrub_journal()
        self.forget(tenant_id, subject_id)
        return row is not None

    def traces(self, tenant_id: str, subject_id: str) -> KeyTraces | None:
        """What the files hold of a linked subject, to be looked for once it is destroyed; `None` if there is none."""
        self._require_usable()
        with self._lock.held():
            row = self._index.subject_by_id(tenant_id, subject_id)
            tag = self._index.tag_of(subject_id)
            if row is None or tag is None:
                return None
            return KeyTraces(parse_slot(self._slots.read(row.slot)).wrapped, tag)

    def forget(self, tenant_id: str, subject_id: str) -> None:
        """Drops the cached key, if it is this tenant's."""
        cached = self._subjects.get(subject_id)
        if cached is not None and cached.key.tenant_id == tenant_id:
            self._subjects.drop(subject_id)

    def remembers(self, tenant_id: str, subject_id: str) -> bool:
        """Whether it is cached, if it is this tenant's."""
        cached = self._subjects.get(subject_id)
        return cached is not None and cached.key.tenant_id == tenant_id

    def subjects(self, tenant_id: str) -> tuple[str, ...]:
        """One query of the index."""
        self._require_usable()
        return self._index.subject_ids(tenant_id)

    def counts(self) -> KeyringCounts:
        """How full the keyring is."""
        self._require_usable()
        return self._index.counts()

    def create_tenant(self, tenant_id: str) -> None:
        """The tenant's key and its first spare keys, in one transaction."""
        self._require_usable()
        if self._load_tenant(tenant_id) is not None:
            return
        with self._lock.held(), self._index.transaction():
            if self._index.tenant_slot(tenant_id) is not None:
                return
            (slot,) = self._files.take_slots(1)
            key = TenantKey(tenant_id, os.urandom(KEY_BYTES))
            wrapped = self._files.wrapping_root_key().wrap(key.key, encode_place(tenant_place(tenant_id, slot)))
            self._slots.write(slot, pack_slot(wrapped))
            self._index.add_tenant(tenant_id, slot)
            self._make_spares(key)

    def tenant_key(self, tenant_id: str) -> TenantKey:
        """One read of the slot if the key is cached."""
        self._require_usable()
        return self._require_tenant(tenant_id).key

    def rotate_tenant(self, tenant_id: str, *, now: datetime, progress: Progress = no_progress) -> Rotated:
        """Wraps every key under the tenant's anew, in its own slot; `cloud.keys.rotation` has the rules."""
        self._require_usable()
        return rotate_tenant(self._files, tenant_id, now=now, progress=progress)

    def backups(self) -> tuple[KeyringBackup, ...]:
        """One query of the index."""
        self._require_usable()
        return self._files.register.backups()

    @property
    def files(self) -> KeyringFiles:
        """The open files, for what is done to the keyring as a whole."""
        self._require_usable()
        return self._files

    def destroy_tenant(self, tenant_id: str) -> bool:
        """Overwrites the tenant's slot and all slots under it with one sync, then deletes their rows."""
        self._require_usable()
        return self._destroy_tenant(tenant_id, only_if_begun=False)

    def close(self) -> None:
        """Waits for the writer of the moment, then closes the files; safe to call twice and after a fork."""
        # In a forked child the lock's descriptor is the parent's own: to unlock here would unlock it there.
        if self._closed or os.getpid() != self._owner_pid:
            return
        with self._lock.held():
            self._closed = True
            self._files.close()
        self._lock.close()
        self._subjects.clear()
        self._tenants.clear()

    def _destroy_tenant(self, tenant_id: str, *, only_if_begun: bool) -> bool:
        with self._lock.held():
            tenant_slot = self._index.tenant_slot(tenant_id)
            if tenant_slot is not None and only_if_begun:
                # A tenant of the same name may have been made since: its key must not fall to the old one's end.
                state = parse_slot(self._slots.read(tenant_slot)).state
                tenant_slot = tenant_slot if state is SlotState.DESTROYED else None
            if tenant_slot is not None:
                slots = (tenant_slot, *self._index.slots_under(tenant_id))
                self._slots.destroy(slots)
                with self._index.transaction():
                    self._index.delete_tenant(tenant_id, slots)
            self._index.scrub_journal()
        self._tenants.drop(tenant_id)
        self._subjects.drop_tenant(tenant_id)
        return tenant_slot is not None

    def drop_spares(self, tenant_id: str) -> int:
        """Keys made ahead are destroyed: in a keyring from earlier they may be somebody's since; returns how many."""
        self._require_usable()
        with self._lock.held():
            # Cut off in between, a row names a destroyed key until this is done again: whatever a keyring from earlier
            # is admitted by does it before the keyring is used. It does not count: the copy stays one from earlier.
            with self._index.transaction(counts=False):
                spares = []
                while (spare := self._index.take_spare(tenant_id)) is not None:
                    spares.append(spare.slot)
                self._slots.destroy(tuple(spares))
                self._index.release_slots(tuple(spares))
            self._index.scrub_journal()
        return len(spares)

    def _link(self, tenant_id: str, tag: bytes) -> None:
        for _ in range(_ATTEMPTS):
            tenant = self._require_tenant(tenant_id)
            with self._lock.held(), self._index.transaction():
                if self._current(self._tenants, tenant) is None:
                    # Destroyed or rotated since: a key made now must be under the key of now.
                    continue
                if self._index.subject_by_tag(tag) is not None:
                    return
                spare = self._index.take_spare(tenant_id)
                if spare is None:
                    self._make_spares(tenant.key)
                    spare = self._index.take_spare(tenant_id)
                    assert spare is not None
                self._index.link(spare, tag)
                return
        raise KeyDestroyedError("the tenant's key does not exist")

    def _make_spares(self, tenant: TenantKey) -> None:
        """Makes keys ahead: their slots are durable before the transaction that names them commits."""
        spares = [
            SubjectRow(new_subject_id(), tenant.tenant_id, slot) for slot in self._files.take_slots(self._spare_keys)
        ]
        for spare in spares:
            place = subject_place(tenant.tenant_id, spare.subject_id, spare.slot)
            self._slots.write(spare.slot, pack_slot(wrap_key(tenant.key, os.urandom(KEY_BYTES), place=place)))
        self._slots.sync()
        self._index.add_spares(spares)

    def _find_by_tag(self, tenant_id: str, tag: bytes) -> _Found[SubjectKey] | None:
        row = self._index.subject_by_tag(tag)
        return self._found_subject(row, tag) if row is not None and row.tenant_id == tenant_id else None

    def _find_by_id(self, tenant_id: str, subject_id: str) -> _Found[SubjectKey] | None:
        row = self._index.subject_by_id(tenant_id, subject_id)
        return self._found_subject(row, b"") if row is not None else None

    def _found_subject(self, row: SubjectRow, tag: bytes) -> _Found[SubjectKey] | None:
        tenant = self._load_tenant(row.tenant_id)
        if tenant is None:
            return None
        place = subject_place(row.tenant_id, row.subject_id, row.slot)
        return _Found(
            owner_id=row.subject_id,
            slot=row.slot,
            tag=tag,
            unwrap=lambda wrapped: SubjectKey(
                row.tenant_id,
                row.subject_id,
                # During a rotation some are under the new key already, and some under the former still.
                checked_key(unseal_with_any(tenant.key.versions, wrapped, place=place)),
            ),
            finish_destruction=lambda: self.destroy_subject(row.tenant_id, row.subject_id),
        )

    def _find_tenant(self, tenant_id: str) -> _Found[TenantKey] | None:
        slot = self._index.tenant_slot(tenant_id)
        if slot is None:
            return None
        aad = encode_place(tenant_place(tenant_id, slot))
        return _Found(
            owner_id=tenant_id,
            slot=slot,
            tag=b"",
            unwrap=lambda wrapped: TenantKey(
                tenant_id,
                checked_key(self._files.root_keys.unwrap(wrapped, aad)),
                former_keys(self._files, tenant_id),
            ),
            finish_destruction=lambda: self._destroy_tenant(tenant_id, only_if_begun=True),
        )

    def _load_tenant(self, tenant_id: str) -> CachedKey[TenantKey] | None:
        cached = self._current(self._tenants, self._tenants.get(tenant_id))
        return cached or self._load(self._tenants, lambda: self._find_tenant(tenant_id))

    def _require_tenant(self, tenant_id: str) -> CachedKey[TenantKey]:
        tenant = self._load_tenant(tenant_id)
        if tenant is None:
            raise KeyDestroyedError("the tenant's key does not exist")
        return tenant

    def _load(self, cache: KeyCache[K], find: Callable[[], _Found[K] | None]) -> CachedKey[K] | None:
        """Unwraps what the index names; `None` if there is nothing, or it turns out to be destroyed."""
        for attempts_left in reversed(range(_ATTEMPTS)):
            found = find()
            if found is None:
                return None
            with contextlib.nullcontext() if attempts_left else self._lock.held():
                # The last time while nobody writes: until then a slot may have been read while it was written.
                image = self._slots.read(found.slot)
            slot = parse_slot(image)
            if slot.state is SlotState.DESTROYED:
                if not self._finishes:
                    return None
                found.finish_destruction()
                continue
            try:
                key = found.unwrap(slot.wrapped)
            except SealBrokenError:
                # The slot may have been destroyed and given to somebody else since the index was read: ask again.
                if not attempts_left:
                    raise
                continue
            entry = CachedKey(found.owner_id, key, found.slot, image, found.tag)
            cache.put(entry)
            # Not earlier: a destruction between the read and `put` would have left the key in memory.
            if self._current(cache, entry) is not None:
                return entry
        return None

    def _current(self, cache: KeyCache[K], entry: CachedKey[K] | None) -> CachedKey[K] | None:
        """`entry` if its slot still holds its key; otherwise it is dropped."""
        if entry is None or self._slots.read(entry.slot) == entry.image:
            return entry
        cache.drop(entry.owner_id)
        return None

    def _require_usable(self) -> None:
        if self._closed:
            raise ProviderUnavailableError("keyring", reason="is closed")
        if os.getpid() != self._owner_pid:
            raise ConfigurationError("this keyring was opened before a fork; open it in each process")

"""Rotation of the root key and of tenants' keys while the keyring is in use.

Rules:

- A key that is wrapped anew is overwritten in its own slot, so no older wrapping of it remains in any file, and every
  process that holds it notices (`CachedKey`) and loads it again.
- Every step may be done again. What has begun is in the index before a slot changes, and each slot itself tells
  whether it is done: it opens under the new key. So a killed rotation is finished by running it again.
- One rotation at a time over all processes, by a lock of its own. The writer lock is held for a batch of keys at a
  time, so others make and destroy keys in between; what they make meanwhile is under the new key already.

The root key: `next_root_key_id` is written, every slot under the root key is wrapped anew, `root_key_id` follows. It
is refused before anything changes if a running process could not reach the new root key.

A tenant's key: a slot is named for the present key, which is wrapped into it; the new key overwrites the tenant's own
slot; the keys under it are wrapped anew. The former key stays, for values that were sealed under it directly and that
nobody may rewrite, such as audit events. It is destroyed with the tenant.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, KeyDestroyedError, ProviderUnavailableError, SealBrokenError
from cloud.keys.attendance import attendees
from cloud.keys.index import SubjectRow
from cloud.keys.layout import LOOKUP_SLOT, KeyringFiles, lookup_aad, subject_place, tenant_place
from cloud.keys.model import KEY_BYTES, SLOT_BYTES, SlotState, encode_place, pack_slot, parse_slot
from cloud.keys.ports import RootKey
from cloud.keys.reports import Progress, Rotated, no_progress
from cloud.keys.sealing import checked_key, unseal_with_any, wrap_key

_BATCH: Final = 128
_PAUSE_S: Final = 0.002
"""Between two batches, so that writers who wait for the lock get it."""


def rotate_root(files: KeyringFiles, new_key_id: str, *, now: datetime, progress: Progress = no_progress) -> Rotated:
    """Every key that is under the root key is under the one named `new_key_id` when this returns.

    Args:
        files: The keyring.
        new_key_id: A root key within reach of every process that has the keyring open.
        now: The present, UTC.
        progress: Told after every batch.

    Raises:
        ConfigurationError: The new root key is not within reach here or of another process, or a rotation to
            another one was interrupted. Nothing has changed.
        ProviderUnavailableError: Another rotation is under way, or the storage failed; running it again continues.
    """
    with files.rotation_lock.held():
        new = _begin_root(files, new_key_id)
        if new is None:
            return Rotated(0, 0)
        failpoints.reach("rotate.root.begun")
        # A tenant that is made from now on is under the new root key.
        owners = ("", *files.register.tenants())
        wrapped = unreadable = 0
        for start in range(0, len(owners), _BATCH):
            batch = owners[start : start + _BATCH]
            with files.lock.held():
                for slot, aad in [pair for owner in batch for pair in _under_root(files, owner)]:
                    done = _rewrapped_by_root(files, new, slot, aad)
                    wrapped, unreadable = wrapped + (done is True), unreadable + (done is None)
                files.slots.sync()
            failpoints.reach("rotate.root.batch")
            progress(min(start + _BATCH, len(owners)), len(owners))
            time.sleep(_PAUSE_S)
        with files.lock.held():
            with files.index.transaction():
                files.register.end_root(new_key_id, now)
            files.index.scrub_journal()
        failpoints.reach("rotate.root.ended")
    return Rotated(wrapped, unreadable)


def _begin_root(files: KeyringFiles, new_key_id: str) -> RootKey | None:
    """The new root key, with the rotation begun; `None` if the keyring is under it already."""
    with files.lock.held():
        present, going = files.register.root_key_id(), files.register.next_root_key_id()
        if going is None and present == new_key_id:
            return None
        if going not in (None, new_key_id):
            raise ConfigurationError(
                f"a rotation to root key {going!r} was interrupted; finish it first, with that root key"
            )
        new = files.root_keys.named(new_key_id)
        if new is None or files.root_keys.named(present) is None:
            raise ConfigurationError(
                f"a rotation needs both root keys, {present!r} and {new_key_id!r}; one of them is not configured here"
            )
        blind = sum(not one.reaches(new_key_id, files.root_keys) for one in attendees(files.directory))
        if blind:
            raise ConfigurationError(
                f"{blind} running process(es) could not reach root key {new_key_id!r} and would be locked out; start "
                "them again with it as other_root_key_file, then rotate"
            )
        if going is None:
            with files.index.transaction():
                files.register.begin_root(new_key_id)
    return new


def _under_root(files: KeyringFiles, owner: str) -> list[tuple[int, bytes]]:
    """Slots that the root key wraps for a tenant, or for the keyring itself, and what they are bound to."""
    if not owner:
        return [(LOOKUP_SLOT, lookup_aad())]
    slot = files.index.tenant_slot(owner)
    slots = (slot, *files.register.former_slots(owner)) if slot is not None else ()
    return [(slot, encode_place(tenant_place(owner, slot))) for slot in slots]


def _rewrapped_by_root(files: KeyringFiles, new: RootKey, slot: int, aad: bytes) -> bool | None:
    """Wraps a slot anew; `False` if there was nothing to do, `None` if it does not open."""
    found = parse_slot(files.slots.read(slot))
    if found.state is not SlotState.USED:
        return False
    try:
        new.unwrap(found.wrapped, aad)
    except SealBrokenError:
        try:
            key = checked_key(files.root_keys.unwrap(found.wrapped, aad))
        except SealBrokenError:
            return None
        files.slots.write(slot, pack_slot(new.wrap(key, aad)))
        failpoints.reach("rotate.root.slot")
        return True
    return False


def rotate_tenant(files: KeyringFiles, tenant_id: str, *, now: datetime, progress: Progress = no_progress) -> Rotated:
    """The tenant has a new key when this returns, and all keys under it are wrapped under the new one.

    A rotation of this tenant that was killed is finished instead of beginning another one.

    Raises:
        KeyDestroyedError: The tenant has no key (any more).
        ProviderUnavailableError: Another rotation is under way, or the storage failed; running it again continues.
    """
    with files.rotation_lock.held():
        if files.register.next_root_key_id() is not None:
            raise ProviderUnavailableError("keyring", reason="is in the middle of a rotation of its root key")
        image, new, former = _begin_tenant(files, tenant_id, now)
        wrapped = unreadable = done = 0
        total = files.register.keys_under(tenant_id)
        # Spares first: one that is linked meanwhile is found among the subjects then.
        for read in (files.register.spares_after, files.register.subjects_after):
            for rows in _batches(files, tenant_id, image, read):
                for row in rows:
                    outcome = _rewrapped_by_tenant(files, new, former, row)
                    wrapped, unreadable = wrapped + (outcome is True), unreadable + (outcome is None)
                done += len(rows)
                progress(min(done, total), total)
        with files.lock.held():
            _require_same(files, tenant_id, image)
            with files.index.transaction():
                files.register.end_tenant(tenant_id, now)
            files.index.scrub_journal()
        failpoints.reach("rotate.tenant.ended")
    return Rotated(wrapped, unreadable)


def _begin_tenant(files: KeyringFiles, tenant_id: str, now: datetime) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """The image of the tenant's slot with the new key in it, the new key, and the former keys, newest first."""
    with files.lock.held():
        slot = files.index.tenant_slot(tenant_id)
        if slot is None:
            raise KeyDestroyedError("the tenant's key does not exist")
        present = opened_by_root(files, tenant_id, slot)
        if present is None:
            raise KeyDestroyedError("the tenant's key does not exist")
        if tenant_id not in files.register.rotating_tenants():
            with files.index.transaction():
                (kept,) = files.take_slots(1)
                # Whatever it held: until it is written below it is to look empty, not damaged.
                files.slots.write(kept, bytes(SLOT_BYTES))
                files.slots.sync()
                files.register.begin_tenant(tenant_id, kept, now)
        failpoints.reach("rotate.tenant.begun")
        kept = files.register.former_slots(tenant_id)[-1]
        root = files.wrapping_root_key()
        if opened_by_root(files, tenant_id, kept) is None:
            # Named before it is written: a wrapping in a slot that no row names would outlive the tenant.
            files.slots.write(kept, pack_slot(root.wrap(present, encode_place(tenant_place(tenant_id, kept)))))
            files.slots.sync()
        failpoints.reach("rotate.tenant.kept")
        former = former_keys(files, tenant_id)
        if present == former[-1]:
            present = os.urandom(KEY_BYTES)
            files.slots.write(slot, pack_slot(root.wrap(present, encode_place(tenant_place(tenant_id, slot)))))
            files.slots.sync()
        failpoints.reach("rotate.tenant.changed")
        return files.slots.read(slot), present, tuple(reversed(former))


def opened_by_root(files: KeyringFiles, tenant_id: str, slot: int) -> bytes | None:
    """The tenant's key in a slot; `None` if there is none in it."""
    found = parse_slot(files.slots.read(slot))
    if found.state is not SlotState.USED:
        return None
    return checked_key(files.root_keys.unwrap(found.wrapped, encode_place(tenant_place(tenant_id, slot))))


def former_keys(files: KeyringFiles, tenant_id: str) -> tuple[bytes, ...]:
    """A tenant's former keys, oldest first; one that a rotation has only named yet, or that is destroyed, is left out.

    Raises:
        SealBrokenError: One of them is damaged.
    """
    found = (opened_by_root(files, tenant_id, slot) for slot in files.register.former_slots(tenant_id))
    return tuple(key for key in found if key is not None)


def _batches(
    files: KeyringFiles, tenant_id: str, image: bytes, read: Callable[[str, str, int], list[SubjectRow]]
) -> Iterator[Sequence[SubjectRow]]:
    """Batches of rows; the writer lock is held while one is worked on, which then is made durable."""
    after = ""
    while True:
        with files.lock.held():
            _require_same(files, tenant_id, image)
            rows = read(tenant_id, after, _BATCH)
            if not rows:
                return
            yield rows
            files.slots.sync()
        failpoints.reach("rotate.tenant.batch")
        after = rows[-1].subject_id
        time.sleep(_PAUSE_S)


def _require_same(files: KeyringFiles, tenant_id: str, image: bytes) -> None:
    # It may have been destroyed between two batches, and another of its name made.
    slot = files.index.tenant_slot(tenant_id)
    if slot is None or files.slots.read(slot) != image:
        raise KeyDestroyedError("the tenant's key was destroyed while it was being rotated")


def _rewrapped_by_tenant(files: KeyringFiles, new: bytes, former: Sequence[bytes], row: SubjectRow) -> bool | None:
    """Wraps a slot anew; `False` if there was nothing to do, `None` if it does not open."""
    found = parse_slot(files.slots.read(row.slot))
    if found.state is not SlotState.USED:
        # Destroyed, and not forgotten yet; or damaged, which is no reason to write over it.
        return False if found.state is SlotState.DESTROYED else None
    place = subject_place(row.tenant_id, row.subject_id, row.slot)
    try:
        unseal_with_any((new,), found.wrapped, place=place)
    except SealBrokenError:
        try:
            key = checked_key(unseal_with_any(former, found.wrapped, place=place))
        except SealBrokenError:
            return None
        files.slots.write(row.slot, pack_slot(wrap_key(new, key, place=place)))
        failpoints.reach("rotate.tenant.slot")
        return True
    return False

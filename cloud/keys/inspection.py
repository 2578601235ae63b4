"""Looks at a keyring as a whole: how it is, and whether its keys open. Changes nothing."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import Final

from cloud.kernel.errors import SealBrokenError
from cloud.keys.attendance import attendees
from cloud.keys.index import SubjectRow
from cloud.keys.layout import KeyringFiles, subject_place
from cloud.keys.model import SlotState, parse_slot
from cloud.keys.reports import KeyringMark, KeyringStatus, Progress, SlotCheck, no_progress
from cloud.keys.rotation import former_keys, opened_by_root
from cloud.keys.sealing import checked_key, unseal_with_any

_BATCH: Final = 256
_SAMPLE: Final = 100


def mark_of(files: KeyringFiles) -> KeyringMark:
    """By what the keyring is recognized, at this moment."""
    with files.lock.held():
        return _mark(files)


def _mark(files: KeyringFiles) -> KeyringMark:
    return KeyringMark(files.slots.keyring_id.hex(), files.index.number("epoch"), files.register.root_key_id())


def status_of(files: KeyringFiles) -> KeyringStatus:
    """The keyring at this moment."""
    register = files.register
    with files.lock.held():
        return KeyringStatus(
            mark=_mark(files),
            format=files.index.number("format"),
            next_root_key_id=register.next_root_key_id(),
            rotating_tenants=register.rotating_tenants(),
            rotated_at=register.rotated_at(),
            counts=files.index.counts(),
            open_in=len(attendees(files.directory)),
            backups=register.backups(),
        )


def check_slots(files: KeyringFiles, *, everything: bool, progress: Progress = no_progress) -> SlotCheck:
    """Unwraps keys to try: of every tenant, and of its people all of them or the first hundred.

    Args:
        files: The keyring.
        everything: Whether to try every person's key.
        progress: Told after every batch.
    """
    tenants = files.register.tenants()
    total = sum(files.register.keys_under(tenant_id) for tenant_id in tenants) + len(tenants)
    seen: Counter[_Opens] = Counter()
    for tenant_id in tenants:
        with files.lock.held():
            keys = _tenant_keys(files, tenant_id)
        seen[_Opens.YES if keys else _Opens.NO] += 1
        for read in (files.register.spares_after, files.register.subjects_after):
            after, left = "", total if everything else _SAMPLE
            while left > 0:
                with files.lock.held():
                    rows = read(tenant_id, after, min(_BATCH, left))
                    seen.update(_opens(files, row, keys) for row in rows)
                if not rows:
                    break
                after, left = rows[-1].subject_id, left - len(rows)
                progress(seen.total(), total)
    return SlotCheck(seen.total(), seen[_Opens.NO], seen[_Opens.DESTROYED])


class _Opens(Enum):
    YES = "opens"
    NO = "does not open"
    DESTROYED = "is destroyed, and not forgotten yet"


def _tenant_keys(files: KeyringFiles, tenant_id: str) -> tuple[bytes, ...]:
    """The tenant's keys, newest first; none if the present one does not open."""
    slot = files.index.tenant_slot(tenant_id)
    try:
        present = opened_by_root(files, tenant_id, slot) if slot is not None else None
        return (present, *reversed(former_keys(files, tenant_id))) if present is not None else ()
    except SealBrokenError:
        return ()


def _opens(files: KeyringFiles, row: SubjectRow, keys: tuple[bytes, ...]) -> _Opens:
    found = parse_slot(files.slots.read(row.slot))
    if found.state is SlotState.DESTROYED:
        return _Opens.DESTROYED
    try:
        checked_key(unseal_with_any(keys, found.wrapped, place=subject_place(row.tenant_id, row.subject_id, row.slot)))
    except SealBrokenError:
        return _Opens.NO
    return _Opens.YES

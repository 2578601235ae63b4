"""The data map: every place that can hold something about a person, and what becomes of it on erasure.

It is complete or the tests fail: they walk both databases' catalogs, the home directory and the process for a table,
column, index, directory, cache or queue that stands in no entry. Export and erasure go by the same map.

What becomes of a place says how deep an erasure must be to reach it, and who finds and erases there: `DataMap`, for
what is emptied before an erasure returns; the residue scan and the rewriting of storage, for the bytes of deleted
rows; the list of backups, for what expires.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cloud.gdpr.levels import Level


class Kind(StrEnum):
    """What sort of place it is."""

    CONTROL_TABLE = "control_table"
    PIXELTABLE_TABLE = "pixeltable_table"
    KEYRING = "keyring"
    CACHE = "cache"
    QUEUE = "queue"
    DIRECTORY = "directory"
    FILES = "files"
    """Files within a directory that is listed, or of PostgreSQL, that have an end of their own."""
    OUTSIDE = "outside"
    """Files that left the installation."""


class Holds(StrEnum):
    """What a column or place can hold about a person."""

    SEALED = "sealed under the person's key"
    SEALED_TENANT = "sealed under the tenant's key"
    SUBJECT = "subject id"
    TAG = "keyed hash"
    STRANGER = "keyed hash of a day of the address of somebody who is nobody's data subject"
    FACT = "fact about a memory, such as a time or a size"
    CLEAR = "content in the clear, in this process's memory alone"
    NOTHING = "nothing about a person"


class OnErasure(StrEnum):
    """What an erasure does there."""

    DELETED = "rows deleted before the call returns"
    DESTROYED = "key and link overwritten before the call returns"
    DROPPED = "dropped before the call returns; other processes refuse it by the ledger"
    ANONYMOUS = "kept: with key and link destroyed it points to nobody"
    UNTOUCHED = "holds nothing about a person"
    WITH_STORAGE = "bytes of deleted rows, unreadable without the key, until the storage is rewritten"
    WITH_WAL = "bytes of deleted rows, unreadable without the key, until the write-ahead log of before is removed"
    EXPIRES = "copies of before, until the last of them expires"
    HANDED_OUT = "in the hands of whoever asked for it, where no erasure reaches it"

    @property
    def level(self) -> Level | None:
        """The level of an erasure that reaches such a place; `None` where there is nothing to reach, or no way to."""
        return _LEVELS[self]


_LEVELS: Final[Mapping[OnErasure, Level | None]] = {
    OnErasure.DROPPED: Level.LOGICAL,
    OnErasure.DESTROYED: Level.CRYPTOGRAPHIC,
    OnErasure.ANONYMOUS: Level.CRYPTOGRAPHIC,
    OnErasure.DELETED: Level.STORE,
    OnErasure.WITH_STORAGE: Level.FILE,
    OnErasure.WITH_WAL: Level.WAL,
    OnErasure.EXPIRES: Level.BACKUPS,
    OnErasure.UNTOUCHED: None,
    OnErasure.HANDED_OUT: None,
}


@dataclass(frozen=True, slots=True)
class Place:
    """An entry of the data map.

    Attributes:
        name: Stable name, used in counts and evidence.
        kind: What sort of place it is.
        location: Table, file, directory or object it describes.
        columns: What each column can hold; one entry `""` for a place without columns.
        on_erasure: What an erasure does there.
        basis: Why it is kept at all, or after an erasure.
        exported_in: File of an export that tells what is here; `None` where nothing is about a person, or where
            `not_told` says why.
        not_told: Why an export does not tell what is here about a person.

    Raises:
        ValueError: Something about a person is here, and nothing says what becomes of it, why it is kept, or whether an
            export tells it.
    """

    name: str
    kind: Kind
    location: str
    columns: Mapping[str, Holds]
    on_erasure: OnErasure
    basis: str = "GDPR Art. 6(1)(b): the service the tenant asked for"
    exported_in: str | None = None
    not_told: str | None = None

    def __post_init__(self) -> None:
        if not self.basis or not self.columns:
            raise ValueError(f"{self.name} does not say what it holds and why")
        if self.is_personal == (self.on_erasure is OnErasure.UNTOUCHED):
            raise ValueError(
                f"{self.name} holds something about a person and no erasure reaches it, or nothing and one does"
            )
        if self.is_personal == (self.exported_in is None and self.not_told is None):
            raise ValueError(f"{self.name} does not say whether an export tells what is there")

    @property
    def is_personal(self) -> bool:
        """Whether anything here is about a person whose memories are kept."""
        return bool(set(self.columns.values()) - {Holds.NOTHING, Holds.STRANGER})

    @property
    def level(self) -> Level | None:
        """The level of an erasure that reaches it."""
        return self.on_erasure.level


_COPY: Final = "a copy of what other entries tell"
_BYTES: Final = "bytes that nothing reads any more, of what other entries tell"
_LEDGER_FACTS: Final = {
    "revision": Holds.FACT,
    "generation": Holds.FACT,
    "created_at": Holds.FACT,
    "expires_at": Holds.FACT,
}
_ROW: Final = {
    "memory_id": Holds.FACT,
    "tenant_id": Holds.NOTHING,
    "subject_id": Holds.SUBJECT,
    **_LEDGER_FACTS,
    "memory_type": Holds.FACT,
    "confidence": Holds.FACT,
    "envelope": Holds.SEALED,
}
_ACCOUNTABILITY: Final = "GDPR Art. 5(2), 17(3)(b): proof of what was done; points to nobody after an erasure"

CATALOG: Final[tuple[Place, ...]] = (
    Place(
        "control.memories",
        Kind.CONTROL_TABLE,
        "memories",
        {
            "memory_id": Holds.FACT,
            "tenant_id": Holds.NOTHING,
            "subject_id": Holds.SUBJECT,
            **_LEDGER_FACTS,
            "state": Holds.FACT,
            "size_bytes": Holds.FACT,
            "stored_at": Holds.FACT,
            "deleted_at": Holds.FACT,
            "stored_event": Holds.FACT,
            "superseded_by": Holds.FACT,
            "superseded_at": Holds.FACT,
            "last_accessed_at": Holds.FACT,
            "purge_started_at": Holds.FACT,
        },
        OnErasure.DELETED,
        exported_in="memories.jsonl",
    ),
    Place(
        "control.memory_changes",
        Kind.CONTROL_TABLE,
        "memory_changes",
        {
            "memory_id": Holds.FACT,
            "event_id": Holds.FACT,
            "tenant_id": Holds.NOTHING,
            "subject_id": Holds.SUBJECT,
            "revision": Holds.FACT,
            "change": Holds.FACT,
            "changed_at": Holds.FACT,
        },
        OnErasure.DELETED,
        exported_in="person.json",
    ),
    Place(
        "control.intake",
        Kind.CONTROL_TABLE,
        "intake",
        {**_ROW, "placement": Holds.NOTHING},
        OnErasure.DELETED,
        exported_in="memories.jsonl",
    ),
    Place(
        "control.idempotency_keys",
        Kind.CONTROL_TABLE,
        "idempotency_keys",
        {
            "tenant_id": Holds.NOTHING,
            "key_tag": Holds.TAG,
            "fingerprint": Holds.TAG,
            "subject_ids": Holds.SUBJECT,
            "memory_ids": Holds.FACT,
            "created_at": Holds.FACT,
        },
        OnErasure.DELETED,
        exported_in="person.json",
    ),
    Place(
        "control.api_keys",
        Kind.CONTROL_TABLE,
        "api_keys",
        {
            "key_id": Holds.FACT,
            "tenant_id": Holds.NOTHING,
            "secret_hash": Holds.NOTHING,
            "roles": Holds.NOTHING,
            "user_sealed": Holds.SEALED,
            "subject_id": Holds.SUBJECT,
            "created_at": Holds.FACT,
            "expires_at": Holds.FACT,
            "revoked_at": Holds.FACT,
            # Ranges in the clear are those of keys that are nobody's; a constraint holds that.
            "ip_ranges": Holds.NOTHING,
            "ranges_sealed": Holds.SEALED,
            "last_used_at": Holds.FACT,
            "successor_id": Holds.FACT,
        },
        OnErasure.DELETED,
        exported_in="person.json",
    ),
    Place(
        "control.subjects",
        Kind.CONTROL_TABLE,
        "subjects",
        {
            "subject_id": Holds.SUBJECT,
            "tenant_id": Holds.NOTHING,
            "state": Holds.FACT,
            "generation": Holds.FACT,
            "created_at": Holds.FACT,
            "erased_at": Holds.FACT,
            "memories": Holds.FACT,
            "purged_generation": Holds.FACT,
            "held": Holds.FACT,
        },
        OnErasure.ANONYMOUS,
        basis="refuses writes and reads that were in flight when the person was erased",
        exported_in="person.json",
    ),
    Place(
        "control.erasures",
        Kind.CONTROL_TABLE,
        "erasures",
        {
            "erasure_id": Holds.NOTHING,
            "tenant_id": Holds.NOTHING,
            "subject_id": Holds.SUBJECT,
            "state": Holds.FACT,
            "reason_sealed": Holds.SEALED_TENANT,
            "counts": Holds.FACT,
            "requested_at": Holds.FACT,
            "completed_at": Holds.FACT,
            "received_at": Holds.FACT,
            "due_at": Holds.FACT,
            "extended_until": Holds.FACT,
            "extension_reason_sealed": Holds.SEALED_TENANT,
            "extension_notified_at": Holds.FACT,
            "identity_verified_at": Holds.FACT,
            "identity_method": Holds.FACT,
            "previewed_at": Holds.FACT,
            "preview_digest": Holds.FACT,
            "confirmed_at": Holds.FACT,
            # Whoever confirmed it is a person too.
            "confirmed_by": Holds.SUBJECT,
            "failed_step": Holds.FACT,
            "closing_reason_sealed": Holds.SEALED_TENANT,
            # Under the person's own key; under the tenant's while a request is open of whom nothing is kept.
            "user_sealed": Holds.SEALED_TENANT,
            "levels": Holds.FACT,
            "next_level_at": Holds.FACT,
            "certificate": Holds.SUBJECT,
            "commitment_sealed": Holds.SEALED_TENANT,
            "changed_at": Holds.FACT,
            "whole_tenant": Holds.NOTHING,
        },
        OnErasure.ANONYMOUS,
        basis=_ACCOUNTABILITY,
        exported_in="person.json",
    ),
    Place(
        "control.legal_holds",
        Kind.CONTROL_TABLE,
        "legal_holds",
        {
            "hold_id": Holds.NOTHING,
            "tenant_id": Holds.NOTHING,
            "subject_id": Holds.SUBJECT,
            "reason_sealed": Holds.SEALED_TENANT,
            "authority_sealed": Holds.SEALED_TENANT,
            "review_at": Holds.FACT,
            "placed_at": Holds.FACT,
            "released_at": Holds.FACT,
            "release_reason_sealed": Holds.SEALED_TENANT,
        },
        OnErasure.ANONYMOUS,
        basis="GDPR Art. 17(3)(b), 17(3)(e): proof of what was kept, and why; points to nobody after an erasure",
        exported_in="person.json",
    ),
    Place(
        "control.audit_events",
        Kind.CONTROL_TABLE,
        "audit_events",
        {
            "event_id": Holds.NOTHING,
            "log_id": Holds.NOTHING,
            "occurred_at": Holds.FACT,
            "event": Holds.SUBJECT,
        },
        OnErasure.ANONYMOUS,
        basis=_ACCOUNTABILITY,
        exported_in="events.jsonl",
    ),
    Place(
        "control.audit_pending",
        Kind.CONTROL_TABLE,
        "audit_pending",
        {"event_id": Holds.NOTHING, "log_id": Holds.NOTHING},
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.audit_intents",
        Kind.CONTROL_TABLE,
        "audit_intents",
        {
            "event_id": Holds.NOTHING,
            "log_id": Holds.NOTHING,
            "request_id": Holds.NOTHING,
            "action": Holds.NOTHING,
            "occurred_at": Holds.NOTHING,
        },
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.audit_leaves",
        Kind.CONTROL_TABLE,
        "audit_leaves",
        {
            "log_id": Holds.NOTHING,
            "leaf_index": Holds.NOTHING,
            "event_id": Holds.NOTHING,
            "leaf_hash": Holds.NOTHING,
            "sequenced_at": Holds.NOTHING,
        },
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.audit_archives",
        Kind.CONTROL_TABLE,
        "audit_archives",
        dict.fromkeys(
            (
                "log_id",
                "first_leaf",
                "end_leaf",
                "month",
                "oldest_at",
                "newest_at",
                "sha256",
                "bytes",
                "archived_at",
                "deleted_at",
            ),
            Holds.NOTHING,
        ),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.audit_tiles",
        Kind.CONTROL_TABLE,
        "audit_tiles",
        {"log_id": Holds.NOTHING, "level": Holds.NOTHING, "number": Holds.NOTHING, "hashes": Holds.NOTHING},
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.audit_trees",
        Kind.CONTROL_TABLE,
        "audit_trees",
        {
            "log_id": Holds.NOTHING,
            "size": Holds.NOTHING,
            "checkpoint": Holds.NOTHING,
            "changed_at": Holds.NOTHING,
        },
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.usage_events",
        Kind.CONTROL_TABLE,
        "usage_events",
        dict.fromkeys(
            (
                "event_id",
                "tenant_id",
                "operation",
                "occurred_at",
                "memories",
                "stored_bytes",
                "writes",
                "reads",
                "tokens",
            ),
            Holds.NOTHING,
        ),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.usage_reservations",
        Kind.CONTROL_TABLE,
        "usage_reservations",
        dict.fromkeys(
            (
                "reservation_id",
                "tenant_id",
                "meter",
                "amount",
                "actual",
                "state",
                "created_at",
                "expires_at",
                "settled_at",
            ),
            Holds.NOTHING,
        ),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.usage_counters",
        Kind.CONTROL_TABLE,
        "usage_counters",
        dict.fromkeys(("tenant_id", "meter", "period", "shard", "used"), Holds.NOTHING),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.tenants",
        Kind.CONTROL_TABLE,
        "tenants",
        dict.fromkeys(("tenant_id", "state", "plan", "limits", "placement", "created_at", "held"), Holds.NOTHING),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.placements",
        Kind.CONTROL_TABLE,
        "placements",
        dict.fromkeys(
            ("placement", "model", "read_column", "other_model", "state", "epoch", "gate", "changed_at"), Holds.NOTHING
        ),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.placement_moves",
        Kind.CONTROL_TABLE,
        "placement_moves",
        dict.fromkeys(
            ("move_id", "tenant_id", "source", "target", "state", "copied", "started_at", "finished_at"), Holds.NOTHING
        ),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.plan_limits",
        Kind.CONTROL_TABLE,
        "plan_limits",
        dict.fromkeys(("plan", "meter", "limit_value"), Holds.NOTHING),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.revoked_tokens",
        Kind.CONTROL_TABLE,
        "revoked_tokens",
        dict.fromkeys(("tenant_id", "token_tag", "expires_at", "revoked_at"), Holds.NOTHING),
        OnErasure.UNTOUCHED,
        basis="GDPR Art. 32(1)(b): what was revoked stays revoked; gone when the token would have expired",
    ),
    Place(
        "control.refusals",
        Kind.CONTROL_TABLE,
        "refusals",
        {"source": Holds.STRANGER, "minute": Holds.NOTHING, "failures": Holds.NOTHING, "further": Holds.NOTHING},
        OnErasure.UNTOUCHED,
        basis="GDPR Art. 32(1)(b): strangers who were refused, until the minute is reported",
    ),
    Place(
        "control.keyring_state",
        Kind.CONTROL_TABLE,
        "keyring_state",
        dict.fromkeys(("singleton", "keyring_id", "epoch", "root_key_id", "seen_at"), Holds.NOTHING),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.keyring_backups",
        Kind.CONTROL_TABLE,
        "keyring_backups",
        dict.fromkeys(("backup_id", "keyring_id", "epoch", "root_key_id", "made_at", "expires_at"), Holds.NOTHING),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.data_backups",
        Kind.CONTROL_TABLE,
        "data_backups",
        dict.fromkeys(
            ("backup_id", "location", "made_at", "expires_at", "complete", "deleted_at"),
            Holds.NOTHING,
        ),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.erasure_ledger",
        Kind.CONTROL_TABLE,
        "erasure_ledger",
        dict.fromkeys(("singleton", "records", "size_bytes", "line_hash", "seen_at"), Holds.NOTHING),
        OnErasure.UNTOUCHED,
    ),
    Place(
        "control.alembic_version",
        Kind.CONTROL_TABLE,
        "alembic_version",
        {"version_num": Holds.NOTHING},
        OnErasure.UNTOUCHED,
    ),
    Place(
        "pixeltable.memories",
        Kind.PIXELTABLE_TABLE,
        "luminescent.*",
        {**_ROW, "embedding": Holds.SEALED, "embedding_2": Holds.SEALED},
        OnErasure.DELETED,
        exported_in="memories.jsonl",
    ),
    Place("keyring.subject", Kind.KEYRING, "keyring", {"": Holds.TAG}, OnErasure.DESTROYED, exported_in="person.json"),
    Place(
        "process.hot_tier",
        Kind.CACHE,
        "cloud.memory.hot.HotTier",
        {"": Holds.CLEAR},
        OnErasure.DROPPED,
        not_told=_COPY,
    ),
    Place(
        "process.read_times",
        Kind.CACHE,
        "cloud.memory.read_times.ReadTimes",
        {"": Holds.FACT},
        OnErasure.DROPPED,
        not_told="written to the ledger before an export reads it",
    ),
    Place("process.keys", Kind.CACHE, "cloud.keys.cache.KeyCache", {"": Holds.TAG}, OnErasure.DROPPED, not_told=_COPY),
    # Alerts name codes and counts of security events, and no subject.
    Place(
        "process.alerts",
        Kind.QUEUE,
        "cloud.audit.alerts.WebhookAlerts._queue",
        {"": Holds.NOTHING},
        OnErasure.UNTOUCHED,
    ),
    Place("home.postgres", Kind.DIRECTORY, "postgres", {"": Holds.SEALED}, OnErasure.WITH_STORAGE, not_told=_BYTES),
    Place(
        "postgres.indexes",
        Kind.FILES,
        "indexes of both databases' tables",
        {"": Holds.SUBJECT},
        OnErasure.WITH_STORAGE,
        not_told=_BYTES,
    ),
    Place(
        "postgres.toast",
        Kind.FILES,
        "TOAST tables of both databases' tables",
        {"": Holds.SEALED},
        OnErasure.WITH_STORAGE,
        not_told=_BYTES,
    ),
    Place(
        "postgres.statistics",
        Kind.FILES,
        "pg_statistic of both databases",
        {"": Holds.SEALED},
        OnErasure.WITH_STORAGE,
        not_told="samples of columns that other entries tell",
    ),
    Place(
        "postgres.temporary",
        Kind.FILES,
        "pgsql_tmp, while a query sorts",
        {"": Holds.SEALED},
        OnErasure.WITH_STORAGE,
        not_told=_BYTES,
    ),
    Place("postgres.wal", Kind.FILES, "pg_wal", {"": Holds.SEALED}, OnErasure.WITH_WAL, not_told=_BYTES),
    # It is set to say neither statements nor values.
    Place("postgres.log", Kind.FILES, "server.log", {"": Holds.NOTHING}, OnErasure.UNTOUCHED),
    Place(
        "keyring.journal",
        Kind.FILES,
        "journal and free pages of the keyring's index",
        {"": Holds.TAG},
        OnErasure.DESTROYED,
        not_told=_COPY,
    ),
    Place(
        "outside.keyring_backups",
        Kind.OUTSIDE,
        "files of keyring backup",
        {"": Holds.TAG},
        OnErasure.EXPIRES,
        basis="GDPR Art. 32(1)(c): the keys of everybody else can be restored; control.keyring_backups lists them",
        not_told="each person's key, which tells nothing and opens everything",
    ),
    Place(
        "outside.exports",
        Kind.OUTSIDE,
        "files of gdpr export, memory export, audit export",
        {"": Holds.CLEAR},
        OnErasure.HANDED_OUT,
        basis="GDPR Art. 15, 20: given to whoever asked, and the audit log says to whom (Art. 19)",
        not_told="what an export of then told",
    ),
    Place(
        "outside.certificates",
        Kind.OUTSIDE,
        "certificates of erasure that were handed out",
        {"": Holds.TAG},
        OnErasure.HANDED_OUT,
        basis=_ACCOUNTABILITY,
        not_told="in the hands of whoever asked for it",
    ),
    # A test runs an installation and finds the process's log without values, and nothing in a temporary directory.
    Place("process.log", Kind.OUTSIDE, "standard error", {"": Holds.NOTHING}, OnErasure.UNTOUCHED),
    Place("system.temporary", Kind.OUTSIDE, "temporary directories", {"": Holds.NOTHING}, OnErasure.UNTOUCHED),
    Place("home.pixeltable", Kind.DIRECTORY, "pixeltable", {"": Holds.NOTHING}, OnErasure.UNTOUCHED),
    Place("home.secrets", Kind.DIRECTORY, "secrets", {"": Holds.NOTHING}, OnErasure.UNTOUCHED),
    Place("home.imports", Kind.DIRECTORY, "imports", {"": Holds.NOTHING}, OnErasure.UNTOUCHED),
    Place("home.audit_heads", Kind.DIRECTORY, "audit-heads", {"": Holds.NOTHING}, OnErasure.UNTOUCHED),
    Place(
        "home.audit_archive",
        Kind.DIRECTORY,
        "audit-archive",
        {"": Holds.SUBJECT},
        OnErasure.ANONYMOUS,
        basis=_ACCOUNTABILITY,
        not_told="events of before audit_online_days, which an auditor exports",
    ),
    Place(
        "home.erasure_ledger",
        Kind.DIRECTORY,
        "erasure-ledger",
        {"": Holds.SUBJECT},
        OnErasure.ANONYMOUS,
        basis="GDPR Art. 5(2), 32(1)(b): keeps a restored backup from bringing erased people back",
        not_told="names who is erased alone: of who can ask for an export it holds nothing",
    ),
    Place("home.locks", Kind.DIRECTORY, "locks", {"": Holds.NOTHING}, OnErasure.UNTOUCHED),
)

_FILES: Final = (Kind.FILES, Kind.OUTSIDE)

DELETED_FROM: Final = tuple(
    place.name
    for place in CATALOG
    if place.kind not in _FILES and place.on_erasure in (OnErasure.DELETED, OnErasure.DESTROYED, OnErasure.DROPPED)
)
"""Places in which nothing may be found once an erasure returns."""

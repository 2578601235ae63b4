"""Declared shape of the control-plane database; `migrations/` builds it and a test compares the two.

The control plane decides existence, ownership, deletion, expiry, quota and audit. It holds no content in the clear:
`intake.envelope` is sealed, and people are known by subject id alone. Tables in `TENANT_TABLES` carry row-level
security: the request path sees only rows of the tenant that its transaction named.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import CIDR, JSONB

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

_instant = DateTime(timezone=True)
_now = text("clock_timestamp()")

plan_limits = Table(
    "plan_limits",
    metadata,
    Column("plan", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("limit_value", BigInteger),
    comment="Limits of each plan, written from the plan file at start-up; null is unlimited.",
)

tenants = Table(
    "tenants",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("state", Text, nullable=False, server_default="active"),
    Column("plan", Text, nullable=False),
    Column("limits", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("placement", Text, nullable=False),
    Column("created_at", _instant, nullable=False, server_default=_now),
    Column("held", Boolean, nullable=False, server_default=text("false")),
    CheckConstraint("state IN ('active', 'suspended', 'closing', 'closed')", name="state"),
    comment="Boundary of isolation and billing. `limits` overrides the plan's, meter by meter.",
)

usage_counters = Table(
    "usage_counters",
    metadata,
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("period", Date, primary_key=True, server_default="1970-01-01"),
    Column("shard", SmallInteger, primary_key=True, server_default="0"),
    Column("used", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("used >= 0", name="used"),
    comment="Sums of the ledger: stocks in period 1970-01-01, flows by UTC month. Shard 0 of 'memories' is the tenant's"
    " write lock, taken before any subject's.",
)

usage_events = Table(
    "usage_events",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("tokens", BigInteger, nullable=False, server_default="0"),
    Column("occurred_at", _instant, nullable=False, server_default=_now),
    Column("memories", BigInteger, nullable=False, server_default="0"),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
    Column("writes", BigInteger, nullable=False, server_default="0"),
    Column("reads", BigInteger, nullable=False, server_default="0"),
    Index(None, "tenant_id", "occurred_at"),
    comment="The usage ledger: append-only, one row per charged operation, signed deltas. Counters project from it.",
)

usage_reservations = Table(
    "usage_reservations",
    metadata,
    Column("reservation_id", Uuid, primary_key=True),
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), nullable=False),
    Column("meter", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("actual", BigInteger),
    Column("state", Text, nullable=False, server_default="held"),
    Column("created_at", _instant, nullable=False, server_default=_now),
    Column("expires_at", _instant, nullable=False),
    Column("settled_at", _instant),
    CheckConstraint("meter IN ('writes', 'reads', 'tokens')", name="meter"),
    CheckConstraint("state IN ('held', 'committed', 'released', 'expired')", name="state"),
    CheckConstraint("amount > 0 AND actual >= 0", name="amount"),
    Index("ix_usage_reservations_held", "tenant_id", "meter", postgresql_where=text("state = 'held'")),
    Index(None, "expires_at"),
    comment="Units of a flow that are held for work under way, until they are committed, released or expire.",
)

subjects = Table(
    "subjects",
    metadata,
    Column("subject_id", Uuid, primary_key=True),
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), nullable=False),
    Column("state", Text, nullable=False, server_default="active"),
    Column("generation", BigInteger, nullable=False, server_default="1"),
    Column("created_at", _instant, nullable=False, server_default=_now),
    Column("erased_at", _instant),
    Column("purged_generation", BigInteger, nullable=False, server_default="0"),
    Column("memories", BigInteger, nullable=False, server_default="0"),
    Column("held", Boolean, nullable=False, server_default=text("false")),
    CheckConstraint("state IN ('active', 'frozen', 'erased')", name="state"),
    CheckConstraint("memories >= 0", name="memories"),
    Index(None, "tenant_id"),
    comment="One row per person, tenant and incarnation; the generation counts every change of its memories.",
)

memories = Table(
    "memories",
    metadata,
    Column("memory_id", Uuid, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("subject_id", Uuid, ForeignKey("subjects.subject_id"), nullable=False),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("state", Text, nullable=False, server_default="active"),
    Column("size_bytes", Integer, nullable=False),
    Column("created_at", _instant, nullable=False),
    Column("stored_at", _instant, nullable=False, server_default=_now),
    Column("expires_at", _instant),
    Column("deleted_at", _instant),
    Column("generation", BigInteger, nullable=False),
    Column("stored_event", Uuid),
    Column("superseded_by", Uuid),
    Column("superseded_at", _instant),
    Column("last_accessed_at", _instant),
    Column("purge_started_at", _instant),
    CheckConstraint("state IN ('active', 'expired', 'deleted', 'superseded')", name="state"),
    Index(None, "subject_id", "generation"),
    Index("ix_memories_kept", "tenant_id", "state", postgresql_where=text("state <> 'active'")),
    Index("ix_memories_due", "expires_at", postgresql_where=text("state = 'active' AND expires_at IS NOT NULL")),
    comment="The ledger: the authority on existence, ownership, deletion and expiry.",
)

memory_changes = Table(
    "memory_changes",
    metadata,
    Column("memory_id", Uuid, ForeignKey("memories.memory_id", ondelete="CASCADE")),
    Column("event_id", Uuid),
    Column("tenant_id", Text, nullable=False),
    Column("subject_id", Uuid, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("change", Text, nullable=False),
    Column("changed_at", _instant, nullable=False, server_default=_now),
    PrimaryKeyConstraint("memory_id", "event_id"),
    CheckConstraint("change IN ('updated', 'deleted', 'undeleted', 'superseded')", name="change"),
    Index(None, "subject_id"),
    comment="What was done to a memory after it was stored; who did it says the audit event.",
)

intake = Table(
    "intake",
    metadata,
    Column("memory_id", Uuid, ForeignKey("memories.memory_id", ondelete="CASCADE"), primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("subject_id", Uuid, nullable=False),
    Column("placement", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("memory_type", Text, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("created_at", _instant, nullable=False),
    Column("expires_at", _instant),
    Column("envelope", LargeBinary, nullable=False),
    Index(None, "placement", "memory_id"),
    Index(None, "subject_id"),
    comment="Accepted and not yet materialized. Deleted by the transaction that says it is in Pixeltable.",
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id")),
    Column("key_tag", LargeBinary),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("subject_ids", ARRAY(Uuid), nullable=False),
    Column("memory_ids", ARRAY(Uuid), nullable=False),
    Column("created_at", _instant, nullable=False, server_default=_now),
    PrimaryKeyConstraint("tenant_id", "key_tag"),
    comment="HMACs of the callers' idempotency keys and of the requests they stood for.",
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    Column("log_id", Text, nullable=False),
    Column("occurred_at", _instant, nullable=False, server_default=_now),
    Column("event", JSONB, nullable=False),
    Index(None, "log_id", "occurred_at", "event_id"),
    comment="One immutable row per operation. `log_id` is the tenant, or `_system` for events without a valid one.",
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("user_sealed", LargeBinary),
    Column("subject_id", Uuid),
    Column("created_at", _instant, nullable=False, server_default=_now),
    Column("expires_at", _instant),
    Column("revoked_at", _instant),
    Column("ip_ranges", ARRAY(CIDR), nullable=False, server_default=text("'{}'::cidr[]")),
    Column("ranges_sealed", LargeBinary),
    Column("last_used_at", _instant),
    Column("successor_id", Text),
    CheckConstraint("subject_id IS NULL OR ip_ranges = '{}'::cidr[]", name="ranges"),
    Index(None, "tenant_id"),
    Index(None, "subject_id"),
    comment="SHA-256 of random 256-bit secrets; the user a key is bound to is sealed under that person's key.",
)

revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id")),
    Column("token_tag", LargeBinary),
    Column("expires_at", _instant, nullable=False),
    Column("revoked_at", _instant, nullable=False, server_default=_now),
    PrimaryKeyConstraint("tenant_id", "token_tag"),
    comment="SHA-256 of tokens that open nothing any more, until they would have expired by themselves.",
)

refusals = Table(
    "refusals",
    metadata,
    Column("source", Text, primary_key=True),
    Column("minute", _instant, primary_key=True),
    Column("failures", BigInteger, nullable=False),
    Column("further", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    comment="Refused strangers of the present minute: all, and by reason those without an event of their own.",
)

erasures = Table(
    "erasures",
    metadata,
    Column("erasure_id", Uuid, primary_key=True),
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), nullable=False),
    Column("subject_id", Uuid),
    Column("state", Text, nullable=False),
    Column("reason_sealed", LargeBinary),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("requested_at", _instant, nullable=False, server_default=_now),
    Column("completed_at", _instant),
    Column("received_at", _instant, nullable=False),
    Column("due_at", _instant, nullable=False),
    Column("extended_until", _instant),
    Column("extension_reason_sealed", LargeBinary),
    Column("extension_notified_at", _instant),
    Column("identity_verified_at", _instant),
    Column("identity_method", Text),
    Column("previewed_at", _instant),
    Column("preview_digest", Text),
    Column("confirmed_at", _instant),
    Column("confirmed_by", Text),
    Column("failed_step", Text),
    Column("closing_reason_sealed", LargeBinary),
    Column("user_sealed", LargeBinary),
    Column("levels", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("next_level_at", _instant),
    Column("certificate", Text),
    Column("commitment_sealed", LargeBinary),
    Column("changed_at", _instant, nullable=False, server_default=_now),
    Column("whole_tenant", Boolean, nullable=False, server_default=text("false")),
    CheckConstraint(
        "state IN ('received', 'identity_verified', 'previewed', 'held', 'confirmed', 'frozen', 'key_destroyed',"
        " 'rows_deleted', 'storage_rewritten', 'verified', 'certified', 'failed', 'rejected', 'cancelled')",
        name="state",
    ),
    CheckConstraint(
        "user_sealed IS NULL OR state NOT IN ('verified', 'certified', 'rejected', 'cancelled')", name="user_sealed"
    ),
    CheckConstraint("NOT whole_tenant OR subject_id IS NULL", name="whole_tenant"),
    Index(None, "tenant_id", "subject_id"),
    Index(
        "uq_erasures_open",
        "tenant_id",
        "subject_id",
        unique=True,
        postgresql_where=text("state NOT IN ('verified', 'certified', 'rejected', 'cancelled')"),
    ),
    Index("uq_erasures_whole_tenant", "tenant_id", unique=True, postgresql_where=text("whole_tenant")),
    comment="Requests for erasure and how far each got; a crash resumes at the recorded state.",
)

legal_holds = Table(
    "legal_holds",
    metadata,
    Column("hold_id", Uuid, primary_key=True),
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), nullable=False),
    Column("subject_id", Uuid),
    Column("reason_sealed", LargeBinary, nullable=False),
    Column("authority_sealed", LargeBinary, nullable=False),
    Column("review_at", _instant, nullable=False),
    Column("placed_at", _instant, nullable=False, server_default=_now),
    Column("released_at", _instant),
    Column("release_reason_sealed", LargeBinary),
    Index("ix_legal_holds_held", "tenant_id", "subject_id", postgresql_where=text("released_at IS NULL")),
    comment="What must be kept, of a person or of a whole tenant; `held` of the subject's or tenant's row follows it.",
)

placements = Table(
    "placements",
    metadata,
    Column("placement", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("read_column", Text, nullable=False, server_default="embedding"),
    Column("other_model", Text),
    Column("state", Text, nullable=False, server_default="serving"),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("gate", JSONB),
    Column("changed_at", _instant, nullable=False, server_default=_now),
    CheckConstraint("state IN ('serving', 'filling', 'filled', 'switching', 'switched', 'emptying')", name="state"),
    CheckConstraint("(other_model IS NULL) = (state = 'serving')", name="other_model"),
    comment="The Pixeltable tables, the embedding model that is read in each, and how far a change of it got.",
)

placement_moves = Table(
    "placement_moves",
    metadata,
    Column("move_id", Uuid, primary_key=True),
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="copying"),
    Column("copied", BigInteger, nullable=False, server_default="0"),
    Column("started_at", _instant, nullable=False, server_default=_now),
    Column("finished_at", _instant),
    CheckConstraint("state IN ('copying', 'switched', 'done')", name="state"),
    Index(None, "tenant_id"),
    Index("uq_placement_moves_unfinished", "tenant_id", unique=True, postgresql_where=text("state <> 'done'")),
    comment="Moves of tenants between placements, the finished ones too: where a tenant may have rows.",
)

audit_pending = Table(
    "audit_pending",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    Column("log_id", Text, nullable=False),
    comment="Events that are no leaf of their log's tree yet; written with the event, deleted with its leaf.",
)

audit_intents = Table(
    "audit_intents",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    Column("log_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("occurred_at", _instant, nullable=False),
    comment="Work that was begun and has no outcome yet; what stays here was cut off.",
)

audit_leaves = Table(
    "audit_leaves",
    metadata,
    Column("log_id", Text),
    Column("leaf_index", BigInteger),
    Column("sequenced_at", _instant),
    Column("event_id", Uuid, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("log_id", "leaf_index", "sequenced_at"),
    Index(None, "event_id"),
    postgresql_partition_by="RANGE (sequenced_at)",
    comment="Which event is which leaf of its log's tree, a partition a month (UTC); rows are only added, and removed"
    " once they are in an archive.",
)

audit_archives = Table(
    "audit_archives",
    metadata,
    Column("log_id", Text),
    Column("first_leaf", BigInteger),
    Column("end_leaf", BigInteger, nullable=False),
    Column("month", Date, nullable=False),
    Column("oldest_at", _instant, nullable=False),
    Column("newest_at", _instant, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("archived_at", _instant, nullable=False, server_default=_now),
    Column("deleted_at", _instant),
    PrimaryKeyConstraint("log_id", "first_leaf"),
    CheckConstraint("end_leaf > first_leaf", name="leaves"),
    comment="Runs of leaves of one month that are in a file outside the database, the deleted files too.",
)

audit_tiles = Table(
    "audit_tiles",
    metadata,
    Column("log_id", Text),
    Column("level", Integer),
    Column("number", BigInteger),
    Column("hashes", LargeBinary, nullable=False),
    PrimaryKeyConstraint("log_id", "level", "number"),
    comment="Hashes of the trees in tiles of 256; only the last tile of a level still grows.",
)

audit_trees = Table(
    "audit_trees",
    metadata,
    Column("log_id", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("checkpoint", Text, nullable=False),
    Column("changed_at", _instant, nullable=False, server_default=_now),
    comment="The head of each log: how many leaves its tree has, and the checkpoint that was signed for them.",
)

keyring_state = Table(
    "keyring_state",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("keyring_id", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("root_key_id", Text, nullable=False),
    Column("seen_at", _instant, nullable=False),
    CheckConstraint("singleton", name="singleton"),
    comment="The keyring that belongs here, as it was seen last; one row.",
)

keyring_backups = Table(
    "keyring_backups",
    metadata,
    Column("backup_id", Text, primary_key=True),
    Column("keyring_id", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("root_key_id", Text, nullable=False),
    Column("made_at", _instant, nullable=False),
    Column("expires_at", _instant, nullable=False),
    comment="Backups of the keyring, known here too: one restored from an earlier backup forgot the later ones.",
)

data_backups = Table(
    "data_backups",
    metadata,
    Column("backup_id", Text, primary_key=True),
    Column("location", Text, nullable=False),
    Column("made_at", _instant, nullable=False),
    Column("expires_at", _instant, nullable=False),
    Column("complete", Boolean, nullable=False, server_default=text("false")),
    Column("deleted_at", _instant),
    comment="Backups of both databases; each is here before its first byte is written.",
)

erasure_ledger = Table(
    "erasure_ledger",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("records", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("line_hash", Text, nullable=False),
    Column("seen_at", _instant, nullable=False),
    CheckConstraint("singleton", name="singleton"),
    comment="How far these databases have followed the erasure ledger, which is kept outside them; one row.",
)

TENANT_TABLES = (
    tenants,
    usage_counters,
    usage_events,
    usage_reservations,
    subjects,
    memories,
    memory_changes,
    intake,
    idempotency_keys,
    audit_events,
    api_keys,
    revoked_tokens,
    erasures,
    legal_holds,
    placement_moves,
    audit_pending,
    audit_intents,
    audit_leaves,
    audit_archives,
    audit_tiles,
    audit_trees,
)
"""Tables whose rows belong to one tenant; each carries row-level security (checked at start-up)."""

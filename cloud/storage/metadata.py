"""Declared shape of the control-plane database; `migrations/` builds it and a test compares the two.

The control plane decides existence, ownership, deletion, expiry, quota and audit. It holds no content in the clear:
`intake.envelope` is sealed, and people are known by subject id alone. Tables in `TENANT_TABLES` carry row-level
security: the request path sees only rows of the tenant that its transaction named.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

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
    CheckConstraint("state IN ('active', 'suspended', 'closing', 'closed')", name="state"),
    comment="Boundary of isolation and billing. `limits` overrides the plan's, meter by meter.",
)

usage_counters = Table(
    "usage_counters",
    metadata,
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("used", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("used >= 0", name="used"),
    comment="Stock in use. Its row lock is the tenant's write lock: taken before any subject's.",
)

usage_events = Table(
    "usage_events",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), nullable=False),
    Column("operation", Text, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("occurred_at", _instant, nullable=False, server_default=_now),
    Index(None, "tenant_id", "occurred_at"),
    comment="Append-only record of what was metered after the fact.",
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
    CheckConstraint("state IN ('active', 'frozen', 'erased')", name="state"),
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
    CheckConstraint("state IN ('active', 'expired', 'deleted')", name="state"),
    Index(None, "subject_id", "generation"),
    Index("ix_memories_due", "expires_at", postgresql_where=text("state = 'active' AND expires_at IS NOT NULL")),
    comment="The ledger: the authority on existence, ownership, deletion and expiry.",
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
    Index(None, "tenant_id"),
    Index(None, "subject_id"),
    comment="SHA-256 of random 256-bit secrets; the user a key is bound to is sealed under that person's key.",
)

erasures = Table(
    "erasures",
    metadata,
    Column("erasure_id", Uuid, primary_key=True),
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), nullable=False),
    Column("subject_id", Uuid, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason_sealed", LargeBinary),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("requested_at", _instant, nullable=False, server_default=_now),
    Column("completed_at", _instant),
    CheckConstraint("state IN ('frozen', 'key_destroyed', 'rows_deleted', 'verified', 'incomplete')", name="state"),
    Index(None, "tenant_id", "subject_id"),
    comment="Erasures and how far each got; a crash resumes at the recorded state.",
)

audit_pending = Table(
    "audit_pending",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    Column("log_id", Text, nullable=False),
    comment="Events that are no leaf of their log's tree yet; written with the event, deleted with its leaf.",
)

audit_leaves = Table(
    "audit_leaves",
    metadata,
    Column("log_id", Text),
    Column("leaf_index", BigInteger),
    Column("event_id", Uuid, ForeignKey("audit_events.event_id"), nullable=False, unique=True),
    Column("leaf_hash", LargeBinary, nullable=False),
    Column("sequenced_at", _instant, nullable=False, server_default=_now),
    PrimaryKeyConstraint("log_id", "leaf_index"),
    comment="Which event is which leaf of its log's tree; rows are only added.",
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

tenant_closings = Table(
    "tenant_closings",
    metadata,
    Column("tenant_id", Text, ForeignKey("tenants.tenant_id"), primary_key=True),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("requested_at", _instant, nullable=False, server_default=_now),
    Column("completed_at", _instant),
    comment="Tenants that are closed or being closed, with what was erased; a crash resumes what is not completed.",
)

TENANT_TABLES = (
    tenants,
    usage_counters,
    usage_events,
    subjects,
    memories,
    intake,
    idempotency_keys,
    audit_events,
    api_keys,
    erasures,
    tenant_closings,
    audit_pending,
    audit_leaves,
    audit_tiles,
    audit_trees,
)
"""Tables whose rows belong to one tenant; each carries row-level security (checked at start-up)."""

"""Tokens in the control plane: how one stands, read on the request path; revocations, written by maintenance."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.audit.model import AuditDraft, Outcome
from cloud.kernel.ids import SYSTEM_LOG
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import revoked_tokens, tenants
from cloud.tenancy.ports import TokenStanding
from cloud.tenancy.postgres import append_event

_STANDING: Final = sa.text("SELECT lc_token(:tenant, :tag)").bindparams(sa.bindparam("tag", type_=sa.LargeBinary()))
_KEPT_AFTER_EXPIRY: Final = timedelta(days=7)
"""Longer than any clock is wrong: what was revoked must not open again when one is set back."""


class PostgresTokenRegister:
    """`TokenRegister` on the request path, below row-level security."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def standing(self, tenant_id: str, tag: bytes) -> TokenStanding:
        found = self._engine.call(_STANDING, {"tenant": tenant_id, "tag": tag}, retry_parameter=None)
        match found:
            case "revoked":
                return TokenStanding.REVOKED
            case "active" | "suspended" | "closed":
                # Whether a tenant is served is decided, and recorded in its log, with the operation itself.
                return TokenStanding.GOOD
            case _:
                return TokenStanding.UNKNOWN_TENANT


class PostgresRevokedTokens:
    """`RevokedTokens` as the maintenance role."""

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    def revoke(self, tenant_id: str, tag: bytes, *, expires_at: datetime, audit: AuditDraft) -> bool:
        def work(connection: sa.Connection) -> bool:
            known = connection.execute(sa.select(tenants.c.tenant_id).where(tenants.c.tenant_id == tenant_id)).scalar()
            if known is None:
                append_event(connection, SYSTEM_LOG, audit, Outcome.DENIED, reason="unknown_tenant")
                return False
            over = sa.func.clock_timestamp() - _KEPT_AFTER_EXPIRY
            connection.execute(sa.delete(revoked_tokens).where(revoked_tokens.c.expires_at < over))
            connection.execute(
                insert(revoked_tokens)
                .values(tenant_id=tenant_id, token_tag=tag, expires_at=expires_at)
                .on_conflict_do_nothing()
            )
            append_event(connection, tenant_id, audit, Outcome.ALLOWED)
            return True

        return self._engine.transaction(work)

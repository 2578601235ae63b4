"""Rows of events, as transactions ask for them that are repeated when a connection was lost."""

from __future__ import annotations

import sqlalchemy as sa

from cloud.audit.model import AuditDraft
from cloud.storage.metadata import audit_events


def is_recorded(connection: sa.Connection, log_id: str, audit: AuditDraft) -> bool:
    """Whether an earlier attempt of this transaction was committed, and its answer lost.

    Asked after the locks are held that the transaction decides under: an attempt that still commits is waited for.
    """
    mine = (audit_events.c.log_id == log_id) & (audit_events.c.event_id == audit.event_id)
    return connection.execute(sa.select(audit_events.c.event_id).where(mine)).scalar() is not None

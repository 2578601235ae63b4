"""Refusals in the control plane: counted on the request path, reported as the worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from cloud.audit.model import AuditDraft
from cloud.kernel.ids import new_event_id
from cloud.storage.engine import ControlEngine
from cloud.tenancy.model import Counted

_COUNT: Final = sa.text("SELECT lc_refused(:source, :event, :reason, :each, :sources)").bindparams(
    sa.bindparam("event", type_=JSONB)
)
_REPORT: Final = sa.text("SELECT lc_report(:event, :ids)").bindparams(
    sa.bindparam("event", type_=JSONB), sa.bindparam("ids", type_=ARRAY(sa.Uuid(as_uuid=False)))
)


class PostgresRefusals:
    """`RefusalStore` on the control plane.

    Args:
        app: Engine of the request path: it counts and appends.
        worker: Engine of the worker: it alone takes counts away.
    """

    def __init__(self, app: ControlEngine, worker: ControlEngine) -> None:
        self._app = app
        self._worker = worker

    def count(self, source: str, draft: AuditDraft, reason: str, *, each: int, sources: int) -> Counted:
        # An answer that was lost on the way counts once more when it is asked for again. It never counts less.
        answer = self._app.call(
            _COUNT,
            {"source": source, "event": draft.document(), "reason": reason, "each": each, "sources": sources},
            retry_parameter=None,
        )
        found = cast("dict[str, bool]", answer)
        return Counted(recorded=found["recorded"], due=found["due"])

    def report(self, draft: AuditDraft, event_ids: Sequence[str]) -> int:
        ids = list(event_ids)

        def work(connection: sa.Connection) -> int:
            taken = int(connection.execute(_REPORT, {"event": draft.document(), "ids": ids}).scalar_one())
            # Repeated, it takes other counts, and an event of the same id would be taken for one that is there.
            ids[:] = [new_event_id() for _ in ids]
            return taken

        return self._worker.transaction(work)

"""Records failures of operations whose success commits with their own event."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cloud.audit.model import AuditDraft, Outcome, reason_of
from cloud.audit.ports import TransactionalAuditLogger
from cloud.kernel.errors import LuminescentError, ProviderUnavailableError
from cloud.kernel.ids import SYSTEM_LOG


@contextmanager
def recorded_failure(audit: TransactionalAuditLogger, draft: AuditDraft, log_id: str = SYSTEM_LOG) -> Iterator[None]:
    """An error of ours that leaves the block is recorded before it is raised.

    An operation has one event: where the block committed one before it failed, that one stays.

    Raises:
        ProviderUnavailableError: The failure could not be recorded; the first error stands behind it.
    """
    try:
        yield
    except LuminescentError as error:
        try:
            audit.record(log_id, draft, Outcome.FAILED, reason=reason_of(error))
        except ProviderUnavailableError as second:
            raise second from error
        raise

"""What every operation of the provider goes through: the door, the record of its failure, a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import InvalidMemoryError
from cloud.kernel.threads import LoopThreads
from cloud.tenancy.admission import Admissions, Admitted

_T = TypeVar("_T")

_THREADS: Final = 16
_KEY_CHARACTERS: Final = 256


class Calls:
    """Admits callers, records what fails, and runs the work off the event loop.

    Args:
        admissions: The door.
        audit: Records failures.
    """

    def __init__(self, admissions: Admissions, audit: TransactionalAuditLogger) -> None:
        self._admissions = admissions
        self._audit = audit
        self._threads = LoopThreads(_THREADS, "luminescent-memory")

    def admitted(self, action: Action, context: Mapping[str, object], user_id: object) -> Admitted:
        """The operation, admitted, for the memories of `user_id` if that is one."""
        return self._admissions.admit(action, context, user_id=user_id if isinstance(user_id, str) else None)

    def checked(self, admitted: Admitted, check: Callable[[], _T]) -> _T:
        """What `check` returns; an invalid request or a part that fails is recorded before its error is raised."""
        with recorded_failure(self._audit, admitted.draft, admitted.scope.tenant_id):
            return check()

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returns, on a thread."""
        return await self._threads.run(lambda: telemetry.observed(work))

    def close(self) -> None:
        """Let the threads end once their calls have."""
        self._threads.close()


def idempotency_key(context: Mapping[str, object]) -> str | None:
    """The idempotency key that a context names, if any.

    Raises:
        InvalidMemoryError: It is no text of 1 to 256 characters.
    """
    key = context.get("idempotency_key") if context else None
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= _KEY_CHARACTERS:
        raise InvalidMemoryError(field="idempotency_key", reason=f"must be a text of 1 to {_KEY_CHARACTERS} characters")
    return key

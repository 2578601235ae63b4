"""The cloud side's branches of the exception tree (`src.errors`)."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from src.errors import (
    ConfigurationError,
    InvalidFilterError,
    InvalidMemoryError,
    LuminescentError,
    MemoryNotFoundError,
    ProviderUnavailableError,
    RevisionConflictError,
)

__all__ = [
    "AuthenticationError",
    "ConfigurationError",
    "ErasureIncompleteError",
    "ErasureRequestError",
    "IdempotencyConflictError",
    "InvalidFilterError",
    "InvalidMemoryError",
    "KeyDestroyedError",
    "LegalHoldError",
    "LuminescentError",
    "MemoryNotFoundError",
    "OperationInProgressError",
    "PermissionDeniedError",
    "ProviderUnavailableError",
    "QuotaExceededError",
    "ReservationClosedError",
    "RevisionConflictError",
    "SealBrokenError",
    "TenantIsolationError",
    "TokenKeysUnavailableError",
    "UnknownTenantError",
    "UnreadableFileError",
]


class AuthenticationError(LuminescentError):
    """It is not established who is calling.

    Attributes:
        reason: A short code such as `no_scope` or `unknown_tenant`.
        key_id: The API key that was shown, where there is such a key.
    """

    code = "authentication"

    def __init__(self, reason: str, message: str, *, key_id: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.key_id = key_id


class TokenKeysUnavailableError(AuthenticationError):
    """The keys that a token would be checked with cannot be had now: it opens nothing, and may be shown again later."""

    code = "token_keys_unavailable"
    retryable = True

    def __init__(self) -> None:
        super().__init__(
            "token_keys_unavailable",
            "tokens cannot be checked now: the issuer's keys are not available; try again later",
        )


class PermissionDeniedError(LuminescentError):
    """The caller is known and may not do this.

    Attributes:
        action: What was asked for, such as `memory.store`.
        reason: A short code such as `role_missing`.
    """

    code = "permission_denied"

    def __init__(self, *, action: str, reason: str) -> None:
        super().__init__(f"not permitted: {action} ({reason})")
        self.action = action
        self.reason = reason


class TenantIsolationError(LuminescentError):
    """A tenant filter is empty, partial or foreign; the query did not run.

    Attributes:
        reason: A short code: `empty`, `malformed`, `missing_tenant`, `foreign_tenant` or `conflict`.
    """

    code = "tenant_isolation"

    def __init__(self, reason: str) -> None:
        super().__init__(f"tenant isolation: the filter or scope is not this tenant's own ({reason})")
        self.reason = reason


class UnknownTenantError(AuthenticationError):
    """There is no such tenant, or no tenant can have this name."""

    code = "unknown_tenant"

    def __init__(self) -> None:
        super().__init__("unknown_tenant", "there is no such tenant")


class QuotaExceededError(LuminescentError):
    """The operation was not admitted; nothing happened.

    Attributes:
        meter: The counter that is used up, such as `memories`.
        limit: Its limit, in the meter's unit.
        used: What is in use now, in the same unit.
        requested: What this operation asked for.
        resets_at: When the counter starts anew (UTC), or `None` for a stock that only deleting gives back.
    """

    code = "quota_exceeded"

    def __init__(
        self, *, meter: str, limit: int, used: int, requested: int = 1, resets_at: datetime | None = None
    ) -> None:
        when = f"resets at {resets_at.isoformat()}" if resets_at else "deleting gives it back"
        super().__init__(f"quota '{meter}' exceeded: {used} of {limit} used, {requested} requested; {when}")
        self.meter = meter
        self.limit = limit
        self.used = used
        self.requested = requested
        self.resets_at = resets_at


class ReservationClosedError(LuminescentError):
    """The reservation cannot be settled so: nothing was booked.

    Attributes:
        reason: `released` or `absent`; one of another tenant is absent.
    """

    code = "reservation_closed"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the reservation is {reason}: nothing was booked; report what was used with track")
        self.reason = reason


class IdempotencyConflictError(LuminescentError):
    """The idempotency key was used before for a different request."""

    code = "idempotency_conflict"

    def __init__(self) -> None:
        super().__init__("this idempotency key was used before for a different request")


class KeyDestroyedError(LuminescentError):
    """The data key of this subject or tenant does not exist (any more): what it sealed cannot be read."""

    code = "key_destroyed"


class SealBrokenError(LuminescentError):
    """A sealed value does not open under its key and place: altered, truncated, or copied from elsewhere."""

    code = "seal_broken"


class OperationInProgressError(LuminescentError):
    """Another process does this at the moment, or something that excludes it is unfinished; nothing has changed."""

    code = "in_progress"
    retryable = True


class ErasureIncompleteError(LuminescentError):
    """An erasure found remains after its deletions; it is recorded and can be run again.

    Attributes:
        places: Entries of the data map that still hold something.
    """

    code = "erasure_incomplete"
    retryable = True

    def __init__(self, places: tuple[str, ...]) -> None:
        super().__init__(f"erasure incomplete: {', '.join(places)} still hold data of the subject; run it again")
        self.places = places


class ErasureRequestError(LuminescentError):
    """This cannot be done to the request for erasure as it is; nothing has changed.

    Attributes:
        reason: `absent`, which one of another tenant is too, `wrong_state`, `stale_preview`, `overdue`,
            `not_certified` or `not_closed`.
        state: The request's state, if there is such a request.
    """

    code = "erasure_request"

    _SAID: Final = {
        "absent": "there is no such request for erasure, or no such hold",
        "wrong_state": "the request for erasure is {state}: this cannot be done to it (any more)",
        "stale_preview": "something came, changed or went since the preview: look at it again and confirm what you see",
        "not_certified": "the request for erasure is {state}: there is no certificate of it yet",
        "not_closed": "the tenant is not closed: there is no certificate of that",
        "overdue": "an extension is told to the person within the first month, and lasts two further months at most",
    }

    def __init__(self, reason: str, *, state: str | None = None) -> None:
        super().__init__(self._SAID[reason].format(state=state))
        self.reason = reason
        self.state = state


class LegalHoldError(LuminescentError):
    """A legal hold keeps what should be removed; nothing was removed.

    Attributes:
        erasure_id: The request that waits for the release and then goes on, if one does.
    """

    code = "legal_hold"

    def __init__(self, erasure_id: str | None = None) -> None:
        waits = f"; request {erasure_id} is held and goes on when it is released" if erasure_id else ""
        super().__init__(f"a legal hold keeps this{waits}")
        self.erasure_id = erasure_id


class UnreadableFileError(LuminescentError):
    """A file that was to be imported or checked cannot be read, not from here on, or is not what it should be.

    Attributes:
        reason: A short code: `encoding`, `format`, `structure`, `compression`, `too_large`, `changed`, `manifest` or
            `io`.
    """

    code = "unreadable_file"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

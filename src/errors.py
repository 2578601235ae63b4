"""The exception tree of the open core; the cloud side adds its branches in `cloud.kernel.errors`.

Each error carries a stable `code`, says whether the same call may succeed when repeated (`retryable`), and keeps
its facts in typed attributes. No message holds content, a query, a user id or a secret.
"""

from __future__ import annotations

from typing import ClassVar


class LuminescentError(Exception):
    """Base of every error that this project raises on purpose."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False


class ConfigurationError(LuminescentError):
    """The installation cannot work as it is configured; the message says what to change."""

    code = "configuration"


class InvalidMemoryError(LuminescentError, ValueError):
    """A memory cannot be stored; nothing was stored and no quota was used.

    Attributes:
        field: Name of the offending field of `Memory`.
        reason: What is wrong with it, without its value.
    """

    code = "invalid_memory"

    def __init__(self, *, field: str, reason: str) -> None:
        super().__init__(f"invalid memory: field '{field}' {reason}")
        self.field = field
        self.reason = reason


class InvalidFilterError(LuminescentError, ValueError):
    """A filter, a query or a limit cannot be understood; nothing was searched.

    Attributes:
        place: Where in the request the fault is, as a path such as `$and[1].confidence`.
        reason: What is wrong there, without the value found.
    """

    code = "invalid_filter"

    def __init__(self, *, place: str, reason: str) -> None:
        super().__init__(f"invalid filter at '{place}': {reason}")
        self.place = place
        self.reason = reason


class MemoryNotFoundError(LuminescentError, LookupError):
    """There is no such memory to be seen by the caller: absent, deleted, expired and another's are the same."""

    code = "memory_not_found"

    def __init__(self) -> None:
        super().__init__("there is no such memory; it may have been deleted, or have expired")


class RevisionConflictError(LuminescentError):
    """The memory was changed since the caller looked at it; nothing was changed now.

    Attributes:
        expected: The revision that the caller named.
        current: The revision it has.
    """

    code = "revision_conflict"

    def __init__(self, *, expected: int, current: int) -> None:
        super().__init__(
            f"the memory has revision {current}, not {expected}: read it again and decide anew whether to change it"
        )
        self.expected = expected
        self.current = current


class ProviderUnavailableError(LuminescentError):
    """A part the provider stands on did not answer in time; the call may be repeated.

    Attributes:
        component: The part that failed, such as `control plane`.
    """

    code = "unavailable"
    retryable = True

    def __init__(self, component: str, *, reason: str = "did not answer within the deadline") -> None:
        super().__init__(f"{component} {reason}; repeat the call later")
        self.component = component
        self.reason = reason

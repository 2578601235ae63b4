"""Events that foreign code reports: personal until proven otherwise.

User ids become subject ids; text and details are sealed, under the person's key where a person is named, so that
erasing the person also closes what was said about them, else under the tenant's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cloud.audit.model import (
    DETAILS_BYTES,
    SEALED_BYTES,
    UNKNOWN_ACTOR,
    Actor,
    AuditDraft,
    Category,
    Details,
    Outcome,
    content_keys,
)
from cloud.kernel.access import Action
from cloud.kernel.context import current_context, current_trace_id
from cloud.kernel.errors import InvalidFilterError, KeyDestroyedError
from cloud.kernel.ids import SYSTEM_LOG, is_tenant_id, new_event_id, new_request_id
from cloud.kernel.scope import PrincipalKind
from cloud.keys.model import Place, SubjectKey
from cloud.keys.ports import Keyring
from cloud.keys.sealing import seal

_OUTCOMES: Final = {
    "success": Outcome.ALLOWED,
    "allowed": Outcome.ALLOWED,
    "denied": Outcome.DENIED,
    "failure": Outcome.FAILED,
    "failed": Outcome.FAILED,
}
_SEVERITIES: Final = frozenset({"info", "warning", "critical"})
_CUT_CHARACTERS: Final = 1_000
_COUNTER_NAME: Final = re.compile(r"[a-z][a-z_]{0,63}")
_COUNTERS: Final = 64


def outcome_of(text: str) -> Outcome:
    """The outcome that the published protocol's word means; a word it does not know is a failure."""
    return _OUTCOMES.get(text, Outcome.FAILED)


def safe_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Up to 64 counts whose names can only be names of categories; the rest is summed up as `other`.

    Raises:
        InvalidFilterError: A count is no whole number from 0 to 2^53 - 1, or their sum is larger.
    """
    kept: dict[str, int] = {}
    for name, count in counts.items():
        known = isinstance(name, str) and _COUNTER_NAME.fullmatch(name) is not None and len(kept) < _COUNTERS
        key = name if known else "other"
        kept[key] = safe_count(kept.get(key, 0) + safe_count(count))
    return kept


def safe_count(count: object) -> int:
    """`count` itself, if an export can carry it.

    Raises:
        InvalidFilterError: It is no whole number from 0 to 2^53 - 1.

    Source:
        RFC 8785 §3.2.2.3; RFC 7493 §2.2.
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 2**53:
        raise InvalidFilterError(place="counts", reason="must be whole numbers from 0 to 2^53 - 1")
    return count


@dataclass(frozen=True, slots=True)
class ForeignEvent:
    """An event ready to record, and the log that it belongs to.

    Attributes:
        log_id: The log.
        draft: The event.
        counts: What is odd about what was said, which is sealed all the same: `content_keys`, `not_json` values,
            `oversized_bytes`, `cut_bytes` that were not kept, and `cut_fields` where no field was kept.
    """

    log_id: str
    draft: AuditDraft
    counts: Mapping[str, int] = field(default_factory=dict)


class ForeignEvents:
    """Turns what foreign code reports into events that hold nothing personal in the clear."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def event(
        self,
        category: Category,
        user_id: object,
        text: Mapping[str, object],
        *,
        tenant_id: str | None,
        severity: str | None = None,
    ) -> ForeignEvent:
        """Seal `text` and name the actor by subject id.

        Args:
            category: External or security.
            user_id: The person it is about, as foreign code calls them.
            text: What is sealed.
            tenant_id: The tenant it is about; without a valid one it goes to the system's log.
            severity: Of a security event.

        Raises:
            InvalidFilterError: What is said refers to itself, or is nested too deep.
        """
        log_id = self._log_for(tenant_id)
        person = self._person(log_id, user_id)
        event_id = new_event_id()
        plaintext, counts = _written(text)
        place = Place(log_id, person.subject_id if person else "", event_id, "audit_text")
        key = person.key if person else self._keyring.tenant_key(log_id).key
        details: Details = {"sealed": seal(key, plaintext, place=place).hex()}
        if severity is not None:
            details["severity"] = severity if severity in _SEVERITIES else "unspecified"
        draft = AuditDraft(
            action=Action.SECURITY_EVENT if category is Category.SECURITY else Action.EXTERNAL_EVENT,
            actor=Actor(PrincipalKind.SUBJECT, person.subject_id) if person else UNKNOWN_ACTOR,
            request_id=_request_id(),
            trace_id=current_trace_id(),
            category=category,
            details=details,
            event_id=event_id,
        )
        return ForeignEvent(log_id, draft, counts)

    def about(self, action: Action, user_id: str, tenant_id: str | None, timestamp: datetime) -> ForeignEvent:
        """An event that foreign code did `action` to a person's data; the person is named by subject id, if known."""
        log_id = self._log_for(tenant_id)
        person = self._keyring.resolve_subject(log_id, user_id, create=False) if log_id != SYSTEM_LOG else None
        draft = AuditDraft(
            action=action,
            actor=UNKNOWN_ACTOR,
            request_id=_request_id(),
            trace_id=current_trace_id(),
            subject_id=person.subject_id if person else None,
            category=Category.EXTERNAL,
            details={"reported_at": timestamp.isoformat()},
        )
        return ForeignEvent(log_id, draft)

    def _log_for(self, tenant_id: str | None) -> str:
        if tenant_id is None or not is_tenant_id(tenant_id):
            return SYSTEM_LOG
        try:
            self._keyring.tenant_key(tenant_id)
        except KeyDestroyedError:
            return SYSTEM_LOG
        return tenant_id

    def _person(self, log_id: str, user_id: object) -> SubjectKey | None:
        if not isinstance(user_id, str) or not user_id or log_id == SYSTEM_LOG:
            return None
        return self._keyring.resolve_subject(log_id, user_id, create=True)


def _written(text: Mapping[str, object]) -> tuple[bytes, dict[str, int]]:
    """What was said as JSON, and what is odd about it.

    Raises:
        InvalidFilterError: It refers to itself, or is nested too deep.
    """
    odd = 0

    def as_text(value: object) -> str:
        nonlocal odd
        odd += 1
        return str(value)

    try:
        keys = content_keys(text)
        plaintext = _json(text, as_text)
    except (ValueError, RecursionError):
        # Without its cause: the text of that error may quote the value.
        raise InvalidFilterError(place="details", reason="must be JSON") from None
    counts = {"content_keys": keys, "not_json": odd}
    if len(plaintext) > DETAILS_BYTES:
        counts["oversized_bytes"] = len(plaintext)
    if len(plaintext) > SEALED_BYTES:
        # An event is a line of an export, which has a bound too: the names stay, and the beginnings of texts.
        kept = _json({name: str(value)[:_CUT_CHARACTERS] for name, value in text.items()}, as_text)
        if len(kept) > SEALED_BYTES:
            # Too many names, or too long ones: what is left says so, and one report cannot spoil the log's exports.
            counts["cut_fields"] = len(text)
            kept = _json({"cut": True, "fields": len(text)}, as_text)
        counts["cut_bytes"] = len(plaintext) - len(kept)
        plaintext = kept
    return plaintext, {name: count for name, count in counts.items() if count}


def _json(text: Mapping[str, object], default: Callable[[object], str]) -> bytes:
    written = json.dumps(dict(text), default=default, ensure_ascii=False, skipkeys=True)
    return written.encode("utf-8", "backslashreplace")


def _request_id() -> str:
    ambient = current_context()
    return ambient.request_id if ambient else new_request_id()

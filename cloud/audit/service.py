"""`CloudAuditLogger`: every operation leaves one event, or does not happen.

It implements the published protocol for foreign code and `TransactionalAuditLogger` for our own. What foreign code
passes is personal until proven otherwise: user ids become subject ids, free text and details are sealed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import rfc8785

from cloud.audit.foreign import ForeignEvent, ForeignEvents, outcome_of, safe_count, safe_counts
from cloud.audit.model import UNKNOWN_ACTOR, Actor, AuditDraft, Category, Details, Outcome
from cloud.audit.ports import Admission, AuditStore
from cloud.audit.recording import recorded_failure
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.context import current_context, current_trace_id
from cloud.kernel.errors import ConfigurationError, KeyDestroyedError
from cloud.kernel.ids import SYSTEM_LOG, new_request_id
from cloud.kernel.scope import Principal, TenantScope
from cloud.keys.ports import Keyring
from src.memory.schemas import as_utc


class CloudAuditLogger:
    """`AuditLogger` and `TransactionalAuditLogger` on the control plane.

    Args:
        store: Keeps the events.
        keyring: Turns people into subject ids and seals foreign text.
        admission: Tenancy's door, set by start-up; reading the log goes through it.
    """

    def __init__(self, store: AuditStore, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._foreign = ForeignEvents(keyring)
        self._admission: Admission | None = None

    def use_admission(self, admission: Admission) -> None:
        """Let tenancy decide who may read the log. Called once by start-up: tenancy itself needs a logger."""
        self._admission = admission

    # TransactionalAuditLogger

    def draft(
        self,
        scope: TenantScope | None,
        action: Action,
        *,
        subject_id: str | None = None,
        category: Category = Category.OPERATION,
        details: Details | None = None,
    ) -> AuditDraft:
        ambient = current_context()
        if scope is not None:
            actor, request_id = self._actor(scope.tenant_id, scope.principal), scope.request_id
        else:
            actor, request_id = UNKNOWN_ACTOR, ambient.request_id if ambient else new_request_id()
        return AuditDraft(
            action=action,
            actor=actor,
            request_id=request_id,
            trace_id=scope.trace_id if scope else current_trace_id(),
            subject_id=subject_id,
            category=category,
            details=details or {},
        )

    def record(
        self,
        log_id: str,
        draft: AuditDraft,
        outcome: Outcome,
        *,
        reason: str | None = None,
        resource_ids: tuple[str, ...] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self._store.append(
            log_id,
            draft.document(),
            outcome=outcome.value,
            reason=reason,
            resource_ids=resource_ids,
            counts=counts or {},
        )

    def _actor(self, tenant_id: str, principal: Principal) -> Actor:
        roles = tuple(sorted(role.value for role in principal.roles))
        if principal.name is not None:
            return Actor(principal.kind, principal.name, roles)
        if principal.user_id is None:
            return Actor(principal.kind, None, roles)
        try:
            key = self._keyring.resolve_subject(tenant_id, principal.user_id, create=True)
        except KeyDestroyedError:
            # No such tenant, or it is closed: the operation will be refused, and nobody is linked to it.
            return Actor(principal.kind, None, roles)
        return Actor(principal.kind, key.subject_id if key else None, roles)

    # Published protocol

    @telemetry.operation(Action.EXTERNAL_EVENT)
    def log_event(
        self,
        event_type: str,
        actor: str,
        resource: str,
        action: str,
        outcome: str,
        details: dict[str, object] | None = None,
    ) -> None:
        """One event from foreign code is committed before this returns, its text sealed."""
        text = {"event_type": event_type, "resource": resource, "action": action, "details": details or {}}
        self._report(self._foreign.event(Category.EXTERNAL, actor, text, named=details or {}), outcome_of(outcome))

    @telemetry.operation(Action.SECURITY_EVENT)
    def log_security_event(
        self, event_type: str, severity: str, message: str, details: dict[str, object] | None = None
    ) -> None:
        """One security event is committed before this returns; the message is sealed."""
        text = {"event_type": event_type, "message": message, "details": details or {}}
        user_id = (details or {}).get("user_id")
        self._report(self._foreign.event(Category.SECURITY, user_id, text, named=details or {}, severity=severity))

    @telemetry.operation(Action.ERASURE)
    def log_gdpr_deletion(
        self, user_id: str, workspace_id: str, items_deleted: dict[str, int], timestamp: datetime
    ) -> None:
        """A deletion that foreign code did is recorded with its counts and without the person."""
        event = self._foreign.about(Action.ERASURE, user_id, workspace_id, timestamp)
        self._report(event, counts=safe_counts(items_deleted))

    @telemetry.operation(Action.ACCESS_REQUEST)
    def log_gdpr_export(self, user_id: str, workspace_id: str, total_items: int, timestamp: datetime) -> None:
        """An export that foreign code did is recorded with its count and without the person."""
        event = self._foreign.about(Action.ACCESS_REQUEST, user_id, workspace_id, timestamp)
        self._report(event, counts={"total_items": safe_count(total_items)})

    @telemetry.operation(Action.EXTERNAL_EVENT)
    async def log(self, event: dict[str, object]) -> None:
        """The guide's `await audit_logger.log({...})`: one event, committed before this returns."""
        known = {"tenant_id", "user_id", "outcome"}
        text = {name: value for name, value in event.items() if name not in known}
        outcome = outcome_of(str(event.get("outcome", "success")))

        def commit() -> None:
            self._report(self._foreign.event(Category.EXTERNAL, event.get("user_id"), text, named=event), outcome)

        await asyncio.to_thread(commit)

    def _report(
        self, event: ForeignEvent, outcome: Outcome = Outcome.ALLOWED, *, counts: Mapping[str, int] | None = None
    ) -> None:
        if event.log_id != SYSTEM_LOG:
            telemetry.of_tenant(event.log_id)
        self.record(event.log_id, event.draft, outcome, counts=counts)

    # Reading

    @telemetry.operation()
    def export(
        self,
        tenant_id: str,
        directory: Path | str,
        *,
        format: str = "ndjson",  # noqa: A002 - the public name
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Path:
        """Write a tenant's events, one canonical JSON object per line (RFC 8785), to `events.ndjson`.

        Args:
            tenant_id: The tenant, or `_system` for an operator.
            directory: Made if missing; an export never overwrites an earlier one.
            format: `ndjson`.
            since: First time included (UTC).
            until: First time left out (UTC).

        Returns:
            The file written, mode 0600.

        Raises:
            PermissionDeniedError: The caller may not read this log; that is recorded.
            ConfigurationError: Unknown format, or the file exists.
        """
        draft = self._admitted(tenant_id, Action.AUDIT_EXPORT)
        path = Path(directory) / "events.ndjson"
        with recorded_failure(self, draft, tenant_id):
            if format != "ndjson":
                raise ConfigurationError(f"unknown export format {format!r}; this version writes: ndjson")
            with _new_private_file(path) as out:
                count = 0
                for event in self._read(tenant_id, since, until):
                    out.write(rfc8785.dumps(event) + b"\n")  # type: ignore[arg-type]
                    count += 1
                self.record(tenant_id, draft, Outcome.ALLOWED, counts={"events": count})
        return path

    @telemetry.operation()
    def events(
        self, tenant_id: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> list[dict[str, object]]:
        """A tenant's events, oldest first; reading them is recorded too.

        Raises:
            PermissionDeniedError: The caller may not read this log.
        """
        draft = self._admitted(tenant_id, Action.AUDIT_READ)
        with recorded_failure(self, draft, tenant_id):
            found = list(self._read(tenant_id, since, until))
            self.record(tenant_id, draft, Outcome.ALLOWED, counts={"events": len(found)})
        return found

    def _read(self, log_id: str, since: datetime | None, until: datetime | None) -> Iterator[dict[str, object]]:
        return self._store.events(log_id, since=since and as_utc(since), until=until and as_utc(until))

    def _admitted(self, log_id: str, action: Action) -> AuditDraft:
        if self._admission is None:
            raise ConfigurationError("the audit log was built without tenancy; open it with init_cloud_extensions")
        if log_id == SYSTEM_LOG:
            return self._admission.operate(Action.AUDIT_SYSTEM)
        return self.draft(self._admission.admit_to(log_id, action), action, category=Category.ADMINISTRATION)


@contextmanager
def _new_private_file(path: Path) -> Iterator[BinaryIO]:
    """A new file of mode 0600 that stays only if the block ends well.

    Raises:
        ConfigurationError: The file exists, or cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as exc:
        raise ConfigurationError(f"{path} exists; export into an empty directory") from exc
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
    except BaseException as exc:
        # Whatever ended it, an interruption too: half an export must not stay.
        path.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc
        raise

"""`CloudAuditLogger`: every operation leaves one event, or does not happen.

It implements the published protocol for foreign code and `TransactionalAuditLogger` for our own. What foreign code
passes is personal until proven otherwise: user ids become subject ids, free text and details are sealed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from cloud.audit.bundle import AuditBundle, Progress
from cloud.audit.exports import Evidence
from cloud.audit.foreign import ForeignEvent, ForeignEvents, outcome_of, safe_count, safe_counts
from cloud.audit.model import UNKNOWN_ACTOR, Actor, AuditDraft, Category, Details, Outcome
from cloud.audit.ports import Admission, AuditStore
from cloud.audit.recording import recorded_failure
from cloud.audit.verify import EVENTS
from cloud.audit.views import View, view_name
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.context import current_context, current_trace_id
from cloud.kernel.errors import AuthenticationError, ConfigurationError, KeyDestroyedError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id, new_request_id
from cloud.kernel.scope import Principal, TenantScope
from cloud.keys.ports import Keyring
from src.memory.schemas import as_utc

_NDJSON: Final = "ndjson"
_REASON_CHARACTERS: Final = 1_000
_WITHOUT_TENANCY: Final = "the audit log was built without tenancy; open it with init_cloud_extensions"


class CloudAuditLogger:
    """`AuditLogger` and `TransactionalAuditLogger` on the control plane.

    Args:
        store: Keeps the events.
        keyring: Turns people into subject ids and seals foreign text.
        process: Id of this process, by which it can be known that it is gone.
    """

    def __init__(self, store: AuditStore, keyring: Keyring, *, process: str | None = None) -> None:
        self._store = store
        self._keyring = keyring
        self._process = process
        self._foreign = ForeignEvents(keyring)
        self._admission: Admission | None = None
        self._evidence: Evidence | None = None

    def use_admission(self, admission: Admission) -> None:
        """Let tenancy decide who may read the log. Called once by start-up: tenancy itself needs a logger."""
        self._admission = admission

    def use_evidence(self, evidence: Evidence) -> None:
        """Let `evidence` export and prove. Called once by start-up."""
        self._evidence = evidence

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
            process=self._process,
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
        """One event from foreign code is committed before this returns, its text sealed.

        As every report it goes to the log of the caller's tenant, and where nobody is calling to that of
        `details["tenant_id"]`. Where both name a tenant they must name the same one.

        Raises:
            AuthenticationError: The caller's credential does not hold.
            TenantIsolationError: The report names another tenant than the caller's.
            InvalidFilterError: What is said refers to itself, or is nested too deep.
        """
        text = {"event_type": event_type, "resource": resource, "action": action, "details": details or {}}
        tenant_id = self._tenant_of_report(Action.EXTERNAL_EVENT, (details or {}).get("tenant_id"))
        self._report(self._foreign.event(Category.EXTERNAL, actor, text, tenant_id=tenant_id), outcome_of(outcome))

    @telemetry.operation(Action.SECURITY_EVENT)
    def log_security_event(
        self, event_type: str, severity: str, message: str, details: dict[str, object] | None = None
    ) -> None:
        """One security event is committed before this returns, as by `log_event`; the message is sealed.

        A caller whose credential does not hold may be what it is about: then it goes to the system's log.

        Raises:
            TenantIsolationError: The report names another tenant than the caller's.
            InvalidFilterError: What is said refers to itself, or is nested too deep.
        """
        text = {"event_type": event_type, "message": message, "details": details or {}}
        user_id = (details or {}).get("user_id")
        try:
            tenant_id = self._tenant_of_report(Action.SECURITY_EVENT, (details or {}).get("tenant_id"))
        except AuthenticationError:
            # Recorded as refused; what is reported must not be lost with it.
            tenant_id = None
        self._report(self._foreign.event(Category.SECURITY, user_id, text, tenant_id=tenant_id, severity=severity))

    @telemetry.operation(Action.ERASURE)
    def log_gdpr_deletion(
        self, user_id: str, workspace_id: str, items_deleted: dict[str, int], timestamp: datetime
    ) -> None:
        """A deletion that foreign code did is recorded with its counts and without the person.

        Raises:
            AuthenticationError: The caller's credential does not hold.
            TenantIsolationError: `workspace_id` is another tenant than the caller's.
            InvalidFilterError: A count is no whole number from 0 to 2^53 - 1, or their sum is larger.
        """
        tenant_id = self._tenant_of_report(Action.ERASURE, workspace_id)
        event = self._foreign.about(Action.ERASURE, user_id, tenant_id, timestamp)
        self._report(event, counts=safe_counts(items_deleted))

    @telemetry.operation(Action.ACCESS_REQUEST)
    def log_gdpr_export(self, user_id: str, workspace_id: str, total_items: int, timestamp: datetime) -> None:
        """An export that foreign code did is recorded with its count and without the person.

        Raises:
            AuthenticationError: The caller's credential does not hold.
            TenantIsolationError: `workspace_id` is another tenant than the caller's.
            InvalidFilterError: The count is no whole number from 0 to 2^53 - 1.
        """
        tenant_id = self._tenant_of_report(Action.ACCESS_REQUEST, workspace_id)
        event = self._foreign.about(Action.ACCESS_REQUEST, user_id, tenant_id, timestamp)
        self._report(event, counts={"total_items": safe_count(total_items)})

    @telemetry.operation(Action.EXTERNAL_EVENT)
    async def log(self, event: dict[str, object]) -> None:
        """The guide's `await audit_logger.log({...})`: one event, committed before this returns, as by `log_event`."""
        known = {"tenant_id", "user_id", "outcome"}
        text = {name: value for name, value in event.items() if name not in known}
        outcome = outcome_of(str(event.get("outcome", "success")))

        def commit() -> None:
            tenant_id = self._tenant_of_report(Action.EXTERNAL_EVENT, event.get("tenant_id"))
            user_id = event.get("user_id")
            self._report(self._foreign.event(Category.EXTERNAL, user_id, text, tenant_id=tenant_id), outcome)

        await asyncio.to_thread(commit)

    def _tenant_of_report(self, action: Action, named: object) -> str | None:
        if self._admission is None:
            raise ConfigurationError(_WITHOUT_TENANCY)
        return self._admission.tenant_of_report(action, named)

    def _report(
        self, event: ForeignEvent, outcome: Outcome = Outcome.ALLOWED, *, counts: Mapping[str, int] | None = None
    ) -> None:
        if event.log_id != SYSTEM_LOG:
            telemetry.of_tenant(event.log_id)
        self.record(event.log_id, event.draft, outcome, counts={**event.counts, **(counts or {})})

    # Reading

    def export(
        self,
        tenant_id: str,
        directory: Path | str,
        *,
        format: str = "ndjson",  # noqa: A002 - the public name
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Path:
        """Write a tenant's events as evidence (`docs/audit-format.md`), one canonical JSON object per line (RFC 8785).

        As `export_evidence`; returns the file of the format that was asked for.
        """
        bundle = self.export_evidence(tenant_id, directory, format=format, since=since, until=until)
        return bundle.directory / (EVENTS if format == _NDJSON else view_name(View(format)))

    @telemetry.operation()
    def export_evidence(
        self,
        tenant_id: str,
        directory: Path | str,
        *,
        format: str = "ndjson",  # noqa: A002 - as `export`
        since: datetime | None = None,
        until: datetime | None = None,
        progress: Progress = lambda _done, _of: None,
    ) -> AuditBundle:
        """Write a tenant's events with everything that proves them; an export that was interrupted is gone on with.

        Args:
            tenant_id: The tenant, or `_system` for an operator.
            directory: Made if missing; an export never overwrites an earlier one.
            format: `ndjson`; `csv`, `ocsf` or `parquet` write a view beside it.
            since: First time included (UTC). Leaves are whole: a few events of before can be there too.
            until: First time left out (UTC); a few events of after can be there too.
            progress: Is told how many events are written, of how many.

        Raises:
            PermissionDeniedError: The caller may not read this log; that is recorded.
            ConfigurationError: Unknown format, or the directory is not empty or cannot be written.
            ProviderUnavailableError: The control plane did not answer.
        """
        draft = self._admitted(tenant_id, Action.AUDIT_EXPORT)
        with recorded_failure(self, draft, tenant_id):
            if format != _NDJSON and format not in list(View):
                known = ", ".join((_NDJSON, *View))
                raise ConfigurationError(f"unknown export format {format!r}; there are: {known}")
            self._intend(tenant_id, draft)
            with self._proofs().exported(
                tenant_id,
                Path(directory).absolute(),
                since=since and as_utc(since),
                until=until and as_utc(until),
                view=None if format == _NDJSON else View(format),
                progress=progress,
            ) as bundle:
                self.record(tenant_id, draft, Outcome.ALLOWED, counts={"events": bundle.events})
        return bundle

    @telemetry.operation()
    def verifier_key(self, tenant_id: str) -> str:
        """The key that exports of a tenant's log are verified with, as text; asking is recorded.

        Raises:
            PermissionDeniedError: The caller may not read this log.
        """
        draft = self._admitted(tenant_id, Action.AUDIT_KEY)
        with recorded_failure(self, draft, tenant_id):
            key = self._proofs().verifier_key(tenant_id)
            self.record(tenant_id, draft, Outcome.ALLOWED)
        return key

    @telemetry.operation()
    def checkpoint(self, tenant_id: str) -> str:
        """The head of a tenant's log as a signed note: who keeps it can tell later whether the log was cut off.

        Raises:
            PermissionDeniedError: The caller may not read this log.
            ProviderUnavailableError: The control plane did not answer.
        """
        draft = self._admitted(tenant_id, Action.AUDIT_CHECKPOINT)
        with recorded_failure(self, draft, tenant_id):
            note = self._proofs().checkpoint(tenant_id)
            self.record(tenant_id, draft, Outcome.ALLOWED)
        return note

    @telemetry.operation()
    def accept(self, log_id: str, reason: str) -> None:
        """Let a log go on that a restore of the database cut off; recorded in that log and in the system's.

        Args:
            log_id: The tenant, or `_system`.
            reason: Why, at most 1,000 characters; kept with the heads outside the database. Name no person in it.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: The log was not cut off, or was changed besides; or there is no reason.
        """
        if self._admission is None:
            raise ConfigurationError(_WITHOUT_TENANCY)
        draft = self._admission.operate(Action.AUDIT_ACCEPT)
        with recorded_failure(self, draft):
            if not 0 < len(reason.strip()) <= _REASON_CHARACTERS:
                raise ConfigurationError(f"say why, in at most {_REASON_CHARACTERS} characters")
            size, signed = self._proofs().accept(log_id, reason)
            about = replace(draft, event_id=new_event_id(), details={"log": log_id, "size": size, "signed": signed})
            if log_id != SYSTEM_LOG:
                self.record(log_id, about, Outcome.ALLOWED)
            self.record(SYSTEM_LOG, replace(about, event_id=draft.event_id), Outcome.ALLOWED)

    @telemetry.operation()
    def rotate_key(self) -> None:
        """Sign with a new key from now on; what the former ones signed stays verifiable.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: The keys cannot be read or written.
        """
        if self._admission is None:
            raise ConfigurationError(_WITHOUT_TENANCY)
        draft = self._admission.operate(Action.AUDIT_ROTATE_KEY)
        with recorded_failure(self, draft):
            self._proofs().rotate_key()
            self.record(SYSTEM_LOG, draft, Outcome.ALLOWED)

    def _proofs(self) -> Evidence:
        if self._evidence is None:
            raise ConfigurationError(_WITHOUT_TENANCY)
        return self._evidence

    def _intend(self, log_id: str, draft: AuditDraft) -> None:
        """Record that an export begins: one that is killed has this event and no outcome."""
        intent = replace(
            draft, action=Action.AUDIT_EXPORT_STEP, event_id=new_event_id(), started_ns=time.monotonic_ns()
        )
        self.record(log_id, intent, Outcome.ALLOWED)

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
            raise ConfigurationError(_WITHOUT_TENANCY)
        if log_id == SYSTEM_LOG:
            return self._admission.operate(Action.AUDIT_SYSTEM)
        return self.draft(self._admission.admit_to(log_id, action), action, category=Category.ADMINISTRATION)

"""`CloudGDPRService`: erases and exports a person; the published surface of the feature.

A request for erasure goes from state to state (`cloud.gdpr.states`). `delete_user_data` is the short way through the
same machine: one call receives, verifies by its caller's authority, looks, confirms and erases.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cloud.audit.model import AuditDraft, Category, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.gdpr.erasing import Erasing
from cloud.gdpr.evidence import Evidence
from cloud.gdpr.export import export_person
from cloud.gdpr.holding import LegalHolds
from cloud.gdpr.model import (
    NOTHING_SAID,
    Erasure,
    ErasurePreview,
    ErasureState,
    ExportBundle,
    ExportProgress,
    ExportRequest,
    LegalHold,
    ToldRequest,
    quiet,
)
from cloud.gdpr.places import DataMap
from cloud.gdpr.ports import ErasureStore, HoldStore
from cloud.gdpr.requests import ErasureRequests
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.memory.config import PixeltableConfig
from cloud.storage.engine import ControlEngine
from cloud.tenancy.administration import Administration
from cloud.tenancy.admission import Admitted
from src.memory.validation import check_user_id

_T = TypeVar("_T")


class CloudGDPRService:
    """`GDPRService` of the cloud side.

    Every call that names a tenant raises `PermissionDeniedError` for a caller who may not do this there, and
    `AuthenticationError` where there is no such tenant or nobody is calling; every one may raise
    `ProviderUnavailableError` if a part did not answer. A request or hold of another tenant and one that is not there
    are both `ErasureRequestError` (`absent`).

    Args:
        store: Requests and rows of the control plane.
        holds: Legal holds.
        engine: Engine that holds the placement's lock while rows are removed.
        config: The installation.
        admissions: The door.
        audit: The log.
        evidence: What shows how deep an erasure went.
        on_key_destroyed: Called when a person's key is destroyed, before that is recorded.
    """

    def __init__(
        self,
        store: ErasureStore,
        holds: HoldStore,
        engine: ControlEngine,
        config: PixeltableConfig,
        admissions: Administration,
        audit: TransactionalAuditLogger,
        *,
        evidence: Evidence | None = None,
        on_key_destroyed: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._config = config
        self._admissions = admissions
        self._audit = audit
        self._map = DataMap(store, config)
        self._erasing = Erasing(store, engine, config, audit, evidence or Evidence(), on_key_destroyed)
        self._requests = ErasureRequests(store, self._erasing, config, admissions, audit)
        self._holds = LegalHolds(holds, store, engine, config, admissions, audit)

    async def delete_user_data(
        self, user_id: str, workspace_id: str, *, confirmed: bool = False, reason: str | None = None
    ) -> ErasurePreview | Erasure:
        """Without `confirmed`, what would go; with it, the person is erased when this returns.

        Args:
            user_id: The person.
            workspace_id: The tenant.
            confirmed: Whether to erase.
            reason: Why, at most 1,000 characters; kept sealed.

        Raises:
            PermissionDeniedError: The caller may not erase here.
            AuthenticationError: There is no such tenant, or nobody is calling.
            InvalidFilterError: The user id is none.
            LegalHoldError: A hold keeps it; the request waits, and goes on when that is released.
            ErasureIncompleteError: Something is left; it is recorded, and calling again continues.
            ProviderUnavailableError: A part did not answer; calling again continues.

        Source:
            GDPR Art. 17(1), 17(3).
        """
        if not confirmed:
            return await _in_thread(lambda: self._preview(user_id, workspace_id))
        return await _in_thread(
            lambda: self._erasing.handed_out(self._requests.erase_person(user_id, workspace_id, reason))
        )

    async def request_erasure(
        self,
        user_id: str,
        tenant_id: str,
        *,
        reason: str | None = None,
        received_at: datetime | None = None,
        identity: str | None = None,
    ) -> Erasure:
        """Keep a person's request; its month runs from the moment of receipt. A second one joins the first.

        Args:
            user_id: The person.
            tenant_id: The tenant.
            reason: Why, at most 1,000 characters; kept sealed.
            received_at: When the person asked, if that was earlier; UTC unless it names an offset.
            identity: How it was established already that the person asks, as a short code such as `passport`.

        Raises:
            InvalidFilterError: The user id is none.
            ConfigurationError: The reason is too long, the time in the future, or the code is none.

        Source:
            GDPR Art. 12(3), 12(6).
        """
        return await _in_thread(
            lambda: self._requests.receive(user_id, tenant_id, reason=reason, received_at=received_at, method=identity)
        )

    async def requests(self, tenant_id: str, *, due_only: bool = False) -> list[Erasure]:
        """The tenant's requests by deadline; with `due_only` those alone that are still owed to somebody."""
        return await _in_thread(lambda: self._requests.list(tenant_id, due_only=due_only))

    async def show(self, erasure_id: str, tenant_id: str) -> ToldRequest:
        """One request, with what people wrote about it."""
        return await _in_thread(lambda: self._requests.show(erasure_id, tenant_id))

    async def certificate(self, erasure_id: str, tenant_id: str) -> str:
        """The newest certificate of an erasure, which `cloud.gdpr.verify` verifies; a new one is issued whenever a
        later level is reached.

        Raises:
            ErasureRequestError: There is no such request, or no certificate of it yet.
        """
        return await _in_thread(lambda: self._requests.certificate(erasure_id, tenant_id))

    async def verify_identity(self, erasure_id: str, tenant_id: str, *, method: str) -> Erasure:
        """Record that it was established that the person asks.

        Args:
            erasure_id: The request.
            tenant_id: The tenant.
            method: How, as a short code such as `passport`; nothing about the person.

        Raises:
            ErasureRequestError: There is no such request, or it is confirmed or ended.
            ConfigurationError: The code is none.

        Source:
            GDPR Art. 12(6).
        """
        return await _in_thread(lambda: self._requests.verify_identity(erasure_id, tenant_id, method))

    async def preview_request(self, erasure_id: str, tenant_id: str) -> ErasurePreview:
        """What a request would remove; its `digest` is what a confirmation names.

        Raises:
            ErasureRequestError: There is no such request, or nobody verified the person's identity yet, or it is
                confirmed or ended.
        """
        return await _in_thread(lambda: self._requests.preview(erasure_id, tenant_id))

    async def confirm(self, erasure_id: str, tenant_id: str, *, seen: str) -> Erasure:
        """Erase the person of a request; it is done when this returns.

        Args:
            erasure_id: The request.
            tenant_id: The tenant.
            seen: Digest of the preview that was looked at.

        Raises:
            ErasureRequestError: `stale_preview`: something changed since; or there is no such request, nobody looked
                at it, or it ended.
            LegalHoldError: A hold keeps it; the request is held, and goes on when that is released.
            ErasureIncompleteError: Something is left; it is recorded, and `resume_request` continues.

        Source:
            GDPR Art. 17(1), 17(3).
        """
        return await _in_thread(lambda: self._erasing.handed_out(self._requests.confirm(erasure_id, tenant_id, seen)))

    async def cancel(self, erasure_id: str, tenant_id: str, *, reason: str) -> Erasure:
        """End a request that the person withdrew, before it is confirmed; the reason is kept sealed.

        Raises:
            ErasureRequestError: There is no such request, or it is confirmed or ended.
            ConfigurationError: No reason, or one that is too long.
        """
        return await _in_thread(
            lambda: self._requests.refuse(erasure_id, tenant_id, reason, state=ErasureState.CANCELLED)
        )

    async def reject(self, erasure_id: str, tenant_id: str, *, reason: str) -> Erasure:
        """End a request that is not granted, before it is confirmed; the reason is kept sealed.

        Raises:
            ErasureRequestError: There is no such request, or it is confirmed or ended.
            ConfigurationError: No reason, or one that is too long.

        Source:
            GDPR Art. 12(4), 12(5), 17(3).
        """
        return await _in_thread(
            lambda: self._requests.refuse(erasure_id, tenant_id, reason, state=ErasureState.REJECTED)
        )

    async def extend(
        self,
        erasure_id: str,
        tenant_id: str,
        *,
        reason: str,
        notified_at: datetime,
        until: datetime | None = None,
    ) -> Erasure:
        """Give a request more time, once: until three months after its receipt at most.

        Args:
            erasure_id: The request.
            tenant_id: The tenant.
            reason: What the person was told; kept sealed.
            notified_at: When the person was told, which must be within the first month.
            until: Until when, if less is enough.

        Raises:
            ErasureRequestError: `overdue`; or there is no such request, it has ended, or was extended before.
            ConfigurationError: No reason, one that is too long, or a notice in the future.

        Source:
            GDPR Art. 12(3).
        """
        return await _in_thread(
            lambda: self._requests.extend(erasure_id, tenant_id, reason=reason, notified_at=notified_at, until=until)
        )

    async def resume_request(self, erasure_id: str, tenant_id: str) -> Erasure:
        """Go on at once with an erasure that failed, was cut off, or was released from a hold.

        Raises:
            ErasureRequestError: There is no such request, or there is nothing to go on with.
            LegalHoldError: A hold keeps it still.
            ErasureIncompleteError: Something is left.
        """
        return await _in_thread(lambda: self._erasing.handed_out(self._requests.resume(erasure_id, tenant_id)))

    async def hold(
        self, tenant_id: str, *, user_id: str | None = None, reason: str, authority: str, review_at: datetime
    ) -> LegalHold:
        """Keep a person's data, or with no person the whole tenant's: nothing of it is erased, purged or closed.

        Args:
            tenant_id: The tenant.
            user_id: The person, also one of whom nothing is kept yet.
            reason: Why; kept sealed, as is the authority.
            authority: Who demands it, such as a court and its file number.
            review_at: When somebody must look whether it is still needed.

        Raises:
            ErasureRequestError: `wrong_state`: the person is being erased already.
            ConfigurationError: Reason or authority is missing or too long, or the review is not in the future.
            InvalidFilterError: The user id is none.

        Source:
            GDPR Art. 17(3)(b), 17(3)(e), 18(2).
        """
        return await _in_thread(
            lambda: self._holds.place(
                tenant_id, user_id=user_id, reason=reason, authority=authority, review_at=review_at
            )
        )

    async def release(self, hold_id: str, tenant_id: str, *, reason: str | None = None) -> LegalHold:
        """End a hold. Requests that only it kept go on: by the worker within a minute, by `resume_request` at once.

        Raises:
            ErasureRequestError: There is no such hold, or it is released already.
            ConfigurationError: The reason is too long.
        """
        return await _in_thread(lambda: self._holds.release(hold_id, tenant_id, reason))

    async def holds(self, tenant_id: str) -> list[LegalHold]:
        """The tenant's holds, those that hold still first, by their review."""
        return await _in_thread(lambda: self._holds.list(tenant_id))

    async def export_user_data(
        self,
        user_id: str,
        workspace_id: str,
        directory: str | os.PathLike[str],
        *,
        recipients: Sequence[str] = (),
        notice: Mapping[str, str] = NOTHING_SAID,
        progress: ExportProgress = quiet,
    ) -> ExportBundle:
        """Write everything that is kept of a person to `directory`, which must be empty or missing.

        Args:
            user_id: The person.
            workspace_id: The tenant.
            directory: Where to. With recipients it is a file that must not exist, conventionally `….zip.age`: an
                archive that any recipient's secret key opens, of which nothing was on a disk in the clear.
            recipients: Public keys: `age1…`, `ssh-ed25519 …` or `ssh-rsa …`.
            notice: What the controller tells the person, by topic of `cloud.gdpr.information.TOPICS`.
            progress: Is told how far it is.

        Raises:
            PermissionDeniedError: The caller may not export here.
            AuthenticationError: There is no such tenant, or nobody is calling.
            ConfigurationError: The directory is not empty, the file exists, the disk is full, or a recipient is none.
            ProviderUnavailableError: A part did not answer.

        Source:
            GDPR Art. 15(1), 15(3), 20(1).
        """
        request = ExportRequest(user_id, Path(directory), tuple(recipients), notice, progress)
        return await _in_thread(lambda: self._export(request, workspace_id))

    def resume(self) -> int:
        """Finish the erasures that a process was killed in or that were released, at once; returns how many.

        Raises:
            ConfigurationError: A part cannot be used as it is set up.
            ErasureIncompleteError: One of them still finds something.
            ProviderUnavailableError: A part did not answer.
        """
        return self._erasing.resume()

    def upkeep(self) -> None:
        """Go on with what was released or abandoned, and reach levels that are due; for the background."""
        self._erasing.upkeep()

    def _preview(self, user_id: str, tenant_id: str) -> ErasurePreview:
        admitted = self._admitted(tenant_id, Action.ERASURE_PREVIEW, user_id)
        with_counts = self._recorded(admitted, lambda: self._find(admitted, user_id))
        self._audit.record(
            tenant_id, self._about(admitted, with_counts.subject_id), Outcome.ALLOWED, counts=with_counts.counts
        )
        return with_counts

    def _find(self, admitted: Admitted, user_id: str) -> ErasurePreview:
        tenant_id = admitted.scope.tenant_id
        person = self._config.keyring.resolve_subject(tenant_id, user_id, create=False)
        if person is None:
            return ErasurePreview(tenant_id, None, {})
        return ErasurePreview(tenant_id, person.subject_id, self._map.counts(admitted.predicate, person.subject_id))

    def _export(self, request: ExportRequest, tenant_id: str) -> ExportBundle:
        admitted = self._admitted(tenant_id, Action.ACCESS_REQUEST, request.user_id)
        return self._recorded(admitted, lambda: self._export_admitted(admitted, request))

    def _export_admitted(self, admitted: Admitted, request: ExportRequest) -> ExportBundle:
        tenant_id = admitted.scope.tenant_id
        person = self._config.keyring.resolve_subject(tenant_id, request.user_id, create=False)
        about = self._about(admitted, person.subject_id if person else None)
        draft = replace(about, details={"encrypted": bool(request.recipients)})
        return export_person(
            request,
            person,
            admitted.predicate,
            self._config,
            self._store,
            lambda counts: self._audit.record(tenant_id, draft, Outcome.ALLOWED, counts=counts),
        )

    def _admitted(self, tenant_id: str, action: Action, user_id: str) -> Admitted:
        admitted = self._admissions.administer(tenant_id, action, user_id=user_id)

        self._recorded(admitted, lambda: check_user_id(user_id))
        return admitted

    def _recorded(self, admitted: Admitted, work: Callable[[], _T]) -> _T:
        with recorded_failure(self._audit, admitted.draft, admitted.scope.tenant_id):
            return work()

    def _about(self, admitted: Admitted, subject_id: str | None) -> AuditDraft:
        draft = admitted.draft
        return AuditDraft(
            action=draft.action,
            actor=draft.actor,
            request_id=draft.request_id,
            trace_id=draft.trace_id,
            subject_id=subject_id,
            category=Category.ADMINISTRATION,
            event_id=draft.event_id,
            started_ns=draft.started_ns,
        )


async def _in_thread(work: Callable[[], _T]) -> _T:
    return await asyncio.to_thread(telemetry.observed, work)

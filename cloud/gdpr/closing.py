"""`TenantClosing`: closes a tenant for good and erases everybody of it, with the same evidence as a person's erasure.

From its freeze on it is an erasure whose extent is the tenant: `cloud.gdpr.erasing` takes the steps, goes on after a
crash, reaches the later levels and certifies. What stays is the tenant's name, which is not given again, its audit log,
and what it used: they hold nothing of a person any more.
"""

from __future__ import annotations

from functools import partial

from cloud.audit.model import AuditDraft, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.gdpr.erasing import Erasing
from cloud.gdpr.model import ClosingPreview, Erasure
from cloud.gdpr.ports import ClosingStore, Received
from cloud.gdpr.states import MONTHS, months_later
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError, ErasureRequestError, UnknownTenantError
from cloud.kernel.ids import is_tenant_id, new_event_id
from cloud.kernel.scope import TenantPredicate
from cloud.tenancy.administration import Administration
from cloud.tenancy.model import Tenant, TenantState
from cloud.tenancy.ports import TenantDirectory
from cloud.tenancy.system import system_predicate


class TenantClosing:
    """Closes tenants.

    Args:
        store: Closings.
        erasing: Takes them to their end.
        tenants: Which tenants there are.
        admissions: The door.
        audit: The log.
        clock: The present, UTC.
    """

    def __init__(
        self,
        store: ClosingStore,
        erasing: Erasing,
        tenants: TenantDirectory,
        admissions: Administration,
        audit: TransactionalAuditLogger,
        clock: Clock,
    ) -> None:
        self._store = store
        self._erasing = erasing
        self._tenants = tenants
        self._admissions = admissions
        self._audit = audit
        self._clock = clock

    @telemetry.operation()
    def close(self, tenant_id: str, *, confirmed: bool = False) -> ClosingPreview | Erasure:
        """Without `confirmed`, what would go; with it, the tenant is closed and erased when this returns.

        Args:
            tenant_id: The tenant.
            confirmed: Whether to close it, for good.

        Returns:
            The closing with the levels that it has reached and its certificate.

        Raises:
            PermissionDeniedError: The caller is no operator.
            UnknownTenantError: There is no such tenant.
            ConfigurationError: It is closed already.
            LegalHoldError: A hold keeps it, or somebody of it; nothing has changed.
            ErasureIncompleteError: Something is left; it is recorded, and calling again continues.
            ProviderUnavailableError: A part did not answer; calling again continues.
        """
        draft = self._admissions.operate(Action.TENANT_CLOSE)
        with recorded_failure(self._audit, draft):
            if self._found(tenant_id).state is TenantState.CLOSED:
                raise ConfigurationError(f"tenant {tenant_id!r} is closed already")
        predicate = system_predicate(tenant_id, "closing")
        with recorded_failure(self._audit, draft, tenant_id):
            if not confirmed:
                preview = ClosingPreview(tenant_id, self._erasing.seen(predicate))
                self._audit.record(tenant_id, draft, Outcome.ALLOWED, reason="preview", counts=preview.counts)
                return preview
            return self._erasing.handed_out(self._complete(predicate, draft))

    @telemetry.operation()
    def certificate(self, tenant_id: str) -> str:
        """The newest certificate of a closing; a new one is issued whenever a later level is reached.

        Raises:
            PermissionDeniedError: The caller is no operator.
            UnknownTenantError: There is no such tenant.
            ErasureRequestError: It is not closed, or there is no certificate of that yet.
        """
        draft = self._admissions.operate(Action.TENANT_CERTIFICATE)
        with recorded_failure(self._audit, draft):
            self._found(tenant_id)
        with recorded_failure(self._audit, draft, tenant_id):
            closing = self._store.get(system_predicate(tenant_id, "closing"))
            if closing is None:
                raise ErasureRequestError("not_closed")
            certificate = self._erasing.handed_out(closing).certificate
            if certificate is None:
                raise ErasureRequestError("not_certified", state=closing.state.value)
        self._audit.record(tenant_id, draft, Outcome.ALLOWED)
        return certificate

    def resume(self) -> int:
        """Finish the closings that a process was killed in; returns how many.

        Raises:
            ErasureIncompleteError: One of them still finds something.
            ProviderUnavailableError: A part did not answer.
        """
        unfinished = self._store.unfinished()
        for tenant_id in unfinished:
            self.again(tenant_id)
        return len(unfinished)

    def again(self, tenant_id: str, closing_id: str | None = None) -> None:
        """Go on with a closing, or close a tenant once more that a restored backup brought back.

        Whatever a legal hold of then says: the keys are destroyed since.

        Args:
            tenant_id: The tenant.
            closing_id: Which closing it was, if that is known.

        Raises:
            ErasureIncompleteError: Something is left; calling again continues.
            ProviderUnavailableError: A part did not answer; calling again continues.
        """
        telemetry.named(Action.TENANT_CLOSE.value, tenant_id, partial(self._again, tenant_id, closing_id))

    def _again(self, tenant_id: str, closing_id: str | None) -> None:
        predicate = system_predicate(tenant_id, "closing")
        draft = self._audit.draft(predicate.scope, Action.TENANT_CLOSE)
        self._complete(predicate, draft, closing_id, held_too=True)

    def _complete(
        self, predicate: TenantPredicate, audit: AuditDraft, closing_id: str | None = None, *, held_too: bool = False
    ) -> Erasure:
        now = self._clock()
        closing = Received(closing_id or new_event_id(), None, now, months_later(now, MONTHS), None, None)
        intent = self._audit.draft(predicate.scope, Action.TENANT_CLOSE_STEP)
        erasure = self._store.freeze(predicate, closing, intent, held_too=held_too)
        if erasure.is_done:
            return self._erasing.joined(erasure, audit)
        return self._erasing.complete(predicate, erasure, audit)

    def _found(self, tenant_id: str) -> Tenant:
        tenant = self._tenants.get(tenant_id) if is_tenant_id(tenant_id) else None
        if tenant is None:
            raise UnknownTenantError()
        return tenant

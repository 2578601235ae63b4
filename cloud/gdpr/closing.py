"""`TenantClosing`: closes a tenant for good and erases everything of it.

Steps, each durable before the next and harmless when repeated, so that a crash resumes where it was:

1. Freeze: from this commit on every operation of the tenant is refused. There is no way back from here.
2. Destroy the tenant's key and with it every person's: nothing of the tenant can be read, wherever a copy may be.
3. Delete its rows in both planes, under the materializer's lock.
4. Look whether anything is left, and record the end.

What stays is the tenant's name, which is not given again, its audit log, and what it used: they hold nothing of a
person any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from cloud.audit.model import AuditDraft, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.gdpr.evidence import ErasureLedger
from cloud.gdpr.model import ClosedTenant, ClosingPreview
from cloud.gdpr.ports import ClosingStore
from cloud.gdpr.removal import Removal, emptied
from cloud.kernel import failpoints, telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import (
    ConfigurationError,
    ErasureIncompleteError,
    UnknownTenantError,
)
from cloud.kernel.ids import is_tenant_id
from cloud.kernel.scope import TenantPredicate
from cloud.memory.config import PixeltableConfig
from cloud.storage.engine import ControlEngine
from cloud.tenancy.administration import Administration
from cloud.tenancy.model import TenantState
from cloud.tenancy.ports import TenantDirectory
from cloud.tenancy.system import system_predicate


class TenantClosing:
    """Closes tenants.

    Args:
        store: The control plane's rows.
        engine: Engine that holds a placement's lock while rows are removed.
        config: The installation.
        tenants: Which tenants there are.
        admissions: The door.
        audit: The log.
        ledger: Keeps outside the databases which tenants were closed.
    """

    def __init__(
        self,
        store: ClosingStore,
        engine: ControlEngine,
        config: PixeltableConfig,
        tenants: TenantDirectory,
        admissions: Administration,
        audit: TransactionalAuditLogger,
        ledger: ErasureLedger,
    ) -> None:
        self._store = store
        self._config = config
        self._tenants = tenants
        self._admissions = admissions
        self._audit = audit
        self._ledger = ledger
        self._removal = Removal(engine, "closing")

    @telemetry.operation()
    def close(self, tenant_id: str, *, confirmed: bool = False) -> ClosingPreview | ClosedTenant:
        """Without `confirmed`, what would go; with it, the tenant is closed and erased when this returns.

        Args:
            tenant_id: The tenant.
            confirmed: Whether to close it, for good.

        Raises:
            PermissionDeniedError: The caller is no operator.
            UnknownTenantError: There is no such tenant.
            ConfigurationError: It is closed already.
            ErasureIncompleteError: Something is left; it is recorded, and calling again continues.
            ProviderUnavailableError: A part did not answer; calling again continues.
        """
        draft = self._admissions.operate(Action.TENANT_CLOSE)
        with recorded_failure(self._audit, draft):
            tenant = self._tenants.get(tenant_id) if is_tenant_id(tenant_id) else None
            if tenant is None:
                raise UnknownTenantError()
            if tenant.state is TenantState.CLOSED:
                raise ConfigurationError(f"tenant {tenant_id!r} is closed already")
        predicate = system_predicate(tenant_id, "closing")
        with recorded_failure(self._audit, draft, tenant_id):
            if not confirmed:
                preview = ClosingPreview(tenant_id, self._counts(predicate))
                self._audit.record(tenant_id, draft, Outcome.ALLOWED, reason="preview", counts=preview.counts)
                return preview
            return self._complete(predicate, draft)

    def resume(self) -> int:
        """Finish the closings that a process was killed in; returns how many.

        Raises:
            ErasureIncompleteError: One of them still finds something.
            ProviderUnavailableError: A part did not answer.
        """
        unfinished = self._store.unfinished()
        for tenant_id in unfinished:
            telemetry.named(Action.TENANT_CLOSE.value, tenant_id, partial(self._resume, tenant_id))
        return len(unfinished)

    def again(self, tenant_id: str) -> None:
        """Close a tenant once more that a restored backup brought back.

        Raises:
            ErasureIncompleteError: Something is left; calling again continues.
            ProviderUnavailableError: A part did not answer; calling again continues.
        """
        telemetry.named(Action.TENANT_CLOSE.value, tenant_id, partial(self._resume, tenant_id))

    def _resume(self, tenant_id: str) -> None:
        predicate = system_predicate(tenant_id, "closing")
        self._complete(predicate, self._audit.draft(predicate.scope, Action.TENANT_CLOSE))

    def _complete(self, predicate: TenantPredicate, audit: AuditDraft) -> ClosedTenant:
        with self._removal.turn():
            return self._steps(predicate, audit)

    def _steps(self, predicate: TenantPredicate, audit: AuditDraft) -> ClosedTenant:
        tenant_id, keyring = predicate.tenant_id, self._config.keyring
        intent = self._audit.draft(predicate.scope, Action.TENANT_CLOSE_STEP)
        self._store.freeze(predicate, intent)
        # Counted once nothing is added any more.
        counts = self._store.keep_counts(predicate, self._counts(predicate))
        failpoints.reach("close.frozen")
        keyring.destroy_tenant(tenant_id)
        self._config.hot.drop_tenant(tenant_id)
        failpoints.reach("close.key_destroyed")
        self._ledger.append_closing(tenant_id)
        left = emptied(lambda: self._remove_rows(predicate), lambda: self._counts(predicate))
        failpoints.reach("close.rows_deleted")
        self._store.finish(predicate, audit, counts, complete=not left)
        if left:
            raise ErasureIncompleteError(left)
        return ClosedTenant(tenant_id, counts)

    def _remove_rows(self, predicate: TenantPredicate) -> None:
        def remove(placements: Sequence[str]) -> None:
            self._store.delete_rows(predicate)
            failpoints.reach("close.ledger_deleted")
            for placement in placements:
                self._config.rows.remove_tenant(predicate, placement)

        self._removal.under_locks(lambda: self._store.placements(predicate), remove)

    def _counts(self, predicate: TenantPredicate) -> dict[str, int]:
        rows = sum(self._config.rows.count_tenant(predicate, name) for name in self._store.placements(predicate))
        subjects = len(self._config.keyring.subjects(predicate.tenant_id))
        return {**self._store.count(predicate), "pixeltable.memories": rows, "keyring.subject": subjects}

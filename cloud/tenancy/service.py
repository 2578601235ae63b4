"""Administration of tenants; each change commits together with its audit event."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from cloud.audit.model import Details, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError, UnknownTenantError
from cloud.kernel.ids import SYSTEM_LOG, is_tenant_id, new_event_id
from cloud.keys.ports import Keyring
from cloud.tenancy.administration import Administration
from cloud.tenancy.model import Tenant, TenantState
from cloud.tenancy.placements import Move, MoveState, Progress, named_placement
from cloud.tenancy.ports import TenantMover, TenantStore

UNLIMITED: Final = -1


class Tenants:
    """Creates, changes, moves, suspends, resumes and lists tenants.

    Args:
        store: Keeps them.
        keyring: Makes a tenant's key before the tenant exists, so that it never exists without one.
        admissions: Lets operators in and begins events.
        audit: Records what changed nothing.
        plans: Names of the plans.
        meters: Names of the meters that overrides may name.
        clock: The present, UTC.
        mover: Moves tenants between tables.
    """

    def __init__(
        self,
        store: TenantStore,
        keyring: Keyring,
        admissions: Administration,
        audit: TransactionalAuditLogger,
        *,
        plans: Collection[str],
        meters: Collection[str],
        clock: Clock,
        mover: TenantMover,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._admissions = admissions
        self._audit = audit
        self._plans = plans
        self._meters = meters
        self._clock = clock
        self._mover = mover

    @telemetry.operation()
    def create(
        self,
        tenant_id: str,
        *,
        plan: str = "free",
        limits: Mapping[str, int | None] | None = None,
        placement: str | None = None,
    ) -> Tenant:
        """Create a tenant; repeating the call with the same values changes nothing.

        Args:
            tenant_id: 1–63 of `a-z 0-9 _ -`, beginning and ending with a letter or digit.
            plan: Name of a plan of the plan file.
            limits: Overrides of the plan's limits by meter; -1 or `None` is unlimited.
            placement: `own` for a table of its own, `pooled` for one shared with others, which is what it gets if
                left out.

        Raises:
            ConfigurationError: The id cannot name a tenant, or is taken by a tenant with another plan, limits or
                placement; an unknown plan, meter or placement.
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._admissions.operate(Action.TENANT_CREATE)
        with recorded_failure(self._audit, draft):
            if not is_tenant_id(tenant_id):
                raise ConfigurationError(
                    "a tenant id is 1-63 of a-z, 0-9, _ and -, beginning and ending with a letter or digit"
                )
            self._require_plan(plan)
            checked = self._checked(limits or {})
            place = named_placement(tenant_id, placement or "pooled")
            known = self._store.get(tenant_id)
            if known is not None and known.state in (TenantState.CLOSING, TenantState.CLOSED):
                # Its log goes on to tell of the tenant that was: another one's events must not continue it.
                raise ConfigurationError(f"tenant {tenant_id!r} was closed, and its name is not given again")
            self._keyring.create_tenant(tenant_id)
        wanted = Tenant(
            tenant_id=tenant_id,
            state=TenantState.ACTIVE,
            plan=plan,
            limits=checked,
            placement=place,
            created_at=self._clock(),
        )
        tenant = self._store.create(wanted, draft)
        if not tenant.same_terms(wanted):
            raise ConfigurationError(f"tenant {tenant_id!r} exists with another plan or other limits")
        if placement is not None and tenant.placement != place:
            raise ConfigurationError(f"tenant {tenant_id!r} exists in {tenant.placement}; move it: tenants move")
        return tenant

    @telemetry.operation()
    def change(
        self,
        tenant_id: str,
        *,
        plan: str | None = None,
        limits: Mapping[str, int | None] | None = None,
        drop_limits: Collection[str] = (),
    ) -> Tenant:
        """Change a tenant's plan or its overrides; the next operation of every process goes by the new terms.

        A limit below what is in use deletes nothing: it refuses until enough was deleted.

        Args:
            tenant_id: The tenant.
            plan: Name of its new plan; it stays where this is left out.
            limits: Overrides to set, by meter; -1 or `None` is unlimited. Those not named stay.
            drop_limits: Meters for which the plan's own limit shall hold again.

        Raises:
            ConfigurationError: An unknown plan or meter, a meter both set and dropped, or the tenant is closed.
            UnknownTenantError: There is no such tenant.
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._admissions.operate(Action.TENANT_CHANGE)
        with recorded_failure(self._audit, draft):
            self._require_plan(plan)
            checked = self._checked(limits or {})
            self._checked(dict.fromkeys(drop_limits))
            if set(checked) & set(drop_limits):
                raise ConfigurationError("a limit cannot be set and dropped at once")
        details: Details = {
            "plan": plan,
            "limits": {meter: UNLIMITED if limit is None else limit for meter, limit in checked.items()},
            "dropped": sorted(drop_limits),
        }
        tenant = self._store.change(
            tenant_id if is_tenant_id(tenant_id) else "",
            replace(draft, details=details),
            plan=plan,
            limits=checked,
            drop_limits=drop_limits,
        )
        return self._still_open(tenant)

    @telemetry.operation()
    def move(self, tenant_id: str, *, to: str, progress: Progress | None = None) -> Move:
        """Move a tenant's memories to another table while they are read and written; returns when it is done.

        A move that was killed is continued by the same call.

        Args:
            tenant_id: The tenant.
            to: `own`, `pooled`, or the name of a table.
            progress: Told how many rows of how many are copied.

        Raises:
            PermissionDeniedError: The caller is no operator.
            UnknownTenantError: There is no such tenant.
            ConfigurationError: `to` names no table that it may be in.
            OperationInProgressError: Another process is moving it, or it is on its way to another table.
            ProviderUnavailableError: A part did not answer; calling again continues.
        """
        draft = self._admissions.operate(Action.TENANT_MOVE)
        log_id = tenant_id if is_tenant_id(tenant_id) else SYSTEM_LOG
        with recorded_failure(self._audit, draft, log_id):
            if log_id == SYSTEM_LOG:
                raise UnknownTenantError()
            target = named_placement(tenant_id, to)
            intent = replace(draft, action=Action.TENANT_MOVE_STEP, event_id=new_event_id())
            move = self._mover.begin(tenant_id, target, intent)
            if move.state is MoveState.DONE:
                self._audit.record(tenant_id, draft, Outcome.ALLOWED, reason="unchanged")
                return move
            return self._mover.run(move, draft, progress=progress)

    @telemetry.operation()
    def suspend(self, tenant_id: str) -> None:
        """From the commit on, every operation of the tenant is refused.

        Raises:
            UnknownTenantError: There is no such tenant.
        """
        self._set(tenant_id, TenantState.SUSPENDED, Action.TENANT_SUSPEND)

    @telemetry.operation()
    def resume(self, tenant_id: str) -> None:
        """Serve a suspended tenant again.

        Raises:
            UnknownTenantError: There is no such tenant.
        """
        self._set(tenant_id, TenantState.ACTIVE, Action.TENANT_RESUME)

    @telemetry.operation()
    def list(self) -> list[Tenant]:
        """All tenants by id.

        Raises:
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._admissions.operate(Action.TENANT_LIST)
        with recorded_failure(self._audit, draft):
            tenants = self._store.tenants()
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, counts={"tenants": len(tenants)})
        return tenants

    def _set(self, tenant_id: str, state: TenantState, action: Action) -> None:
        draft = self._admissions.operate(action)
        # A name that no tenant can have takes the same way as one that none has.
        self._still_open(self._store.set_state(tenant_id if is_tenant_id(tenant_id) else "", state, draft))

    @staticmethod
    def _still_open(tenant: Tenant | None) -> Tenant:
        if tenant is None:
            raise UnknownTenantError()
        if tenant.state in (TenantState.CLOSING, TenantState.CLOSED):
            raise ConfigurationError(f"tenant {tenant.tenant_id!r} is {tenant.state.value}, and stays so")
        return tenant

    def _require_plan(self, plan: str | None) -> None:
        if plan is not None and plan not in self._plans:
            raise ConfigurationError(f"unknown plan {plan!r}; known are: {', '.join(sorted(self._plans))}")

    def _checked(self, limits: Mapping[str, int | None]) -> dict[str, int | None]:
        checked: dict[str, int | None] = {}
        for meter, limit in limits.items():
            if meter not in self._meters:
                raise ConfigurationError(f"unknown meter {meter!r}; known are: {', '.join(sorted(self._meters))}")
            if limit is not None and (
                isinstance(limit, bool) or not isinstance(limit, int) or not UNLIMITED <= limit < 2**53
            ):
                raise ConfigurationError(f"limit of {meter!r} must be a whole number from 0, or -1 for unlimited")
            checked[meter] = None if limit == UNLIMITED else limit
        return checked

"""Removes the tenants of a leak test, those of a run that was killed included."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Final

from cloud.kernel.errors import LuminescentError
from cloud.leaktest.cast import MOST_PEOPLE, is_of_a_leak_test, user_ids_of
from cloud.leaktest.ports import Served
from cloud.tenancy.model import TenantState

_REASON: Final = "leak test"


def leftover_tenants(served: Served) -> list[str]:
    """Tenants that an earlier leak test did not get to remove; nobody else may be running one."""
    return [
        tenant.tenant_id
        for tenant in served.tenants.list()
        if is_of_a_leak_test(tenant.tenant_id) and tenant.state is TenantState.ACTIVE
    ]


async def remove(served: Served, tenant_id: str) -> list[str]:
    """Erase a tenant's people, revoke its keys and close it, as the local operator; returns what could not be done.

    It goes on after a fault, so that as little as possible is left; the tenant then stays for the next run to find.
    """
    if tenant_id not in leftover_tenants(served):
        return []
    faults: list[str] = []
    # How many people there were died with the run that made them; whoever is not there costs one look.
    for user_id in user_ids_of(tenant_id, MOST_PEOPLE):
        try:
            preview = await served.gdpr.delete_user_data(user_id, tenant_id)
            if preview.subject_id is not None:
                await served.gdpr.delete_user_data(user_id, tenant_id, confirmed=True, reason=_REASON)
        except LuminescentError as error:
            faults.append(f"a person of {tenant_id} is not erased ({error.code})")
    try:
        for key in served.api_keys.list(tenant_id):
            if key.revoked_at is None:
                served.api_keys.revoke(tenant_id, key.key_id)
        if not faults:
            await _close(served, tenant_id)
    except LuminescentError as error:
        faults.append(f"{tenant_id} is not closed ({error.code})")
    return faults


async def _close(served: Served, tenant_id: str) -> None:
    close: Callable[[str], object] | None = getattr(served.tenants, "close", None)
    if close is None:
        # Nothing of its people is left; without closing, its row and its audit log stay.
        served.tenants.suspend(tenant_id)
    elif inspect.iscoroutinefunction(close):
        await close(tenant_id)
    else:
        await asyncio.to_thread(close, tenant_id)

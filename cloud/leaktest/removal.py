"""Removes the tenants of a leak test, those of a run that was killed included: closes each, for good."""

from __future__ import annotations

import asyncio

from cloud.kernel.errors import LuminescentError
from cloud.leaktest.cast import is_of_a_leak_test
from cloud.leaktest.ports import Served
from cloud.tenancy.model import TenantState


def leftover_tenants(served: Served) -> list[str]:
    """Tenants of leak tests that are not closed, suspended and half closed ones included; one test runs at a time."""
    return [
        tenant.tenant_id
        for tenant in served.tenants.list()
        if is_of_a_leak_test(tenant.tenant_id) and tenant.state is not TenantState.CLOSED
    ]


async def remove(served: Served, tenant_id: str) -> list[str]:
    """Close a tenant and erase everything of it, as the local operator; returns what could not be done.

    A tenant that could not be closed stays for the next run to find.
    """
    if tenant_id not in leftover_tenants(served):
        return []
    try:
        await asyncio.to_thread(served.closing.close, tenant_id, confirmed=True)
    except LuminescentError as error:
        return [f"{tenant_id} is not closed ({error.code})"]
    return []

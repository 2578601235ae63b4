"""What the leak test needs of an open installation."""

from __future__ import annotations

from typing import Protocol

from cloud.audit.service import CloudAuditLogger
from cloud.custody.service import Custody
from cloud.gdpr.closing import TenantClosing
from cloud.gdpr.service import CloudGDPRService
from cloud.memory.config import PixeltableConfig
from cloud.memory.embeddings import Embeddings
from cloud.memory.provider import CloudMemoryProvider
from cloud.tenancy.api_keys import ApiKeys
from cloud.tenancy.provider import CloudTenantProvider
from cloud.tenancy.service import Tenants
from cloud.transfer.service import CloudTransfer
from cloud.usage.service import CloudUsageTracker


class Served(Protocol):
    """An open installation. Whatever else it offers is looked at too: see `cloud.leaktest.paths`."""

    memory: CloudMemoryProvider
    tenant_provider: CloudTenantProvider
    tenants: Tenants
    api_keys: ApiKeys
    usage: CloudUsageTracker
    audit: CloudAuditLogger
    gdpr: CloudGDPRService
    transfer: CloudTransfer
    closing: TenantClosing
    keyring: Custody
    embeddings: Embeddings
    pixeltable_config: PixeltableConfig

    async def drain(self, *, timeout_s: float = ...) -> None:
        """Wait until every memory accepted so far is in Pixeltable.

        Raises:
            ProviderUnavailableError: That took longer than `timeout_s`.
        """
        ...

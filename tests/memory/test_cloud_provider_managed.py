"""The cloud provider changes, lists and follows memories as the contract says, on real storage."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from cloud import CloudRuntime, request_context
from cloud.memory import CloudMemoryProvider
from src.testing.contracts import ManagedCallerIsolationContract, ManagedContract, ProviderContract


class _InTenant(ProviderContract):
    role: str

    @pytest.fixture
    def provider(self, runtime: CloudRuntime, tenant_id: str) -> CloudMemoryProvider:
        self.tenant_id = tenant_id
        return runtime.memory

    def as_user(self, user_id: str) -> AbstractContextManager[object]:
        return request_context(tenant_id=self.tenant_id, user_id=user_id, roles={self.role})


class TestManaged(_InTenant, ManagedContract):
    """A service that acts for whomever the contract names."""

    role = "service"


class TestManagedCallerIsolation(_InTenant, ManagedCallerIsolationContract):
    """A member cannot change, follow or bring back another person's memory."""

    role = "member"

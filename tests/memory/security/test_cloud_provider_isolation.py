"""The cloud provider never shows one person's memories as another's."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from cloud import CloudRuntime, request_context
from cloud.memory import CloudMemoryProvider
from src.testing.contracts import CallerIsolationContract, IsolationContract, ProviderContract


class _InTenant(ProviderContract):
    role: str

    @pytest.fixture
    def provider(self, runtime: CloudRuntime, tenant_id: str) -> CloudMemoryProvider:
        self.tenant_id = tenant_id
        return runtime.memory

    def as_user(self, user_id: str) -> AbstractContextManager[object]:
        return request_context(tenant_id=self.tenant_id, user_id=user_id, roles={self.role})


class TestMemoryIsolation(_InTenant, IsolationContract):
    """Zero leakage between people, for a service that may act for each of them."""

    role = "service"


class TestCallerIsolation(_InTenant, CallerIsolationContract):
    """A member cannot even name another person's memory."""

    role = "member"

"""The cloud provider keeps the contract in all three layers, on real storage."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from cloud import CloudRuntime, request_context
from cloud.memory import CloudMemoryProvider
from src.testing.contracts import (
    BatchContract,
    BehaviourContract,
    ProtocolDefinitionContract,
    ProviderContract,
    WorkflowContract,
)


class CloudContract(ProviderContract):
    """A service of a tenant of the test's own, acting for whomever the contract names."""

    @pytest.fixture
    def provider(self, runtime: CloudRuntime, tenant_id: str) -> CloudMemoryProvider:
        self.tenant_id = tenant_id
        return runtime.memory

    def as_user(self, user_id: str) -> AbstractContextManager[object]:
        return request_context(tenant_id=self.tenant_id, user_id=user_id, roles={"service"})


class TestProtocolDefinition(CloudContract, ProtocolDefinitionContract):
    """Layer 1: the interface."""


class TestBehavior(CloudContract, BehaviourContract):
    """Layer 2: each method."""


class TestCompliance(CloudContract, WorkflowContract, BatchContract):
    """Layer 3: whole workflows."""

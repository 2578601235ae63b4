"""The local provider, as users get it, keeps the contract in all three layers."""

from __future__ import annotations

import pytest

from src.memory.providers.local import LocalMemoryProvider
from src.testing.contracts import BatchContract, BehaviourContract, ProtocolDefinitionContract, WorkflowContract


@pytest.fixture
def provider() -> LocalMemoryProvider:
    return LocalMemoryProvider()


class TestProtocolDefinition(ProtocolDefinitionContract):
    """Layer 1: the interface."""


class TestBehavior(BehaviourContract):
    """Layer 2: each method."""


class TestCompliance(WorkflowContract, BatchContract):
    """Layer 3: whole workflows."""

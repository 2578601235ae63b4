"""The contract of a memory provider as pytest classes.

Subclass each in a test module, with a fixture `provider`; asyncio's mode must be `auto`:

    class TestBehavior(BehaviourContract):
        @pytest.fixture
        async def provider(self):
            return MyProvider(...)

Every test makes its own people, so the fixture may hand out one provider for all tests.
"""

from __future__ import annotations

from src.testing.contracts.base import ProviderContract
from src.testing.contracts.behaviour import BehaviourContract
from src.testing.contracts.definition import ProtocolDefinitionContract
from src.testing.contracts.isolation import CallerIsolationContract, IsolationContract
from src.testing.contracts.managed import ManagedCallerIsolationContract, ManagedContract
from src.testing.contracts.workflow import BatchContract, BatchProvider, WorkflowContract

__all__ = [
    "BatchContract",
    "BatchProvider",
    "BehaviourContract",
    "CallerIsolationContract",
    "IsolationContract",
    "ManagedCallerIsolationContract",
    "ManagedContract",
    "ProtocolDefinitionContract",
    "ProviderContract",
    "WorkflowContract",
]

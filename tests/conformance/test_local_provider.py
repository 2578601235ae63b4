"""Every contract of a memory provider, with a clock that tests move and an embedder without weights."""

from __future__ import annotations

from datetime import datetime

import pytest

from src.memory.embedding import HashingEmbedder
from src.memory.providers.local import LocalMemoryProvider
from src.memory.schemas import utc_now
from src.testing.contracts import (
    BatchContract,
    BehaviourContract,
    IsolationContract,
    ManagedContract,
    ProtocolDefinitionContract,
    WorkflowContract,
)


class TestLocalProvider(
    ProtocolDefinitionContract, BehaviourContract, WorkflowContract, BatchContract, IsolationContract, ManagedContract
):
    """All contracts at once."""

    @pytest.fixture
    def provider(self) -> LocalMemoryProvider:
        self.present = utc_now()
        return LocalMemoryProvider(embedder=HashingEmbedder(), clock=self.now)

    def now(self) -> datetime:
        return self.present

    async def wait_until(self, moment: datetime) -> None:
        self.present = max(self.present, moment)

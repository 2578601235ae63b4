"""The memory provider as an extension; the protocol itself stands with what it is about."""

from __future__ import annotations

from src.memory.protocols import MEMORY_PROVIDER_VERSION, MemoryProvider

__all__ = ["MEMORY_PROVIDER_VERSION", "MemoryProvider"]

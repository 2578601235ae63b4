"""Memories of one tenant's people: accepted in the control plane, kept in Pixeltable, ranked in memory."""

from cloud.memory.config import PixeltableConfig
from cloud.memory.provider import CloudMemoryProvider

__all__ = ["CloudMemoryProvider", "PixeltableConfig"]

"""The systems that are measured, by the name that a child process is started with."""

from __future__ import annotations

import importlib
from typing import cast

from tests.bench.contender import Contender

_WHERE = {
    "ours": ("ours", "Ours"),
    "pixeltable": ("pixeltable_direct", "PixeltableDirect"),
    "langgraph": ("langgraph_store", "LangGraphStore"),
    "mem0": ("mem0_local", "Mem0Local"),
    "local": ("local_provider", "Local"),
    "limits": ("limits", "Limits"),
}
NAMES = tuple(_WHERE)


def contender_class(name: str) -> type[Contender]:
    """The class; its imports are made now.

    Raises:
        ImportError: What it measures is not installed. There is no running without it.
    """
    module, found = _WHERE[name]
    return cast("type[Contender]", getattr(importlib.import_module(f"tests.bench.contenders.{module}"), found))

"""What the demo stores and asks, as the package ships it (`cloud/demo_data`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from src.memory.schemas import Memory

TENANTS: Final = ("orrinvale-robotics", "saltmere-freight")
_FOLDER: Final = resources.files("cloud") / "demo_data"


@dataclass(frozen=True, slots=True)
class Question:
    """A question to one tenant's memories of one person.

    Attributes:
        tenant: Who is asked.
        user_id: Whose memories.
        text: The question.
        expected: A part of the one memory that answers it.
    """

    tenant: str
    user_id: str
    text: str
    expected: str


@contextmanager
def memory_file(tenant: str) -> Iterator[Path]:
    """The file of a tenant's memories, wherever the package is installed."""
    with resources.as_file(_FOLDER / f"{tenant}.jsonl") as path:
        yield path


def contents(tenant: str) -> dict[str, set[str]]:
    """What a tenant's file says, by person."""
    found: dict[str, set[str]] = {}
    for line in (_FOLDER / f"{tenant}.jsonl").read_text("utf-8").splitlines():
        memory = Memory.model_validate_json(line)
        found.setdefault(memory.user_id, set()).add(memory.content)
    return found


def questions() -> list[Question]:
    """The questions, of both tenants."""
    return [
        Question(entry["tenant"], entry["user_id"], entry["question"], entry["expected_content_substring"])
        for entry in json.loads((_FOLDER / "questions.json").read_text("utf-8"))
    ]

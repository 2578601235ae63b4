"""A memory as ranking sees it, and where in a memory each part comes from: the one place, for all providers.

| part | from |
|---|---|
| session | `metadata.conversation`, `metadata.conversation_id`, `metadata.session`: texts or whole numbers |
| language | `metadata.language`; the content where that names none |
| all others | the fields of their names |

Memories are of one session if they agree in all three keys, compared as text: `3` is `"3"`. A session may be counted
anew in each conversation, so both count. A memory with none of the keys, or
with nothing but empty texts there, has no session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from src.memory.languages import named_language

SESSION_KEYS: Final = ("conversation", "conversation_id", "session")
LANGUAGE_KEY: Final = "language"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A memory as ranking sees it.

    Attributes:
        id: The memory's id.
        content: Its text.
        vector: (d,) int8, its quantized embedding; zeros if it has none.
        created_at: When it was made (aware); newer ones win ties.
        session: What it was said in; compared as text. `None` for a memory without neighbours.
        confidence: How sure its extraction was, 0 to 1.
        language: One of `src.memory.languages.LANGUAGES`; from the content if `None`.
    """

    id: str
    content: str
    vector: NDArray[np.int8]
    created_at: datetime
    session: str | int | None = None
    confidence: float = 1.0
    language: str | None = None


def index_entry(
    memory_id: str,
    content: str,
    vector: NDArray[np.int8],
    created_at: datetime,
    *,
    confidence: float,
    metadata: Mapping[str, object],
) -> IndexEntry:
    """The entry of a memory with these fields."""
    return IndexEntry(
        id=memory_id,
        content=content,
        vector=vector,
        created_at=created_at,
        session=session_of(metadata),
        confidence=confidence,
        language=named_language(metadata.get(LANGUAGE_KEY)),
    )


def session_of(metadata: Mapping[str, object]) -> str | None:
    """The session that metadata names, or `None`."""
    values = [_name(metadata.get(key)) for key in SESSION_KEYS]
    # Stored text holds no NUL, so two different triples cannot give the same name.
    return "\0".join(values) if any(values) else None


def _name(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""

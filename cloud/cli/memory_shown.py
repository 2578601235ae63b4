"""How the commands on memories read filters and show what they found."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer
from rich.console import RenderableType
from rich.text import Text

from cloud.cli.output import moment, printable
from src.memory.schemas import Memory


def filters_of(text: str) -> dict[str, object]:
    """The filter that an option gives.

    Raises:
        typer.BadParameter: It is no JSON object.
    """
    try:
        filters = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise typer.BadParameter("is not JSON", param_hint="--filter") from exc
    if not isinstance(filters, dict):
        raise typer.BadParameter("is not a JSON object", param_hint="--filter")
    return filters


def shown(found: Sequence[Memory]) -> tuple[dict[str, object], RenderableType]:
    """Memories as a document, and for people."""
    document: dict[str, object] = {"memories": [memory.model_dump(mode="json") for memory in found]}
    if not found:
        return document, "Nothing found."
    text = Text()
    for place, memory in enumerate(found, start=1):
        text.append(f"{place:>3}  ", style="bold").append(printable(memory.content).replace("\n", "\n     "))
        facts = (memory.memory_type.value, f"{memory.confidence:.2f}", moment(memory.created_at), memory.source)
        text.append(f"\n     {' · '.join(map(printable, facts))} · {memory.id}\n", style="dim")
    text.rstrip()
    return document, text

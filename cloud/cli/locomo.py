"""Files in the form of LoCoMo: conversations of many sessions, and questions with the turns that answer them.

Source: Maharana et al. 2024, "Evaluating very long-term conversational memory of LLM agents". A file is a list of
conversations. `conversation.session_N` is a list of turns (`speaker`, `dia_id`, `text`, at times `blip_caption`),
`conversation.session_N_date_time` their date, and `qa` holds `question`, `evidence` and `category`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Final

from cloud.kernel.errors import LuminescentError
from src.memory.schemas import Memory, MemoryType

TURN: Final = "dia_id"
_SESSION: Final = re.compile(r"session_(\d+)")
_BETWEEN_TURNS: Final = re.compile(r"[;\s]+")
_DATE: Final = "%I:%M %p on %d %B, %Y"
_ADVERSARIAL: Final = 5


class LocomoFileError(LuminescentError):
    """The file is not in the form of LoCoMo; the message says where, and quotes nothing of it."""

    code: ClassVar[str] = "locomo_file"

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"no LoCoMo file: {place} {reason}")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and where its answer stands.

    Attributes:
        text: The question.
        evidence: Ids of the turns that answer it, at least one; some may be ids of no turn.
        category: 1 multi-hop, 2 temporal, 3 open domain, 4 single-hop.
    """

    text: str = field(repr=False)
    evidence: frozenset[str]
    category: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as one person's memories, a memory per turn with `session` and `dia_id` in its metadata."""

    user_id: str
    memories: tuple[Memory, ...] = field(repr=False)
    questions: tuple[Question, ...] = field(repr=False)


def read_locomo(path: Path) -> list[Conversation]:
    """The conversations of a file, with their questions that have evidence; category 5 is left out.

    Raises:
        LocomoFileError: It is not in the form.
        OSError: It cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise LocomoFileError("the file", "is not JSON") from exc
    items = _list(document, "the file")
    conversations = [_conversation(item, f"conversation {number}", number) for number, item in enumerate(items, 1)]
    if not conversations:
        raise LocomoFileError("the file", "holds no conversation")
    if Counter(each.user_id for each in conversations).most_common(1)[0][1] > 1:
        raise LocomoFileError("the file", "gives two conversations the same sample_id")
    return conversations


def _conversation(item: object, place: str, number: int) -> Conversation:
    conversation = _object(item, place)
    user_id = _text(conversation.get("sample_id", f"conversation-{number}"), f"{place}, sample_id")
    sessions = _object(conversation.get("conversation"), f"{place}, conversation")
    numbers = sorted(int(found[1]) for found in map(_SESSION.fullmatch, sessions) if found is not None)
    memories = [memory for session in numbers for memory in _session(sessions, session, user_id, place)]
    questions = [
        _question(_object(qa, where), where)
        for at, qa in enumerate(_list(conversation.get("qa"), f"{place}, qa"), 1)
        for where in [f"{place}, question {at}"]
    ]
    asked = [question for question in questions if question.evidence and question.category != _ADVERSARIAL]
    return Conversation(user_id, tuple(memories), tuple(asked))


def _session(sessions: Mapping[str, object], number: int, user_id: str, place: str) -> list[Memory]:
    name = f"session_{number}"
    date = f"{name}_date_time"
    try:
        begun = datetime.strptime(_text(sessions.get(date), f"{place}, {date}"), _DATE).replace(tzinfo=UTC)
    except ValueError as exc:
        raise LocomoFileError(f"{place}, {date}", "is no date such as '1:56 pm on 8 May, 2023'") from exc
    memories = []
    for at, item in enumerate(_list(sessions[name], f"{place}, {name}")):
        where = f"{place}, {name}, turn {at + 1}"
        turn = _object(item, where)
        speaker, text, turn_id = (_text(turn.get(key), f"{where}, {key}") for key in ("speaker", "text", TURN))
        caption = turn.get("blip_caption")
        image = f" [image: {_text(caption, f'{where}, blip_caption')}]" if caption else ""
        memory = Memory(
            user_id=user_id,
            content=f"{speaker}: {text}{image}",
            memory_type=MemoryType.FACT,
            source="conversation",
            created_at=begun + timedelta(seconds=at),
            metadata={"session": number, TURN: turn_id},
        )
        memories.append(memory)
    return memories


def _question(qa: Mapping[str, object], place: str) -> Question:
    category = qa.get("category")
    if not isinstance(category, int):
        raise LocomoFileError(f"{place}, category", "is no whole number")
    entries = [_text(entry, f"{place}, evidence") for entry in _list(qa.get("evidence", []), f"{place}, evidence")]
    evidence = frozenset(turn for entry in entries for turn in _BETWEEN_TURNS.split(entry) if turn)
    return Question(_text(qa.get("question"), f"{place}, question"), evidence, category)


def _object(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise LocomoFileError(place, "is no object")
    return value


def _list(value: object, place: str) -> list[object]:
    if not isinstance(value, list):
        raise LocomoFileError(place, "is no list")
    return value


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise LocomoFileError(place, "is no text")
    return value

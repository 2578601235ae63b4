"""Reads ChatGPT's export: what the person wrote, and what ChatGPT had saved about them.

A conversation is a tree, because a message can be edited and an answer made again. What is read is the branch that
the person sees, from `current_node` up to the root: the other branches are drafts. From it:

- each message of the role `user` with text that is not hidden becomes one memory (`source` `chatgpt`, `fact`), with
  `role`, `conversation_id`, `title` and `message_id` in its metadata and the time it was sent;
- the newest list of saved memories of the whole export (`model_set_context`, which ChatGPT writes into
  conversations) becomes one memory an entry (`source` `chatgpt-memory`), with the date that the entry names. Older
  lists are left out: what the person deleted is in them.

Answers, files, pictures, custom instructions and system texts are not imported.

OpenAI publishes no schema; the fields are those that exports of 2023 to 2026 have in common.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cloud.transfer.elements import elements
from cloud.transfer.json_text import json_object
from cloud.transfer.model import Entry, EntryError, Position

MAX_CONVERSATION_BYTES: Final = 32 * 2**20
"""Conversations of 18 MB have been seen."""
_TEXTS: Final = frozenset({"text", "multimodal_text"})
_SAVED: Final = re.compile(r"^\d+\. \[(\d{4}-\d{2}-\d{2})\]\. ?", re.MULTILINE)
_TITLE_CHARACTERS: Final = 200

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _SavedList:
    """A list of saved memories, and when ChatGPT wrote it (seconds since 1970)."""

    written_at_s: float
    text: str


def entries(files: Iterable[Callable[[int], bytes]], user_id: str) -> Iterator[Entry]:
    """An entry for each message; conversations are counted from 1 over all files, saved memories stand behind them.

    Args:
        files: The texts of `conversations.json`, or of its numbered parts in order: each returns at most so many
            bytes, and none at the end.
        user_id: Whose export it is: the file does not say it in a way that an application could know.

    Raises:
        UnreadableFileError: A file is no list, or ends early.
    """
    number = 0
    newest: _SavedList | None = None
    for read in files:
        for data, size in elements(read, max_bytes=MAX_CONVERSATION_BYTES, what="list of conversations"):
            number += 1
            if data is None:
                yield Entry(
                    Position(number), size, fault=f"a conversation longer than {MAX_CONVERSATION_BYTES // 2**20} MiB"
                )
                continue
            try:
                conversation = json_object(data)
                messages = _branch(conversation)
            except EntryError as error:
                yield Entry(Position(number), size, fault=str(error))
                continue
            newest = _newer(newest, messages)
            yield from _written(Position(number), size, conversation, messages, user_id)
    if newest is not None:
        yield from _saved(number + 1, newest, user_id)


def _branch(conversation: Json) -> list[Json]:
    """The messages of the branch that is shown, oldest first."""
    mapping = conversation.get("mapping")
    if not isinstance(mapping, dict):
        raise EntryError("no conversation: field 'mapping' is not a JSON object")
    node_id = conversation.get("current_node")
    if not isinstance(node_id, str) or node_id not in mapping:
        # Very old exports do not name it; without branches the order of time is the conversation.
        return sorted(filter(None, map(_message, mapping.values())), key=lambda message: _seconds(message) or 0.0)
    found: list[Json] = []
    passed: set[str] = set()
    while isinstance(node_id, str) and node_id not in passed:
        passed.add(node_id)
        node = mapping.get(node_id)
        message = _message(node)
        if message is not None:
            found.append(message)
        node_id = node.get("parent") if isinstance(node, dict) else None
    return found[::-1]


def _written(
    position: Position, size: int, conversation: Json, messages: Iterable[Json], user_id: str
) -> Iterator[Entry]:
    about: dict[str, object] = {"role": "user"}
    conversation_id = conversation.get("conversation_id") or conversation.get("id")
    if isinstance(conversation_id, str):
        about["conversation_id"] = conversation_id
    title = conversation.get("title")
    if isinstance(title, str) and title:
        about["title"] = title[:_TITLE_CHARACTERS]
    began = _moment(conversation)
    part = 0
    for message in messages:
        text = _said(message)
        if text is None:
            continue
        part += 1
        own = message.get("id")
        message_id = own if isinstance(own, str) else None
        values: dict[str, object] = {
            "user_id": user_id,
            "content": text,
            "memory_type": "fact",
            "source": "chatgpt",
            "metadata": {**about, "message_id": message_id} if message_id else about,
        }
        made = _moment(message) or began
        if made is not None:
            values["created_at"] = made
        # What the conversation took is counted with its first message.
        yield Entry(Position(position.number, part), size if part == 1 else 0, values, id=message_id)


def _said(message: Json) -> str | None:
    """What the person wrote in a message, or `None` if it is nothing of theirs."""
    author, content, metadata = (message.get(name) for name in ("author", "content", "metadata"))
    if not isinstance(author, dict) or author.get("role") != "user" or not isinstance(content, dict):
        return None
    if content.get("content_type") not in _TEXTS:
        return None
    if isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation"):
        return None
    parts = content.get("parts")
    texts = [part for part in parts if isinstance(part, str)] if isinstance(parts, list) else []
    text = "\n".join(texts).strip()
    return text or None


def _newer(newest: _SavedList | None, messages: Iterable[Json]) -> _SavedList | None:
    for message in messages:
        content = message.get("content")
        if not isinstance(content, dict) or content.get("content_type") != "model_editable_context":
            continue
        text, at = content.get("model_set_context"), _seconds(message) or 0.0
        if isinstance(text, str) and text.strip() and (newest is None or at > newest.written_at_s):
            newest = _SavedList(at, text)
    return newest


def _saved(number: int, saved: _SavedList, user_id: str) -> Iterator[Entry]:
    # [what stands before the first entry, its date, its text, the next one's date, …]
    pieces = _SAVED.split(saved.text)
    dated = list(zip(pieces[1::2], pieces[2::2], strict=True)) or [("", saved.text)]
    for part, (day, text) in enumerate(dated, start=1):
        values: dict[str, object] = {
            "user_id": user_id,
            "content": text.strip(),
            "memory_type": "fact",
            "source": "chatgpt-memory",
        }
        if day:
            values["created_at"] = day
        elif saved.written_at_s:
            values["created_at"] = datetime.fromtimestamp(saved.written_at_s, UTC)
        yield Entry(Position(number, part), len(text), values)


def _message(node: object) -> Json | None:
    message = node.get("message") if isinstance(node, dict) else None
    return message if isinstance(message, dict) else None


def _seconds(holder: Json) -> float | None:
    at = holder.get("create_time")
    # Within the years that a datetime has; whatever is out of them is no time that somebody wrote at.
    if not isinstance(at, int | float) or isinstance(at, bool) or not math.isfinite(at) or not 0 < at < 2e11:
        return None
    return float(at)


def _moment(holder: Json) -> datetime | None:
    seconds = _seconds(holder)
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

"""ChatGPT's export is read: what the person wrote in the branch that is shown, and the newest saved memories."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud import CloudRuntime
from cloud.kernel.errors import ConfigurationError
from cloud.transfer import chatgpt
from cloud.transfer.checking import checked
from cloud.transfer.model import Entry, Format, Position
from src.memory.schemas import Memory
from tests.unit.cloud.transfer.conftest import everything, imported

NOW = datetime(2026, 6, 1, tzinfo=UTC)
BEGAN_S = 1_767_225_600.0


def node(
    own: str,
    parent: str | None,
    role: str,
    text: str | list[Any],
    at_s: float | None = BEGAN_S,
    *,
    kind: str = "text",
    **message: Any,
) -> dict[str, Any]:
    content = {"content_type": kind, "parts": text if isinstance(text, list) else [text]}
    return {
        "id": own,
        "parent": parent,
        "children": [],
        "message": {"id": own, "author": {"role": role}, "create_time": at_s, "content": content, **message},
    }


def saved(own: str, parent: str | None, text: str, at_s: float) -> dict[str, Any]:
    made = node(own, parent, "assistant", "", at_s)
    made["message"]["content"] = {"content_type": "model_editable_context", "model_set_context": text}
    return made


def conversation(*nodes: dict[str, Any], current: str | None = None, **fields: Any) -> dict[str, Any]:
    root = {"id": "root", "parent": None, "children": [], "message": None}
    return {
        "conversation_id": "c-1",
        "title": "Harbour",
        "create_time": BEGAN_S,
        "mapping": {one["id"]: one for one in (root, *nodes)},
        "current_node": current or nodes[-1]["id"],
        **fields,
    }


def entries(*conversations: object) -> list[Entry]:
    return list(chatgpt.entries([io.BytesIO(json.dumps(conversations).encode()).read], "alice"))


def memories(*conversations: object) -> list[Memory]:
    return [checked(entry, NOW) for entry in entries(*conversations)]


def test_what_the_person_wrote_becomes_a_memory_a_message() -> None:
    (first, second) = memories(
        conversation(
            node("q1", "root", "user", "When does the gate open?", BEGAN_S + 1.5),
            node("a1", "q1", "assistant", "At six."),
            node("q2", "a1", "user", "And on Sundays?", None),
        )
    )
    assert (first.user_id, first.content, first.source) == ("alice", "When does the gate open?", "chatgpt")
    assert first.created_at == datetime(2026, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert first.metadata == {"role": "user", "conversation_id": "c-1", "title": "Harbour", "message_id": "q1"}
    assert (second.content, second.created_at) == ("And on Sundays?", datetime(2026, 1, 1, tzinfo=UTC))


def test_only_the_branch_that_is_shown_is_read() -> None:
    found = memories(
        conversation(
            node("draft", "root", "user", "a first wording"),
            node("answer", "draft", "assistant", "yes"),
            node("edited", "root", "user", "the final wording"),
            current="edited",
        )
    )
    assert [memory.content for memory in found] == ["the final wording"]


def test_a_conversation_that_names_no_branch_is_read_in_the_order_of_time() -> None:
    found = memories(
        conversation(
            node("b", "a", "user", "later", BEGAN_S + 9),
            node("a", "root", "user", "earlier", BEGAN_S + 1),
            current="gone",
        )
    )
    assert [memory.content for memory in found] == ["earlier", "later"]


@pytest.mark.parametrize(
    "one",
    [
        node("x", "root", "assistant", "an answer"),
        node("x", "root", "tool", "Model set context updated."),
        node("x", "root", "system", ""),
        node("x", "root", "user", "  "),
        node("x", "root", "user", [{"content_type": "image_asset_pointer"}], kind="multimodal_text"),
        node("x", "root", "user", "hidden", metadata={"is_visually_hidden_from_conversation": True}),
        node("x", "root", "user", "instructions", kind="user_editable_context"),
        node("x", "root", "assistant", "User likes tea.", recipient="bio"),
        {"id": "x", "parent": "root", "message": {"author": None, "content": {"parts": ["a"]}}},
        {"id": "x", "parent": "root", "message": "text"},
        "nothing",
    ],
)
def test_what_is_not_the_persons_own_text_is_left_out(one: Any) -> None:
    made = conversation(node("x", "root", "user", "kept"))
    made["mapping"]["x"] = one
    assert entries(made) == []


def test_the_text_beside_a_picture_is_kept() -> None:
    parts = ["look at", {"content_type": "image_asset_pointer"}, "this"]
    (found,) = memories(conversation(node("x", "root", "user", parts, kind="multimodal_text")))
    assert found.content == "look at\nthis"


def test_a_loop_of_parents_ends() -> None:
    found = memories(conversation(node("a", "b", "user", "one"), node("b", "a", "user", "two")))
    assert [memory.content for memory in found] == ["one", "two"]


def test_of_saved_memories_the_newest_list_counts() -> None:
    old = saved("m1", "root", "1. [2025-01-02]. Lives in the old town.\n\n2. [2025-01-03]. Sails.", BEGAN_S)
    new = saved("m2", "root", "1. [2025-01-03]. Sails\non Sundays.\n\n2. [2026-02-01]. Has a dog.", BEGAN_S + 100)
    found = entries(
        conversation(new, node("q1", "m2", "user", "hello")), conversation(old, node("q2", "m1", "user", "hi"))
    )
    assert [entry.position for entry in found] == [Position(1, 1), Position(2, 1), Position(3, 1), Position(3, 2)]
    saved_ones = [checked(entry, NOW) for entry in found[2:]]
    assert [(one.content, one.created_at.date().isoformat(), one.source) for one in saved_ones] == [
        ("Sails\non Sundays.", "2025-01-03", "chatgpt-memory"),
        ("Has a dog.", "2026-02-01", "chatgpt-memory"),
    ]


def test_saved_memories_without_entries_are_one() -> None:
    (found,) = memories(conversation(saved("m", "root", "Likes tea.", BEGAN_S)))
    assert (found.content, found.created_at.timestamp()) == ("Likes tea.", BEGAN_S)


def test_a_conversation_at_fault_is_told_of_and_the_next_one_read() -> None:
    found = entries(5, {"mapping": []}, conversation(node("x", "root", "user", "kept")))
    assert [(entry.position, entry.fault is None) for entry in found] == [
        (Position(1), False),
        (Position(2), False),
        (Position(3, 1), True),
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["root", "x", "user", "text"]),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["mapping", "current_node", "message", "author", "role", "content", "content_type", "parts", "parent",
                 "metadata", "create_time", "title", "id", "x", "root", "model_set_context"]
            ),
            inner,
            max_size=6,
        ),
        max_leaves=30,
    )
)  # fmt: skip
def test_no_conversation_ends_the_reading(one: Any) -> None:
    text = json.dumps([one, conversation(node("x", "root", "user", "kept"))]).encode()
    *_, last = [entry for entry in chatgpt.entries([io.BytesIO(text).read], "alice") if entry.position.number == 2]
    assert checked(last, NOW).content == "kept"


def archive(path: Path, members: dict[str, object]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, document in members.items():
            out.writestr(name, json.dumps(document))
    return path


async def test_an_archive_is_recognized_and_imported_for_the_person_named(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    first = conversation(node("q1", "root", "user", "the tenth"))
    second = conversation(node("q2", "root", "user", "the second"), conversation_id="c-2")
    path = archive(
        tmp_path / "export.zip",
        {
            "export/conversations-010.json": [first],
            "export/conversations-002.json": [second],
            "__MACOSX/export/._conversations-002.json": "junk",
            "export/user.json": {"email": "x"},
            "export/shared_conversations.json": [],
        },
    )
    with pytest.raises(ConfigurationError, match="--user"):
        await imported(runtime, tenant_id, path)
    report = await imported(runtime, tenant_id, path, user_id="alice")
    assert (report.format, report.stored) == (Format.CHATGPT, 2)
    again = await imported(runtime, tenant_id, path, user_id="alice")
    assert (again.stored, again.repeated) == (0, 2)
    assert {memory.content for memory in await everything(runtime, tenant_id, "alice")} == {"the second", "the tenth"}


async def test_conversations_without_their_archive_are_recognized_too(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([conversation(node("q1", "root", "user", "hello"))]))
    report = await imported(runtime, tenant_id, path, user_id="alice")
    assert (report.format, report.stored) == (Format.CHATGPT, 1)

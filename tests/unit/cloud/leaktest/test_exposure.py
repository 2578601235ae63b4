"""Whatever an answer holds is read, files and causes of errors included; shapes hold no values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud.gdpr.model import ExportBundle
from cloud.kernel.errors import PermissionDeniedError
from cloud.leaktest.exposure import Answer
from src.testing.samples import sample_memory

SECRET = "qwertyuiopasdfgh"


@dataclass
class _Page:
    memories: tuple[object, ...]
    cursor: str | None = None


def _caused(*, hidden: bool) -> Exception:
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as cause:
            if hidden:
                raise RuntimeError("it failed") from None
            raise RuntimeError("it failed") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        SECRET.encode(),
        [{"a": ({SECRET},)}],
        {SECRET: 1},
        _Page((sample_memory("alice").model_copy(update={"metadata": {"deep": [SECRET]}}),)),
        _Page((), cursor=SECRET),
    ],
)
def test_every_text_in_an_answer_is_read(value: object) -> None:
    assert SECRET in Answer("r", value=value).text()


def test_files_that_an_answer_names_are_read(tmp_path: Path) -> None:
    (tmp_path / "memories.jsonl").write_text(SECRET)
    assert SECRET in Answer("r", value=ExportBundle(tmp_path, ("memories.jsonl",))).text()
    assert SECRET in Answer("r", value=tmp_path / "memories.jsonl").text()


def test_what_a_traceback_would_print_of_an_error_is_read() -> None:
    assert SECRET in Answer("r", error=ValueError(SECRET)).text()
    assert SECRET in Answer("r", error=_caused(hidden=False)).text()
    assert SECRET not in Answer("r", error=_caused(hidden=True)).text()


def test_memories_are_found_wherever_they_are() -> None:
    memory = sample_memory("alice")
    for value in (memory, [memory], {"found": [memory]}, _Page((memory,))):
        assert Answer("r", value=value).memories() == [memory]
    assert Answer("r", value=None).memories() == []


def test_shapes_tell_kinds_and_numbers_apart_and_no_values() -> None:
    def shape(value: object) -> object:
        return Answer("r", value=value).shape()

    assert shape("one") == shape("two")
    assert shape([sample_memory("a")]) == shape([sample_memory("b")]) != shape([])
    assert shape(None) != shape(False) != shape(True)
    assert SECRET not in repr(shape(_Page((SECRET,), SECRET)))
    denied = PermissionDeniedError(action="memory.get", reason="role_missing")
    assert Answer("r", error=denied).shape() != Answer("r", error=ValueError()).shape()

"""What a command shows cannot steer a terminal, loses nothing in a pipe, and is one JSON document on demand."""

from __future__ import annotations

import io
import json
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.cli.output import Output, console, printable, table
from cloud.kernel.errors import QuotaExceededError


class TestPrintable:
    @given(st.text())
    def test_nothing_that_steers_a_terminal_is_left(self, text: str) -> None:
        for character in printable(text):
            assert character == "\n" or unicodedata.category(character) not in ("Cc", "Cs")

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("\x1b[31mred", "\\x1b[31mred"),
            ("a\rb", "a\\rb"),
            ("\u202eevil", "\\u202eevil"),
            ("\x9b31m", "\\x9b31m"),
            ("[bold]plain[/bold]", "[bold]plain[/bold]"),
            ("日本語 👩‍🔧 ä\nnext", "日本語 👩‍🔧 ä\nnext"),
        ],
    )
    def test_escapes_are_visible_and_text_is_text(self, text: str, shown: str) -> None:
        assert printable(text) == shown


def test_a_table_in_a_pipe_shows_every_cell_in_full_and_as_it_is() -> None:
    cell, out = "[red]" + "0123456789" * 20, io.StringIO()
    console(out).print(table(("one", "two"), [(cell, "x")]))
    shown = "".join(row.split("x")[0] for row in out.getvalue().splitlines()[2:])
    assert "".join(shown.split()) == cell
    assert "\x1b" not in out.getvalue()


class TestOutput:
    def test_with_json_the_result_is_one_document_and_messages_go_elsewhere(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = Output(as_json=True)
        output.note("a note")
        output.warn("a warning")
        output.result({"at": datetime(2026, 1, 2, tzinfo=UTC), "path": Path("x"), "text": "ä\x1b"}, "for people")
        said = capsys.readouterr()
        assert json.loads(said.out) == {"at": "2026-01-02T00:00:00+00:00", "path": "x", "text": "ä\x1b"}
        assert "\x1b" not in said.out
        assert said.err == "a note\nwarning: a warning\n"

    def test_an_error_is_a_line_and_an_advice(self, capsys: pytest.CaptureFixture[str]) -> None:
        code = Output(as_json=False).fail(QuotaExceededError(meter="memories", limit=10, used=10))
        said = capsys.readouterr()
        assert code == 5
        assert said.out == ""
        assert said.err.splitlines() == [
            "error: quota 'memories' exceeded: 10 of 10 used, 1 requested; deleting gives it back",
            "       delete memories that are no longer needed, or give the tenant more room",
        ]

    def test_an_error_is_in_the_json_document_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        Output(as_json=True).fail(QuotaExceededError(meter="memories", limit=10, used=10))
        document = json.loads(capsys.readouterr().out)
        assert document["error"]["code"] == "quota_exceeded"
        assert document["error"]["retryable"] is False

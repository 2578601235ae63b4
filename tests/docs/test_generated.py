"""The pages that are made from the code say what the code says now."""

from __future__ import annotations

import pytest

from cloud import CloudSettings
from tests.docs.generated import DOCS, PAGES, commands_page, settings_page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_would_be_written_now(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == PAGES[name](), "run: make docs"


def test_every_setting_has_a_row_and_a_text() -> None:
    rows = [line for line in settings_page().splitlines() if line.startswith("| `LUMINESCENT_CLOUD_")]
    assert len(rows) == len(CloudSettings.model_fields)
    assert all(len(row.split(" | ")[-1]) > len("x |") for row in rows)


def test_commands_are_described_with_their_options() -> None:
    page = commands_page()
    for part in ("## `memory import`", "`--api-key-file`", "Variable `LUMINESCENT_CLOUD_API_KEY`", "## `gdpr erase`"):
        assert part in page

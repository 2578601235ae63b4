"""The tables of spans and metrics in the documentation are those of the code."""

from __future__ import annotations

from pathlib import Path

from cloud.kernel.telemetry_names import markdown

PAGE = Path(__file__).parents[3] / "docs/observability.md"


def test_the_page_has_the_tables_of_the_constants() -> None:
    _, begin, rest = PAGE.read_text().partition("<!-- made by cloud/kernel/telemetry_names.py -->\n")
    table, end, _ = rest.partition("\n<!-- end -->")
    assert begin
    assert end
    assert table == markdown(), "write what cloud.kernel.telemetry_names.markdown() returns between the markers"

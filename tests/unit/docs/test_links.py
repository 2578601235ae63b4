"""Relative links in the documents lead somewhere, and the index of decision records is complete."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[3]
ADRS = ROOT / "docs" / "adrs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "cloud").rglob("*.md")])
RECORDS = sorted(ADRS.glob("ADR-*.md"))

_FENCED = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_REFERENCE = re.compile(r"^\[[^\]]+\]:\s*<?(\S+?)>?\s*$", re.MULTILINE)
_EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Fragments that headings of a document answer to, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        plain = re.sub(r"[^\w\s-]", "", heading.lower())
        slug = re.sub(r"\s", "-", plain.strip())
        repeated = sum(slug == other or re.fullmatch(rf"{re.escape(slug)}-\d+", other) is not None for other in found)
        found.add(f"{slug}-{repeated}" if repeated else slug)
    return found


def broken_links(document: Path) -> list[str]:
    """Targets of relative links in `document` that do not exist, as they are written."""
    text = document.read_text("utf-8")
    prose = _CODE.sub("", _FENCED.sub("", text))
    broken = []
    for target in (*_LINK.findall(prose), *_REFERENCE.findall(prose)):
        if _EXTERNAL.match(target):
            continue
        path, _, fragment = unquote(target).partition("#")
        place = (document.parent / path).resolve() if path else document
        if not place.exists() or (fragment and fragment not in anchors(place.read_text("utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_resolves(document: Path) -> None:
    assert broken_links(document) == []


def test_the_documents_are_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in DOCUMENTS}
    assert names >= {"CONTRIBUTING.md", "docs/glossary.md", "docs/security.md", "docs/architecture/memory-tiers.md"}


def test_a_broken_link_is_noticed_and_a_good_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, with `code`\n", "utf-8")
    document = tmp_path / "document.md"
    document.write_text(
        "[good](other.md) [good](other.md#a-heading-with-code) [away](https://example.org/x) `[code](nowhere.md)`\n"
        "[file](missing.md) [heading](other.md#elsewhere) [own](#here) ![image](missing.png)\n"
        "```\n[fenced](nowhere.md)\n```\n[reference]: lost.md\n",
        "utf-8",
    )
    assert broken_links(document) == ["missing.md", "other.md#elsewhere", "#here", "missing.png", "lost.md"]


def test_the_index_lists_every_record_once_and_nothing_else() -> None:
    listed = _LINK.findall((ADRS / "README.md").read_text("utf-8"))
    assert sorted(listed) == [record.name for record in RECORDS]


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_dated_complete_and_short(record: Path) -> None:
    text = record.read_text("utf-8")
    number = re.match(r"ADR-\d{3}", record.name)
    assert number is not None
    assert text.startswith(f"# {number[0]}: ")
    assert re.search(r"^Status: (accepted|superseded by \[ADR-\d{3}\]\(.+\))\. Date: \d{4}-\d{2}\.", text, re.MULTILINE)
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert [name for name in sections if name in {"Context", "Decision", "Consequences", "Alternatives"}] == [
        "Context",
        "Decision",
        "Consequences",
        "Alternatives",
    ]
    assert 40 <= len(text.splitlines()) <= 120

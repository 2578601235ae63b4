"""Laws of the pages: they stand alone, do nothing, show everything, and what strangers wrote has no power in them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.gdpr import pages
from cloud.gdpr.bundles import DirectoryBundle
from cloud.gdpr.information import TOPICS
from cloud.gdpr.markup import safe
from cloud.kernel.errors import ConfigurationError
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker
from tests.unit.cloud.gdpr.test_export import exported

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&</article></main>]]>-->",
    "\u202egnp.exe \u2066hidden\u2069 \u200b\U000e0041",
    "\x00\x1b[31m\x7f\x85".replace("\x00", "\x01"),
    "<style>@import url(//evil.example)</style><a href='javascript:alert(1)'>x</a>",
)
VOID = {"meta", "img", "br", "input", "link"}


class Page(HTMLParser):
    """A page as a browser reads it: its elements, their attributes and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        (self.styles if "style" in self.open else self.texts).append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def check(page: Page) -> None:
    """It stands alone and does nothing."""
    assert page.open == []
    assert not page.tags.keys() & {"script", "img", "link", "iframe", "object", "embed", "form", "svg", "base"}
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src"):
            assert re.fullmatch(r"index\.html|memories-\d{4}\.html|#[a-z]+", value or ""), value
    policy = next(value for _, name, value in page.attributes if name == "content" and value and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert ("html", "lang", "en") in page.attributes
    assert (page.tags["h1"], page.tags["main"], page.tags["title"]) == (1, 1, 1)
    assert page.tags["table"] == page.tags["caption"]
    assert [value for tag, name, value in page.attributes if tag == "th" and name == "scope"] == ["col"] * page.tags[
        "th"
    ]
    (style,) = page.styles
    assert "url(" not in style
    assert "@import" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_what_strangers_wrote_has_no_power(look: Looker, tmp_path: Path, hostile: str) -> None:
    memory = sample_memory(
        "<b>al\u00efce</b>\u202e",
        content=hostile,
        source=hostile,
        raw_source=hostile,
        metadata={hostile: [hostile]},
        provenance={"x": hostile},
    )
    await look.store(memory)
    await exported(look, memory.user_id, tmp_path)
    page = Page(tmp_path / "index.html")
    check(page)
    assert page.tags["article"] == 1
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]", page.source
    )


async def test_a_page_shows_all_of_a_memory(look: Looker, tmp_path: Path) -> None:
    (old,) = await look.store(
        sample_memory(
            "alice",
            content="Grüße aus Zürich,\nשלום",
            source="interview",
            raw_source="the whole text",
            metadata={"project": "orrin"},
            provenance={"by": "extractor"},
        )
    )
    await exported(look, "alice", tmp_path)
    text = Page(tmp_path / "index.html").text
    for shown in ("Grüße aus Zürich,\nשלום", "interview", "the whole text", "orrin", "extractor", old, "preference"):
        assert shown in text
    assert "Nobody has read it" in text
    assert "Nothing is kept" not in text


async def test_the_page_tells_every_topic_and_what_the_controller_has_to_add(look: Looker, tmp_path: Path) -> None:
    await exported(look, "nobody", tmp_path / "without")
    page = Page(tmp_path / "without" / "index.html")
    check(page)
    assert "Nothing is kept about this person" in page.text
    for topic in TOPICS.values():
        assert topic.heading in page.text
        assert topic.asked is None or topic.asked in page.text
    assert "for 30 days" in page.text
    said = {"purposes": "To <plan> your trips.", "rights": "privacy@example.com"}
    bundle = await look.runtime.gdpr.export_user_data("nobody", look.tenant_id, tmp_path / "with", notice=said)
    text = Page(bundle.directory / "index.html").text
    assert "To <plan> your trips." in text
    assert TOPICS["purposes"].asked not in text


@pytest.mark.parametrize("notice", [{"colour": "red"}, {"purposes": ""}, {"purposes": "x" * 10_001}, {"rights": 5}])
async def test_a_notice_that_cannot_be_told_is_refused(look: Looker, tmp_path: Path, notice: Any) -> None:
    with pytest.raises(ConfigurationError, match="notice"):
        await look.runtime.gdpr.export_user_data("alice", look.tenant_id, tmp_path / "out", notice=notice)
    assert not (tmp_path / "out").exists()


def test_many_memories_go_on_over_pages_that_link_to_each_other(tmp_path: Path) -> None:
    total = 2 * pages.PAGE_MEMORIES + 1
    told: list[int] = []
    pages.write(DirectoryBundle(tmp_path), about(total), records(total), total, lambda _, done, __: told.append(done))
    names = ["index.html", "memories-0002.html", "memories-0003.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    found = [Page(tmp_path / name) for name in names]
    for page in found:
        check(page)
        assert {
            value for tag, name, value in page.attributes if tag == "a" and name == "href" and value[0] != "#"
        } == set(names)
    assert [page.tags["article"] for page in found] == [pages.PAGE_MEMORIES, pages.PAGE_MEMORIES, 1]
    assert told == sorted(told)
    assert f"Memory {total:,}" in found[2].text


@given(st.text(st.characters()))
def test_a_text_can_do_nothing_but_be_read(text: str) -> None:
    shown = safe(text)
    inner = shown.removeprefix("<bdi>").removesuffix("</bdi>")
    bare = re.sub(r"<span class=steer>U\+[0-9A-F]{4,6}</span>", "", inner)
    assert not set(bare) & set("<>\"'")
    shown.encode("utf-8")


def about(total: int) -> dict[str, Any]:
    return {
        "user_id": "alice",
        "tenant_id": "acme",
        "subject_id": "s",
        "exported_at": "2026-01-01T00:00:00+00:00",
        "counts": {"memories": total, "events": 0},
        "information": [],
        "activity": [],
        "wholesale_reads": [],
    }


def records(total: int) -> Iterator[dict[str, Any]]:
    actor = {"kind": "api_key", "id": "k", "roles": ["service"], "self": False}
    moment = "2026-01-01T00:00:00+00:00"
    for number in range(total):
        yield {
            "id": f"id-{number}",
            "memory_type": "fact",
            "state": "active",
            "content": "tea",
            "raw_source": None,
            "source": "test",
            "provenance": None,
            "metadata": {},
            "confidence": 1.0,
            **dict.fromkeys(("created_at", "stored_at"), moment),
            **dict.fromkeys(("expires_at", "last_accessed_at", "deleted_at", "superseded_at", "superseded_by")),
            "supersedes": [],
            "derived": {"embedding": None},
            "changes": {"count": 1, "latest": [{"changed_at": moment, "change": "stored", "actor": actor}]},
            "reads": {"count": 0, "by": []},
        }

"""HTML of an export's pages: the frame, tables, and texts that can do nothing but be read."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --link: light-dark(#0b57b0, #8ab8ff) }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem }
h1 { font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
h3 { margin-bottom: .25rem }
small { font-weight: normal; opacity: .75 }
p, dd, blockquote, td { overflow-wrap: anywhere }
a { color: var(--link) }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .25rem 1rem 1rem; margin: 1rem 0 }
.content, blockquote, details p { white-space: pre-wrap }
.content { font-size: 1.1rem }
time { white-space: nowrap }
blockquote { margin: .5rem 0; padding-inline-start: 1rem; border-inline-start: .25rem solid var(--line) }
.note { background: var(--soft); border: 1px dashed var(--line); border-radius: .5rem; padding: .5rem 1rem }
.steer { border: 1px solid var(--line); border-radius: .2rem; padding: 0 .15rem; font: .8em monospace; opacity: .8 }
dl { display: grid; grid-template-columns: minmax(8rem, 14rem) 1fr; gap: .15rem 1rem }
dt { opacity: .75 } dd { margin: 0 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .9rem }
caption { text-align: start; font-weight: 600; padding-bottom: .25rem }
th, td { text-align: start; vertical-align: top; padding: .3rem .6rem .3rem 0; border-top: 1px solid var(--line) }
code { font-size: .9em }
nav a { display: inline-block; padding: 0 .25rem } nav a[aria-current] { font-weight: 700 }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt } nav { display: none }
  article { break-inside: auto } h2, h3, caption { break-after: avoid } tr, dt, dd { break-inside: avoid }
}
@media (max-width: 40rem) { dl { display: block } dd { margin-bottom: .5rem } }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
FOOT: Final = "</main></body></html>"
_SHOWN: Final = "\n\t"
_JOINERS: Final = "\u200c\u200d"
"""Format characters that Persian, Indic scripts and emoji are written with."""


def head(title: str, number: int, count: int) -> str:
    """The beginning of a page."""
    shown = safe(title)
    part = f", page {number} of {count}" if count > 1 else ""
    # A title holds text alone: escapes stand there as they are, without their frame.
    plain = html.escape("".join(_escaped(character) for character in title))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="robots" content="noindex">
<title>{plain}{part}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1 dir="auto">{shown}{part}</h1>"""


def safe(value: object, *, as_json: bool = False) -> str:
    """A text that can do nothing but be read: escaped, and what steers, reorders or hides text shown as an escape."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True) if as_json else str(value)
    shown = html.escape(text) if text.isprintable() else "".join(_shown(character) for character in text)
    # Isolated from what stands around it; the isolation cannot be left, since the characters for it are escaped.
    return f"<bdi>{shown}</bdi>"


def time(value: object) -> str:
    """A time for people, UTC, to the second; a dash for none."""
    moment = _moment(value)
    if moment is None:
        return "–"
    return f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d %H:%M:%S}</time>'


def date(value: object) -> str:
    """A day for people; a dash for none."""
    moment = _moment(value)
    return "–" if moment is None else f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d}</time>'


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML; nothing where there are no rows."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    if not body:
        return ""
    header = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    return (
        f"<table><caption>{html.escape(caption)}</caption>\n<thead><tr>{header}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table>"
    )


def described(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and what they mean, which is HTML."""
    return "<dl>" + "".join(f"<dt>{html.escape(name)}</dt><dd>{meaning}</dd>\n" for name, meaning in pairs) + "</dl>"


def _moment(value: object) -> datetime | None:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.astimezone(UTC) if isinstance(value, datetime) else None


def _shown(character: str) -> str:
    escape = _escaped(character)
    return html.escape(character) if escape == character else f"<span class=steer>{escape}</span>"


def _escaped(character: str) -> str:
    if character in _SHOWN or character in _JOINERS:
        return character
    # Controls, halves of surrogate pairs, and characters of format: directions, invisible marks, tags.
    if unicodedata.category(character) in ("Cc", "Cs", "Cf", "Zl", "Zp"):
        return f"U+{ord(character):04X}"
    return character

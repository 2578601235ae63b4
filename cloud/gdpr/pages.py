"""The pages of an export, for the person to read: `index.html` and, past 500 memories, further ones.

Each page stands alone: no script, nothing loaded from anywhere, and a policy in it that forbids both. What is shown
was written by strangers, so all of it is escaped, and characters that steer, reorder or hide text appear as escapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final

from cloud.gdpr.bundles import Bundle
from cloud.gdpr.information import TOPICS
from cloud.gdpr.markup import FOOT, date, described, head, safe, table, time
from cloud.gdpr.model import ExportProgress
from cloud.gdpr.readings import Record

PAGE_MEMORIES: Final = 500
SOURCE_CHARACTERS: Final = 4_000
"""What a page shows of a text that a memory was extracted from; the whole of it is in `memories.jsonl`."""

_ACTIONS: Final = {
    "memory.store": "stored a memory",
    "memory.store_many": "stored memories",
    "memory.retrieve": "asked a question that a memory fitted",
    "memory.search": "searched your memories",
    "memory.get": "called up a memory by its id",
    "memory.list": "went through your memories",
    "memory.count": "counted your memories",
    "memory.history": "looked at the history of a memory",
    "memory.update": "changed a memory",
    "memory.supersede": "replaced a memory",
    "memory.delete": "deleted a memory",
    "memory.undelete": "brought a deleted memory back",
    "memory.export": "exported your memories",
    "memory.export.step": "began to export your memories",
    "memory.export_all": "exported everybody's memories",
    "gdpr.export": "exported everything about you",
    "gdpr.preview": "looked at what an erasure would remove",
    "gdpr.erase": "erased you",
    "external.event": "reported something about you",
    "security.event": "reported something about you, as a matter of security",
}
_OUTCOMES: Final = {"allowed": "done", "denied": "refused", "failed": "failed", "unknown": "cut off"}
_KINDS: Final = {
    "subject": "the person with the id",
    "api_key": "the key",
    "token": "a token",
    "service": "the service",
    "local-operator": "an operator of the server,",
    "system": "the memory system,",
}
_ROLES: Final = {"tenant_admin": "administrator", "member": "for themself", "service": "as the service"}
_STATES: Final = {
    "active": "in use",
    "expired": "expired: not used any more",
    "superseded": "replaced by a newer one: not used any more",
    "deleted": "deleted: not used any more, and removed for good later",
}


def write(bundle: Bundle, about: Record, memories: Iterator[Record], total: int, progress: ExportProgress) -> None:
    """Write the pages.

    Args:
        bundle: Where to.
        about: What `person.json` says.
        memories: The records of `memories.jsonl`, in the same order.
        total: How many they are.
        progress: Is told how many are written.

    Raises:
        OSError: A page cannot be written.
    """
    count = max(1, -(-total // PAGE_MEMORIES))
    written = 0
    for number in range(1, count + 1):
        with bundle.file(page_name(number)) as out:
            _put(out, head(f"Everything that is kept about {about['user_id']}", number, count))
            if number == 1:
                _put(out, *_overview(about, total))
            links = _links(number, count)
            _put(out, "<h2 id=memories>Memories</h2><p>All times are UTC.</p>", links)
            for record in itertools.islice(memories, PAGE_MEMORIES):
                written += 1
                _put(out, *_memory(record, written))
                if not written % 100:
                    progress("Writing pages", written, total)
            if not total:
                _put(out, "<p>No memory is kept.</p>")
            _put(out, links, FOOT)


def page_name(number: int) -> str:
    """The file of a page, counted from 1."""
    return "index.html" if number == 1 else f"memories-{number:04}.html"


def _put(out: BinaryIO, *parts: str) -> None:
    out.write("\n".join((*parts, "")).encode("utf-8"))


def _links(number: int, count: int) -> str:
    if count == 1:
        return ""
    pages = " ".join(
        f'<a href="{page_name(one)}"{" aria-current=page" if one == number else ""}>{one}</a>'
        for one in range(1, count + 1)
    )
    return f"<nav aria-label='Pages of memories'>Page {number} of {count}: {pages}</nav>"


def _overview(about: Record, total: int) -> Iterable[str]:
    counts: Any = about["counts"]
    yield "<p class=lead>This is a copy of everything that the memory system of <b>"
    yield f"{safe(about['tenant_id'])}</b> keeps about the person it knows as <b>{safe(about['user_id'])}</b>,"
    yield f"as of {time(about['exported_at'])} (UTC).</p>"
    if about["subject_id"] is None:
        yield "<p class=note>Nothing is kept about this person.</p>"
    yield described(
        (
            ("Memories", f"{total:,}"),
            ("Events in the log by or about you", f"{counts['events']:,}"),
            ("Keys that act in your name", f"{counts.get('api_keys', 0):,}"),
            ("Erasures", f"{counts.get('erasures', 0):,}"),
            ("Random id that stands for you inside the system", safe(about["subject_id"] or "none")),
        )
    )
    yield from _files()
    yield (
        "<nav aria-label=Contents><a href='#information'>What happens with the data</a>"
        " <a href='#activity'>What was done</a> <a href='#memories'>Memories</a></nav>"
    )
    yield "<h2 id=information>What happens with the data</h2>"
    information: Any = about["information"]
    for topic in information:
        yield from _topic(topic)
    yield from _activity(about)


def _files() -> Iterable[str]:
    yield (
        "<p>Beside this page are the same data as files for programs: <code>memories.jsonl</code> (the memories, which"
        " another memory system can import), <code>person.json</code> (all else), <code>events.jsonl</code> (the log,"
        " event by event) and a schema of each.</p>"
    )


def _topic(topic: dict[str, Any]) -> Iterable[str]:
    yield f"<h3>{safe(topic['heading'])} <small>GDPR {safe(topic['clause'])}</small></h3><p>{safe(topic['known'])}</p>"
    asked = TOPICS[topic["topic"]].asked
    if topic["controller"] is not None:
        yield f"<blockquote dir=auto>{safe(topic['controller'])}</blockquote>"
    elif asked is not None:
        yield f"<p class=note>To be told by the organisation that runs the service: {safe(asked)}.</p>"


def _activity(about: Record) -> Iterable[str]:
    activity: Any = about["activity"]
    wholesale: Any = about["wholesale_reads"]
    keys: Any = about.get("api_keys", [])
    yield "<h2 id=activity>What was done</h2>"
    yield table(
        "Events by or about you, in sums; each of them is in events.jsonl",
        ("What", "How it ended", "How often", "First", "Last"),
        (
            (
                _action(row["action"]),
                safe(_OUTCOMES.get(row["outcome"], row["outcome"])),
                f"{row['count']:,}",
                time(row["first_at"]),
                time(row["last_at"]),
            )
            for row in activity
        ),
    )
    yield table(
        "Exports that may have held all of your memories at that time",
        ("When", "What", "Who"),
        ((time(row["at"]), _action(row["action"]), _actor(row["actor"])) for row in wholesale),
    )
    yield table(
        "Keys that act in your name",
        ("Key", "Roles", "Made", "Ends", "Last used", "From which addresses"),
        (
            (
                f"<code>{safe(key['key_id'])}</code>",
                safe(", ".join(key["roles"])),
                date(key["created_at"]),
                date(key["revoked_at"] or key["expires_at"]),
                date(key["last_used_at"]),
                safe(", ".join(map(str, key["ip_ranges"])) or "any"),
            )
            for key in keys
        ),
    )


def _memory(record: dict[str, Any], number: int) -> Iterable[str]:
    memory_id = safe(record["id"])
    yield f'<article id="m-{memory_id}"><h3>Memory {number:,} <small>{safe(record["memory_type"])},'
    yield f" {safe(_STATES.get(record['state'], record['state']))}</small></h3>"
    yield f"<p class=content dir=auto>{safe(record['content'])}</p>"
    yield described(_facts(record))
    if record["raw_source"]:
        shown = record["raw_source"][:SOURCE_CHARACTERS]
        more = " It goes on in memories.jsonl." if len(record["raw_source"]) > len(shown) else ""
        title = f"The text it was taken from.{more}"
        yield f"<details open><summary>{title}</summary><p dir=auto>{safe(shown)}</p></details>"
    changes, reads = record["changes"], record["reads"]
    yield table(
        f"What was done to it ({changes['count']:,})",
        ("When", "What", "Who"),
        ((time(row["changed_at"]), safe(row["change"]), _actor(row["actor"])) for row in changes["latest"]),
    )
    yield (
        table(
            f"Who read it ({reads['count']:,} times)",
            ("Who", "How", "How often", "First", "Last"),
            (
                (
                    _actor(row["actor"]),
                    _action(row["action"]),
                    f"{row['count']:,}",
                    time(row["first_at"]),
                    time(row["last_at"]),
                )
                for row in reads["by"]
            ),
        )
        or "<p>Nobody has read it.</p>"
    )
    yield "</article>"


def _facts(record: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "Where it came from", safe(record["source"])
    if record["provenance"] is not None:
        yield "In full", f"<code dir=auto>{safe(record['provenance'], as_json=True)}</code>"
    if record["metadata"]:
        yield "Noted with it", f"<code dir=auto>{safe(record['metadata'], as_json=True)}</code>"
    yield "How sure it is", f"{record['confidence'] * 100:.0f} %"
    yield "Made", time(record["created_at"])
    yield "Stored", time(record["stored_at"])
    for name, heading in (
        ("expires_at", "Expires"),
        ("last_accessed_at", "Last read"),
        ("deleted_at", "Deleted"),
        ("superseded_at", "Replaced"),
    ):
        if record[name] is not None:
            yield heading, time(record[name])
    for other in filter(None, (record["superseded_by"],)):
        yield "Replaced by", f"<code>{safe(other)}</code>"
    if record["supersedes"]:
        yield "Replaces", " ".join(f"<code>{safe(other)}</code>" for other in record["supersedes"])
    model = record["derived"]["embedding"]
    if model is not None:
        vector = f"a vector of {model['dimensions']:,} numbers, by the model {model['model']} {model['version']}"
        yield "Derived from it", safe(f"{vector}; and an index of its words, while the service runs")
    yield "Its id", f"<code>{safe(record['id'])}</code>"


def _action(action: str) -> str:
    return safe(_ACTIONS.get(action, action))


def _actor(actor: dict[str, Any] | None) -> str:
    if actor is None:
        return "not recorded"
    kind = actor["kind"] or "nobody known"
    who = "you" if actor["self"] else f"{_KINDS.get(kind, kind)} {actor['id'] or ''}".strip(" ,")
    # Without an id a service is its role and nothing more.
    roles = ", ".join(_ROLES.get(role, role) for role in actor["roles"] if role != kind or actor["id"])
    return safe(f"{who} ({roles})" if roles and not (actor["self"] and roles == _ROLES["member"]) else who)

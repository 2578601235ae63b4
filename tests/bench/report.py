"""`docs/benchmarks.md` out of the results, and nothing else. Pure: the same results give the same page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.bench.bars import MEASURED, PERSISTENT_PEERS, Judgement, at, judged
from tests.bench.figures import ratio

Document = Mapping[str, Any]
WORDS = {name: words for name, (words, _) in MEASURED.items()} | {"retrieve_cold": "retrieve, cold"}
KINDS = {
    "total": ("Memories in all", "1,000 per person, one tenant; five people are asked for"),
    "subject": ("Memories of one person", "one person, one tenant"),
    "tenants": ("Tenants", "20 memories each, all of one person; five tenants are asked for"),
}
HEAD = """# Benchmarks

This page is made by `python -m tests.bench report` from the JSON beside it ([results.json](benchmarks/results.json));
nobody edits it. To repeat it on a machine where nothing else runs: `make bench`, which makes an environment of its own
from `requirements-bench.lock`, takes about half an hour, goes on where it was ended, and ends with 1 if a bar below is
missed; then `.venv-bench/bin/python -m tests.bench growth` for the growth, which takes about an hour, and
`.venv-bench/bin/python -m tests.bench report`.
"""
SMALL = """
**These results are of small numbers, made to check the suite. They say nothing about anybody.**
"""
METHOD = """## How the numbers are made

- Every contender runs in a process of its own, so that its memory and its processor time are its own. One has a turn
  at a time: in each round everybody has one at the operation, in alternating order. What the machine did meanwhile is
  then in everybody's figures alike, and the ratios are made round by round; the middle one is told, with the smallest
  and the largest. Absolute times are this machine's.
- A caller makes its next call when its last one returned. Callers of this project's providers are tasks of one event
  loop, those of the others threads, which is what their users have. A turn ends after a time or a number of calls; from
  how many calls a figure is stands beside it. A percentile is the smallest value that so many do not exceed.
- The data are invented sentences of about 100 characters made from a seed, the same for everybody, and so is the
  embedding function: `wordllama`, 256 dimensions. It is inside what is timed, for everybody.
- All that speak to PostgreSQL do so to one server, over the same Unix socket, each in a database of its own. `fsync`,
  `full_page_writes` and `synchronous_commit` are read from it as each contender's own role and have to be `on`.
- Processor time is that of the contender's process, of its helpers (this project's worker, until everything accepted is
  in Pixeltable and in the audit log's trees) and of the PostgreSQL server. Bytes on disk are what the loaded memories
  added to databases and directories before anything was read: indexes included, the write-ahead log left out. Memory is
  the process and its helpers (PSS) after everything, not PostgreSQL's.
- *Cold* means that the process holds nothing of the person: this project drops its hot tier, the others open their
  connections or stores anew. Opening is not timed. `LocalMemoryProvider` has nothing but what it holds.
- Every contender's process is kept from reaching anything but this machine; telemetry is switched off.

What each does when asked to store, so that the ratios are not misread:

- **luminescent-cloud**: quota, audit record and sealed memory in one durable commit; embedded and moved into Pixeltable
  by its worker; everything is encrypted, and the caller's tenant checked.
- **Pixeltable directly**: a normal table with an embedding index as its documentation shows, one insert per memory.
  Deleted rows stay in such a table. Its web server is not started.
- **LangGraph PostgresStore**: one row and one vector, its default index.
- **mem0**: `infer=False`, no language model; Qdrant's local store and a SQLite history on disk, whose vectors are all
  in the process's memory. It ranks by vectors alone, because its keyword search needs packages that download models.
  Its filtered search has no order. That local store is not made for several threads; calls that failed are counted.
- **LocalMemoryProvider**: in memory, nothing is kept; what the ranking alone costs.
- **physical limits**: a committed one-row INSERT through psycopg; a dot product of the query with a person's matrix and
  one round trip.

Not shown: networks between client and database, other machines' disks, quality of what is found, languages, long
texts, and servers of vector databases, which mem0 can use too. A figure from few calls says little about its p99.
Answers from an approximate index that filters afterwards can be *short*: with fewer memories than were asked for and
are there; tables say how many were. What a peer's local files promise when the power fails is its own choice: SQLite's
defaults in mem0's case.
"""


def page(document: Document) -> str:
    """The whole page."""
    parts = [
        HEAD,
        SMALL if document["plan"]["each"] < 1_000 else "",
        _setting(document),
        _bars(judged(document)),
        _ratios(document),
    ]
    parts += [_operation(document, operation) for operation in WORDS]
    parts += [_sizes(document), _scale(document), _throughput(document), _growth(document), METHOD]
    return "\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right; nothing if there are no rows."""
    rows = list(rows)
    if not rows:
        return ""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ms(value: float | None) -> str:
    """Milliseconds with three figures that count, or nothing."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _setting(document: Document) -> str:
    machine, versions = document["machine"], document["versions"]
    named: dict[str, str] = {"Python": versions["python"]}
    for packages in versions.values():
        if isinstance(packages, Mapping):
            named |= packages
    return (
        f"\nMeasured {document['begun']} to {document['ended']} at commit `{document['commit']}` by"
        f" `{document['command']}`.\n\n"
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory,"
        f" {machine['kernel']}, homes on {machine['disk']}.\n\n"
        f"Versions: {', '.join(f'{name} {number}' for name, number in sorted(named.items(), key=_lower))}.\n"
    )


def _lower(named: tuple[str, str]) -> str:
    return named[0].lower()


def _bars(judgements: Sequence[Judgement]) -> str:
    rows = [
        (
            each.bar.what,
            f"{each.bar.side} {each.bar.limit:g} {each.bar.unit}",
            f"{ms(each.value)}{f' {each.bar.unit}' if each.value is not None else ''}",
            each.verdict if each.verdict != "missed" else "**missed**",
        )
        for each in judgements
    ]
    return "\n## Bars\n\n" + table(("what", "bar", "measured", ""), rows)


def _ratios(document: Document) -> str:
    rows = []
    for operation, words in WORDS.items():
        cells = at(document, "side_by_side", "cells", f"{operation}/1") or {}
        row = [words]
        for peer in (*PERSISTENT_PEERS, "local"):
            found = ratio(cells.get(peer, {}), cells.get("ours", {}), "p95")
            row.append(f"{found.middle:.1f} ({found.least:.1f}–{found.most:.1f})" if found else "–")
        rows.append(row)
    titles = [_title(document, peer) for peer in (*PERSISTENT_PEERS, "local")]
    return (
        "\n## Beside the alternatives\n\nHow many times as long each takes as luminescent-cloud: p95, one caller,"
        f" {_held(document)}; the middle of the rounds' ratios, with the smallest and the largest.\n\n"
        + table(("", *titles), rows)
        + "\n![p95 of each operation, one caller](benchmarks/side-by-side.svg)\n"
    )


def _held(document: Document) -> str:
    plan = document["plan"]
    return f"{plan['people'] * plan['each']:,} memories of {plan['people']} people"


def _title(document: Document, name: str) -> str:
    return str(at(document, "titles", name) or name)


def _operation(document: Document, operation: str) -> str:
    rows = []
    for callers in document["plan"]["callers"]:
        cells = at(document, "side_by_side", "cells", f"{operation}/{callers}") or {}
        for name in document.get("titles", {}):
            told = cells.get(name)
            if told is None:
                continue
            rows.append((_title(document, name), str(callers), *_cell(told)))
    head = ("", "callers", "p50 ms", "p95 ms", "p99 ms", "per s", "CPU ms per call", "calls", "notes")
    return f"\n### {WORDS[operation]}\n\n" + table(head, rows) if rows else ""


def _cell(told: Mapping[str, Any]) -> tuple[str, ...]:
    cpu = sum(told.get("cpu_ms_per_call", {}).values())
    notes = []
    if told["failed"]:
        notes.append(f"{told['failed']:,} failed ({', '.join(told.get('errors', ()))})")
    if told.get("short"):
        notes.append(f"{told['short']:,} short")
    if "ended" in told:
        notes.append(told["ended"])
    times = tuple(ms(told.get(share)) for share in ("p50", "p95", "p99"))
    per_s = f"{told['per_s']:,.0f}" if "per_s" in told else "–"
    return (*times, per_s, ms(cpu) if cpu else "–", f"{told['calls']:,}", "; ".join(notes))


def _sizes(document: Document) -> str:
    rows = []
    for name, told in (at(document, "side_by_side", "sizes") or {}).items():
        loaded = at(document, "side_by_side", "loaded", name) or {}
        if name == "limits" or "settled_s" not in loaded:
            continue
        rows.append(
            (
                _title(document, name),
                f"{told['memory_bytes'] / (1 << 20):,.0f}",
                f"{loaded['empty_memory_bytes'] / (1 << 20):,.0f}",
                f"{loaded['disk_bytes_per_memory']:,.0f}",
                f"{loaded['memories'] / loaded['settled_s']:,.0f}",
            )
        )
    head = ("", "memory MiB", "of that empty MiB", "bytes on disk per memory", "loaded per s")
    return "\n### Memory and disk\n\n" + table(head, rows) if rows else ""


def _scale(document: Document) -> str:
    rows = []
    for operation, words in WORDS.items():
        for name, told in (at(document, "scale", "cells", f"{operation}/1") or {}).items():
            rows.append((words, _title(document, name), *_cell(told)))
    if not rows:
        return ""
    plan = document["plan"]
    head = ("", "", "p50 ms", "p95 ms", "p99 ms", "per s", "CPU ms per call", "calls", "notes")
    held = f"{plan['scale_people'] * plan['each']:,} memories, {plan['each']:,} per person, one caller."
    loaded = at(document, "scale", "loaded", "ours")
    held += f" Each takes {loaded['disk_bytes_per_memory']:,.0f} bytes on disk." if loaded else ""
    return f"\n## At scale\n\n{held} What is bare is beside it in the same rounds.\n\n" + table(head, rows)


def _throughput(document: Document) -> str:
    told = document.get("throughput")
    if not told or "done" not in told:
        return ""
    lines: list[tuple[str, str, str, str, str]] = []

    def line(words: str, figures: Mapping[str, Any]) -> None:
        rate = figures.get("per_s")
        times = (ms(figures.get("p50")), ms(figures.get("p95")), ms(figures.get("p99")))
        lines.append((words, f"{rate:,.0f}" if rate else "–", *times))

    line("stores, eight callers over eight tenants", told["stores"])
    line("hot retrieves, eight callers over eight tenants", told["retrieves"])
    line("hot retrieves of one caller, alone", told["beside"]["alone"])
    line(f"the same beside {told['beside']['stores_per_s']:,.0f} stores/s", told["beside"]["beside_stores"])
    held = told["beside"]["beside_stores_worker_held"]
    line("the same with the worker held, so that nothing works in the background", held)
    line("cold loads of one caller", told["cold"]["load"])
    line("hot retrieves of another person beside them", told["cold"]["hot_beside_loads"])
    line("until eight callers for one cold person all have an answer", told["cold"]["eight_callers"])
    line("store_many", told["store_many"])
    line("import of JSON Lines", told["import"])
    backlog = told["stores"]["backlog"]
    return (
        "\n## Throughput\n\nOne process with its worker, each load for the time that the plan in the JSON says.\n\n"
        + table(("", "per s", "p50 ms", "p95 ms", "p99 ms"), lines)
        + f"\nMemories that waited to be materialized during the stores: {max(backlog):,} at most,"
        f" {backlog[-1]:,} at the end, none {told['stores']['drained_s']:.1f} s later. With materialization,"
        f" `store_many` takes {told['store_many']['materialized_per_s']:,.0f} and import"
        f" {told['import']['materialized_per_s']:,.0f} memories a second. A hot memory takes"
        f" {told['hot_memory']['bytes_per_memory']:,.0f} bytes of the process.\n"
    )


def _growth(document: Document) -> str:
    points = document.get("growth") or {}
    made = ["\n## Growth\n"]
    if not points:
        return made[0] + "\nNot measured in this run.\n"
    made.append(f"\nMeasured point by point, {_when(tuple(points.values()))}.\n")
    for kind, (words, about) in KINDS.items():
        rows = []
        for point in sorted((p for p in points.values() if p["kind"] == kind), key=_number):
            cells = point["cells"]
            times = tuple(ms(at(cells, operation, "p95")) for operation in WORDS)
            loaded = point["loaded"]["settled_s"]
            held = point["people"] * point["each"]
            disk = f"{point['loaded']['disk_bytes_per_memory']:,.0f}"
            rows.append((f"{point['number']:,}", *times, f"{held / loaded:,.0f}" if loaded else "–", disk))
        if rows:
            head = (words, *(f"{w} p95 ms" for w in WORDS.values()), "loaded per s", "bytes per memory")
            made.append(f"\n### {words}\n\n{about[0].upper()}{about[1:]}; one caller.\n\n{table(head, rows)}")
            made.append(f"\n![p95 by {words.lower()}](benchmarks/growth-{kind}.svg)\n")
    return "".join(made)


def _when(points: Sequence[Mapping[str, Any]]) -> str:
    """When the first was begun, and at which commits, in the order of time."""
    ordered = sorted(points, key=lambda point: str(point["begun"]))
    commits = dict.fromkeys(f"`{point['commit'][:12]}`" for point in ordered)
    return f"from {ordered[0]['begun']} on, at {', '.join(commits)}"


def _number(point: Mapping[str, Any]) -> int:
    return int(point["number"])

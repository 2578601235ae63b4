"""A log of a million events: sequenced, exported, cut off and gone on with, verified; how long it takes and how much
memory each part needs.

Run with `nice python -m tests.bench.audit_export`. It makes an installation of its own and removes it. Each part is a
process of its own, so that its peak of memory is its own; the events are synthetic, of the size that a retrieve leaves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from cloud import CloudSettings, init_cloud_extensions
from cloud.audit import verify
from tests.support.homes import temporary_home
from tests.unit.cloud.audit import naive_verifier

ROOT = Path(__file__).parents[2]
LOG = "million"
SMALL_LOG = "small"
SMALL = 10_000
BATCH = 10_000
FILL = sa.text("""
    WITH made AS (
        SELECT n, lc_new_id() AS id, clock_timestamp() AS at FROM generate_series(CAST(:first AS bigint), :last) AS n
    ), events AS (
        INSERT INTO audit_events (event_id, log_id, occurred_at, event)
        SELECT id, CAST(:log AS text), at, jsonb_build_object(
            'schema', 1, 'event_id', id, 'log_id', CAST(:log AS text), 'occurred_at', lc_instant(at),
            'category', 'operation', 'action', 'memory.retrieve', 'outcome', 'allowed', 'reason', NULL,
            'subject_id', md5((n % 10000)::text),
            'actor', jsonb_build_object('kind', 'api_key', 'id', md5((n % 100)::text), 'roles', '["service"]'::jsonb),
            'request_id', 'req-' || md5(n::text), 'trace_id', md5((-n)::text), 'details', '{}'::jsonb,
            'resource_ids', jsonb_build_array(gen_random_uuid(), gen_random_uuid()),
            'counts', '{"returned": 2}'::jsonb, 'latency_us', n % 5000
        ) FROM made RETURNING event_id, log_id
    )
    INSERT INTO audit_pending (event_id, log_id) SELECT event_id, log_id FROM events
""")
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One part, done.

    Attributes:
        took_s: How long.
        cpu_s: How long its process computed; PostgreSQL's do so beside it.
        peak_mib: The most memory that its process had at a time.
        said: Its standard output.
        code: Its exit code, or a negative signal.
    """

    took_s: float
    cpu_s: float
    peak_mib: float
    said: str
    code: int


def run(*arguments: str | Path, until: Callable[[], bool] | None = None) -> Part:
    """A process to its end, or killed once `until` holds."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, stdout=out)
        peak = cpu_s = 0.0
        while process.poll() is None:
            peak = peak_mib(process.pid) or peak
            cpu_s = computed_s(process.pid) or cpu_s
            if until is not None and until():
                process.kill()
            time.sleep(0.02)
        out.seek(0)
        if until is None and process.returncode != 0:
            raise SystemExit(f"{arguments} ended with {process.returncode}")
        return Part(time.perf_counter() - begun, cpu_s, peak, out.read(), process.returncode)


def peak_mib(pid: int | str = "self") -> float:
    """The most memory that a process had so far; not that of the one which started it, as `getrusage` says."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def computed_s(pid: int) -> float:
    """Seconds that a process computed so far; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(home: Path, log: str, count: int) -> None:
    """So many events, which no tree has yet."""
    with init_cloud_extensions(CloudSettings(home=home, worker="off")) as runtime:
        runtime.tenants.create(log, plan="enterprise")
        engine = runtime._installation.engines.maintenance._engine
        for first in range(1, count + 1, BATCH):
            with engine.begin() as connection:
                connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                connection.execute(FILL, {"log": log, "first": first, "last": min(first + BATCH - 1, count)})


def sequence(home: Path) -> None:
    """Give every event its leaf."""
    with init_cloud_extensions(CloudSettings(home=home, worker="off")) as runtime:
        before, begun = peak_mib(), time.perf_counter()
        runtime._installation.proofs.sequencing.drain()
        print(json.dumps({"s": time.perf_counter() - begun, "before_mib": before}))


def naive(directory: Path, key: str) -> None:
    """The tests' own verifier, written from the format's text."""
    sys.exit(0 if naive_verifier.agrees(directory, key) else 1)


@contextmanager
def served(home: Path) -> Iterator[None]:
    """The server stays up between the parts."""
    with init_cloud_extensions(CloudSettings(home=home, worker="off")):
        yield


def exported(home: Path, log: str, out: Path, until: Callable[[], bool] | None = None) -> Part:
    """As an operator types it."""
    return run("-m", "cloud", "--home", home, "--json", "audit", "export", "--tenant", log, "--out", out, until=until)


def size_of(path: Path) -> int:
    """Bytes; 0 for what is not there."""
    return path.stat().st_size if path.exists() else 0


def tell(what: str, part: Part, more: str = "") -> None:
    """One line of the result."""
    print(f"{what:34} {part.took_s:8.1f} s {part.cpu_s:8.1f} s CPU {part.peak_mib:8.0f} MiB  {more}", flush=True)


def measure(home: Path, directory: Path, count: int, *, with_naive: bool) -> None:
    """Everything, one line each."""
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, {count:,} events")
    out, whole, small = directory / "cut", directory / "whole", directory / "small"
    for log, events in ((SMALL_LOG, SMALL), (LOG, count)):
        tell(f"fill {events:,}", run("-m", "tests.bench.audit_export", "--fill", log, str(events), "--home", home))
        part = run("-m", "tests.bench.audit_export", "--sequence", "--home", home)
        facts = json.loads(part.said)
        tell(f"sequence {events:,}", part, f"{facts['s']:.1f} s without opening; {facts['before_mib']:.0f} MiB before")
    with served(home):
        tell(f"export {SMALL:,}", exported(home, SMALL_LOG, small))
        part = exported(home, LOG, whole)
        document = json.loads(part.said)
        megabytes = sum(size_of(file) for file in whole.iterdir()) / MIB
        tell(f"export {count:,}", part, f"{document['events']:,} events, {megabytes:.0f} MiB on disk")
        half = size_of(whole / verify.EVENTS) // 2
        events_file = directory / ".cut.partial" / verify.EVENTS
        tell("export, killed half way", exported(home, LOG, out, lambda: size_of(events_file) >= half))
        part = exported(home, LOG, out)
        resumed = json.loads(part.said)
        tell("export, gone on with", part, f"{resumed['resumed_after']:,} of {resumed['events']:,} were there")
    verifier = ROOT / "cloud" / "audit" / "verify.py"
    for bundle, events in ((small, SMALL), (whole, count), (out, count)):
        part = run(verifier, bundle, "--key", key_in(bundle))
        tell(f"verify {events:,} ({bundle.name})", part, part.said.strip())
    if with_naive:
        part = run("-m", "tests.bench.audit_export", "--naive", whole, key_in(whole))
        tell(f"verify {count:,}, naively", part)


def key_in(directory: Path) -> str:
    """The key that a bundle names; good enough for how long it takes."""
    return (directory / verify.KEY).read_text().strip()


def main() -> None:
    """Measure, or be one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--no-naive", action="store_true")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--fill", nargs=2)
    parser.add_argument("--sequence", action="store_true")
    parser.add_argument("--naive", nargs=2)
    given = parser.parse_args()
    if given.fill:
        fill(given.home, given.fill[0], int(given.fill[1]))
    elif given.sequence:
        sequence(given.home)
    elif given.naive:
        naive(Path(given.naive[0]), given.naive[1])
    else:
        # Which model there is changes nothing here, and this one needs the least.
        os.environ["LUMINESCENT_CLOUD_EMBEDDER"] = "hashing"
        with temporary_home() as home, tempfile.TemporaryDirectory() as directory:
            measure(home, Path(directory), given.events, with_naive=not given.no_naive)


if __name__ == "__main__":
    main()

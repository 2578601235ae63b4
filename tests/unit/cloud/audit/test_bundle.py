"""Laws of an exported log: whoever has the key can check it with one file, and nothing that was changed holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.audit import verify
from cloud.audit.bundle import AuditBundle, Draft, Part, write_bundle
from cloud.audit.canonical import canonical
from cloud.audit.heads import Head
from cloud.audit.keyfile import AuditKeys
from cloud.audit.merkle import root_of
from cloud.audit.signing import SigningKey
from cloud.audit.tiles import LoadTile, Place, appended, subtrees
from cloud.audit.verify import Checkpoint, VerificationError, leaf_hash, verify_bundle
from cloud.audit.views import View, view_name
from cloud.kernel.errors import ConfigurationError, ProviderUnavailableError
from tests.unit.cloud.audit.naive_verifier import agrees

LOG = "acme"
Spoil = Callable[[Path], object]


class Log:
    """A log in memory."""

    def __init__(self, events: list[dict[str, object]], keys: AuditKeys) -> None:
        self.events = events
        self.keys = keys
        self._tiles: dict[Place, bytes] = appended(0, [leaf_hash(canonical(event)) for event in events], lambda _: b"")

    def checkpoint(self, size: int | None = None, key: SigningKey | None = None) -> str:
        size = len(self.events) if size is None else size
        signer = key or self.keys.current
        return signer.checkpoint(Checkpoint(self.keys.origin(LOG), size, root_of(size, subtrees(self.tiles(LOG)))))

    def head(self, log_id: str) -> Head | None:
        return Head(len(self.events), self.checkpoint())

    def leaves(self, log_id: str, first: int, end: int) -> Iterator[Mapping[str, object]]:
        yield from self.events[first:end]

    def tiles(self, log_id: str) -> LoadTile:
        return lambda place: self._tiles.get(place, b"")

    def export(
        self, directory: Path, span: tuple[int, int] | None = None, *, earlier: tuple[str, ...] = (), **more: Any
    ) -> AuditBundle:
        head = self.head(LOG)
        assert head is not None
        first, end = span or (0, len(self.events))
        with Draft(directory, {"log": LOG}) as draft:
            part = draft.begin(lambda: Part(head, first, end, earlier))
            made = write_bundle(draft, LOG, part, self, self.keys, **more)
            draft.finish()
        return made

    @property
    def vkey(self) -> str:
        return self.keys.current.verifier(self.keys.origin(LOG)).text()


def log_of(size: int, keys: AuditKeys | None = None, tag: str = "") -> Log:
    keys = keys or AuditKeys("0011223344556677", (SigningKey.new(),))
    return Log(
        [{"event_id": f"{tag}{n}", "log_id": LOG, "counts": {"n": n}, "text": "ä\n€"} for n in range(size)], keys
    )


def whole_event(number: int) -> dict[str, object]:
    """An event with every field."""
    return {
        "schema": 1,
        "event_id": f"0000000{number % 10}-0000-7000-8000-000000000000",
        "log_id": LOG,
        "occurred_at": "2026-01-31T08:00:00.123456Z",
        "category": "operation",
        "action": ("memory.store", "tenant.create", "security.event")[number % 3],
        "actor": {"kind": "api_key", "id": "0011aabb", "roles": ["service"]},
        "subject_id": None,
        "request_id": "=1+1",
        "trace_id": None,
        "details": {"text": "ä"},
        "outcome": ("allowed", "denied", "failed")[number % 3],
        "reason": None,
        "resource_ids": [],
        "counts": {"n": number},
        "latency_us": 1200,
    }


@pytest.fixture
def log() -> Log:
    return log_of(20)


@given(st.integers(1, 600), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_part_of_any_log_holds_and_both_verifiers_say_so(tmp_path: Path, size: int, data: st.DataObject) -> None:
    log = log_of(size)
    first = data.draw(st.integers(0, size))
    end = data.draw(st.integers(first, size))
    old = data.draw(st.integers(first, end)) if first < end else None
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    log.export(tmp_path / "out", (first, end))
    older = log.checkpoint(old) if old else None
    result = verify_bundle(tmp_path / "out", key=log.vkey, checkpoint=older)
    assert (result.first, result.events, result.size, result.origin_established) == (first, end - first, size, True)
    assert agrees(tmp_path / "out", log.vkey, older)


def edit_manifest(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / verify.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def redescribe(directory: Path, name: str) -> None:
    """Let the manifest describe the file as it is now, as a forger would."""
    from cloud.audit.bundle import _described

    edit_manifest(directory, lambda manifest: manifest["files"].update({name: _described(directory / name)}))


def edit_events(directory: Path, change: Callable[[list[bytes]], list[bytes]], *, recount: bool = True) -> None:
    path = directory / verify.EVENTS
    lines = change(path.read_bytes().splitlines(keepends=True))
    path.write_bytes(b"".join(lines))
    redescribe(directory, verify.EVENTS)
    if recount:
        edit_manifest(directory, lambda manifest: manifest.update(end=manifest["start"] + len(lines)))


def replace_text(name: str, change: Callable[[str], str]) -> Spoil:
    def spoil(directory: Path) -> None:
        path = directory / name
        text = path.read_text("utf-8")
        changed = change(text)
        assert changed != text
        path.write_text(changed, "utf-8")
        redescribe(directory, name)

    return spoil


def signed_anew(directory: Path) -> None:
    """Everything consistent, under the forger's own key and the log's name."""
    forger = log_of(20, AuditKeys("0011223344556677", (SigningKey.new(),)), tag="forged ")
    shutil.rmtree(directory)
    forger.export(directory)


def handed_to_myself(directory: Path) -> None:
    signed_anew(directory)
    origin = AuditKeys("0011223344556677", ()).origin(LOG)
    mine, other = SigningKey.new(), SigningKey.new()
    (directory / verify.ROTATIONS).write_text(json.dumps([mine.handover(other, origin)]))
    redescribe(directory, verify.ROTATIONS)


def edited_in_the_database(directory: Path) -> None:
    """As an export of a database in which one event was edited and nothing else."""
    edit_events(directory, lambda ls: [*ls[:6], ls[6].replace(b'"n":6', b'"n":7'), *ls[7:]])


FORGERIES: dict[str, Spoil] = {
    "a field edited": lambda d: edit_events(d, lambda ls: [ls[0].replace(b'"n":0', b'"n":7'), *ls[1:]]),
    "one deleted": lambda d: edit_events(d, lambda ls: [*ls[:5], *ls[6:]]),
    "the newest deleted": lambda d: edit_events(d, lambda ls: ls[:-1]),
    "the oldest deleted": lambda d: edit_events(d, lambda ls: ls[1:]),
    "one inserted": lambda d: edit_events(d, lambda ls: [*ls[:5], ls[4], *ls[5:]]),
    "one added": lambda d: edit_events(d, lambda ls: [*ls, ls[0]]),
    "two swapped": lambda d: edit_events(d, lambda ls: [ls[1], ls[0], *ls[2:]]),
    "a space added": lambda d: edit_events(d, lambda ls: [ls[0].replace(b"{", b"{ ", 1), *ls[1:]]),
    "a blank line": lambda d: edit_events(d, lambda ls: [*ls, b"\n"]),
    "no last line break": lambda d: edit_events(d, lambda ls: [*ls[:-1], ls[-1][:-1]], recount=False),
    "no longer described": lambda d: (d / verify.EVENTS).write_bytes(b""),
    "no events": lambda d: edit_events(d, lambda ls: []),
    "a count that is wrong": lambda d: edit_manifest(d, lambda m: m.update(end=19)),
    "a range that is wrong": lambda d: edit_manifest(d, lambda m: m.update(start=1, end=21)),
    "another log's name": lambda d: edit_manifest(d, lambda m: m.update(log="luminescent-cloud/x/other")),
    "another format": lambda d: edit_manifest(d, lambda m: m.update(format="bundle/2")),
    "a size that is wrong": replace_text(verify.HEAD, lambda t: t.replace("\n20\n", "\n21\n")),
    "another root": replace_text(
        verify.HEAD, lambda t: "\n".join([*t.split("\n")[:2], "A" * 43 + "=", *t.split("\n")[3:]])
    ),
    "no signature": replace_text(verify.HEAD, lambda t: t.partition("— ")[0]),
    "a proof of more": replace_text(
        verify.PROOF, lambda t: t.replace('"after": []', f'"after": [[0, 20, "{"0" * 64}"]]')
    ),
    "a proof that is none": replace_text(verify.PROOF, lambda t: "[]"),
    "an earlier head of another log": replace_text(verify.EARLIER, lambda t: json.dumps([log_of(5).checkpoint()])),
    "signed anew": signed_anew,
    "handed to oneself": handed_to_myself,
    "a file more": lambda d: (d / "notes.txt").write_text("x"),
    "a file less": lambda d: (d / verify.PROOF).unlink(),
    "a directory": lambda d: (d / verify.PROOF).rename(d.parent / "moved").parent.joinpath("out", verify.PROOF).mkdir(),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_does_not_hold_and_both_verifiers_say_so(log: Log, tmp_path: Path, forgery: str) -> None:
    log.export(tmp_path / "out")
    FORGERIES[forgery](tmp_path / "out")
    with pytest.raises(VerificationError):
        verify_bundle(tmp_path / "out", key=log.vkey)
    assert not agrees(tmp_path / "out", log.vkey)


def test_what_is_wrong_is_said_with_its_line(log: Log, tmp_path: Path) -> None:
    log.export(tmp_path / "out")
    edited_in_the_database(tmp_path / "out")
    with pytest.raises(VerificationError, match="line 7: not the event that is leaf 6"):
        verify_bundle(tmp_path / "out", key=log.vkey)


@pytest.mark.parametrize("linked", [verify.EVENTS, verify.MANIFEST])
def test_a_link_is_not_followed(log: Log, tmp_path: Path, linked: str) -> None:
    log.export(tmp_path / "out")
    shutil.move(tmp_path / "out" / linked, tmp_path / "elsewhere")
    (tmp_path / "out" / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VerificationError, match=f"{linked} is not a regular file"):
        verify_bundle(tmp_path / "out", key=log.vkey)


def test_a_log_that_was_cut_off_does_not_begin_with_what_the_auditor_kept(tmp_path: Path) -> None:
    whole = log_of(20)
    kept = whole.checkpoint()
    cut = Log(whole.events[:15], whole.keys)
    cut.export(tmp_path / "out")
    result = verify_bundle(tmp_path / "out", key=whole.vkey)
    assert any("only up to the bundled head of 15" in note for note in result.notes)
    with pytest.raises(VerificationError, match="cut off"):
        verify_bundle(tmp_path / "out", key=whole.vkey, checkpoint=kept)
    assert not agrees(tmp_path / "out", whole.vkey, kept)


def test_a_log_that_was_rewritten_and_signed_by_its_own_key_contradicts_what_was_kept(tmp_path: Path) -> None:
    honest = log_of(20)
    kept = honest.checkpoint(10)
    other = [*honest.events[:4], {"event_id": "another story"}, *honest.events[5:]]
    Log(other, honest.keys).export(tmp_path / "out")
    verify_bundle(tmp_path / "out", key=honest.vkey)
    with pytest.raises(VerificationError, match="first 10 leaves"):
        verify_bundle(tmp_path / "out", key=honest.vkey, checkpoint=kept)
    assert not agrees(tmp_path / "out", honest.vkey, kept)


def test_an_older_checkpoint_before_the_exported_part_is_not_silently_skipped(log: Log, tmp_path: Path) -> None:
    log.export(tmp_path / "out", (13, 20))
    with pytest.raises(VerificationError, match="cannot be compared"):
        verify_bundle(tmp_path / "out", key=log.vkey, checkpoint=log.checkpoint(7))


def test_after_a_rotation_old_and_new_key_both_verify_old_and_new_heads(tmp_path: Path) -> None:
    old_key, new_key = SigningKey.new(), SigningKey.new()
    keys = AuditKeys("0011223344556677", (old_key, new_key))
    log = log_of(20, keys)
    origin = keys.origin(LOG)
    kept = log.checkpoint(8, old_key)
    log.export(tmp_path / "out", earlier=(log.checkpoint(4, old_key),))
    for vkey in (old_key.verifier(origin).text(), new_key.verifier(origin).text()):
        assert verify_bundle(tmp_path / "out", key=vkey, checkpoint=kept).origin_established
        assert agrees(tmp_path / "out", vkey, kept)


def test_an_export_is_whole_or_not_there_and_replaces_nothing(log: Log, tmp_path: Path) -> None:
    log.export(tmp_path / "out")
    with pytest.raises(ConfigurationError, match="not empty"):
        log.export(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o600}


def test_an_export_that_was_interrupted_goes_on_against_the_head_that_it_began_with(tmp_path: Path) -> None:
    whole = log_of(20)

    class Broken(Log):
        def leaves(self, log_id: str, first: int, end: int) -> Iterator[Mapping[str, object]]:
            yield from self.events[first : first + 7]
            raise ProviderUnavailableError("control plane", reason="went away")

    begun = Broken(whole.events[:15], whole.keys)
    with pytest.raises(ProviderUnavailableError):
        begun.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with (tmp_path / ".out.partial" / verify.EVENTS).open("ab") as torn:
        torn.write(b'{"event')
    made = whole.export(tmp_path / "out")
    assert (made.resumed, made.events, made.size) == (7, 15, 15)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert verify_bundle(tmp_path / "out", key=whole.vkey).events == 15
    assert agrees(tmp_path / "out", whole.vkey)


def test_two_exports_do_not_write_to_one_place(log: Log, tmp_path: Path) -> None:
    with Draft(tmp_path / "out", {}), pytest.raises(ConfigurationError, match="another process is exporting"):
        log.export(tmp_path / "out")


@pytest.mark.parametrize("view", list(View))
def test_a_view_belongs_to_the_bundle_and_is_no_evidence(log: Log, tmp_path: Path, view: View) -> None:
    events = [whole_event(number) for number in range(20)]
    full = Log(events, log.keys)
    full.export(tmp_path / "out", view=view)
    result = verify_bundle(tmp_path / "out", key=full.vkey)
    assert any("is a view" in note for note in result.notes)
    assert agrees(tmp_path / "out", full.vkey)
    with (tmp_path / "out" / view_name(view)).open("ab") as file:
        file.write(b" ")
    with pytest.raises(VerificationError, match="is not the file that"):
        verify_bundle(tmp_path / "out", key=full.vkey)


# As a program


def typed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The verifier as its one file, without the service on the path."""
    code = Path(verify.__file__).read_text("utf-8")
    return subprocess.run(
        [sys.executable, "-I", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_file_alone_verifies(log: Log, tmp_path: Path) -> None:
    log.export(tmp_path / "out")
    kept, foreign = tmp_path / "kept.note", tmp_path / "foreign.note"
    kept.write_text(log.checkpoint(7), "utf-8")
    foreign.write_text(log_of(7).checkpoint(), "utf-8")
    assert typed(tmp_path / "out", "--key", log.vkey, "--checkpoint", kept).returncode == 0
    unknown = typed(tmp_path / "out")
    assert (unknown.returncode, "origin not established" in unknown.stderr) == (3, True)
    wrong = typed(tmp_path / "out", "--key", log.vkey, "--checkpoint", foreign)
    assert (wrong.returncode, wrong.stderr.startswith("does not hold: the older checkpoint")) == (1, True)
    assert typed(tmp_path / "nowhere", "--key", log.vkey).returncode == 1
    assert typed().returncode == 2


def test_a_million_events_do_not_fill_the_verifiers_memory(tmp_path: Path) -> None:
    """By what it keeps of them: a handful of hashes, whatever their number."""
    whole = verify.LeafRange()
    for number in range(100_000):
        whole.append(leaf_hash(str(number).encode()))
        assert len(whole.nodes()) <= 17


@pytest.mark.parametrize("kept", [6, 7, 13, 35, 36])
def test_an_earlier_checkpoint_after_the_part_is_compared_wherever_it_lies(kept: int, tmp_path: Path) -> None:
    """As one that was kept before the export's own events were in the log."""
    one = log_of(36)
    one.export(tmp_path / "out", (2, 6), earlier=(one.checkpoint(kept),))
    assert verify_bundle(tmp_path / "out", key=one.vkey).events == 4
    other = log_of(36, one.keys, tag="x")
    one.export(tmp_path / "forged", (2, 6), earlier=(other.checkpoint(kept),))
    with pytest.raises(VerificationError):
        verify_bundle(tmp_path / "forged", key=one.vkey)

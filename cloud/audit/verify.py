"""Verifies an exported audit log: this one file, Python's standard library, and `cryptography` for Ed25519.

    python verify.py DIR --key VKEY [--checkpoint OLD]

It needs nothing of the service and no network, so that who trusts neither the service nor its database can check what
it exported. `docs/audit-format.md` describes the format, so that another program can be written from the text alone.

What holds when it ends with 0: every line of `events.ndjson` is, byte by byte and in this order, a leaf of the Merkle
tree whose head is signed by the holder of VKEY; none was changed, removed, inserted or reordered; and the tree begins
with the one of OLD, if that was given. Without OLD, or another checkpoint from outside, completeness is shown only up
to the head in the bundle: a log that was cut off before it was exported looks like a shorter log.

Exit codes: 0 all of it holds; 1 something does not; 2 the call cannot be understood; 3 everything fits together, but
without `--key` it is not established who signed it.

Source: RFC 9162 §2.1 (tree and proofs); C2SP signed-note and tlog-checkpoint (signatures).
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "luminescent-audit-bundle/1"
EVENTS, HASHES, HEAD, EARLIER, PROOF, KEY, ROTATIONS, SCHEMA, MANIFEST = (
    "events.ndjson",
    "hashes.bin",
    "checkpoint.note",
    "earlier.json",
    "proof.json",
    "key.txt",
    "rotations.json",
    "event.schema.json",
    "manifest.json",
)
FILES = (EVENTS, HASHES, HEAD, EARLIER, PROOF, KEY, ROTATIONS, SCHEMA)
VIEWS = ("events.csv", "events.ocsf.ndjson", "events.parquet")
ROTATION = "luminescent audit key rotation"
HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
MAX_LINE_BYTES = 1 << 20
MAX_FILE_BYTES = 64 << 20
MAX_SIGNATURES = 16
_ED25519 = 1


class VerificationError(ValueError):
    """Something does not hold; the message says what and where."""


# The tree


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 ‖ leaf), 32 bytes (RFC 9162 §2.1.1)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right), 32 bytes (RFC 9162 §2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Node:
    """A complete subtree: `2**level` leaves from `index * 2**level` on, and its hash."""

    level: int
    index: int
    hash: bytes

    @property
    def start(self) -> int:
        """Its first leaf."""
        return self.index << self.level

    @property
    def end(self) -> int:
        """The leaf after its last."""
        return (self.index + 1) << self.level


class LeafRange:
    """The leaves from `start` to `end`, as hashes of complete subtrees; memory is O(log n).

    Args:
        start: The first leaf.
    """

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.end = start
        self._nodes: list[Node] = []

    def append(self, leaf: bytes) -> None:
        """Add the next leaf by its hash."""
        self.add(Node(0, self.end, leaf))

    def add(self, node: Node) -> None:
        """Add the subtree that begins where this range ends.

        Raises:
            VerificationError: It begins elsewhere.
        """
        if node.start != self.end:
            raise VerificationError(f"a subtree begins at leaf {node.start}, not at leaf {self.end}")
        self.end = node.end
        self._nodes.append(node)
        while len(self._nodes) > 1:
            left, right = self._nodes[-2:]
            if left.level != right.level or left.index % 2:
                break
            self._nodes[-2:] = [Node(left.level + 1, left.index // 2, node_hash(left.hash, right.hash))]

    def nodes(self) -> tuple[Node, ...]:
        """Its subtrees, left to right."""
        return tuple(self._nodes)

    def root(self) -> bytes:
        """The root of a tree of the leaves 0 to `end`.

        Raises:
            VerificationError: The range does not begin at leaf 0.
        """
        if self.start:
            raise VerificationError("only a range from leaf 0 on has a root")
        hashes = [node.hash for node in self._nodes]
        root = hashes.pop() if hashes else EMPTY_ROOT
        while hashes:
            root = node_hash(hashes.pop(), root)
        return root


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Return if the leaf with this hash is leaf `index` of the tree with this size and root (RFC 9162 §2.1.3.2).

    Raises:
        VerificationError: It is not, or the proof is malformed.
    """
    _require_hashes([leaf, root, *proof])
    if not 0 <= index < size:
        raise VerificationError(f"a tree of {size} leaves has no leaf {index}")
    fn, sn, computed = index, size - 1, leaf
    for step in proof:
        if sn == 0:
            raise VerificationError("the inclusion proof is too long")
        if fn % 2 or fn == sn:
            computed = node_hash(step, computed)
            while not fn % 2 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            computed = node_hash(computed, step)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise VerificationError("the inclusion proof is too short")
    if computed != root:
        raise VerificationError("the inclusion proof leads to another root")


def verify_consistency(old_size: int, size: int, proof: Sequence[bytes], old_root: bytes, root: bytes) -> None:
    """Return if the tree of `size` leaves begins with that of `old_size` (RFC 9162 §2.1.4.2); all begin empty.

    Raises:
        VerificationError: It does not, or the proof is malformed.
    """
    _require_hashes([old_root, root, *proof])
    if not 0 <= old_size <= size:
        raise VerificationError(f"a tree of {size} leaves does not begin with one of {old_size}")
    if old_size in (0, size):
        if proof:
            raise VerificationError("the consistency proof is too long")
        if old_root != (root if old_size else EMPTY_ROOT):
            raise VerificationError("trees of one size have different roots")
        return
    steps = list(proof)
    if old_size & (old_size - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        raise VerificationError("the consistency proof is too short")
    fn, sn = old_size - 1, size - 1
    while fn % 2:
        fn, sn = fn >> 1, sn >> 1
    old_computed = computed = steps[0]
    for step in steps[1:]:
        if sn == 0:
            raise VerificationError("the consistency proof is too long")
        if fn % 2 or fn == sn:
            old_computed, computed = node_hash(step, old_computed), node_hash(step, computed)
            while not fn % 2 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            computed = node_hash(computed, step)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise VerificationError("the consistency proof is too short")
    if old_computed != old_root:
        raise VerificationError("the consistency proof leads to another old root")
    if computed != root:
        raise VerificationError("the consistency proof leads to another root")


def _require_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise VerificationError(f"a hash has {HASH_BYTES} bytes")


# Signed notes


@dataclass(frozen=True)
class VerifierKey:
    """A public key that signs notes under a name."""

    name: str
    key_id: bytes
    public: bytes

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """A key written as `<name>+<key id>+<base64(type ‖ public key)>`.

        Raises:
            VerificationError: It is none, or its id is not that of name and key.
        """
        name, key_id, encoded = (text.strip().split("+", 2) + ["", ""])[:3]
        raw = _base64(encoded, "the verifier key")
        if not is_key_name(name) or len(raw) != 1 + HASH_BYTES or raw[0] != _ED25519:
            raise VerificationError("the verifier key is no Ed25519 key of the form NAME+ID+KEY")
        key = cls(name, key_id_of(name, raw[1:]), raw[1:])
        if key.key_id.hex() != key_id:
            raise VerificationError("the id of the verifier key is not that of its name and key")
        return key

    def text(self) -> str:
        """The key as `parse` reads it."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([_ED25519]) + self.public).decode()}"


def is_key_name(name: str) -> bool:
    """Whether a key may be called so: not empty, no space of any kind, no plus sign, no control character."""
    return bool(name) and "+" not in name and name.isprintable() and not any(c.isspace() for c in name)


def key_id_of(name: str, public: bytes) -> bytes:
    """The first four bytes of SHA-256(name ‖ newline ‖ type ‖ public key)."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([_ED25519]) + public).digest()[:4]


def open_note(note: str, key: VerifierKey) -> str:
    """The text of a note that `key` signed, with its final newline.

    Raises:
        VerificationError: The note is malformed, or the key did not sign this text.
    """
    text, separator, signatures = note.rpartition("\n\n")
    lines = signatures.split("\n")
    if not separator or lines.pop() != "" or not 0 < len(lines) <= MAX_SIGNATURES or _controls(note):
        raise VerificationError("the note is malformed")
    text += "\n"
    for line in lines:
        found = re.fullmatch(r"— (\S+) (\S+)", line)
        if not found:
            raise VerificationError("the note has a malformed signature line")
        signature = _base64(found[2], "a signature")
        if found[1] != key.name or signature[:4] != key.key_id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature[4:], text.encode())
        except InvalidSignature:
            raise VerificationError("the signature of the note does not fit its text") from None
        return text
    raise VerificationError(f"the note is not signed by {key.name}+{key.key_id.hex()}")


@dataclass(frozen=True)
class Checkpoint:
    """The head of a log: whose, how many leaves, and their root."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint that a note's text is.

        Raises:
            VerificationError: It is none.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0] or not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1]):
            raise VerificationError("the checkpoint is malformed")
        root = _base64(lines[2], "the root")
        _require_hashes([root])
        return cls(lines[0], int(lines[1]), root)

    def text(self) -> str:
        """The checkpoint as a note's text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def open_checkpoint(note: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    """The checkpoint of a note that one of `keys` signed, each of which signs for its own name alone.

    Raises:
        VerificationError: It is malformed, or none of them signed it for its own log.
    """
    problem = VerificationError("no key is known")
    for key in keys:
        try:
            checkpoint = Checkpoint.parse(open_note(note, key))
        except VerificationError as error:
            problem = error
            continue
        if checkpoint.origin != key.name:
            raise VerificationError(f"the checkpoint is of the log {checkpoint.origin!r}, and the key of another")
        return checkpoint
    raise problem


def _controls(text: str) -> bool:
    return any(ord(character) < 32 and character != "\n" for character in text)


def _base64(text: str, what: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise VerificationError(f"{what} is not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise VerificationError(f"{what} is not canonical base64")
    return raw


# The bundle


@dataclass(frozen=True)
class Result:
    """What was found to hold.

    Attributes:
        log: The log's origin.
        first: Index of the first event in the bundle.
        events: How many there are.
        size: Leaves of the tree at the bundle's head.
        origin_established: Whether the head is signed by a key that the caller gave.
        notes: What else there is to say, a sentence each.
    """

    log: str
    first: int
    events: int
    size: int
    origin_established: bool
    notes: tuple[str, ...]


def verify_bundle(directory: Path, *, key: str | None = None, checkpoint: str | None = None) -> Result:
    """Return what holds of the bundle in `directory`, after checking all of it.

    Args:
        directory: The bundle.
        key: The verifier key of the log, from a source that the exporter does not control.
        checkpoint: An older checkpoint of the log as a signed note, kept by whoever verifies.

    Raises:
        VerificationError: Something does not hold.
    """
    views = _require_files(directory)
    manifest = _manifest(directory, views)
    pinned = VerifierKey.parse(key) if key is not None else None
    keys = _keys(directory, pinned)
    head = open_checkpoint(_text(directory, HEAD), keys)
    if head.origin != manifest["log"]:
        raise VerificationError(f"{MANIFEST} speaks of the log {manifest['log']!r}, {HEAD} of {head.origin!r}")
    wanted = _wanted_roots(directory, keys, checkpoint)
    whole, first, count = _whole_tree(directory, head, wanted)
    if (manifest["start"], manifest["end"]) != (first, first + count):
        raise VerificationError(f"{EVENTS} has {count} events from {first} on, {MANIFEST} says otherwise")
    if whole.end != head.size or whole.root() != head.root:
        raise VerificationError(f"{EVENTS} and {PROOF} do not give the root that {HEAD} is signed for")
    notes = tuple(_remarks(head, pinned, checkpoint, views))
    return Result(head.origin, first, count, head.size, pinned is not None, notes)


def _whole_tree(
    directory: Path, head: Checkpoint, wanted: Mapping[int, tuple[bytes, str]]
) -> tuple[LeafRange, int, int]:
    """The tree from what lies before the events, the events, and what lies after them."""
    before, after = _proof(directory)
    whole = LeafRange()
    for node in before:
        whole.add(node)
    first, unmet = whole.end, dict(wanted)
    _meet(whole, unmet)
    with (directory / EVENTS).open("rb") as file, (directory / HASHES).open("rb") as hashes:
        for number, leaf in enumerate(_lines(file), start=1):
            _require_event(leaf, number)
            hashed = leaf_hash(leaf)
            if hashes.read(HASH_BYTES) != hashed:
                raise VerificationError(f"{EVENTS}, line {number}: not the event that is leaf {whole.end} of the tree")
            whole.append(hashed)
            _meet(whole, unmet)
        if hashes.read(1):
            raise VerificationError(f"{EVENTS} ends before leaf {whole.end} of the tree, which is to follow")
    count = whole.end - first
    for node in after:
        whole.add(node)
        _meet(whole, unmet)
    for size, (_, name) in sorted(unmet.items()):
        if size > head.size:
            raise VerificationError(f"{name} has {size} leaves, the bundle only {head.size}: the log was cut off")
        raise VerificationError(f"{name} of {size} leaves cannot be compared: export the events from {size} or before")
    return whole, first, count


def _meet(whole: LeafRange, unmet: dict[int, tuple[bytes, str]]) -> None:
    found = unmet.pop(whole.end, None)
    if found is not None and whole.root() != found[0]:
        raise VerificationError(f"the first {whole.end} leaves are not those of {found[1]}: the log was changed")


def _wanted_roots(directory: Path, keys: Sequence[VerifierKey], checkpoint: str | None) -> dict[int, tuple[bytes, str]]:
    """Roots that the tree must have had at earlier sizes, and where each comes from."""
    wanted: dict[int, tuple[bytes, str]] = {}
    notes = [(note, f"{EARLIER}[{at}]") for at, note in enumerate(_json_list(directory, EARLIER))]
    if checkpoint is not None:
        notes.append((checkpoint, "the older checkpoint"))
    for note, name in notes:
        if not isinstance(note, str):
            raise VerificationError(f"{name} is no note")
        try:
            earlier = open_checkpoint(note, keys)
        except VerificationError as error:
            raise VerificationError(f"{name}: {error}") from None
        known = wanted.setdefault(earlier.size, (earlier.root, name))
        if known[0] != earlier.root:
            raise VerificationError(f"{name} and {known[1]} are signed for different logs: the log was forked")
    return wanted


def _keys(directory: Path, pinned: VerifierKey | None) -> list[VerifierKey]:
    """The pinned key, or else the bundled one, and every key that one of them shared a handover with.

    A handover names the former and the next key and is signed by both, so trust in either reaches the other.
    """
    keys = [pinned or VerifierKey.parse(_text(directory, KEY))]
    handovers = [str(note) for note in _json_list(directory, ROTATIONS)]
    for note in (*handovers, *reversed(handovers)):
        for key in list(keys):
            try:
                text = open_note(note, key)
            except VerificationError:
                continue
            keys += [one for one in _handed_over(text, key) if one not in keys]
    return keys


def _handed_over(text: str, signer: VerifierKey) -> list[VerifierKey]:
    lines = text.split("\n")
    if len(lines) != 4 or lines[0] != ROTATION or lines[3]:
        raise VerificationError(f"{ROTATIONS}: a note of {signer.name} says something else than a handover")
    keys = [VerifierKey.parse(line) for line in lines[1:3]]
    if signer not in keys or any(key.name != signer.name for key in keys):
        raise VerificationError(f"{ROTATIONS}: a handover of {signer.name} is between other keys")
    return keys


def _remarks(
    head: Checkpoint, pinned: VerifierKey | None, checkpoint: str | None, views: Sequence[str]
) -> Iterator[str]:
    if pinned is None:
        yield "origin not established: give the log's verifier key with --key"
    if checkpoint is None:
        yield f"completeness is shown only up to the bundled head of {head.size} leaves; give --checkpoint to show more"
    for view in views:
        yield f"{view} is a view for other programs; what is proven is {EVENTS}"


def _require_files(directory: Path) -> list[str]:
    """The directory holds the files of a bundle and nothing else; returns the views among them."""
    try:
        found = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in os.scandir(directory)}
    except OSError as exc:
        raise VerificationError(f"{directory} cannot be read: {exc.strerror}") from None
    for name in sorted(found.keys() | {*FILES, MANIFEST}):
        if name not in found:
            raise VerificationError(f"{name} is missing")
        if name not in (*FILES, *VIEWS, MANIFEST):
            raise VerificationError(f"{name!r} does not belong to a bundle")
        if not stat.S_ISREG(found[name]):
            raise VerificationError(f"{name} is not a regular file")
    return [name for name in VIEWS if name in found]


def _manifest(directory: Path, views: Sequence[str]) -> dict[str, Any]:
    manifest = _json(directory, MANIFEST)
    match manifest:
        case {"format": str(form), "log": str(), "start": int(), "end": int(), "files": dict(files)}:
            if form != FORMAT:
                raise VerificationError(f"{MANIFEST}: format {form!r} is not {FORMAT!r}")
        case _:
            raise VerificationError(f"{MANIFEST} is malformed")
    names = (*FILES, *views)
    if set(files) != set(names):
        raise VerificationError(f"{MANIFEST} lists other files than the bundle has")
    for name in names:
        with (directory / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        if files[name] != {"sha256": digest, "bytes": size}:
            raise VerificationError(f"{name} is not the file that {MANIFEST} describes")
    return dict(manifest)


def _proof(directory: Path) -> tuple[list[Node], list[Node]]:
    proof = _json(directory, PROOF)
    match proof:
        case {"before": list(before), "after": list(after)} if len(proof) == 2:
            return [_node(one) for one in before], [_node(one) for one in after]
    raise VerificationError(f"{PROOF} is malformed")


def _node(value: object) -> Node:
    match value:
        case [int(level), int(index), str(digest)] if 0 <= level < 64 and 0 <= index < 1 << 63:
            if re.fullmatch(r"[0-9a-f]{64}", digest):
                return Node(level, index, bytes.fromhex(digest))
    raise VerificationError(f"{PROOF} has a malformed subtree")


def _require_event(leaf: bytes, number: int) -> None:
    try:
        event = json.loads(leaf)
    except (ValueError, RecursionError):
        raise VerificationError(f"{EVENTS}, line {number}: not JSON") from None
    if not isinstance(event, dict):
        raise VerificationError(f"{EVENTS}, line {number}: not a JSON object")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if not line.endswith(b"\n"):
            raise VerificationError(f"{EVENTS}, line {number}: too long, or without its end")
        yield line[:-1]


def _json_list(directory: Path, name: str) -> list[object]:
    value = _json(directory, name)
    if not isinstance(value, list):
        raise VerificationError(f"{name} is not a JSON array")
    return value


def _json(directory: Path, name: str) -> Any:
    try:
        return json.loads(_text(directory, name))
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, VerificationError) else VerificationError(f"{name} is not JSON") from None


def _text(directory: Path, name: str) -> str:
    with (directory / name).open("rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise VerificationError(f"{name} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise VerificationError(f"{name} is not UTF-8") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="verify.py", description="Verify an exported audit log.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="the exported bundle")
    parser.add_argument("--key", metavar="VKEY", help="verifier key of the log, from a source of your own")
    parser.add_argument("--checkpoint", type=Path, metavar="OLD", help="file with an older checkpoint that you kept")
    given = parser.parse_args(arguments)
    try:
        old = given.checkpoint.read_text("utf-8") if given.checkpoint else None
        result = verify_bundle(given.directory, key=given.key, checkpoint=old)
    except (VerificationError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"does not hold: {error}\n")
        return 1
    for note in result.notes:
        sys.stderr.write(f"note: {note}\n")
    last = result.first + result.events
    sys.stdout.write(f"{result.log}: {result.events} events, leaves {result.first} to {last} of {result.size}: holds\n")
    return 0 if result.origin_established else 3


if __name__ == "__main__":
    sys.exit(main())

"""A second verifier, from `docs/audit-format.md` alone: slow, all in memory, no code shared with the first."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NAMES = {
    "manifest.json",
    "events.ndjson",
    "hashes.bin",
    "checkpoint.note",
    "earlier.json",
    "proof.json",
    "key.txt",
    "rotations.json",
    "event.schema.json",
}
VIEWS = {"events.csv", "events.ocsf.ndjson", "events.parquet"}


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def tree(nodes: dict[tuple[int, int], bytes], start: int, end: int) -> bytes:
    """The hash over leaves [start, end): given as it is, or of its two halves (RFC 9162 §2.1.1)."""
    size = end - start
    if size == 0:
        return sha(b"")
    if size & (size - 1) == 0 and start % size == 0 and (size.bit_length() - 1, start // size) in nodes:
        return nodes[size.bit_length() - 1, start // size]
    assert size > 1, "a leaf is missing"
    half = 1
    while half * 2 < size:
        half *= 2
    return sha(b"\x01" + tree(nodes, start, start + half) + tree(nodes, start + half, end))


def note(text: str, vkey: str) -> list[str] | None:
    """The lines of a note that the key signed, or nothing."""
    name, _, encoded = vkey.split("+", 2)
    raw = base64.b64decode(encoded)
    body, _, signatures = text.rpartition("\n\n")
    for line in signatures.splitlines():
        _, signer, signature = line.split(" ")
        blob = base64.b64decode(signature)
        if signer == name and blob[:4] == sha(name.encode() + b"\n" + raw)[:4]:
            try:
                Ed25519PublicKey.from_public_bytes(raw[1:]).verify(blob[4:], (body + "\n").encode())
            except InvalidSignature:
                return None
            return body.split("\n")
    return None


def agrees(directory: Path, vkey: str, old: str | None = None) -> bool:
    """Whether the bundle holds under this key, and begins with the older checkpoint."""
    try:
        return _agrees(directory, vkey.strip(), old)
    except (AssertionError, ValueError, KeyError, IndexError, TypeError, OSError):
        return False


def _agrees(directory: Path, vkey: str, old: str | None) -> bool:
    entries = list(directory.iterdir())
    names = {entry.name for entry in entries}
    if not NAMES <= names <= NAMES | VIEWS or any(entry.is_symlink() or not entry.is_file() for entry in entries):
        return False
    manifest = json.loads((directory / "manifest.json").read_text("utf-8"))
    if manifest["format"] != "luminescent-audit-bundle/1" or set(manifest["files"]) != names - {"manifest.json"}:
        return False
    for name, described in manifest["files"].items():
        data = (directory / name).read_bytes()
        if described != {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
            return False
    lines = (directory / "events.ndjson").read_bytes().split(b"\n")
    if lines.pop() != b"" or not all(isinstance(json.loads(line), dict) for line in lines):
        return False
    if b"".join(sha(b"\x00" + line) for line in lines) != (directory / "hashes.bin").read_bytes():
        return False
    first, end = manifest["start"], manifest["end"]
    if end - first != len(lines):
        return False
    proof = json.loads((directory / "proof.json").read_text())
    nodes = {(level, index): bytes.fromhex(digest) for level, index, digest in proof["before"] + proof["after"]}
    if first != sum(1 << level for level, _, _ in proof["before"]):
        return False
    nodes |= {(0, first + at): sha(b"\x00" + line) for at, line in enumerate(lines)}
    keys = [vkey]
    for text in json.loads((directory / "rotations.json").read_text()) * 2:
        for key in list(keys):
            handover = note(text, key)
            if handover and handover[0] == "luminescent audit key rotation" and key in handover[1:]:
                keys += [other for other in handover[1:] if other not in keys]
    wanted = [(directory / "checkpoint.note").read_text("utf-8"), *json.loads((directory / "earlier.json").read_text())]
    wanted += [old] if old is not None else []
    head_size = 0
    covered = end + sum(1 << level for level, _, _ in proof["after"])
    for text in wanted:
        opened = next((lines for key in keys if (lines := note(text, key))), None)
        if opened is None or opened[0] != manifest["log"] or opened[0] != vkey.split("+")[0]:
            return False
        size, root = int(opened[1]), base64.b64decode(opened[2])
        head_size = head_size or size
        if size > head_size or covered != head_size or tree(nodes, 0, size) != root:
            return False
    return True

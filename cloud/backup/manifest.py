"""The manifest of a backup: one signed note, so that no file of it can be changed or exchanged unnoticed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cloud.audit.keyfile import AuditKeys
from cloud.audit.verify import VerificationError, open_note
from cloud.backup.model import Contents, DataBackup, Manifest
from cloud.gdpr.ledger import LedgerPlace
from cloud.kernel.errors import ConfigurationError

MANIFEST: Final = "manifest.note"
FORMAT: Final = "luminescent-data-backup/1"
_TITLE: Final = "luminescent data backup"
_MAX_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 1 << 20


def encode(manifest: Manifest, keys: AuditKeys) -> bytes:
    """The file's content, signed by the installation."""
    backup, contents = manifest.backup, manifest.contents
    document = {
        "format": FORMAT,
        "backup_id": backup.backup_id,
        "made_at": backup.made_at.isoformat(),
        "expires_at": backup.expires_at.isoformat(),
        **dataclasses.asdict(contents),
        "newest_event_at": contents.newest_event_at.isoformat() if contents.newest_event_at else None,
        "files": {name: {"bytes": size, "sha256": digest} for name, (size, digest) in manifest.files.items()},
    }
    text = f"{_TITLE}\n{json.dumps(document, sort_keys=True)}\n"
    return keys.current.note(text, keys.name).encode()


def read(directory: Path, keys: AuditKeys) -> Manifest:
    """The manifest of the backup in `directory`, once it is certain that this installation signed it.

    Raises:
        ConfigurationError: There is none, or it is damaged, another installation's or of another version.
    """
    path = directory / MANIFEST
    try:
        with path.open("rb") as file:
            note = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError as exc:
        raise ConfigurationError(
            f"there is no whole backup in {directory}: {MANIFEST} cannot be read ({exc.strerror})"
        ) from exc
    for key in keys.keys:
        try:
            text = open_note(note, key.verifier(keys.name))
        except VerificationError:
            continue
        return _parsed(text, directory)
    raise ConfigurationError(
        f"{path} was changed, or another installation made it: it is not signed by this installation's audit keys"
    )


def verify_files(directory: Path, manifest: Manifest, told: Callable[[int, int], None] = lambda *_: None) -> None:
    """Every file of the backup is, byte by byte, the one that its manifest names.

    Args:
        told: Told how many of how many bytes were read.

    Raises:
        ConfigurationError: One is missing, changed or cannot be read.
    """
    done = 0
    for name, (size, digest) in manifest.files.items():
        found = hashlib.sha256()
        length = 0
        try:
            with (directory / name).open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    found.update(piece)
                    length += len(piece)
                    told(done + length, manifest.size_bytes)
        except OSError as exc:
            raise ConfigurationError(f"{directory / name} cannot be read: {exc.strerror}") from exc
        done += length
        if (length, found.hexdigest()) != (size, digest):
            raise ConfigurationError(f"{directory / name} is not the file that was written: use another backup")


def _parsed(text: str, directory: Path) -> Manifest:
    title, _, body = text.partition("\n")
    try:
        found: Mapping[str, Any] = json.loads(body)
        if title != _TITLE or found["format"] != FORMAT:
            raise ConfigurationError(f"the backup in {directory} is of a version that this one does not know")
        newest = found["newest_event_at"]
        backup = DataBackup(
            found["backup_id"],
            directory,
            datetime.fromisoformat(found["made_at"]),
            datetime.fromisoformat(found["expires_at"]),
            complete=True,
        )
        contents = Contents(
            **{
                field.name: found[field.name]
                for field in dataclasses.fields(Contents)
                if field.name not in ("ledger", "newest_event_at")
            },
            ledger=LedgerPlace(**found["ledger"]),
            newest_event_at=datetime.fromisoformat(newest) if newest else None,
        )
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in found["files"].items()}
    except (KeyError, TypeError, ValueError) as exc:
        raise ConfigurationError(f"the manifest of the backup in {directory} cannot be understood") from exc
    return Manifest(backup, contents, files)

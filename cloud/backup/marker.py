"""Says in the home that a restore is under way: until it is complete nothing is served from these databases."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from cloud.kernel.errors import ConfigurationError
from cloud.storage.home import sync_directory, write_private

_NAME: Final = "restore.json"


class Phase(StrEnum):
    """How far a restore is."""

    LOADING = "loading"
    """The databases are empty or half full."""
    LOADED = "loaded"
    """They are whole, and may know people who were erased."""


@dataclass(frozen=True, slots=True)
class RestoreMarker:
    """The marker of a home.

    Attributes:
        home: The home.
    """

    home: Path

    @property
    def path(self) -> Path:
        """Its file."""
        return self.home / "locks" / _NAME

    def put(self, backup_id: str, phase: Phase) -> None:
        """A restore of this backup is in this phase, durably."""
        write_private(self.path, json.dumps({"backup_id": backup_id, "phase": phase.value}).encode())

    def phase(self) -> Phase | None:
        """The phase of the restore that is under way or was interrupted; `None` if there is none."""
        try:
            return Phase(json.loads(self.path.read_bytes())["phase"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return Phase.LOADING  # Something is there: nothing is served.

    def remove(self) -> None:
        """The restore is complete."""
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)

    def check(self, *, loaded: bool = False) -> None:
        """No restore is under way.

        Args:
            loaded: Whether databases that are whole will do: for mending what keeps the restore from going on.

        Raises:
            ConfigurationError: One is, or was interrupted.
        """
        phase = self.phase()
        if phase is None or (loaded and phase is Phase.LOADED):
            return
        raise ConfigurationError(
            "a restore is under way or was interrupted, so nothing is served from these databases: run it again, "
            "luminescent-cloud restore DIR, with this or another backup"
        )

"""Installations for a while: made in a directory of their own, with settings as shipped, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cloud.settings import CloudSettings


def shipped_settings(home: Path) -> CloudSettings:
    """Settings as shipped: what the environment says belongs to another installation."""
    shipped = {name: field.get_default(call_default_factory=True) for name, field in CloudSettings.model_fields.items()}
    return CloudSettings(**{**shipped, "home": home})


@contextlib.contextmanager
def temporary_home(*, keep: bool = False) -> Iterator[Path]:
    """A home directory that does not exist yet, removed afterwards unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="luminescent-"))
    if os.geteuid() == 0:
        # PostgreSQL then runs under an account of its own, which must pass through.
        folder.chmod(0o711)
        (folder / "home").mkdir(mode=0o711)
    try:
        yield folder / "home"
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)

"""The machine: the home and who can enter it, room on the disk, and the clock."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from typing import Final

from cloud.kernel.findings import Finding, Level, ok, problem, warning
from cloud.startup.doctor.context import Check, Context
from cloud.storage.roles import APP_ROLE

_FREE_LOW_BYTES: Final = 1 << 30
_FREE_OUT_BYTES: Final = 100 << 20
_SKEW_LOW_S: Final = 2.0
_SKEW_HIGH_S: Final = 60.0
_PRIVATE: Final = ("secrets", "locks", "keyring", "pixeltable")


def home(context: Context) -> Iterator[Finding]:
    """The home is this account's own and closed to others."""
    context.require_home()
    root = context.settings.home
    found = root.stat()
    if found.st_uid != os.geteuid():
        context.fail("home")
        yield problem(
            "home",
            f"{root} belongs to uid {found.st_uid}, and this process runs as uid {os.geteuid()}",
            "run the command as the account of the service",
        )
        return
    # Others may pass through the home itself: the embedded server's account must.
    places = [(root, 0o066)] + [(root / name, 0o077) for name in _PRIVATE if (root / name).exists()]
    open_places = [path for path, forbidden in places if stat.S_IMODE(path.stat().st_mode) & forbidden]
    for path in open_places:
        yield problem("home", f"{path} is open to other accounts", f"look at what is in it, then: chmod 700 {path}")
    if not open_places:
        yield ok("home", f"{root} is closed to other accounts")


def disk(context: Context) -> Iterator[Finding]:
    """There is room beside the home."""
    context.require_home()
    free = shutil.disk_usage(context.settings.home).free
    text = f"{free / 2**30:.1f} GiB free beside the home"
    if free >= _FREE_LOW_BYTES:
        yield ok("disk", text)
        return
    level = Level.PROBLEM if free < _FREE_OUT_BYTES else Level.WARNING
    mend = "make room: a write that finds none is refused, and nothing acknowledged is lost"
    yield Finding("disk", level, text, mend)


def clock(context: Context) -> Iterator[Finding]:
    """This machine and the database agree about the time: expiry is decided by the one, tokens by the other."""
    before_s = time.time()
    ((there,),) = context.rows(APP_ROLE, "SELECT extract(epoch FROM clock_timestamp())::float8")
    after_s = time.time()
    skew_s = max(0.0, float(there) - after_s, before_s - float(there))
    text = f"the clocks of this machine and of the database differ by {skew_s:.1f} s"
    mend = "let both follow the same time servers (chrony, systemd-timesyncd)"
    if skew_s >= _SKEW_HIGH_S:
        yield problem("clock", text, mend)
    elif skew_s >= _SKEW_LOW_S:
        yield warning("clock", text, mend)
    else:
        yield ok("clock", text)


CHECKS: Final[tuple[Check, ...]] = (home, disk)

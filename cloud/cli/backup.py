"""`luminescent-cloud backup` and `restore`: both databases, as the local operator; people who are erased stay erased.

`backup DIR` makes one; the other verbs stand beside it. `restore` runs where nothing else does.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from cloud.backup.model import DataBackup, Manifest
from cloud.cli.invocation import invocation
from cloud.cli.output import moment, table
from cloud.cli.progress import progress
from cloud.keys.rootkey import LocalRootKey

_CREATE: Final = "create"
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class _CreateByDefault(TyperGroup):
    """`backup DIR` is `backup create DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = [_CREATE, *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=_CreateByDefault,
    no_args_is_help=True,
    help="Backups of both databases: backup DIR makes one; no key of anybody is in it.",
)
Directory = Annotated[Path, typer.Argument(metavar="DIR", show_default=False)]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="Key that seals the backup: 32 bytes as base64, mode 0600.",
    ),
]
Expired = Annotated[bool, typer.Option("--expired", help="Also a backup that has expired.")]


@app.command(_CREATE)
def create(
    ctx: typer.Context,
    directory: Directory,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=3650, help="How long it may be kept; otherwise the setting backup_days."),
    ] = None,
    key_file: KeyFile = None,
) -> None:
    """Back both databases up to DIR, a new directory, while the service runs; `backup DIR` is the same."""
    run = invocation(ctx)
    key = _key(key_file)
    with run.program.open_backups(run.settings()) as backups, progress(run.output, "Backing up") as bar:
        made = backups.create(directory, days=days, key=key, told=lambda name, done: bar.phase(f"Writing {name}", done))
    run.output.result(
        _manifest(made),
        f"Backup {made.backup.backup_id} is in {made.backup.location}: {_size(made.size_bytes)}, "
        f"{made.contents.counts.get('memories', 0)} memories.",
        f"It is deleted after {moment(made.backup.expires_at)}: luminescent-cloud backup expire",
        "It needs the keyring, the root key and the erasure ledger, which are not in it: keep each elsewhere.",
    )


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List the backups whose files may exist."""
    run = invocation(ctx)
    with run.program.open_backups(run.settings()) as backups:
        found, now = backups.list(), backups.now()
    rows = [
        (
            one.backup_id,
            moment(one.made_at),
            moment(one.expires_at),
            str(one.location),
            _remark(one, one.expires_at <= now),
        )
        for one in found
    ]
    run.output.result(
        {"backups": [{**_backup(one), "expired": one.expires_at <= now} for one in found]},
        table(("backup", "made", "delete by", "directory", ""), rows) if rows else "There is no backup.",
    )


@app.command()
def expire(
    ctx: typer.Context,
    deleted: Annotated[
        list[str] | None,
        typer.Option(
            "--deleted",
            metavar="BACKUP",
            help="Id of an expired backup whose files you deleted yourself; once for each of them.",
        ),
    ] = None,
) -> None:
    """Delete the backups that have expired; exits 1 if the files of one cannot be reached or found from here."""
    run = invocation(ctx)
    with run.program.open_backups(run.settings()) as backups, progress(run.output, "Deleting expired backups"):
        done = backups.expire(deleted or ())
    run.output.result(
        {
            "deleted": [_backup(one) for one in done.deleted],
            "out_of_reach": [_backup(one) for one in done.out_of_reach],
        },
        *(f"Backup {one.backup_id} in {one.location} is deleted." for one in done.deleted),
        *(
            f"Backup {one.backup_id} in {one.location} cannot be reached, or told to be this one: make its disk"
            " available, and run this again; if you deleted it yourself: luminescent-cloud backup expire --deleted"
            f" {one.backup_id}"
            for one in done.out_of_reach
        ),
        *(() if done.deleted or done.out_of_reach else ("None has expired.",)),
    )
    if done.out_of_reach:
        raise typer.Exit(1)


@app.command()
def drill(ctx: typer.Context, directory: Directory, key_file: KeyFile = None, expired: Expired = False) -> None:
    """Try the backup in DIR: restore it in a home of its own, look at all of it, and say what would be lost.

    The service may run. Exits 1 if something does not hold.
    """
    run = invocation(ctx)
    key = _key(key_file)
    with progress(run.output, "Trying the backup") as bar:
        done = run.program.upkeep.drill(run.settings(), directory, key, expired=expired, told=bar.phase)
    run.output.result(
        {
            **_manifest(done.manifest),
            "rpo_s": None if done.rpo is None else round(done.rpo.total_seconds(), 3),
            "rto_s": round(done.rto.total_seconds(), 3),
            "erased_again": done.replayed.erased_again,
            "closed_again": done.replayed.closed_again,
            "keys_destroyed": done.replayed.keys_destroyed,
            "opened": done.opened,
            "problems": list(done.problems),
        },
        f"RPO: {_span(done.rpo)} (age of the newest event in the backup)",
        f"RTO: {_span(done.rto)} (from the start until it could be served)",
        f"{done.opened} sealed memories opened with the keyring; {done.replayed.erased_again} people who were erased"
        " since were removed again.",
        *(f"PROBLEM: {problem}" for problem in done.problems),
        *(() if done.problems else ("All of it holds.",)),
    )
    if done.problems:
        raise typer.Exit(1)


@app.command()
def ledger(
    ctx: typer.Context,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make it anew of what the control plane knows; the old one is set aside.")
    ] = False,
) -> None:
    """Make the erasure ledger anew, where it is lost or does not hold. Stop the service first."""
    run = invocation(ctx)
    if not rebuild:
        raise typer.BadParameter("say so with --rebuild", param_hint="--rebuild")
    with run.program.open_backups(run.settings()) as backups:
        records = backups.rebuild_ledger()
    run.output.result({"records": records}, f"The erasure ledger is made anew, with {records} records.")


def restore(
    ctx: typer.Context,
    directory: Directory,
    key_file: KeyFile = None,
    expired: Expired = False,
    without_ledger: Annotated[
        bool,
        typer.Option("--without-ledger", help="The erasure ledger is lost: whoever was erased since comes back."),
    ] = False,
) -> None:
    """Put the databases of the backup in DIR in place of the present ones, without whoever was erased since.

    Stop the service first. If it is interrupted, run it again: until it ends well nothing is served.
    """
    run = invocation(ctx)
    key = _key(key_file)
    with progress(run.output, "Restoring") as bar:
        done = run.program.upkeep.restore(
            run.settings(), directory, key, expired=expired, without_ledger=without_ledger, told=bar.phase
        )
    run.output.result(
        {
            **_manifest(done.manifest),
            "erased_again": done.replayed.erased_again,
            "closed_again": done.replayed.closed_again,
            "keys_destroyed": done.replayed.keys_destroyed,
            "logs_cut": done.logs_cut,
            "upgraded": done.upgraded,
        },
        f"The databases are as backup {done.manifest.backup.backup_id} has them, of"
        f" {moment(done.manifest.backup.made_at)}.",
        f"{done.replayed.erased_again} people and {done.replayed.closed_again} tenants had come back, and are erased"
        " again.",
        f"{done.logs_cut} audit logs go on from where the backup ends; the reason is kept with their heads.",
        "API keys and tokens that were revoked since are valid again: revoke them once more.",
    )


def _key(path: Path | None) -> LocalRootKey | None:
    return None if path is None else LocalRootKey.from_file(path)


def _remark(backup: DataBackup, expired: bool) -> str:
    if expired:
        return "expired: backup expire deletes it"
    return "" if backup.complete else "was cut off, or is being written"


def _backup(backup: DataBackup) -> dict[str, object]:
    return {
        "backup_id": backup.backup_id,
        "directory": backup.location,
        "made_at": backup.made_at,
        "expires_at": backup.expires_at,
        "complete": backup.complete,
    }


def _manifest(manifest: Manifest) -> dict[str, object]:
    contents = manifest.contents
    return {
        **_backup(manifest.backup),
        "bytes": manifest.size_bytes,
        "sealed_with": contents.sealed_with,
        "revision": contents.revision,
        "memories": contents.counts.get("memories", 0),
        "newest_event_at": contents.newest_event_at,
    }


def _size(size_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} {_UNITS[-1]}"


def _span(span: timedelta | None) -> str:
    if span is None:
        return "-"
    seconds = span.total_seconds()
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole % 86_400 // 3600, whole % 3600 // 60
    if whole < 60:
        return f"{seconds:.1f} s"
    return f"{days} d {hours} h {minutes} min" if days else f"{hours} h {minutes} min {whole % 60} s"

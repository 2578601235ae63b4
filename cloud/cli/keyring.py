"""`luminescent-cloud keyring`: status, rotation, backup and restoring of the keys, as the local operator.

These commands open the control plane and the keyring alone, and also run where the keyring is missing or the wrong
one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from cloud.cli.invocation import Invocation, invocation
from cloud.cli.output import moment, table
from cloud.cli.progress import progress
from cloud.custody.model import CustodyStatus, Reconciled
from cloud.custody.reconciling import described
from cloud.custody.service import Custody
from cloud.keys.diagnosis import Severity
from cloud.keys.reports import KeyringBackup, Rotated

app = typer.Typer(no_args_is_help=True, help="The keyring: who loses it loses everything, and a copy undoes erasures.")
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


@app.command()
def status(
    ctx: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Try every key; otherwise a sample.")] = False,
) -> None:
    """Show how the keyring is and what is the matter with it; exits 1 if the service cannot run with it."""
    run = invocation(ctx)
    with _custody(run) as custody, progress(run.output, "Trying keys") as bar:
        found = custody.status(check=check, progress=bar.told)
    run.output.result(_status_document(found), *_status_for_people(found))
    if any(finding.severity is Severity.FATAL for finding in found.findings):
        raise typer.Exit(1)


@app.command()
def rotate(
    ctx: typer.Context,
    root: Annotated[bool, typer.Option("--root", help="Rotate the root key.")] = False,
    tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="Rotate the key of this tenant.", show_default=False)
    ] = None,
    new_root_key_file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="File with the new root key; made here if left out and the present one is in a file.",
        ),
    ] = None,
) -> None:
    """Put every key under a new root key, or a tenant's keys under a new one, while the service runs.

    A rotation that was interrupted goes on when the same command is run again.
    """
    run = invocation(ctx)
    if root == (tenant is not None):
        raise typer.BadParameter("say what to rotate: --root, or --tenant TENANT", param_hint="--root")
    if new_root_key_file is not None and not root:
        raise typer.BadParameter("only --root takes it", param_hint="--new-root-key-file")
    if tenant is not None:
        with _custody(run) as custody, progress(run.output, "Wrapping keys") as bar:
            done = custody.rotate_tenant(tenant, progress=bar.told)
        run.output.result(
            {"tenant_id": tenant, "wrapped": done.wrapped, "unreadable": done.unreadable},
            f"Tenant {tenant} has a new key; {done.wrapped} keys are wrapped under it.",
            *_damaged(done),
        )
        return
    with _custody(run) as custody, progress(run.output, "Wrapping keys") as bar:
        moved = custody.rotate_root(new_root_key_file, progress=bar.told)
    run.output.result(
        {
            "root_key_id": moved.root_key_id,
            "former_root_key_id": moved.former,
            "wrapped": moved.rotated.wrapped,
            "unreadable": moved.rotated.unreadable,
            "in_root_key_file": moved.in_file,
            "backups_under_former": [backup.backup_id for backup in moved.needed_by],
        },
        f"The keyring is under root key {moved.root_key_id}; {moved.rotated.wrapped} keys are wrapped under it.",
        *_damaged(moved.rotated),
        "The root key file holds it."
        if moved.in_file
        else "Now set it as the root key everywhere, and the former one as other_root_key_file.",
        f"Root key {moved.former} is needed until {moment(max(b.expires_at for b in moved.needed_by))}, for backups."
        if moved.needed_by
        else f"Root key {moved.former} is needed no more: luminescent-cloud keyring destroy-root-key {moved.former}",
    )


@app.command()
def backup(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(dir_okay=False, metavar="FILE", help="A new file, best on another machine.")],
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the file may be kept.")] = 30,
) -> None:
    """Write a backup of the keyring to FILE, sealed under the root key, while the service runs."""
    run = invocation(ctx)
    with _custody(run) as custody, progress(run.output, "Backing up the keyring"):
        made = custody.backup(out, days=days)
    run.output.result(
        {**_backup_document(made), "file": out},
        f"Backup {made.backup_id} is in {out}. It opens with root key {made.root_key_id} alone; keep both apart.",
        f"Delete it by {moment(made.expires_at)}: until then it can bring back people who are erased.",
    )


@app.command()
def backups(ctx: typer.Context) -> None:
    """List the backups of the keyring; files of those that have expired have to be deleted."""
    run = invocation(ctx)
    with _custody(run) as custody:
        found = custody.backups()
        now = custody.now()
    columns = ("backup", "made", "delete by", "root key", "")
    rows = [
        (b.backup_id, moment(b.made_at), moment(b.expires_at), b.root_key_id, _remark(b, expired=b.expires_at <= now))
        for b in found
    ]
    run.output.result(
        {"backups": [{**_backup_document(one), "expired": one.expires_at <= now} for one in found]},
        table(columns, rows) if rows else "There is no backup yet.",
    )


@app.command()
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="FILE", show_default=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Give up the keyring that is there now.")] = False,
    expired: Annotated[bool, typer.Option("--expired", help="Also a backup that has expired.")] = False,
) -> None:
    """Put the keyring of a backup in its place; nobody comes back who was erased since. Stop the service first."""
    run = invocation(ctx)
    with _custody(run, with_keyring=False) as custody, progress(run.output, "Restoring the keyring"):
        done = custody.restore(file, replace=replace, expired=expired)
    run.output.result(
        {
            "backup": _backup_document(done.backup),
            "reconciled": _reconciled_document(done.reconciled),
            "epoch": done.keyring.mark.epoch,
        },
        f"The keyring of {moment(done.backup.made_at)} is in its place.",
        f"{described(done.reconciled)}.",
    )


@app.command()
def reconcile(ctx: typer.Context) -> None:
    """Destroy again whoever was erased and is in the keyring all the same, and count whom it lacks."""
    run = invocation(ctx)
    with _custody(run) as custody, progress(run.output, "Comparing keyring and control plane"):
        done = custody.reconcile()
    run.output.result(_reconciled_document(done), f"{described(done)}.")


@app.command()
def accept(ctx: typer.Context, yes: Yes = False) -> None:
    """Go on with the keyring that is there, though another or a later one is missing. Stop the service first."""
    run = invocation(ctx)
    _confirm(run, yes, "Memories of people who have no key in it stay unreadable for good. Go on with this keyring?")
    with _custody(run) as custody, progress(run.output, "Comparing keyring and control plane"):
        done = custody.accept()
    run.output.result(
        _reconciled_document(done), "This keyring is the one that belongs here now.", f"{described(done)}."
    )


@app.command("destroy-root-key")
def destroy_root_key(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ROOT_KEY_ID", show_default=False)],
    yes: Yes = False,
    despite_backups: Annotated[
        bool, typer.Option("--despite-backups", help="Also if a backup cannot be restored without it.")
    ] = False,
) -> None:
    """Overwrite a former root key that lies beside the root key file."""
    run = invocation(ctx)
    _confirm(run, yes, "Backups from before the rotation cannot be restored without this root key. Destroy it?")
    with _custody(run) as custody:
        destroyed = custody.destroy_root_key(key_id, despite_backups=despite_backups)
    run.output.result(
        {"root_key_id": key_id, "destroyed": destroyed},
        f"Root key {key_id} is destroyed." if destroyed else "There is no such root key beside the root key file.",
    )


@contextlib.contextmanager
def _custody(run: Invocation, *, with_keyring: bool = True) -> Iterator[Custody]:
    with run.program.open_custody(run.settings(), with_keyring=with_keyring) as custody:
        yield custody


def _confirm(run: Invocation, yes: bool, question: str) -> None:
    if yes:
        return
    if run.output.as_json or not sys.stdin.isatty():
        raise typer.BadParameter("confirm with --yes where nobody can be asked", param_hint="--yes")
    typer.confirm(question, abort=True)


def _damaged(done: Rotated) -> tuple[RenderableType, ...]:
    return (f"{done.unreadable} keys do not open, and did not before: they are damaged.",) if done.unreadable else ()


def _remark(backup: KeyringBackup, *, expired: bool) -> str:
    if expired:
        return "expired: delete its file"
    return "" if backup.complete else "was cut off: delete what there is of its file"


def _backup_document(backup: KeyringBackup) -> dict[str, object]:
    return {
        "backup_id": backup.backup_id,
        "made_at": backup.made_at,
        "expires_at": backup.expires_at,
        "root_key_id": backup.root_key_id,
        "epoch": backup.epoch,
        "complete": backup.complete,
    }


def _reconciled_document(done: Reconciled) -> dict[str, object]:
    return {
        "destroyed_again": done.destroyed_again,
        "tenants_destroyed_again": done.tenants_destroyed_again,
        "unreadable": done.unreadable,
        "tenants_without_key": done.tenants_without_key,
    }


def _status_document(found: CustodyStatus) -> dict[str, object]:
    keyring, check = found.keyring, found.check
    return {
        "keyring": keyring
        and {
            "keyring_id": keyring.mark.keyring_id,
            "format": keyring.format,
            "epoch": keyring.mark.epoch,
            "root_key_id": keyring.mark.root_key_id,
            "next_root_key_id": keyring.next_root_key_id,
            "rotating_tenants": list(keyring.rotating_tenants),
            "rotated_at": keyring.rotated_at,
            "tenants": keyring.counts.tenants,
            "subjects": keyring.counts.subjects,
            "spares": keyring.counts.spares,
            "free_slots": keyring.counts.free_slots,
            "open_in": keyring.open_in,
            "backups": [_backup_document(one) for one in keyring.backups],
        },
        "check": check and {"checked": check.checked, "unreadable": check.unreadable, "interrupted": check.interrupted},
        "former_root_keys": list(found.former_root_keys),
        "findings": [
            {"code": one.code, "severity": one.severity, "message": one.message, "remedy": one.remedy}
            for one in found.findings
        ],
    }


def _status_for_people(found: CustodyStatus) -> Iterator[RenderableType]:
    if found.keyring is not None:
        keyring = found.keyring
        last = max(keyring.backups, key=lambda one: one.made_at, default=None)
        rows = [
            ("keyring", f"{keyring.mark.keyring_id[:8]}, format {keyring.format}, epoch {keyring.mark.epoch}"),
            ("root key", keyring.mark.root_key_id),
            ("former root keys", ", ".join(found.former_root_keys) or "-"),
            ("tenants", str(keyring.counts.tenants)),
            ("people", str(keyring.counts.subjects)),
            ("keys made ahead", str(keyring.counts.spares)),
            ("free slots", str(keyring.counts.free_slots)),
            ("open in", f"{keyring.open_in} process(es), with this one"),
            ("last rotation", moment(keyring.rotated_at)),
            ("last backup", f"{moment(last.made_at)}, delete by {moment(last.expires_at)}" if last else "-"),
        ]
        if found.check is not None:
            rows.append(("keys tried", f"{found.check.checked}, {found.check.unreadable} do not open"))
        yield table(("", ""), rows)
    for finding in found.findings:
        yield f"{finding.severity.value}: {finding.message}"
        yield f"  {finding.remedy}"
    if not found.findings:
        yield "Nothing is the matter with it."

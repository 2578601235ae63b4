"""What the worker does: it materializes, and what else goes on beside the requests."""

from __future__ import annotations

import contextlib
import logging
import threading
from functools import partial

from cloud.audit.model import Category
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import LuminescentError, OperationInProgressError
from cloud.settings import CloudSettings
from cloud.startup.erasing import go_on_with_erasures
from cloud.startup.installation import Installation, open_installation
from cloud.startup.observability import export_telemetry
from cloud.tenancy.placements import Move
from cloud.tenancy.system import system_predicate

_log = logging.getLogger(__name__)


def run_worker(settings: CloudSettings, stop: threading.Event) -> None:
    """Materialize until `stop` is set; several may run on one installation, and one works on a placement at a time."""
    export_telemetry(settings)
    installation = open_installation(settings)
    try:
        work(installation, stop)
    finally:
        installation.close()


def work(installation: Installation, stop: threading.Event) -> None:
    """Materialize until `stop` is set, and beside that sequence and archive the audit log, finish the moves that
    a process was killed in, and go on with erasures."""
    beside = (
        threading.Thread(target=_finish_moves, args=(installation, stop), name="luminescent-moves"),
        threading.Thread(target=installation.proofs.sequencing.run, args=(stop,), name="luminescent-sequencer"),
        threading.Thread(target=go_on_with_erasures, args=(installation, stop), name="luminescent-erasures"),
        threading.Thread(target=installation.proofs.archiver.work, args=(stop,), name="luminescent-archiver"),
    )
    for thread in beside:
        thread.start()
    try:
        installation.materializer().run(stop)
    finally:
        stop.set()
        for thread in beside:
            thread.join()


def _finish_moves(installation: Installation, stop: threading.Event) -> None:
    audit, mover = installation.logger(), installation.mover()

    def finish(move: Move) -> None:
        scope = system_predicate(move.tenant_id, "mover").scope
        mover.run(move, audit.draft(scope, Action.TENANT_MOVE, category=Category.ADMINISTRATION), stop=stop)

    try:
        for move in mover.unfinished():
            with contextlib.suppress(OperationInProgressError):
                telemetry.named(Action.TENANT_MOVE.value, move.tenant_id, partial(finish, move))
    except LuminescentError as error:
        # It stays recorded as unfinished, and both tables are known: nobody else has to wait for it.
        _log.error("a move could not be finished and is tried again at the next start: %s", error)  # noqa: TRY400

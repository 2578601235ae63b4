"""What the worker does: it materializes, and what else goes on beside the requests."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
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
    a process was killed in, and go on with erasures.

    An error that one of them does not go on after ends all of it and is raised here: whoever keeps the worker alive
    says so and starts it again.
    """
    sequencing, archiver = installation.proofs.sequencing, installation.proofs.archiver
    beside = (
        _Beside("luminescent-moves", partial(_finish_moves, installation), stop),
        _Beside("luminescent-sequencer", sequencing.run, stop),
        _Beside("luminescent-erasures", partial(go_on_with_erasures, installation), stop),
        _Beside("luminescent-archiver", archiver.work, stop),
    )
    for thread in beside:
        thread.start()
    try:
        installation.materializer().run(stop)
    finally:
        stop.set()
        for thread in beside:
            thread.join()
    for thread in beside:
        if thread.error is not None:
            raise thread.error


class _Beside(threading.Thread):
    """A thread beside the materializer; an error that ends it ends the worker.

    Args:
        name: Its name.
        what: What it does until the event is set.
        stop: The event, which ends the materializer, too.
    """

    def __init__(self, name: str, what: Callable[[threading.Event], None], stop: threading.Event) -> None:
        super().__init__(name=name)
        self._what = what
        self._worker_stop = stop
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._what(self._worker_stop)
        except Exception as error:  # noqa: BLE001 - whatever it is: a worker that seems alive would sign no log any more
            # Without its text, which may quote what it failed on.
            _log.error("%s ended with %s, and the worker with it", self.name, type(error).__name__)  # noqa: TRY400
            self.error = error
            self._worker_stop.set()


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

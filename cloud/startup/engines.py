"""The engines of an installation: one per role of the control plane."""

from __future__ import annotations

from dataclasses import dataclass

from cloud.settings import CloudSettings
from cloud.storage.durability import check_durability
from cloud.storage.engine import ControlEngine, Deadline, check_role
from cloud.storage.roles import CONTROL_DATABASE
from cloud.storage.server import Server


@dataclass(slots=True)
class Engines:
    """One engine per role of the control plane."""

    app: ControlEngine
    worker: ControlEngine
    keys: ControlEngine
    maintenance: ControlEngine

    def close(self) -> None:
        """Close all of them."""
        for engine in (self.app, self.worker, self.keys, self.maintenance):
            engine.close()


def open_engines(settings: CloudSettings, server: Server) -> Engines:
    """One engine per role on the control plane of `server`, each checked."""

    def engine(role: str, pool_size: int) -> ControlEngine:
        return ControlEngine(
            server.url(f"luminescent_{role}", CONTROL_DATABASE),
            pool_size=pool_size,
            deadline=Deadline(total_s=settings.deadline_s, statement_s=settings.statement_s),
            application_name=f"luminescent-cloud {role}",
            recover=server.recover,
        )

    engines = Engines(
        app=engine("app", settings.control_pool_size),
        worker=engine("worker", settings.background_pool_size),
        keys=engine("keys", settings.background_pool_size),
        maintenance=engine("maintenance", settings.background_pool_size),
    )
    try:
        for one in (engines.app, engines.worker, engines.keys, engines.maintenance):
            check_role(one)
        with engines.app.connection() as connection:
            check_durability(connection)
    except BaseException:
        engines.close()
        raise
    return engines

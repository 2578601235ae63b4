"""The engines of an installation: one per role of the control plane."""

from __future__ import annotations

from dataclasses import dataclass

from cloud.storage.engine import ControlEngine


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

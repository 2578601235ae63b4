"""`PixeltableConfig`: an opened installation, as the provider takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError
from cloud.keys.ports import Keyring, Sealer
from cloud.memory.hot import HotTier
from cloud.memory.managed_ports import ManagedLedger
from cloud.memory.ports import Rows
from cloud.memory.read_times import ReadTimes
from cloud.memory.vectors import Models, Vectorizer
from cloud.tenancy.identity import IdentityResolver
from src.memory.scoring import RankingWeights


@dataclass(frozen=True, slots=True)
class PixeltableConfig:
    """The parts of an opened installation that memories live in.

    Get it from `runtime.pixeltable_config`, or open one with `PixeltableConfig.open(home)` and close it.

    Attributes:
        ledger: The control plane's part.
        rows: Pixeltable's part.
        keyring: The people's keys.
        sealer: The cipher.
        models: The embedding models behind the computed columns.
        hot: The hot tier.
        read_times: Notes of when memories were read.
        identities: Who is calling.
        clock: The present, UTC.
        weights: How scores are mixed.
        deleted_retention: How long a deleted memory can be brought back.
        on_close: Gives back what `open` took.
    """

    ledger: ManagedLedger = field(repr=False)
    rows: Rows = field(repr=False)
    keyring: Keyring = field(repr=False)
    sealer: Sealer = field(repr=False)
    models: Models = field(repr=False)
    hot: HotTier = field(repr=False)
    read_times: ReadTimes = field(repr=False)
    identities: IdentityResolver = field(repr=False)
    clock: Clock = field(repr=False)
    weights: RankingWeights = field(default_factory=RankingWeights)
    deleted_retention: timedelta = timedelta(days=30)
    on_close: Callable[[], None] | None = field(repr=False, default=None)

    opener: ClassVar[Callable[[Path], PixeltableConfig] | None] = None
    """Set by start-up, the only place that knows how to build an installation."""

    @property
    def vectorizer(self) -> Vectorizer:
        """The model that new tables begin with; opens envelopes whatever the model."""
        return self.models.of(self.models.first)

    @classmethod
    def open(cls, home: Path | str) -> PixeltableConfig:
        """Open the installation at `home` without registering anything.

        Raises:
            ConfigurationError: It cannot be opened; the message says why.
        """
        if cls.opener is None:
            raise ConfigurationError("import the package `cloud` before opening an installation")
        return cls.opener(Path(home))

    def close(self) -> None:
        """Give back what `open` took; does nothing for a runtime's own config, which the runtime closes."""
        if self.on_close is not None:
            self.on_close()

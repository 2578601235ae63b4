"""What an erasure needs to show how deep it went: ports, so that each part is measured by whoever knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cloud.gdpr.levels import Level, LevelState
from cloud.gdpr.model import Erasure
from cloud.kernel.clock import Clock
from cloud.kernel.scope import TenantPredicate


class StorageRewriter(Protocol):
    """Rewrites what deleted rows have left in files and in the write-ahead log."""

    def at_once(self) -> bool:
        """Whether an erasure rewrites before it returns, as the embedded default does."""
        ...

    def due(self) -> datetime:
        """When the next window begins (UTC), for an erasure that does not rewrite at once."""
        ...

    def rewrite(self, predicate: TenantPredicate, placements: Sequence[str]) -> Sequence[LevelState]:
        """Rewrite the control plane's tables and these placements; returns the file and the WAL level as measured.

        No other request waits longer than the configured bound. Harmless when repeated.

        Raises:
            ProviderUnavailableError: The bound could not be kept this time; calling again goes on.
        """
        ...


class Backups(Protocol):
    """Backups of the data and of the keyring that are still kept."""

    def level(self, before: datetime) -> LevelState:
        """The level of backups for what was erased at that time: reached, or due when the last of them expires."""
        ...


class DueNow:
    """`StorageRewriter` and `Backups` of an erasure that is done again before anything is served: the levels of the
    storage are due at once, and are reached by the upkeep of whoever opens the installation then.

    Args:
        clock: The present, UTC.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def at_once(self) -> bool:
        """Never."""
        return False

    def due(self) -> datetime:
        """Now."""
        return self._clock()

    def rewrite(self, predicate: TenantPredicate, placements: Sequence[str]) -> Sequence[LevelState]:
        """Nothing is rewritten yet."""
        return [LevelState(level, None, self._clock()) for level in (Level.FILE, Level.WAL)]

    def level(self, before: datetime) -> LevelState:
        """Due now: which backups there are is looked up then."""
        return LevelState(Level.BACKUPS, None, self._clock())


class ErasureLedger(Protocol):
    """Erasures, kept signed outside the databases, so that a restored backup brings nobody back."""

    def append(self, erasure: Erasure) -> None:
        """Keep that this subject is erased, or this tenant closed for good, durably; harmless when repeated.

        Raises:
            ConfigurationError: It cannot be written.
            ProviderUnavailableError: The disk is full.
        """
        ...


class Certifier(Protocol):
    """Signs certificates."""

    def commit(self, tenant_id: str, subject_id: str | None, user_id: str) -> bytes:
        """A sealed commitment to the person, to be kept with the erasure from when it is confirmed: once the key is
        destroyed, nobody can be asked whom it is about. Takes a quarter of a second on purpose.

        Raises:
            KeyDestroyedError: The tenant has no key (any more).
        """
        ...

    def is_current(self, erasure: Erasure) -> bool:
        """Whether `erasure` has a certificate, and that tells the levels as they are now."""
        ...

    def certify(self, erasure: Erasure, user_id: str | None) -> str:
        """A certificate of the levels as they are now, canonical JSON, signed, in the form in which it is kept.

        It is the first one, or takes the place of `erasure.certificate`. The outcome's event must be committed.

        Args:
            erasure: The erasure.
            user_id: The person, where the caller named it and no commitment was made before: the first certificate
                commits to it.
        """
        ...

    def hand_out(self, tenant_id: str, certificate: str) -> str:
        """A certificate that is kept, in the form in which whoever may erase gets it: with the salt that lets who
        knows the user id match it, unless the tenant's key is destroyed."""
        ...


@dataclass(frozen=True, slots=True)
class Evidence:
    """The parts of an installation that show how deep an erasure went. What is missing is claimed by nobody.

    Attributes:
        rewriter: Without one, the file and the WAL level are to come and nobody can say when.
        backups: Without any, the same of the level of backups.
        ledger: Without one, a restored backup is not known to lack an erasure.
        certifier: Without one, an erasure ends verified and not certified.
    """

    rewriter: StorageRewriter | None = None
    backups: Backups | None = None
    ledger: ErasureLedger | None = None
    certifier: Certifier | None = None

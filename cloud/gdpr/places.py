"""The data map at work: looks into every place that an erasure empties, and empties it.

Preview, erasure and verification go by the same map: a place that lacks a finder or an eraser, or one that stands in no
entry, cannot be composed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from cloud.gdpr.catalog import CATALOG, DELETED_FROM, Kind
from cloud.gdpr.ports import ErasureStore
from cloud.kernel.errors import ConfigurationError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.config import PixeltableConfig

Find = Callable[[TenantPredicate, str], int]
Erase = Callable[[TenantPredicate, str], None]


@dataclass(frozen=True, slots=True)
class Handler:
    """How a place outside the control plane is handled.

    Attributes:
        find: Records of a subject in it.
        erase: Removes them; harmless when repeated.
    """

    find: Find
    erase: Erase


class DataMap:
    """The places of an installation that an erasure empties.

    Args:
        store: The control plane's rows.
        config: The installation.

    Raises:
        ConfigurationError: An entry of the data map cannot be looked into or emptied, or what can be is no entry.
    """

    def __init__(self, store: ErasureStore, config: PixeltableConfig) -> None:
        self._store = store
        self._config = config
        keyring, hot, read_times = config.keyring, config.hot, config.read_times
        self.handlers: dict[str, Handler] = {
            "pixeltable.memories": Handler(self._find_rows, self._erase_rows),
            "keyring.subject": Handler(
                self._find_key, lambda where, subject_id: _done(keyring.destroy_subject(where.tenant_id, subject_id))
            ),
            "process.hot_tier": Handler(
                lambda where, subject_id: 0 if hot.get(where.tenant_id, subject_id) is None else 1,
                lambda where, subject_id: hot.drop(where.tenant_id, subject_id),
            ),
            "process.read_times": Handler(
                lambda where, subject_id: read_times.noted(where.tenant_id, subject_id),
                lambda where, subject_id: read_times.drop(where.tenant_id, subject_id),
            ),
            "process.keys": Handler(
                lambda where, subject_id: int(keyring.remembers(where.tenant_id, subject_id)),
                lambda where, subject_id: keyring.forget(where.tenant_id, subject_id),
            ),
        }
        require_complete(DELETED_FROM, {*store.erased_places(), *self.handlers})

    def counts(self, predicate: TenantPredicate, subject_id: str) -> dict[str, int]:
        """Records by name of the place; every place that an erasure empties has an entry.

        Raises:
            ProviderUnavailableError: A place could not be looked into: then nothing is claimed about it.
        """
        found = self._store.count(predicate, subject_id)
        found |= {name: handler.find(predicate, subject_id) for name, handler in self.handlers.items()}
        return {name: found[name] for name in DELETED_FROM}

    def erase(self, kind: Kind, predicate: TenantPredicate, subject_id: str) -> None:
        """Empty the places of this kind, in the order of the map; harmless when repeated.

        Raises:
            ErasureIncompleteError: The keyring still shows a key after it was overwritten.
            ProviderUnavailableError: A place did not answer; calling again goes on.
        """
        if kind is Kind.CONTROL_TABLE:
            # In one transaction: the stock is given back with the rows.
            self._store.delete_rows(predicate, subject_id)
            return
        for place in CATALOG:
            if place.kind is kind and place.name in self.handlers:
                self.handlers[place.name].erase(predicate, subject_id)

    def _find_rows(self, predicate: TenantPredicate, subject_id: str) -> int:
        rows = self._config.rows
        return sum(rows.count_subject(predicate, name, subject_id) for name in self._store.placements(predicate))

    def _erase_rows(self, predicate: TenantPredicate, subject_id: str) -> None:
        for placement in self._store.placements(predicate):
            self._config.rows.remove_subject(predicate, placement, subject_id)

    def _find_key(self, predicate: TenantPredicate, subject_id: str) -> int:
        return 0 if self._config.keyring.subject_key(predicate.tenant_id, subject_id) is None else 1


def require_complete(entries: Collection[str], handled: Collection[str]) -> None:
    """Return if what can be looked into and emptied is what the data map says.

    Raises:
        ConfigurationError: Names an entry that is handled by nothing, or the other way round.
    """
    if missing := sorted(set(entries) - set(handled)):
        raise ConfigurationError(f"the data map lists {missing[0]}, and nothing looks into it and empties it")
    if unlisted := sorted(set(handled) - set(entries)):
        raise ConfigurationError(f"{unlisted[0]} is emptied by an erasure and stands in no entry of the data map")


def _done(_: object) -> None:
    return None

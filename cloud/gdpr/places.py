"""Looks into every place of the data map that an erasure empties. Preview and verification count the same way."""

from __future__ import annotations

from cloud.gdpr.catalog import DELETED_FROM
from cloud.gdpr.ports import ErasureStore
from cloud.kernel.scope import TenantPredicate
from cloud.memory.config import PixeltableConfig


class Finder:
    """Counts what is kept of a subject, place by place."""

    def __init__(self, store: ErasureStore, config: PixeltableConfig) -> None:
        self._store = store
        self._config = config

    def counts(self, predicate: TenantPredicate, subject_id: str) -> dict[str, int]:
        """Records by name of the place; every place that an erasure empties has an entry.

        Raises:
            ProviderUnavailableError: A place could not be looked into: then nothing is claimed about it.
        """
        tenant_id = predicate.tenant_id
        key = self._config.keyring.subject_key(tenant_id, subject_id)
        found = {
            **self._store.count(predicate, subject_id),
            "pixeltable.memories": sum(
                self._config.rows.count_subject(predicate, placement, subject_id)
                for placement in self._store.placements(predicate)
            ),
            "keyring.subject": 0 if key is None else 1,
            "process.hot_tier": 0 if self._config.hot.get(tenant_id, subject_id) is None else 1,
            "process.read_times": self._config.read_times.noted(tenant_id, subject_id),
            # The keyring hands out no cached key whose slot is overwritten, so the two count alike.
            "process.keys": 0 if key is None else 1,
        }
        return {name: found[name] for name in DELETED_FROM}

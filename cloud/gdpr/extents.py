"""`Extent`: what one erasure removes, a person or everybody of a tenant. The steps are the same for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, assert_never

from cloud.gdpr.catalog import Kind
from cloud.gdpr.model import Erasure
from cloud.gdpr.places import DataMap
from cloud.gdpr.ports import ErasureStore
from cloud.kernel import failpoints
from cloud.kernel.errors import KeyDestroyedError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.config import PixeltableConfig


class Extent(Protocol):
    """What an erasure looks into and empties; each method is harmless when repeated.

    Attributes:
        step: How its failpoints begin.
    """

    step: str

    def counts(self) -> dict[str, int]:
        """Records by entry of the data map; every place that it empties has one.

        Raises:
            ProviderUnavailableError: A place could not be looked into: then nothing is claimed about it.
        """
        ...

    def keys(self) -> int:
        """How many keys open something of it."""
        ...

    def destroy_keys(self) -> None:
        """Destroy the keys and their links, and forget what this process remembers.

        Raises:
            ErasureIncompleteError: The keyring still shows a key after it was overwritten.
        """
        ...

    def remove_rows(self, placements: Sequence[str]) -> None:
        """Delete its rows in both planes; the caller holds the placements' locks."""
        ...


class Extents:
    """Makes extents.

    Args:
        store: Rows of the control plane.
        config: The installation.
    """

    def __init__(self, store: ErasureStore, config: PixeltableConfig) -> None:
        self._store = store
        self._config = config
        self._map = DataMap(store, config)

    def of(self, predicate: TenantPredicate, erasure: Erasure) -> Extent:
        """What this erasure removes."""
        match erasure.whole_tenant, erasure.subject_id:
            case True, _:
                return self.of_tenant(predicate)
            case False, str(subject_id):
                return _Person(self._map, self._config, predicate, subject_id)
            case False, None:
                # Never everybody: nothing was kept of the person.
                raise AssertionError("an erasure of nobody has no extent")
            case never:
                assert_never(never)

    def of_tenant(self, predicate: TenantPredicate) -> Extent:
        """Everybody of a tenant."""
        return _Tenant(self._map, self._store, self._config, predicate)


class _Person:
    step = "erase"

    def __init__(self, places: DataMap, config: PixeltableConfig, predicate: TenantPredicate, subject_id: str) -> None:
        self._map = places
        self._keyring = config.keyring
        self._predicate = predicate
        self._subject_id = subject_id

    def counts(self) -> dict[str, int]:
        return self._map.counts(self._predicate, self._subject_id)

    def keys(self) -> int:
        return int(self._keyring.subject_key(self._predicate.tenant_id, self._subject_id) is not None)

    def destroy_keys(self) -> None:
        self._map.erase(Kind.KEYRING, self._predicate, self._subject_id)
        self._map.erase(Kind.CACHE, self._predicate, self._subject_id)

    def remove_rows(self, placements: Sequence[str]) -> None:
        self._map.erase(Kind.CONTROL_TABLE, self._predicate, self._subject_id)
        failpoints.reach("erase.ledger_deleted")
        self._map.erase(Kind.PIXELTABLE_TABLE, self._predicate, self._subject_id)


class _Tenant:
    step = "close"

    def __init__(
        self, places: DataMap, store: ErasureStore, config: PixeltableConfig, predicate: TenantPredicate
    ) -> None:
        self._map = places
        self._store = store
        self._config = config
        self._predicate = predicate

    def counts(self) -> dict[str, int]:
        rows, predicate = self._config.rows, self._predicate
        return {
            **self._store.count_tenant(predicate),
            "pixeltable.memories": sum(
                rows.count_tenant(predicate, name) for name in self._store.placements(predicate)
            ),
            "keyring.subject": len(self._config.keyring.subjects(predicate.tenant_id)),
        }

    def keys(self) -> int:
        keyring, tenant_id = self._config.keyring, self._predicate.tenant_id
        try:
            keyring.tenant_key(tenant_id)
        except KeyDestroyedError:
            return len(keyring.subjects(tenant_id))
        return len(keyring.subjects(tenant_id)) + 1

    def destroy_keys(self) -> None:
        keyring, tenant_id = self._config.keyring, self._predicate.tenant_id
        people = keyring.subjects(tenant_id)
        keyring.destroy_tenant(tenant_id)
        for subject_id in people:
            self._map.erase(Kind.CACHE, self._predicate, subject_id)
        self._config.hot.drop_tenant(tenant_id)

    def remove_rows(self, placements: Sequence[str]) -> None:
        self._store.delete_tenant(self._predicate)
        failpoints.reach("close.ledger_deleted")
        for placement in placements:
            self._config.rows.remove_tenant(self._predicate, placement)

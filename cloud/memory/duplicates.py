"""Which of a person's memories a new one repeats: looked for after it is stored, and only if somebody asks."""

from __future__ import annotations

import logging

from cloud.kernel.errors import LuminescentError
from cloud.memory.config import PixeltableConfig
from cloud.memory.ports import Located
from cloud.memory.snapshots import SnapshotLoader
from cloud.tenancy.admission import Admitted
from src.memory.duplicates import find_duplicates
from src.memory.lifecycle import Duplicate, StoredMemoryId
from src.memory.schemas import Memory

_log = logging.getLogger(__name__)


class DuplicateFinder:
    """Compares a stored memory with what its person had when it was stored, other processes' writes included."""

    def __init__(self, config: PixeltableConfig, loader: SnapshotLoader) -> None:
        self._config = config
        self._loader = loader

    def told(self, admitted: Admitted, memory: Memory, memory_id: str) -> StoredMemoryId:
        """The id with its duplicates. The memory is stored: trouble in looking for them does not fail the call."""
        try:
            return StoredMemoryId(memory_id, self._found(admitted, memory, memory_id))
        except LuminescentError as error:
            _log.warning("the duplicates of a memory could not be looked for: %s", error)
            return StoredMemoryId(memory_id, None)

    def _found(self, admitted: Admitted, memory: Memory, memory_id: str) -> tuple[Duplicate, ...] | None:
        person = self._config.keyring.resolve_subject(admitted.scope.tenant_id, memory.user_id, create=False)
        # Asked afterwards, so of two that are stored at once at least one is told of the other.
        located = self._config.ledger.locate(admitted.predicate, memory_id, restricted=False, own_subject_id=None)
        if person is None or not isinstance(located, Located) or located.subject_id != person.subject_id:
            return None
        snapshot = self._loader.at_least(admitted.predicate, person, located.generation)
        now = self._config.clock()
        others = {
            key: held.envelope.content
            for key, held in snapshot.memories.items()
            if key != memory_id and held.valid_at(now)
        }
        # Of the model that the person's memories are read with, which need not be the one that new tables begin with.
        vector = self._config.models.of(snapshot.model).embed([memory.content])[0]
        return find_duplicates(memory.content, vector, snapshot.index, others)

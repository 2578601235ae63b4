"""A server that commits, and a connection that breaks before it can say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import OperationalError

from cloud.storage.engine import ControlEngine


class LostError(Exception):
    """Stands for the driver's error."""


@contextmanager
def lost_commit(engine: ControlEngine, meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
    """The first transaction of the block commits, and whoever waits for it hears of a broken connection instead.

    Args:
        engine: Whose transactions.
        meanwhile: What others do before the transaction is repeated.
    """
    dialect = engine._engine.dialect
    real, commits = dialect.do_commit, 0

    def commit(connection: Any) -> None:
        nonlocal commits
        real(connection)
        commits += 1
        if commits == 1:
            meanwhile()
            raise OperationalError("COMMIT", {}, LostError())

    dialect.do_commit = commit  # type: ignore[method-assign]
    try:
        yield
    finally:
        dialect.do_commit = real  # type: ignore[method-assign]
    assert commits > 1, "the answer was lost, and the transaction repeated"

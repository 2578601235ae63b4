"""Pixeltable tables that forget: the one place that asks for them, and the one that translates Pixeltable's errors.

A normal Pixeltable table keeps every version of every row; only an *operational* table updates in place and deletes.
The argument that asks for one is private, so what was made is looked at again each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from cloud.kernel.errors import ConfigurationError, LuminescentError, ProviderUnavailableError
from cloud.storage.pixeltable_env import COMPONENT

if TYPE_CHECKING:
    from pixeltable import Table


def create_operational_table(path: str, schema: Mapping[str, object], primary_key: Sequence[str]) -> Table:
    """The table at `path`, made if it is missing; updating and deleting rows in it leaves no older version.

    Requires `open_pixeltable`. An existing table is returned as it is: its columns are not compared.

    Args:
        path: Pixeltable path of the table.
        schema: Column types by name.
        primary_key: Columns that together identify a row.

    Raises:
        ConfigurationError: The table keeps versions, or this version of Pixeltable cannot make one that does not.
        ProviderUnavailableError: Pixeltable failed.
    """
    import pixeltable

    with translated():
        try:
            table = pixeltable.create_table(
                path,
                dict(schema),
                primary_key=list(primary_key),
                if_exists="ignore",
                _is_data_versioned=False,
            )
        except TypeError:
            raise ConfigurationError(
                "this version of Pixeltable does not take '_is_data_versioned', so its tables would never forget a "
                "deleted row: use a version that this release supports"
            ) from None
    assert_operational(table)
    return table


def assert_operational(table: Table) -> None:
    """`table` keeps no older versions of its rows.

    Raises:
        ConfigurationError: It does, or this version of Pixeltable does not tell.
        ProviderUnavailableError: Pixeltable failed.
    """
    with translated():
        versioned = table.get_metadata().get("is_data_versioned")
    if versioned is not False:
        raise ConfigurationError(
            "a Pixeltable table that must forget deleted rows keeps their versions (is_data_versioned is "
            f"{versioned!r}): it was made in another way, or this version of Pixeltable has changed"
        )


def table_kinds(directory: str) -> dict[str, bool]:
    """Whether each table of a Pixeltable directory is operational, by its path; empty if there is no such directory.

    Requires `open_pixeltable`.

    Raises:
        ProviderUnavailableError: Pixeltable failed.
    """
    import pixeltable

    with translated():
        if directory not in pixeltable.list_dirs():
            return {}
        return {
            str(path): pixeltable.get_table(path).get_metadata().get("is_data_versioned") is False
            for path in pixeltable.list_tables(directory)
        }


@contextmanager
def translated() -> Iterator[None]:
    """Errors of Pixeltable and of its database become `ProviderUnavailableError`, without their text.

    Neither cause nor context is kept, other than elsewhere in this project: their texts quote the input values of
    rows, and whatever prints a chain of exceptions would print them. What is kept is a code: Pixeltable's own, or the
    SQLSTATE.
    """
    from pixeltable import exceptions

    code: str
    try:
        yield
        return
    except LuminescentError:
        raise
    except exceptions.Error as exc:
        code = exc.error_code.name
    except SQLAlchemyError as exc:
        code = f"SQLSTATE {getattr(getattr(exc, 'orig', None), 'sqlstate', None)}"
    except psycopg.Error as exc:
        code = f"SQLSTATE {exc.sqlstate}"
    error = ProviderUnavailableError(COMPONENT, reason=f"failed ({code})")
    try:
        raise error
    finally:
        # The `with` statement's own handling of the original has just attached it as context again.
        error.__context__ = None

"""A log as a whole, read through: what is in the database from there, what is archived from its file.

An export of archived events is the same as one of before they were archived. Where an archive is missing or changed
that is said, with its file and its leaves; nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from cloud.audit.archive import Archive
from cloud.audit.archive_files import ArchiveFiles, parsed
from cloud.audit.heads import Head
from cloud.audit.proofs import Leaf
from cloud.audit.tiles import LoadTile
from cloud.kernel.errors import ConfigurationError


class OnlineTrees(Protocol):
    """The trees of all logs, and the events that are in the database."""

    def head(self, log_id: str) -> Head | None:
        """The head of a log."""
        ...

    def tiles(self, log_id: str) -> LoadTile:
        """The hashes of a log's tree, those of archived leaves too."""
        ...

    def pending(self, log_id: str, *, batch: int) -> Sequence[str]:
        """Events of a log that have no leaf yet, at most so many."""
        ...

    def any_pending(self, log_id: str, event_ids: Sequence[str]) -> bool:
        """Whether one of these events of a log has no leaf yet."""
        ...

    def latest(self, log_id: str, like: Mapping[str, object]) -> Leaf | None:
        """The latest leaf in the database whose event has these members."""
        ...

    def page(self, log_id: str, first: int, end: int) -> Sequence[tuple[int, Mapping[str, object]]]:
        """The leaves from `first` on that are in the database, at most a page of them, each with its event."""
        ...

    def first_since(self, log_id: str, size: int, since: datetime) -> int | None:
        """The first leaf in the database of an event of `since` or later."""
        ...

    def last_before(self, log_id: str, size: int, until: datetime) -> int | None:
        """The last leaf in the database of an event of before `until`."""
        ...


class Archives(Protocol):
    """What is recorded of archives."""

    def of(self, log_id: str, first: int = 0, end: int | None = None) -> Sequence[Archive]:
        """The archives, the deleted ones too, that hold leaves from `first` to `end`, in their order."""
        ...


class WholeLogs:
    """`LogTrees` of logs whose older months may be archived.

    Args:
        trees: Trees, and the events that are in the database.
        archives: What is recorded of archives.
        files: The archives.
    """

    def __init__(self, trees: OnlineTrees, archives: Archives, files: ArchiveFiles) -> None:
        self._trees = trees
        self._archives = archives
        self._files = files

    def head(self, log_id: str) -> Head | None:
        return self._trees.head(log_id)

    def tiles(self, log_id: str) -> LoadTile:
        return self._trees.tiles(log_id)

    def pending(self, log_id: str, *, batch: int) -> Sequence[str]:
        return self._trees.pending(log_id, batch=batch)

    def any_pending(self, log_id: str, event_ids: Sequence[str]) -> bool:
        return self._trees.any_pending(log_id, event_ids)

    def latest(self, log_id: str, like: Mapping[str, object]) -> Leaf | None:
        """What is asked for is of late, and in the database."""
        return self._trees.latest(log_id, like)

    def leaves(self, log_id: str, first: int, end: int) -> Iterator[Mapping[str, object]]:
        """The events of these leaves, read in pages.

        A leaf that is neither in the database nor in an archive is left out, as somebody must have removed it: the
        verifier says so of the export.

        Raises:
            ConfigurationError: The archive with some of them was deleted; says when, and what can be exported.
            UnreadableFileError: The archive with some of them is missing or was changed; names it.
        """
        while first < end:
            page = self._trees.page(log_id, first, end)
            if page and page[0][0] == first:
                for index, event in page:
                    if index == first:
                        yield event
                        first += 1
                    elif index > first:
                        break
                continue
            # Asked after the page: what was archived and removed meanwhile is on record by now.
            holding = self._holding(log_id, first)
            if holding is not None:
                until = min(end, holding.end)
                for leaf in self._files.leaves(holding, first, until):
                    yield parsed(leaf)
                first = until
            else:
                first = self._next(log_id, first, page[0][0] if page else end)

    def _holding(self, log_id: str, index: int) -> Archive | None:
        """The archive that holds a leaf."""
        found = next(iter(self._archives.of(log_id, index, index + 1)), None)
        if found is not None and found.deleted_at is not None:
            raise self._gone(log_id, found)
        return found

    def _next(self, log_id: str, index: int, online: int) -> int:
        """The next leaf after `index` that is anywhere, in the database at `online`."""
        later = [archive.first for archive in self._archives.of(log_id, index) if archive.first > index]
        return min([online, *later])

    def _gone(self, log_id: str, archive: Archive) -> ConfigurationError:
        gone = [one for one in self._archives.of(log_id) if one.deleted_at is not None]
        since = max(one.newest_at for one in gone).replace(microsecond=0) + timedelta(seconds=1)
        return ConfigurationError(
            f"{archive.leaves} were kept until {archive.deleted_at:%Y-%m-%d} and are deleted; what is kept can be"
            f" exported with --since {since:%Y-%m-%dT%H:%M:%SZ}"
        )

    def span(self, log_id: str, size: int, *, since: datetime | None, until: datetime | None) -> tuple[int, int]:
        """A run of leaves below `size` that holds every event from `since` to `until`, and one more at either end.

        Neighbours may be out of order in time, so it can hold a few more of before and after. The ones at the ends show
        that nothing is missing there: where the first or the last event itself was removed, a leaf has none. Where the
        neighbour's archive was deleted, the run begins with the event itself.

        Raises:
            ConfigurationError: An archive with some of these leaves was deleted.
            UnreadableFileError: An archive that tells where they begin or end is missing or was changed.
        """
        archives = self._archives.of(log_id, 0, size)
        first, end = 0, size
        if since is not None:
            found = self._first(log_id, size, since, archives)
            first = size if found is None else found
            if not _is_deleted(archives, first - 1):
                first = max(first - 1, 0)
        if until is not None:
            last = self._last(log_id, size, until, archives)
            end = min((-1 if last is None else last) + 2, size)
        end = max(first, end)
        for archive in archives:
            if archive.deleted_at is not None and archive.first < end and archive.end > first:
                raise self._gone(log_id, archive)
        return first, end

    def _first(self, log_id: str, size: int, since: datetime, archives: Sequence[Archive]) -> int | None:
        found = [self._trees.first_since(log_id, size, since)]
        for archive in archives:
            if archive.newest_at >= since:
                # The first that has one: what follows it has later leaves.
                found.append(
                    min((index for index, at in self._times(archive) if at >= since and index < size), default=None)
                )
                break
        known = [index for index in found if index is not None]
        return min(known) if known else None

    def _last(self, log_id: str, size: int, until: datetime, archives: Sequence[Archive]) -> int | None:
        found = [self._trees.last_before(log_id, size, until)]
        for archive in reversed(archives):
            if archive.oldest_at < until:
                found.append(
                    max((index for index, at in self._times(archive) if at < until and index < size), default=None)
                )
                break
        known = [index for index in found if index is not None]
        return max(known) if known else None

    def _times(self, archive: Archive) -> Iterator[tuple[int, datetime]]:
        if archive.deleted_at is None:
            return self._files.times(archive)
        # Nobody knows any more which of them it is: a range that may begin or end among them holds them all.
        return iter([(archive.first, archive.newest_at), (archive.end - 1, archive.oldest_at)])


def _is_deleted(archives: Sequence[Archive], index: int) -> bool:
    return any(one.first <= index < one.end and one.deleted_at is not None for one in archives)

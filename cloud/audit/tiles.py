"""Hashes of a log's tree in tiles of 256, so that appending writes and proving reads a few rows; pure.

Tile (0, n) holds the hashes of the leaves from 256·n on, tile (1, n) those of the tiles (0, 256·n) and following that
are full, and so on. The last tile of a level may be partial; an entry that was written never changes.

Source: C2SP tlog-tiles, with tiles of height 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cloud.audit.merkle import Subtree
from cloud.audit.verify import HASH_BYTES, node_hash

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT

Place = tuple[int, int]
"""Level and number of a tile."""
LoadTile = Callable[[Place], bytes]
"""The hashes of a tile, 32 bytes each; empty if there is no such tile yet."""


def appended(size: int, leaves: Sequence[bytes], load: LoadTile) -> dict[Place, bytes]:
    """The tiles that change when these leaf hashes follow the first `size` leaves.

    Raises:
        ValueError: A tile does not hold what a tree of `size` leaves has there.
    """
    changed: dict[Place, bytes] = {}
    _append(0, size, leaves, load, changed)
    return changed


def _append(level: int, size: int, entries: Sequence[bytes], load: LoadTile, changed: dict[Place, bytes]) -> None:
    done = 0
    full: list[bytes] = []
    while done < len(entries):
        number, held = divmod(size + done, WIDTH)
        tile = load((level, number)) if held else b""
        if len(tile) != held * HASH_BYTES:
            raise ValueError(f"tile {level}/{number} has {len(tile) // HASH_BYTES} hashes, not {held}")
        added = entries[done : done + WIDTH - held]
        changed[(level, number)] = tile = tile + b"".join(added)
        done += len(added)
        if len(tile) == WIDTH * HASH_BYTES:
            full.append(_combined(tile))
    if full:
        _append(level + 1, size // WIDTH, full, load, changed)


def subtrees(load: LoadTile) -> Subtree:
    """Looks up the hash of a complete subtree, reading one tile of it."""

    def subtree(level: int, index: int) -> bytes:
        tile_level, inner = divmod(level, HEIGHT)
        number, offset = divmod(index << inner, WIDTH)
        hashes = load((tile_level, number))[offset * HASH_BYTES : (offset + (1 << inner)) * HASH_BYTES]
        if len(hashes) != HASH_BYTES << inner:
            raise ValueError(f"tile {tile_level}/{number} does not hold the subtree {level}/{index}")
        return _combined(hashes)

    return subtree


def overlaid(load: LoadTile, changed: Mapping[Place, bytes]) -> LoadTile:
    """`load` as it will be once `changed` is written."""
    return lambda place: changed[place] if place in changed else load(place)


def _combined(hashes: bytes) -> bytes:
    row = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
    while len(row) > 1:
        row = [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=True)]
    return row[0]

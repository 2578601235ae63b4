"""The use of keys: noted always, written in batches, and kept where it could not be written."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from cloud.kernel.errors import ProviderUnavailableError
from cloud.tenancy.key_use import FLUSH_EVERY_S, KeyUse


class Written:
    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.fails = False

    def used(self, key_ids: Sequence[str]) -> None:
        if self.fails:
            raise ProviderUnavailableError("control plane")
        self.batches.append(list(key_ids))


class Watch:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def written(store: Written, batches: int) -> list[list[str]]:
    ends_s = time.monotonic() + 5
    while len(store.batches) < batches and time.monotonic() < ends_s:
        time.sleep(0.005)
    return store.batches


def test_a_minute_of_use_is_one_write_whatever_the_load() -> None:
    store, watch = Written(), Watch()
    use = KeyUse(store, monotonic_s=watch)
    for _ in range(1000):
        use.note("b")
        use.note("a")
    assert store.batches == []
    watch.now_s += FLUSH_EVERY_S
    threads = [threading.Thread(target=use.note, args=("c",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written(store, 1)[0] == ["a", "b", "c"]
    use.close()
    assert len(store.batches) <= 2


def test_what_could_not_be_written_is_written_the_next_time() -> None:
    store, watch = Written(), Watch()
    use = KeyUse(store, monotonic_s=watch)
    store.fails = True
    use.note("a")
    use.close()
    store.fails = False
    use.note("b")
    use.flush()
    assert store.batches == [["a", "b"]]
    use.flush()
    assert store.batches == [["a", "b"]]

"""Encrypts a stream to its recipients' keys with age, so that nothing of it is anywhere in the clear.

The text goes through a pipe, which is memory of the kernel, to a thread that encrypts it. `pyrage` comes with the
extra `encrypted-export`.

Source:
    The age format, C2SP, age-encryption.org/v1.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final

from cloud.kernel.errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MAX_RECIPIENTS: Final = 100
_SECRET: Final = ("AGE-SECRET-KEY-", "-----BEGIN", "AGE-PLUGIN-")


@dataclass(frozen=True, slots=True)
class Recipients:
    """Public keys, any of whose secret keys opens what is encrypted to them."""

    keys: tuple[object, ...] = field(repr=False)


def recipients_of(texts: Sequence[str]) -> Recipients:
    """The public keys that `texts` are: `age1…`, `ssh-ed25519 …` or `ssh-rsa …`.

    Raises:
        ConfigurationError: One is none, or the extra is not installed; says which one, and never quotes it.
    """
    try:
        from pyrage import RecipientError, ssh, x25519
    except ImportError as exc:
        raise ConfigurationError(
            "encryption to a recipient needs the extra: pip install 'luminescent-cloud[encrypted-export]'"
        ) from exc
    if len(texts) > _MAX_RECIPIENTS:
        raise ConfigurationError(f"at most {_MAX_RECIPIENTS} recipients can be given")
    found: list[object] = []
    for number, text in enumerate((text.strip() for text in texts), start=1):
        if text.upper().startswith(_SECRET):
            raise ConfigurationError(
                f"recipient {number} looks like a secret key: give the public one, and treat the secret one as known"
            )
        try:
            found.append(ssh.Recipient.from_str(text) if text.startswith("ssh-") else x25519.Recipient.from_str(text))
        except RecipientError:
            raise ConfigurationError(
                f"recipient {number} is no public key: it begins with age1, ssh-ed25519 or ssh-rsa"
            ) from None
    return Recipients(tuple(found))


class _Watched(io.RawIOBase):
    """Writes to a stream and remembers what went wrong: pyrage 1.4 loses the error of its last 8 KiB."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return self._out.write(data)
        except OSError as exc:
            self.failure = self.failure or exc
            raise


@contextmanager
def encrypted(out: BinaryIO, recipients: Recipients) -> Iterator[BinaryIO]:
    """A stream whose text stands encrypted in `out` once the block has ended; `out` stays open.

    Raises:
        OSError: `out` could not be written, as on a full disk.
    """
    from pyrage import encrypt_io

    failures: list[BaseException] = []
    watched = _Watched(out)
    reading, writing = os.pipe()

    def work() -> None:
        with os.fdopen(reading, "rb") as text:
            try:
                encrypt_io(text, watched, list(recipients.keys))
            except BaseException as exc:  # noqa: BLE001 - told to whoever waits, in the other thread
                failures.append(exc)

    thread = threading.Thread(target=work, name="export-encryption")
    thread.start()
    try:
        # Where the encryption failed, its end of the pipe is closed: what is written from then on fails, and the
        # reason is remembered.
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as text:
            yield text
    finally:
        thread.join()
    if watched.failure is not None:
        raise watched.failure
    if failures:
        raise ConfigurationError("the export could not be encrypted to these recipients") from failures[0]

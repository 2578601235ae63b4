"""Signs checkpoints and handovers as notes; `cloud.audit.verify` opens them.

Source: C2SP signed-note, tlog-checkpoint; RFC 8032 (Ed25519).
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.audit.verify import ROTATION, Checkpoint, VerifierKey, key_id_of

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key of the installation; it signs for each log under that log's name.

    Attributes:
        secret: 32 bytes.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> SigningKey:
        """A new random key."""
        return cls(os.urandom(SECRET_BYTES))

    def verifier(self, origin: str) -> VerifierKey:
        """The public key as the log `origin` publishes it."""
        public = self._key().public_key().public_bytes_raw()
        return VerifierKey(origin, key_id_of(origin, public), public)

    def checkpoint(self, checkpoint: Checkpoint) -> str:
        """The checkpoint as a note that this key signed under the log's own name."""
        return self.note(checkpoint.text(), checkpoint.origin)

    def note(self, text: str, name: str) -> str:
        """A note of this text, which ends with a newline, that this key signed under `name`."""
        return f"{text}\n{self._signature(name, text)}"

    def statement(self, kind: str, document: bytes) -> bytes:
        """The signature, 64 bytes, of a document of this kind.

        The kind's line comes first, so that it is the signature of nothing else: a note of this key begins with the
        name of a log or with `ROTATION`.

        Raises:
            ValueError: The kind is no line, or a note could begin with it.
        """
        if not kind or "\n" in kind or "/" not in kind or kind.startswith(("luminescent-cloud/", ROTATION)):
            raise ValueError("not a kind of document that this key signs")
        return self._key().sign(kind.encode() + b"\n" + document)

    def handover(self, successor: SigningKey, origin: str) -> str:
        """A note that names this key and the next, signed by both: who trusts one of them may trust the other."""
        text = f"{ROTATION}\n{self.verifier(origin).text()}\n{successor.verifier(origin).text()}\n"
        return f"{text}\n{self._signature(origin, text)}{successor._signature(origin, text)}"

    def _signature(self, name: str, text: str) -> str:
        signed = self.verifier(name).key_id + self._key().sign(text.encode())
        return f"— {name} {base64.b64encode(signed).decode()}\n"

    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.secret)

"""Published notes: the signed note of golang.org/x/mod/sumdb/note, whose key is public."""

from __future__ import annotations

import base64

import pytest

from cloud.audit.signing import SigningKey
from cloud.audit.verify import Checkpoint, VerificationError, VerifierKey, open_checkpoint, open_note

KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
NOTE = f"{TEXT}\n{SIGNATURE}"


def test_the_published_note_opens_under_the_published_key() -> None:
    assert open_note(NOTE, VerifierKey.parse(KEY)) == TEXT


def test_the_published_secret_gives_the_published_key_and_signature() -> None:
    signing = SigningKey(base64.b64decode(SECRET)[1:])
    assert signing.verifier("PeterNeumann").text() == KEY
    assert signing._signature("PeterNeumann", TEXT) == SIGNATURE


def test_a_note_of_others_too_opens_under_the_key_that_is_known() -> None:
    other = SigningKey.new()
    both = NOTE + other._signature("witness.example/1", TEXT)
    assert open_note(both, VerifierKey.parse(KEY)) == TEXT
    assert open_note(both, other.verifier("witness.example/1")) == TEXT


@pytest.mark.parametrize(
    "note",
    [
        "",
        TEXT,
        NOTE[:-1],
        NOTE.replace("answer", "answers"),
        NOTE.replace("— ", "- "),
        NOTE.replace("x08g", "y08g"),
        NOTE.replace("\n\n", "\n"),
        NOTE + "\n",
        NOTE.replace("you", "yo\tu"),
        NOTE.replace("AM=\n", "AM\n"),
        NOTE.replace("AM=\n", "AN=\n"),
        NOTE.replace("Neumann", "Neuman"),
        f"{TEXT}\n{SIGNATURE * 17}",
    ],
)
def test_a_note_that_is_not_the_signed_one_does_not_open(note: str) -> None:
    with pytest.raises(VerificationError):
        open_note(note, VerifierKey.parse(KEY))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "PeterNeumann",
        KEY.replace("c74f20a3", "c74f20a4"),
        KEY.replace("Peter", "Petra"),
        KEY[:-1],
        KEY.replace("+AR", "+BR"),
        KEY.replace("PeterNeumann", "Peter Neumann"),
    ],
)
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(VerificationError):
        VerifierKey.parse(key)


def test_a_checkpoint_holds_for_the_log_that_its_key_is_named_for_alone() -> None:
    signing = SigningKey.new()
    head = Checkpoint("example.com/log", 7, bytes(32))
    note = signing.checkpoint(head)
    assert open_checkpoint(note, [signing.verifier("example.com/log")]) == head
    with pytest.raises(VerificationError):
        open_checkpoint(note, [signing.verifier("example.com/other")])
    stolen = f"{head.text()}\n{signing._signature('example.com/other', head.text())}"
    with pytest.raises(VerificationError, match="of another"):
        open_checkpoint(stolen, [signing.verifier("example.com/other")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log\n1\n",
        "log\n01\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "log\n-1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "log\n1\nAAAA\n",
        "log\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nmore\n",
        "\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    ],
)
def test_a_checkpoint_that_is_malformed_is_refused(text: str) -> None:
    with pytest.raises(VerificationError):
        Checkpoint.parse(text)

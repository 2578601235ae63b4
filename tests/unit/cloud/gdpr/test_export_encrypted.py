"""Laws of an encrypted export: its recipients alone read it, nothing is in the clear, and a half one is nowhere."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest
from pyrage import decrypt, ssh, x25519

from cloud import request_context
from cloud.gdpr.encrypting import encrypted, recipients_of
from cloud.gdpr.model import ExportBundle
from cloud.kernel.errors import ConfigurationError, PermissionDeniedError, ProviderUnavailableError
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker
from tests.unit.cloud.gdpr.test_export import exported

SECRET = "Prefers a very unusual tea from Nuwara Eliya"
IDENTITY = x25519.Identity.generate()
PUBLIC = str(IDENTITY.to_public())


async def encrypted_export(look: Looker, path: Path, *recipients: str) -> ExportBundle:
    return await look.runtime.gdpr.export_user_data("alice", look.tenant_id, path, recipients=recipients or (PUBLIC,))


def opened(path: Path, identity: object = IDENTITY) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(decrypt(path.read_bytes(), [identity])))


async def test_it_holds_what_the_open_one_holds(look: Looker, tmp_path: Path) -> None:
    await look.store(sample_memory("alice", content=SECRET), sample_memory("alice"))
    await look.runtime.drain()
    plain = await exported(look, "alice", tmp_path / "plain")
    bundle = await encrypted_export(look, tmp_path / "alice.zip.age")
    assert (bundle.directory, bundle.files, bundle.encrypted) == (tmp_path, ("alice.zip.age",), True)
    with opened(tmp_path / "alice.zip.age") as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {path.name for path in (tmp_path / "plain").iterdir()}
        lines = [json.loads(line) for line in archive.read("memories.jsonl").decode().split("\n") if line]
    assert lines == plain["memories"]
    assert stat.S_IMODE((tmp_path / "alice.zip.age").stat().st_mode) == 0o600
    assert SECRET.encode() not in (tmp_path / "alice.zip.age").read_bytes()


async def test_several_recipients_open_it_and_nobody_else(look: Looker, tmp_path: Path) -> None:
    await look.store(sample_memory("alice"))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
    await encrypted_export(look, tmp_path / "out.age", PUBLIC, (tmp_path / "id.pub").read_text())
    for identity in (IDENTITY, ssh.Identity.from_buffer((tmp_path / "id").read_bytes())):
        assert "index.html" in opened(tmp_path / "out.age", identity).namelist()
    with pytest.raises(Exception, match="keys|decrypt"):
        opened(tmp_path / "out.age", x25519.Identity.generate())


@pytest.mark.parametrize(
    "bad", ["", "age1nonsense", "ssh-ed25519 AAAA", "alice@example.com", str(IDENTITY), "x" * 100_000]
)
async def test_what_is_no_public_key_is_refused_and_not_repeated(look: Looker, tmp_path: Path, bad: str) -> None:
    with pytest.raises(ConfigurationError, match="recipient 2") as caught:
        await encrypted_export(look, tmp_path / "out.age", PUBLIC, bad)
    assert not bad or bad not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert [e["outcome"] for e in look.events() if e["action"] == "gdpr.export"] == ["failed"]


async def test_it_is_recorded_once_and_as_encrypted(look: Looker, tmp_path: Path) -> None:
    await look.store(sample_memory("alice"))
    await encrypted_export(look, tmp_path / "out.age")
    await exported(look, "alice", tmp_path / "plain")
    events = [event for event in look.events() if event["action"] == "gdpr.export"]
    assert [(event["outcome"], event["details"]) for event in events] == [
        ("allowed", {"encrypted": True}),
        ("allowed", {"encrypted": False}),
    ]
    assert events[0]["counts"]["memories"] == 1


async def test_it_overwrites_nothing(look: Looker, tmp_path: Path) -> None:
    (tmp_path / "out.age").write_text("mine")
    with pytest.raises(ConfigurationError, match="never overwrites"):
        await encrypted_export(look, tmp_path / "out.age")
    assert (tmp_path / "out.age").read_text() == "mine"
    with pytest.raises(ConfigurationError):
        await encrypted_export(look, tmp_path / "missing" / "out.age")
    with pytest.raises(ConfigurationError):
        await encrypted_export(look, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out.age"]


async def test_one_that_cannot_be_recorded_stays_nowhere(
    look: Looker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await look.store(sample_memory("alice"))

    def unavailable(*_: object, **__: object) -> None:
        raise ProviderUnavailableError("control plane")

    with monkeypatch.context() as broken:
        broken.setattr(look.runtime.audit, "record", unavailable)
        with pytest.raises(ProviderUnavailableError):
            await encrypted_export(look, tmp_path / "out.age")
    assert list(tmp_path.iterdir()) == []


async def test_one_of_nobody_is_written_too(look: Looker, tmp_path: Path) -> None:
    bundle = await encrypted_export(look, tmp_path / "out.age")
    assert bundle.counts == {"memories": 0, "events": 0}
    with opened(tmp_path / "out.age") as archive:
        assert json.loads(archive.read("person.json"))["subject_id"] is None


async def test_only_an_administrator_makes_one(look: Looker, tmp_path: Path) -> None:
    with request_context(tenant_id=look.tenant_id, roles={"service"}), pytest.raises(PermissionDeniedError):
        await encrypted_export(look, tmp_path / "out.age")
    assert list(tmp_path.iterdir()) == []


async def test_nothing_is_in_the_clear_while_it_is_written(look: Looker, tmp_path: Path) -> None:
    """Looks at every file that is there or that this process has open, nameless ones too, while the parts are written.

    Names of the archive's members stand in it uncompressed: where one is found, it is not encrypted.
    """
    words = [str(random.Random(number).random()) for number in range(900)]
    await look.store(*(sample_memory("alice", content=f"{SECRET} {word}") for word in words))
    files: list[bytes] = []
    held: list[bytes] = []

    def looked(*_: object) -> None:
        files.extend(path.read_bytes() for path in tmp_path.iterdir())
        for descriptor in Path("/proc/self/fd").iterdir():
            # One of them is the listing itself, and gone by now.
            with suppress(OSError):
                if stat.S_ISREG(descriptor.stat().st_mode) and descriptor.stat().st_size < 10_000_000:
                    held.append(descriptor.read_bytes())

    await look.runtime.gdpr.export_user_data(
        "alice", look.tenant_id, tmp_path / "out.age", recipients=[PUBLIC], progress=looked
    )
    looked()
    assert len([data for data in files if data]) > 1, "it grows while it is written"
    assert all(data.startswith(b"age-encryption.org/v1\n") for data in files if data)
    for data in (*files, *held):
        assert not any(clear in data for clear in (SECRET.encode(), b"memories.jsonl", b"index.html"))


def write(out: BinaryIO, size: int, then: Exception | None = None) -> None:
    with encrypted(out, recipients_of([PUBLIC])) as text:
        for _ in range(-(-size // 1_000)):
            text.write(b"x" * min(size, 1_000))
        if then is not None:
            raise then


@pytest.mark.parametrize("size", [1, 5_000, 10_000_000])
def test_a_full_disk_ends_it_with_an_error_and_leaves_no_thread(size: int) -> None:
    """The smallest one too: what is still in a buffer at the end is written then or never."""
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
        write(full, size)
    assert "export-encryption" not in {thread.name for thread in threading.enumerate()}


def test_an_export_onto_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow past a bound."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from cloud.gdpr.bundles import directory_bundle, encrypted_file\n"
        "from cloud.gdpr.encrypting import recipients_of\n"
        "from cloud.kernel.errors import ConfigurationError\n"
        "import os\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "def fill(bundle):\n"
        "    for name in ('a', 'b'):\n"
        "        with bundle.file(name) as out:\n"
        "            for _ in range(100):\n"
        "                out.write(os.urandom(1_000))\n"
        "where = Path(sys.argv[1])\n"
        "try:\n"
        "    with directory_bundle(where / 'plain') as bundle:\n"
        "        fill(bundle)\n"
        "except ConfigurationError as error:\n"
        "    print(error)\n"
        "try:\n"
        "    with encrypted_file(where / 'x.age') as file, file.archive(recipients_of([sys.argv[2]])) as bundle:\n"
        "        fill(bundle)\n"
        "except ConfigurationError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path, PUBLIC], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("File too large") == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["plain"]


def test_a_failure_of_the_writer_is_its_own() -> None:
    with pytest.raises(ProviderUnavailableError):
        write(io.BytesIO(), 1_000_000, ProviderUnavailableError("data plane"))


def test_a_large_one_takes_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        tracemalloc.start()
        with encrypted(out, recipients_of([PUBLIC])) as text:
            for _ in range(200):
                text.write(os.urandom(100_000))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (tmp_path / "out").stat().st_size > 20_000_000
    assert peak < 3_000_000


def test_without_the_extra_it_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules['pyrage'] = None\n"
        "from cloud.gdpr.encrypting import recipients_of\n"
        "from cloud.kernel.errors import ConfigurationError\n"
        "try:\n"
        "    recipients_of(['age1x'])\n"
        "except ConfigurationError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "encrypted-export" in done.stdout

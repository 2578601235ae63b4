"""A file is recognized or refused with a reason; what compressed files may become is bounded; nothing is unpacked."""

from __future__ import annotations

import gzip
import json
import os
import random
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.kernel.errors import ConfigurationError, LuminescentError, UnreadableFileError
from cloud.transfer.model import Format, Limits
from cloud.transfer.sources import Source, open_source

SMALL = Limits(max_bytes=1_000_000, max_ratio=100, free_bytes=10_000)
LINE = b'{"user_id": "alice", "content": "tea", "memory_type": "fact", "source": "test"}\n'
PEAK = (
    "def peak_kib():\n"
    "    lines = Path('/proc/self/status').read_text().splitlines()\n"
    "    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
)
"""Of this program alone: what `getrusage` says is also what the process was that started it."""


def recognized(path: Path, data: bytes, wanted: Format | None = None) -> Format:
    path.write_bytes(data)
    with open_source(path, wanted, SMALL) as source:
        return source.format


def read(path: Path, limits: Limits = SMALL) -> int:
    with open_source(path, None, limits) as source:
        return sum(1 for _ in source.entries("alice"))


def zipped(path: Path, name: str, data: bytes, method: int = zipfile.ZIP_DEFLATED, *, mode: int = 0) -> Path:
    member = zipfile.ZipInfo(name)
    member.compress_type, member.external_attr = method, mode << 16
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(member, data)
    return path


class TestRecognizing:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (LINE, Format.JSONL),
            (b"\xef\xbb\xbf" + LINE, Format.JSONL),
            (b"", Format.JSONL),
            (b"\n\n", Format.JSONL),
            (b"some text", Format.JSONL),
            (b'{"results": []}', Format.MEM0),
            (b'\n {\n "count": 7, "results": []}', Format.MEM0),
            (b'[{"id": "1", "memory": "tea"}]', Format.MEM0),
            (b"[]", Format.MEM0),
            (b'[{"title": "x", "mapping": {}}]', Format.CHATGPT),
            (gzip.compress(LINE), Format.JSONL),
            (gzip.compress(b'\xef\xbb\xbf[{"memory": "tea"}]'), Format.MEM0),
        ],
    )
    def test_what_it_is_stands_at_its_beginning(self, data: bytes, expected: Format, tmp_path: Path) -> None:
        assert recognized(tmp_path / "f", data) is expected

    @pytest.mark.parametrize("data", [b'[{"content": "tea"}]', b"[5]", b'["a"]'])
    def test_a_list_of_something_else_is_refused(self, data: bytes, tmp_path: Path) -> None:
        with pytest.raises(UnreadableFileError, match="--format"):
            recognized(tmp_path / "f", data)
        assert recognized(tmp_path / "f", data, Format.MEM0) is Format.MEM0

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_another_encoding_is_named(self, encoding: str, tmp_path: Path) -> None:
        with pytest.raises(UnreadableFileError) as caught:
            recognized(tmp_path / "f", LINE.decode().encode(encoding))
        assert caught.value.reason == "encoding"
        assert "UTF-8" in str(caught.value)

    def test_an_archive_is_nothing_but_chatgpts(self, tmp_path: Path) -> None:
        path = zipped(tmp_path / "f", "conversations.json", b"[]")
        assert recognized(tmp_path / "g", path.read_bytes()) is Format.CHATGPT
        with pytest.raises(UnreadableFileError, match="ZIP"):
            recognized(tmp_path / "g", path.read_bytes(), Format.JSONL)

    def test_a_pipe_or_a_directory_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name in ("pipe", "."):
            with pytest.raises((ConfigurationError, UnreadableFileError)), open_source(tmp_path / name, None, SMALL):
                pass


class TestBounds:
    def test_a_bomb_of_gzip_stops_at_the_bound(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.gz"
        path.write_bytes(gzip.compress(LINE * 100_000))
        with pytest.raises(UnreadableFileError) as caught:
            read(path)
        assert caught.value.reason == "too_large"

    def test_a_bomb_of_one_line_takes_no_memory(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.gz"
        with gzip.open(path, "wb") as out:
            for _ in range(300):
                out.write(b"x" * 1_000_000)
        program = (
            "import sys\n"
            "from pathlib import Path\n"
            "from cloud.transfer.model import Limits\n"
            "from cloud.transfer.sources import open_source\n"
            f"{PEAK}before = peak_kib()\n"
            "with open_source(Path(sys.argv[1]), None, Limits(max_ratio=2000)) as source:\n"
            "    assert [entry.fault for entry in source.entries(None)] == ['longer than 4 MiB']\n"
            "print(peak_kib() - before)\n"
        )
        done = subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, text=True)
        assert int(done.stdout) < 40_000

    def test_an_archive_that_unpacks_to_too_much_stops_at_the_bound(self, tmp_path: Path) -> None:
        bomb = b"[" + b",".join([b'{"mapping": {}}'] * 100_000) + b"]"
        with pytest.raises(UnreadableFileError) as caught:
            read(zipped(tmp_path / "f.zip", "conversations.json", bomb))
        assert caught.value.reason == "too_large"

    def test_all_members_count_together(self, tmp_path: Path) -> None:
        path = tmp_path / "f.zip"
        data = b"[" + b",".join(b'{"mapping": {}, "id": "%d"}' % random.randrange(10**9) for _ in range(20_000)) + b"]"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for number in range(3):
                out.writestr(f"conversations-{number:03}.json", data)
        assert len(data) < SMALL.max_bytes < 3 * len(data)
        with pytest.raises(UnreadableFileError) as caught:
            read(path)
        assert caught.value.reason == "too_large"

    def test_a_small_file_may_be_repetitive(self, tmp_path: Path) -> None:
        path = tmp_path / "f.gz"
        path.write_bytes(gzip.compress(LINE * 100))
        assert read(path) == 100


class TestArchives:
    @pytest.mark.parametrize("name", ["../conversations.json", "a/../../conversations.json", "/conversations.json"])
    def test_a_member_that_leads_out_is_refused(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(UnreadableFileError, match="leads out"):
            read(zipped(tmp_path / "f.zip", name, b"[]"))

    def test_a_link_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableFileError, match="no plain file"):
            read(zipped(tmp_path / "f.zip", "conversations.json", b"/etc/passwd", mode=stat.S_IFLNK | 0o777))

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_a_method_that_unpacks_without_a_bound_is_refused(self, method: int, tmp_path: Path) -> None:
        with pytest.raises(UnreadableFileError, match="repack"):
            read(zipped(tmp_path / "f.zip", "conversations.json", b"[]", method))

    def test_an_encrypted_archive_is_refused(self, tmp_path: Path) -> None:
        path = zipped(tmp_path / "f.zip", "conversations.json", b"[]")
        data = bytearray(path.read_bytes())
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(data)
        with pytest.raises(UnreadableFileError, match="encrypted"):
            read(path)

    def test_an_archive_of_something_else_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableFileError, match=r"no conversations\.json"):
            read(zipped(tmp_path / "f.zip", "notes/my-conversations.json", b"[]"))

    @given(drawn=st.data())
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_no_damage_raises_anything_but_an_error_of_ours(self, tmp_path: Path, drawn: st.DataObject) -> None:
        conversations = json.dumps([{"mapping": {}, "title": str(n)} for n in range(50)]).encode()
        packed = drawn.draw(st.sampled_from(["zip", "gzip"]))
        path = tmp_path / "f"
        if packed == "zip":
            zipped(path, "conversations.json", conversations)
        else:
            path.write_bytes(gzip.compress(conversations))
        whole = bytearray(path.read_bytes())
        for _ in range(drawn.draw(st.integers(1, 4))):
            whole[drawn.draw(st.integers(0, len(whole) - 1))] = drawn.draw(st.integers(0, 255))
        cut = drawn.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut] if drawn.draw(st.booleans()) else whole)
        try:
            read(path)
        except LuminescentError:
            return


def test_entries_are_the_same_every_time(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(LINE * 20 + b"bad\n" + LINE)
    with open_source(path, None, SMALL) as source:
        assert isinstance(source, Source)
        first, second = [list(source.entries(None)) for _ in range(2)]
        assert first == second
        assert len(first) == 22
        assert source.done_bytes() == path.stat().st_size


def test_parsing_200_000_lines_takes_bounded_memory(tmp_path: Path) -> None:
    """Ten times the lines take hardly more: a chunk, what was seen, and nothing of the rest."""
    program = (
        "import sys\n"
        "from datetime import UTC, datetime\n"
        "from pathlib import Path\n"
        "from cloud.transfer.checking import checked\n"
        "from cloud.transfer.importing import chunks\n"
        "from cloud.transfer.model import Limits\n"
        "from cloud.transfer.seen import SeenIds\n"
        "from cloud.transfer.sources import open_source\n"
        "seen, now, count = SeenIds(), datetime.now(UTC), 0\n"
        "with open_source(Path(sys.argv[1]), None, Limits()) as source:\n"
        "    for chunk in chunks(source.entries(None)):\n"
        "        assert not seen.repeated([entry.id for entry in chunk])\n"
        "        count += len([checked(entry, now) for entry in chunk])\n"
        f"{PEAK}print(count, peak_kib())\n"
    )
    peaks = []
    for lines in (20_000, 200_000):
        path = tmp_path / f"{lines}.jsonl"
        with path.open("w") as out:
            for number in range(lines):
                document = {
                    "id": f"m{number}",
                    "user_id": f"user-{number % 1000}",
                    "content": f"The gate of pier {number} opens at six in summer and at eight in winter",
                    "memory_type": "fact",
                    "source": "notes",
                    "metadata": {"pier": number, "season": ["summer", "winter"]},
                }
                out.write(json.dumps(document) + "\n")
        done = subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, text=True)
        count, peak_kib = map(int, done.stdout.split())
        assert count == lines
        peaks.append(peak_kib)
    assert peaks[1] < peaks[0] + 40_000
    assert peaks[1] < 300_000


def test_the_first_bytes_are_looked_at_without_reading_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with path.open("wb") as out:
        out.write(LINE)
        out.truncate(10**12)
    with open_source(path, None, SMALL) as source:
        assert source.format is Format.JSONL

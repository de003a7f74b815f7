"""Downloads against a server on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trimtab.datasets import DataFile, fetch
from trimtab.errors import DataError

CONTENT = bytes(range(256)) * 40


class _Server(ThreadingHTTPServer):
    """A server that behaves as its fields say.

    Attributes:
        ranges: the Range header of each request, None where there was none.
        statuses: what to answer, one a request; 200 when used up.
        most: bytes after which a connection breaks off.
        knows_ranges: whether Range is honoured.
        shift: bytes by which an answer to Range is misplaced.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ranges: list[str | None] = []
        self.statuses: list[int] = []
        self.most = len(CONTENT)
        self.knows_ranges = True
        self.shift = 0

    @property
    def file(self) -> DataFile:
        url = f"http://127.0.0.1:{self.server_address[1]}/data.bin"
        return DataFile("some/data.bin", url, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status != 200:
            self.send_error(status)
            return
        begin = int(re.findall(r"\d+", wanted)[0]) if wanted and self.server.knows_ranges else 0
        begin += self.server.shift if begin else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        self.wfile.write(CONTENT[begin : begin + self.server.most])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    """A server, and a cache in a folder of the test's own."""
    monkeypatch.delenv("TRIMTAB_DATA", raising=False)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """Where a download that broke off lies."""
    path = tmp_path / "cache/some/data.bin.part"
    path.parent.mkdir(parents=True)
    return path


def test_file_is_downloaded_once(server: _Server, tmp_path: Path) -> None:
    """The first call downloads to the cache, the second reads there."""
    paths = [fetch(server.file), fetch(server.file)]
    assert paths == [tmp_path / "cache/some/data.bin"] * 2
    assert paths[0].read_bytes() == CONTENT
    assert server.ranges == [None]
    assert not paths[0].with_name("data.bin.part").exists()


def test_broken_download_goes_on_where_it_stopped(server: _Server) -> None:
    """A connection that breaks off is taken up by a range, within one call."""
    server.most = 6000
    assert fetch(server.file, pause=0).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=6000-"]


def test_part_of_an_earlier_call_is_used(server: _Server, part: Path) -> None:
    """What an earlier process had got is not downloaded again."""
    part.write_bytes(CONTENT[:1000])
    assert fetch(server.file).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_complete_part_needs_no_request(server: _Server, part: Path) -> None:
    """A part file that lacks nothing is checked and renamed."""
    part.write_bytes(CONTENT)
    assert fetch(server.file).read_bytes() == CONTENT
    assert server.ranges == []


def test_part_that_is_too_long_is_thrown_away(server: _Server, part: Path) -> None:
    """A part file longer than the file is begun anew."""
    part.write_bytes(CONTENT + b"more")
    assert fetch(server.file).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_server_without_ranges_sends_all(server: _Server, part: Path) -> None:
    """If the server ignores the range, its whole answer replaces the part."""
    server.knows_ranges = False
    part.write_bytes(b"x" * 1000)
    assert fetch(server.file).read_bytes() == CONTENT


def test_misplaced_range_is_refused(server: _Server, part: Path) -> None:
    """An answer that begins elsewhere is never appended."""
    server.shift = 7
    part.write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="asked for byte 1000"):
        fetch(server.file, pause=0)
    assert part.read_bytes() == CONTENT[:1000]


def test_truncated_download_fails_and_keeps_its_part(server: _Server, tmp_path: Path) -> None:
    """When every attempt breaks off, the error says how far it came, and the next call goes on from there."""
    server.most = 1000
    with pytest.raises(DataError, match=f"3000 of {len(CONTENT)} bytes"):
        fetch(server.file, pause=0)
    assert (tmp_path / "cache/some/data.bin.part").stat().st_size == 3000
    assert not (tmp_path / "cache/some/data.bin").exists()
    server.most = len(CONTENT)
    assert fetch(server.file).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=3000-"


def test_wrong_checksum_is_refused(server: _Server, tmp_path: Path) -> None:
    """Another file under the right name is thrown away; the error names both checksums."""
    file = dataclasses.replace(server.file, sha256="0" * 64)
    with pytest.raises(DataError, match=f"must have SHA-256 {'0' * 64}, got {server.file.sha256}"):
        fetch(file)
    assert [path.name for path in (tmp_path / "cache/some").iterdir()] == ["data.bin.part.lock"]


def test_longer_file_is_refused(server: _Server) -> None:
    """A server that sends more than the file has is not listened to for long."""
    with pytest.raises(DataError, match="must have SHA-256"):
        fetch(dataclasses.replace(server.file, size=100))


def test_damaged_cache_is_mended(server: _Server, tmp_path: Path) -> None:
    """A cached file whose checksum differs is downloaded anew."""
    path = tmp_path / "cache/some/data.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    assert fetch(server.file).read_bytes() == CONTENT


def test_server_error_is_tried_again(server: _Server) -> None:
    """Two errors of the server are forgiven, the third is reported."""
    server.statuses = [503, 500]
    assert fetch(server.file, pause=0).read_bytes() == CONTENT


def test_error_says_what_to_do(server: _Server, tmp_path: Path) -> None:
    """The error holds the address, the place for the file, and the environment variable."""
    server.statuses = [503] * 3
    with pytest.raises(DataError) as caught:
        fetch(server.file, pause=0)
    for fact in ("503", server.file.url, str(tmp_path / "cache/some/data.bin"), "TRIMTAB_DATA"):
        assert fact in str(caught.value)


def test_absent_file_is_not_asked_for_again(server: _Server) -> None:
    """Not found is final."""
    server.statuses = [404]
    with pytest.raises(DataError, match="404"):
        fetch(server.file, pause=0)
    assert len(server.ranges) == 1


def test_range_beyond_the_end_begins_anew(server: _Server, part: Path) -> None:
    """A part that the server cannot continue is thrown away."""
    part.write_bytes(b"x" * 1000)
    server.statuses = [416]
    assert fetch(server.file, pause=0).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_silent_server_times_out(server: _Server) -> None:
    """No connection at all ends in the same error."""
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=re.escape("Cannot download 'some/data.bin'")):
        fetch(server.file, timeout=0.2, pause=0)


def test_data_folder_is_read_without_download(server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TRIMTAB_DATA the file is read there, and checked."""
    path = tmp_path / "mine/some/data.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("TRIMTAB_DATA", str(tmp_path / "mine"))
    assert fetch(server.file) == path
    path.write_bytes(b"another")
    with pytest.raises(DataError, match="must have SHA-256"):
        fetch(server.file)
    assert server.ranges == []


def test_file_missing_in_data_folder_is_not_downloaded(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TRIMTAB_DATA a missing file is an error that names its place."""
    monkeypatch.setenv("TRIMTAB_DATA", str(tmp_path))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'some/data.bin'} is not there")):
        fetch(server.file)
    assert server.ranges == []

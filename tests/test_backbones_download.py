"""Downloads against a server on this machine: resumed, verified, and clear about what went wrong."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from casam_cache.backbones.download import cache_folder, download
from casam_cache.errors import CheckpointError, HeldError

CONTENT = bytes(range(256)) * 20_000  # 5 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT, and can be told to misbehave."""

    daemon_threads = True
    content = CONTENT
    ranges = True
    status = 200
    stop_after: int | None = None  # bytes of one answer, then the connection drops
    stall_after: int | None = None  # bytes of one answer, then nothing comes

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/sam.pth"

    def handle_error(self, request: object, client_address: object) -> None:
        """Dropped connections are what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        total = len(server.content)
        if server.status != 200:
            self.send_error(server.status)
            return
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        end = total if server.stop_after is None else min(total, start + server.stop_after)
        if server.stall_after is not None:
            self.wfile.write(server.content[start : start + server.stall_after])
            self.wfile.flush()
            time.sleep(60)
        self.wfile.write(server.content[start:end])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_download_once(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = download(
        server.url, SHA256, "sam.pth", tmp_path / "new", lambda done, total: seen.append((done, total))
    )
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert download(server.url, SHA256, "sam.pth", tmp_path / "new") == path
    assert len(server.asked) == 1
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["sam.pth"]


def test_dropped_connections_are_continued(server: Server, tmp_path: Path) -> None:
    server.stop_after = 2_000_000
    path = download(server.url, SHA256, "sam.pth", tmp_path)
    assert path.read_bytes() == CONTENT
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.asked[1:] if asked]
    assert len(starts) == len(server.asked) - 1 == 2
    # At most the block that was on its way is asked for again.
    assert all(0 <= 2_000_000 * (i + 1) - start <= 2**17 * (i + 1) for i, start in enumerate(starts))


def test_killed_process_is_continued(server: Server, tmp_path: Path) -> None:
    server.stall_after = 3_000_000
    code = (
        "import sys; from pathlib import Path; from casam_cache.backbones.download import download;"
        "download(sys.argv[1], sys.argv[2], 'sam.pth', Path(sys.argv[3]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.url, SHA256, str(tmp_path)])
    part = tmp_path / "sam.pth.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= 2_000_000):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(HeldError, match=f"process {process.pid} on .* is downloading .*sam.pth"):
        download(server.url, SHA256, "sam.pth", tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "sam.pth").exists()
    kept = part.stat().st_size
    server.stall_after = None
    assert download(server.url, SHA256, "sam.pth", tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={kept}-"
    assert not part.exists()


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "sam.pth.part").write_bytes(CONTENT[:1000])
    assert download(server.url, SHA256, "sam.pth", tmp_path).read_bytes() == CONTENT


def test_whole_part_needs_no_byte(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sam.pth.part").write_bytes(CONTENT)
    assert download(server.url, SHA256, "sam.pth", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"\1" * 1000, b"\1" * (len(CONTENT) + 5), b"\1" * len(CONTENT)])
def test_part_of_another_file_is_dropped(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "sam.pth.part").write_bytes(part)
    assert download(server.url, SHA256, "sam.pth", tmp_path).read_bytes() == CONTENT


def test_corrupt_file_is_removed(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"\0"
    with pytest.raises(CheckpointError, match="corrupt") as caught:
        download(server.url, SHA256, "sam.pth", tmp_path)
    assert server.url in caught.value.message
    assert not list(tmp_path.glob("sam.pth")) + list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refused(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(CheckpointError, match=f"the server answered {status}"):
        download(server.url, SHA256, "sam.pth", tmp_path)


def test_offline_says_what_to_do(server: Server, tmp_path: Path) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(CheckpointError) as caught:
        download(url, SHA256, "sam.pth", tmp_path)
    assert url in caught.value.message
    assert str(tmp_path / "sam.pth") in caught.value.hint
    assert "--checkpoint" in caught.value.hint


def test_offline_keeps_the_part(server: Server, tmp_path: Path) -> None:
    url = server.url
    server.server_close()
    (tmp_path / "sam.pth.part").write_bytes(CONTENT[:1000])
    with pytest.raises(CheckpointError):
        download(url, SHA256, "sam.pth", tmp_path)
    assert (tmp_path / "sam.pth.part").stat().st_size == 1000


def test_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write") as caught:
        download(server.url, SHA256, "sam.pth", tmp_path / "file")
    assert "CASAM_CACHE_DIR" in caught.value.hint


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CASAM_CACHE_DIR")
    assert cache_folder().name == "casam-cache"
    assert "CASAM_CACHE_DIR" not in os.environ

"""Downloads: the complete and correct file, or a clear error and no file."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from ddim_host.errors import UserError
from ddim_host.system.download import download

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 2000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Handler of `/whole`, `/unsized` (no length) and `/short` (truncated); everything else is a 404."""

    def do_GET(self) -> None:
        if self.path not in ("/whole", "/unsized", "/short"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may close the connection
            self.wfile.write(CONTENT if self.path != "/short" else CONTENT[:1000])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def fetch(url: str, path: Path, md5: str = MD5, max_bytes: int = len(CONTENT)) -> None:
    download(url, path, checksum=f"md5:{md5}", max_bytes=max_bytes, fix="do this")


@pytest.mark.parametrize("kind", ["whole", "unsized"])
def test_download_shows_a_progress_bar(
    kind: str, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "folder" / "file"
    fetch(f"{server}/{kind}", path)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    printed = capsys.readouterr()
    assert f"downloading {kind}" in printed.err
    assert "512k" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("kind", "expected", "why"),
    [
        ("whole", ("0" * 32, len(CONTENT)), "MD5"),
        ("whole", (MD5, len(CONTENT) - 1), "larger than"),
        ("unsized", (MD5, len(CONTENT) - 1), "larger than"),
        ("short", (MD5, len(CONTENT)), "connection was lost"),
        ("missing", (MD5, len(CONTENT)), "404"),
    ],
)
def test_failed_download_is_an_error_and_leaves_nothing(
    kind: str, expected: tuple[str, int], why: str, server: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="cannot download") as caught:
        fetch(f"{server}/{kind}", tmp_path / "file", *expected)
    assert why in caught.value.why
    assert caught.value.fix == "do this"
    assert list(tmp_path.iterdir()) == []


def test_unreachable_server_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(UserError, match="cannot download") as caught:
        fetch(f"http://127.0.0.1:{port}/file", tmp_path / "file")
    assert caught.value.why
    assert list(tmp_path.iterdir()) == []


def test_failed_download_keeps_the_old_file(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match="cannot download"):
        fetch(f"{server}/short", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"


def test_unwritable_folder_is_not_reported_as_a_network_error(server: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(UserError, match="cache folder") as caught:
        fetch(f"{server}/whole", tmp_path / "plain" / "file")
    assert "DDIM_HOST_CACHE" in caught.value.fix


def test_sha256_sum_is_accepted(server: str, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    download(f"{server}/whole", path, checksum=f"sha256:{sha256}", max_bytes=len(CONTENT), fix="do this")
    assert path.read_bytes() == CONTENT
    with pytest.raises(UserError, match="cannot download") as caught:
        download(f"{server}/whole", path, checksum="sha256:00", max_bytes=len(CONTENT), fix="do this")
    assert "SHA256" in caught.value.why

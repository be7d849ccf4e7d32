"""Download of a file, with a size limit and a checksum."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, printable
from ddim_host.system.cache import cache_errors
from ddim_host.system.files import replacing
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK_BYTES = 1 << 16
TIMEOUT_SECONDS = 30.0


def download(url: str, path: Path, *, checksum: str, max_bytes: int, fix: str) -> None:
    """Download a file with a progress bar on stderr, and keep it only if its checksum is correct.

    Args:
        url: The address.
        path: The destination; its folder is created.
        checksum: The expected checksum: `md5:` or `sha256:`, then hexadecimal digits.
        max_bytes: The largest allowed size.
        fix: The remedy if the download fails.

    Raises:
        UserError: The server cannot be reached, closes the connection early, or sends a different or larger
            file; or the folder cannot be written.
    """
    algorithm, _, wanted = checksum.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with cache_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            for chunk in _chunks(url, max_bytes, fix):
                digest.update(chunk)
                file.write(chunk)
            received = digest.hexdigest()
            if received != wanted:
                raise _failed(url, f"its {algorithm.upper()} checksum is {received}, not {wanted}", fix)


def _chunks(url: str, max_bytes: int, fix: str) -> Iterator[bytes]:
    """Yield the bytes of `url`; any network failure becomes a `UserError`."""
    try:
        # Only the callers' constant https addresses reach this; urlopen would also open file: and ftp:.
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            if total is not None and total > max_bytes:
                raise _too_large(url, max_bytes, fix)
            received = 0
            name = url.rpartition("/")[2]
            with progress_bar(f"downloading {name}", total, unit="B", scaled=True) as bar:
                while chunk := response.read(CHUNK_BYTES):
                    received += len(chunk)
                    if received > max_bytes:
                        raise _too_large(url, max_bytes, fix)
                    bar.update(len(chunk))
                    yield chunk
            # http.client reports no error if the connection is lost.
            if total is not None and received != total:
                raise _failed(url, f"the connection was lost after {received} of {total} bytes", fix)
    except urllib.error.HTTPError as error:  # a response such as 404, which keeps the connection open
        with error:
            raise _failed(url, printable(error), fix) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failed(url, printable(error), fix) from error


def _too_large(url: str, max_bytes: int, fix: str) -> UserError:
    return _failed(url, f"the file is larger than {max_bytes} bytes, so it is not the expected one", fix)


def _failed(url: str, why: str, fix: str) -> UserError:
    return UserError(f"cannot download {url}", why=why, fix=fix)

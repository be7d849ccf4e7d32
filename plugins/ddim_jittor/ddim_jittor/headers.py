"""C++ headers for compiling Jittor's kernels, copied to Jittor's home.

Jittor compiles a kernel again if its compiler command changes. The folder is therefore named after its
content, and all environments that share a home use the same one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ddim_jittor.laying import make_once

_SOURCE = Path(__file__).with_name("include")


def _contents() -> dict[str, bytes]:
    # Without this header Jittor would truncate to bf16 instead of rounding, so it must not be missing.
    (_SOURCE / "type" / "fp16_compute.h").stat()
    return {
        str(path.relative_to(_SOURCE)): path.read_bytes()
        for path in sorted(_SOURCE.rglob("*"))
        if path.is_file()
    }


def headers_key() -> str:
    """Return a hash of the headers' content."""
    return hashlib.sha256(repr(_contents()).encode()).hexdigest()[:12]


def lay_headers(home: Path) -> Path:
    """Copy the headers, unless they are already there.

    Args:
        home: Jittor's home.

    Returns:
        The folder to search for headers before Jittor's own.

    Raises:
        OSError: The copy cannot be written.
    """

    def copy(folder: Path) -> None:
        for name, content in _contents().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    target = home / "headers" / headers_key()
    make_once(target, copy)
    return target

"""Inspection of an installed distribution's files, to explain why its plugin does not load."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shlex
from pathlib import Path, PurePath
from typing import NamedTuple
from urllib.parse import unquote, urlparse

_DEPTH = 3
"""Levels of an editable distribution's folder that are searched for modules."""


class LocalFolder(NamedTuple):
    """The folder that a distribution was installed from.

    Attributes:
        path: The folder.
        editable: Whether its code is used in place, as after `pip install -e`.
    """

    path: Path
    editable: bool

    @property
    def reinstall(self) -> str:
        """The command that reinstalls the distribution from the folder."""
        how = "-e" if self.editable else "--no-deps --force-reinstall"
        return f"pip install {how} {shlex.quote(str(self.path))}"


def own_modules(distribution: str) -> set[str]:
    """Return the dotted names of a distribution's modules; empty if it does not record its files."""
    found = set()
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError, UnicodeDecodeError):
        for file in importlib.metadata.files(distribution) or ():
            if file.name.startswith("__editable__"):
                return set()  # setuptools finds the modules with code of its own
            if file.suffix == ".py":
                found.add(_dotted(file))
            elif file.suffix == ".pth":
                # An editable distribution records only the folder of its modules.
                lines = [line for line in file.read_text().splitlines() if line.strip()]
                site = Path(str(file.locate())).parent
                for root in filter(Path.is_dir, (site / line for line in lines)):
                    patterns = ["/".join("*" * depth) + ".py" for depth in range(1, _DEPTH + 1)]
                    paths = (path for pattern in patterns for path in root.glob(pattern))
                    found |= {_dotted(path.relative_to(root)) for path in paths}
    return {name for name in found if all(part.isidentifier() for part in name.split("."))}


def local_folder(distribution: str) -> LocalFolder | None:
    """Return the folder that a distribution was installed from; None if it came from an index or archive."""
    try:
        text = importlib.metadata.distribution(distribution).read_text("direct_url.json")
        origin = json.loads(text or "{}")
        url = urlparse(origin.get("url", ""))
        if url.scheme != "file" or "dir_info" not in origin:
            return None
        folder = Path(unquote(url.path))
        return LocalFolder(folder, bool(origin["dir_info"].get("editable"))) if folder.is_dir() else None
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError, AttributeError):
        return None


def _dotted(path: PurePath) -> str:
    """Return the module name of a file: `a.b` for `a/b.py` and `a/b/__init__.py`."""
    return ".".join(part for part in path.with_suffix("").parts if part != "__init__")

"""Common base class of image sets that are stored in one file and not split into halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.parts.datasets.archives import readable

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class OneFile:
    """Images in one file.

    Attributes:
        path: The file.
    """

    path: Path

    @property
    def halves(self) -> str:
        """See `ImageFiles.halves`."""
        return ""

    def statuses(self) -> Iterator[tuple[str, os.stat_result]]:
        """See `ImageFiles.statuses`."""
        with readable(self.path):
            yield "", self.path.stat()

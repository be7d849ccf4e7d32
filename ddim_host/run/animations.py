"""Animated grids: GIF, APNG and WebP."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.run.images import as_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ANIMATED = (".gif", ".apng", ".webp")
"""The suffixes of animated images."""

_FORMATS = {".gif": "GIF", ".apng": "PNG", ".webp": "WEBP"}
_SECONDS = 4.0
_SHORTEST, _LONGEST = 0.04, 0.4
"""Limits on a frame's duration in seconds: shorter frames are too fast to see, longer ones look stuck."""
_PAUSE = 2.0
"""Duration of the last frame in seconds."""
_GREYS = 64
"""Grey levels in a GIF; the file is half the size of one with 256 levels, with no visible difference."""


def animation(frames: Sequence[NDArray[np.uint8]], suffix: str) -> bytes:
    """Return a looping animation that pauses on its last frame.

    APNG and WebP are lossless. GIF reduces greys to 64 levels, and colours to 256 per frame.

    Args:
        frames: At least one frame; each is uint8 `(H, W, C)`.
        suffix: One of `ANIMATED`.
    """
    if suffix == ".gif" and frames[0].shape[2] == 1:
        frames = [_fewer_greys(frame) for frame in frames]
    first, *others = map(as_picture, frames)
    each = min(max(_SECONDS / len(frames), _SHORTEST), _LONGEST)
    milliseconds = [round(1000 * seconds) for seconds in (*[each] * len(others), _PAUSE)]
    buffer = io.BytesIO()
    first.save(
        buffer,
        format=_FORMATS[suffix],
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=0,
        **({"lossless": True} if suffix == ".webp" else {}),
    )
    return buffer.getvalue()


def _fewer_greys(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Round to evenly spaced grey levels that include black and white."""
    most = _GREYS - 1
    fewer: NDArray[np.uint8] = np.rint(np.rint(frame * (most / 255)) * (255 / most)).astype(np.uint8)
    return fewer

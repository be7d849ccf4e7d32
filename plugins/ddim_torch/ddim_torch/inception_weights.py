"""The weights of the Inception network: from a file, from the cache, or downloaded once.

They are published as a pickle, which is read only if its checksum is the published one, and then cached as
safetensors.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy
import torch

from ddim_host import UserError, cache_errors, cache_folder, download, file_errors, locked, write_bytes
from ddim_torch.inception import parameter_shapes
from ddim_torch.inception_files import FILE_NAME, KEPT_NAME, are_cached

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE_NAME}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
NUM_BYTES = 95_628_359

_ORIGIN, _CONTENT = "origin_sha256", "content_sha256"


def read_weights(path: Path | None) -> tuple[dict[str, NDArray[np.float32]], str]:
    """Return the parameters by name, float32, and their fingerprint.

    Args:
        path: A copy of the published file, or a safetensors file with the same parameter names; None for the
            published weights, which are downloaded once.

    Returns:
        The parameters and their fingerprint: the SHA-256 of the published file if they come from it,
        otherwise that of their values.

    Raises:
        UserError: The file is missing, damaged, for another network, or a pickle other than the published
            file.
    """
    if path is None:
        return _published()
    path = path.expanduser()
    with file_errors(f"cannot read the weights {path}", fix=_how_to_get_them()):
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could block forever
            raise OSError("it is not a regular file")
        # A safetensors file begins with the length of its header, in eight bytes, followed by the header,
        # which is JSON.
        with path.open("rb") as file:
            is_pickle = path.suffix != ".safetensors" and file.read(9)[8:] != b"{"
        if is_pickle and _sha256(path) != SHA256:
            raise UserError(
                f"{path} cannot be loaded safely",
                why="it is a pickle, which can run arbitrary code, but not the published file, whose "
                f"SHA-256 is {SHA256[:12]}...",
                fix="convert it to safetensors, or use a copy of the published file",
            )
        return (_from_pickle(path), SHA256) if is_pickle else _from_safetensors(path)


def published_weights() -> str:
    """Describe the state of the published weights in the cache, without reading or downloading them."""
    if are_cached():
        return "in the cache"
    return f"not in the cache yet; {NUM_BYTES / 1e6:.0f} MB, downloaded once"


def _published() -> tuple[dict[str, NDArray[np.float32]], str]:
    folder = cache_folder()
    weights = _kept(folder)
    if weights is None:
        with cache_errors():
            folder.mkdir(parents=True, exist_ok=True)
            # One of several processes downloads the weights; the others wait, then read the cached file.
            with locked(folder):
                weights = _kept(folder) or _converted(folder)
    return weights, SHA256


def _kept(folder: Path) -> dict[str, NDArray[np.float32]] | None:
    """Return the cached weights, or None if they are missing, damaged or not the published ones."""
    try:
        weights, fingerprint = _from_safetensors(folder / KEPT_NAME)
    except (OSError, UserError):
        return None
    return weights if fingerprint == SHA256 else None


def _converted(folder: Path) -> dict[str, NDArray[np.float32]]:
    original = folder / FILE_NAME
    if not original.is_file() or _sha256(original) != SHA256:
        download(URL, original, checksum=f"sha256:{SHA256}", max_bytes=NUM_BYTES, fix=_how_to_get_them())
    weights = _from_pickle(original)
    about = {_ORIGIN: SHA256, _CONTENT: _content_sha256(weights)}
    write_bytes(folder / KEPT_NAME, safetensors.numpy.save(weights, about))
    original.unlink()
    return weights


def _from_pickle(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the published file, whose checksum has already been verified."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read the weights {path}", why=str(error)) from None
    return _checked(path, {name: tensor.numpy() for name, tensor in state.items() if tensor.ndim})


def _from_safetensors(path: Path) -> tuple[dict[str, NDArray[np.float32]], str]:
    wanted = parameter_shapes()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            # Other arrays in the file are not read.
            arrays = {name: file.get_tensor(name) for name in wanted.keys() & file.keys()}
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(
            f"{path} is not a complete safetensors file", why=str(error), fix=_how_to_get_them()
        ) from None
    weights = _checked(path, arrays)
    content = _content_sha256(weights)
    published = about.get(_ORIGIN) == SHA256 and about.get(_CONTENT) == content
    return weights, SHA256 if published else content


def _checked(path: Path, arrays: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Check the parameters of the network, and return only those, in its order."""
    weights = {}
    for name, shape in parameter_shapes().items():
        array = arrays.get(name)
        problem = ""
        if array is None:
            problem = f"it has no {name}"
        elif array.dtype != np.float32 or array.shape != shape:
            problem = f"{name} is {array.dtype} of shape {array.shape}, not float32 of shape {shape}"
        elif not np.isfinite(array).all():
            problem = f"{name} has values that are not finite"
        elif name.endswith("running_var") and (array < 0.0).any():
            problem = f"{name}, a variance, has negative values"
        if array is None or problem:
            raise UserError(
                f"{path} does not contain the weights of the FID network",
                why=problem,
                fix=_how_to_get_them(),
            )
        weights[name] = array
    return weights


def _content_sha256(weights: dict[str, NDArray[np.float32]]) -> str:
    digest = hashlib.sha256()
    for name, array in weights.items():
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _how_to_get_them() -> str:
    return (
        f"download {FILE_NAME} from {URL} on any machine, and pass --features inception:weights=FILE "
        f"or put it into {cache_folder()}"
    )

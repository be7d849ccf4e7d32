"""The files of a diffusers pipeline, in a folder or downloaded from the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError, printable
from ddim_host.system.files import file_errors, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLE = "diffusion_pytorch_model.bin"
UNET_FOLDER, SCHEDULER_FOLDER = "unet", "scheduler"
UNET_CONFIG, SCHEDULER_CONFIG, INDEX = "config.json", "scheduler_config.json", "model_index.json"

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Pipeline:
    """The files of a pipeline.

    Attributes:
        unet_config: Configuration of the network.
        scheduler_config: Configuration of the scheduler.
        weights: The file with the network's weights.
        origin: Facts about the origin of the files, by name.
    """

    unet_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    weights: Path
    origin: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def open_pipeline(source: str, revision: str | None = None) -> Iterator[Pipeline]:
    """Find the files of a pipeline; downloaded files are deleted at the end of the block.

    Args:
        source: A folder, or a name on the Hugging Face Hub such as `google/ddpm-cifar10-32`.
        revision: A branch, tag or commit on the Hub; None for the main branch.

    Raises:
        UserError: The pipeline does not exist, or one of its files is missing, unsafe or unreadable.
    """
    folder = Path(source)
    with file_errors(f"cannot read {printable(source[:80])}"):
        is_local = folder.exists() or not _HUB_NAME.fullmatch(source)
    if is_local:
        if revision is not None:
            raise UserError(
                "--revision applies only to pipelines on the Hub",
                why=f"{source} is a local folder",
                fix="remove --revision",
            )
        yield _read(folder, {"pipeline": str(folder.absolute())})
        return
    with tempfile.TemporaryDirectory(prefix="ddim-host-") as scratch:
        origin = _download(source, revision, Path(scratch))
        yield _read(Path(scratch), origin)


def _download(name: str, revision: str | None, folder: Path) -> dict[str, str]:
    """Download the required files of a repository, and return their origin."""
    try:
        import huggingface_hub  # noqa: PLC0415 - optional
    except ImportError as error:
        raise UserError(
            f"cannot download {name} from the Hugging Face Hub",
            why=f"{error}, and there is no local folder with this name",
            fix='pip install "huggingface_hub>=0.24", or download the pipeline and pass its folder',
        ) from None
    wanted = [
        *(INDEX, UNET_CONFIG, SCHEDULER_CONFIG, WEIGHTS, f"{SCHEDULER_FOLDER}/{SCHEDULER_CONFIG}"),
        *(f"{UNET_FOLDER}/{file}" for file in (UNET_CONFIG, WEIGHTS)),
    ]
    print(f"downloading {name} from the Hugging Face Hub", flush=True)
    try:
        found = huggingface_hub.HfApi().model_info(name, revision=revision)
        huggingface_hub.snapshot_download(name, revision=found.sha, local_dir=folder, allow_patterns=wanted)
    # The Hub client also raises the errors of its HTTP library, which differs between versions.
    except Exception as error:
        raise UserError(
            f"cannot download {name} from the Hugging Face Hub",
            why=" ".join(str(error).split())[:300],
            fix="check the name, --revision and the connection, or download the pipeline and pass its folder",
        ) from None
    files = {sibling.rfilename for sibling in found.siblings or ()}
    if not files & {WEIGHTS, f"{UNET_FOLDER}/{WEIGHTS}"} and any(file.endswith(PICKLE) for file in files):
        raise _pickled(
            f"the weights of {name} on the Hugging Face Hub",
            "from diffusers import DDPMPipeline; "
            f"DDPMPipeline.from_pretrained({name!r}).save_pretrained('converted')",
        )
    return {"pipeline": name, "revision": str(found.sha)}


def _read(folder: Path, origin: dict[str, str]) -> Pipeline:
    """Read a pipeline from a folder; the first releases of diffusers wrote no subfolders."""
    if not folder.is_dir():
        raise UserError(
            f"there is no pipeline in {folder}",
            why="it is not a folder" if folder.exists() else "it does not exist",
            fix="pass a folder saved by diffusers, or a name on the Hub: OWNER/NAME",
        )
    unet = folder / UNET_FOLDER if (folder / UNET_FOLDER).is_dir() else folder
    scheduler = folder / SCHEDULER_FOLDER if (folder / SCHEDULER_FOLDER).is_dir() else folder
    index = folder / INDEX
    if index.exists():
        _require_unconditional(_configuration(folder, index), index)
    unet_config = _configuration(folder, unet / UNET_CONFIG)
    scheduler_config = _configuration(folder, scheduler / SCHEDULER_CONFIG)
    weights = unet / WEIGHTS
    if not weights.exists():
        raise _no_weights(unet)
    _require_inside(folder, weights)
    return Pipeline(unet_config, scheduler_config, weights, origin)


def _configuration(folder: Path, path: Path) -> dict[str, Any]:
    _require_inside(folder, path)
    with file_errors(f"cannot read {path}", fix="pass a folder saved by a diffusers pipeline"):
        try:
            document = read_json(path)
            if not isinstance(document, dict):
                raise TypeError(f"it contains a {type(document).__name__}, not an object")
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged", why=str(error)) from None
    return document


def _require_inside(folder: Path, path: Path) -> None:
    """Check that a path does not lead outside the pipeline's folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{path} is a link to a file outside the pipeline's folder",
            why="all files of a pipeline must be inside its folder",
            fix=f"import a copy without links: cp -rL {shlex.quote(str(folder))} COPY",
        )


def _require_unconditional(index: dict[str, Any], path: Path) -> None:
    """Check that a pipeline consists of only a network and a scheduler."""
    others = sorted(
        key for key in index if not key.startswith("_") and key not in (UNET_FOLDER, SCHEDULER_FOLDER)
    )
    if others:
        raise UserError(
            f"{path} describes a pipeline that cannot be imported",
            why=f"besides a network and a scheduler, it contains {', '.join(others)}",
            fix="import an unconditional pixel-space pipeline: DDPMPipeline or DDIMPipeline",
        )


def _no_weights(unet: Path) -> UserError:
    """Return the error for a pipeline without readable weights, with the command that converts them."""
    pickle = unet / PICKLE
    if not pickle.exists():
        return UserError(f"{unet} has no weights", why=f"there is no {WEIGHTS}")
    place = repr(str(unet))
    command = f"UNet2DModel.from_pretrained({place}).save_pretrained({place})"
    return _pickled(f"the weights in {pickle}", f"from diffusers import UNet2DModel; {command}")


def _pickled(what: str, command: str) -> UserError:
    return UserError(
        f"{what} are in a pickle file, which can run arbitrary code",
        why=f"only safetensors files are read, and there is no {WEIGHTS}",
        fix=f"if you trust the weights, convert them with diffusers: python -c {shlex.quote(command)}",
    )

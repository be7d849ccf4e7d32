"""The options of `run`, made from the tables of parts and settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.config import PART_KINDS, Request, read_epochs, read_request
from ddim_host.errors import UserError
from ddim_host.parameters import parse_choice
from ddim_host.registry import Kind
from ddim_host.settings import SETTINGS, read_setting

if TYPE_CHECKING:
    import argparse

__all__ = ["add_run_options", "requested"]

_PART_HELP = {
    Kind.DATA: "images: digits, cifar10, or images:path=FOLDER_OR_ARCHIVE (default: digits)",
    Kind.MODEL: "the network, e.g. unet:base_channels=64,dropout=0 (default: unet, sized by the images)",
    Kind.NOISE_SCHEDULE: "how much noise each timestep adds: linear, cosine (default: linear)",
    Kind.TIMESTEP_SAMPLER: "timesteps in training: uniform, antithetic (default: uniform)",
    Kind.LOSS: "one number per image: mse, l2 (default: mse)",
    Kind.LOSS_WEIGHTING: "factor per timestep (default: none)",
    Kind.TIMESTEP_SUBSET: "timesteps in sampling: linear, quad, cosine, leading (default: linear)",
}


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `run`."""
    parser.add_argument(
        "--plugin", metavar="NAME", help="the framework: torch, jittor, or another installed one"
    )
    parts = parser.add_argument_group(
        "parts", "NAME, NAME:parameter=value,... or DISTRIBUTION/NAME; `ddim-host plugins` lists all names"
    )
    for kind in PART_KINDS:
        parts.add_argument(f"--{kind.option.replace('_', '-')}", metavar="PART", help=_PART_HELP[kind])
    settings = parser.add_argument_group("settings")
    settings.add_argument("--epochs", metavar="N", help="length of the training in passes over the images")
    for setting in SETTINGS.values():
        default = "follows the data set" if setting.default is None else str(setting.default).lower()
        # Values are checked later, in one place with those of TOML files.
        settings.add_argument(setting.option, metavar="X", help=f"{setting.help} (default: {default})")
    files = parser.add_argument_group("files")
    files.add_argument("--config", metavar="FILE", type=Path, help="TOML file with any of the above")
    files.add_argument(
        "--out", metavar="DIR", type=Path, help="the run directory (default: runs/PLUGIN-DATA-NUMBER)"
    )
    files.add_argument("--resume", action="store_true", help="go on with the run in --out, unchanged")
    files.add_argument(
        "--start-from",
        metavar="RUN",
        type=Path,
        help="begin a new run from the newest checkpoint and the settings of another one; any of them may be "
        "changed, also the framework",
    )
    files.add_argument("--dry-run", action="store_true", help="show what would be assembled, and stop")


def requested(options: argparse.Namespace) -> Request:
    """What the options ask for, on top of the file that `--config` names.

    Raises:
        UserError: An option's value cannot be read or is not allowed.
    """
    parts = {
        kind: parse_choice(text) for kind in PART_KINDS if (text := getattr(options, kind.option)) is not None
    }
    settings = {
        name: read_setting(name, text, origin=setting.option)
        for name, setting in SETTINGS.items()
        if (text := getattr(options, name)) is not None
    }
    epochs = None if options.epochs is None else read_epochs(options.epochs, origin="--epochs")
    if epochs is not None and "train_steps" in settings:
        raise UserError("--epochs and --train-steps both set the length", fix="give one of them")
    request = Request(options.plugin, parts, settings, epochs)
    return request.over(read_request(options.config)) if options.config is not None else request

"""The options of the commands, made from the tables of parts and settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.evaluation.request import EVALUATION_OPTIONS
from ddim_host.experiment.config import LENGTHS, PART_KINDS, Request, Watchers
from ddim_host.experiment.config_file import preset_names, read_preset
from ddim_host.experiment.defaults import DEFAULT_PARTS, SMALL, default_settings
from ddim_host.experiment.settings import CHECKPOINTS, SETTINGS, read_setting
from ddim_host.plugin.parameters import parse_choice
from ddim_host.plugin.registry import Kind
from ddim_host.scaffold.names import PLUGIN_KINDS
from ddim_host.system.limits import MAX_GRID_IMAGES, MAX_IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ddim_host.experiment.config_file import ConfigFile

_PART_HELP = {
    Kind.DATA: "images: digits, mnist, fashion_mnist, cifar10, or images:path=FOLDER_OR_FILE",
    Kind.MODEL: "the network, e.g. unet:base_channels=64,dropout=0; its size follows the images",
    Kind.NOISE_SCHEDULE: "noise of each timestep: linear, cosine, quad, sigmoid, explicit:betas=B,B,...",
    Kind.TIMESTEP_SAMPLER: "timesteps in training: uniform, antithetic, importance",
    Kind.LOSS: "one number per image: mse, l2, l1, huber:delta=D, balanced:alpha=A",
    Kind.LOSS_WEIGHTING: "factor per timestep: none, min_snr:gamma=G, p2:gamma=G,k=K",
    Kind.TIMESTEP_SUBSET: "timesteps in sampling: linear, quad, cosine, leading, trailing, explicit:t=0,9",
    Kind.SOLVER: "how a sampler follows its timesteps: ddim; dpmpp_2m, ipndm, unipc, heun (eta 0)",
    Kind.SEARCH: "how timesteps are chosen from the teacher's: dynamic_programming",
}
_PARTS_NOTE = "NAME, NAME:parameter=value,... or DISTRIBUTION/NAME; `ddim-host plugins` lists all of them"
_METAVARS = {bool: "true|false", int: "N", float: "X", str: "NAME"}
_OF_THE_RUN = "the run's"
_SAMPLING_HELP = {
    "seed": "seed of the noise",
    "batch_size": "images per network call",
}

_MOST_COLUMNS = 1000


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `run`."""
    files = _add_experiment_options(parser)
    files.add_argument(
        "--config", metavar="FILE", type=Path, help="TOML file with any of the above but --preset"
    )
    files.add_argument(
        "--out", metavar="DIR", type=Path, help="the run directory (default: runs/PLUGIN-DATA-NUMBER)"
    )
    files.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, unchanged; with --config, begin it if there is none yet, so that "
        "the same command can be repeated after any interruption",
    )
    files.add_argument(
        "--start-from",
        metavar="RUN",
        type=Path,
        help="begin a new run from the newest checkpoint and the settings of another one; any of them may be "
        "changed, also the framework",
    )
    files.add_argument("--dry-run", action="store_true", help="show what would be assembled, and stop")


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `sweep`: those of `run`, each as often as there are values to try."""
    files = _add_experiment_options(parser, repeated=True)
    files.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="TOML file with any of the above, each one value or a list; [evaluate] holds what is below",
    )
    files.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="the folder of all runs; what is done there already is not done again; without parts and "
        "settings, those are meant that it holds (default: sweeps/NUMBER)",
    )
    files.add_argument(
        "--jobs",
        metavar="N",
        type=_count(1, 1000),
        default=1,
        help="experiments at a time; with more than one their times cannot be compared (default: 1)",
    )
    instead = files.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run",
        action="store_true",
        help="assemble the experiments, see that the features of --evaluate are available, show what is left "
        "to do, and stop",
    )
    instead.add_argument(
        "--prepare",
        action="store_true",
        help="write the folders, and DIR/jobs.txt with a command a line, for a scheduler to train them; then "
        "the same command without --prepare does the rest",
    )
    evaluation = parser.add_argument_group(
        "evaluation", "as `ddim-host evaluate` does it; each of these implies --evaluate"
    )
    evaluation.add_argument("--evaluate", action="store_true", help="evaluate each run after its training")
    for name in EVALUATION_OPTIONS:
        _add_evaluation_option(evaluation, name, prefix="evaluate-")


def _add_experiment_options(
    parser: argparse.ArgumentParser, *, repeated: bool = False
) -> argparse._ArgumentGroup:
    """Add the options that say what a run is; the group for files is given back for more of them."""
    action = "append" if repeated else "store"
    again = "; repeat an option for several values" if repeated else ""
    parser.add_argument(
        "--plugin",
        metavar="NAME",
        action=action,
        help=f"the framework: torch, jittor, or another installed one (default: the only one){again}",
    )
    parts = parser.add_argument_group("parts", _PARTS_NOTE)
    for kind in PART_KINDS:
        _add_part(parts, kind, DEFAULT_PARTS[kind], action=action)
    _add_observer(parts, "none")
    settings = parser.add_argument_group("settings")
    for name, setting in SETTINGS.items():
        if setting.default is None:
            small, large = (default_settings(size).get(name) for size in (SMALL, SMALL + 1))
            default = f"{small} up to {SMALL} pixels, {large} above" if small is not None else "none"
        else:
            default = str(setting.default).lower()
        _add_setting(settings, name, default, action=action)
    files = parser.add_argument_group("files")
    files.add_argument(
        "--preset",
        choices=preset_names(),
        action=action,
        help="settings under a name, to begin with: paper-cifar10 is the protocol of the DDIM paper",
    )
    return files


def add_sample_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `sample`."""
    _add_network_options(parser)
    sampling = parser.add_argument_group("sampling")
    _add_part(sampling, Kind.TIMESTEP_SUBSET, _OF_THE_RUN)
    _add_part(sampling, Kind.SOLVER, _OF_THE_RUN)
    for name in ("steps", "eta", "clip", "clip_range", "seed", "num_images", "batch_size"):
        _add_setting(sampling, name, _OF_THE_RUN, _SAMPLING_HELP.get(name))
    output = parser.add_argument_group("output")
    _add_observer(output, _OF_THE_RUN)
    kinds = output.add_mutually_exclusive_group()
    kinds.add_argument(
        "--interpolate",
        metavar="COLUMNS",
        type=_count(2, _MOST_COLUMNS),
        help="rows of COLUMNS images from one noise to another (slerp; needs eta 0); --num-images counts the "
        "rows (default: 8)",
    )
    kinds.add_argument(
        "--show-trajectory",
        metavar="COLUMNS",
        type=_count(1, _MOST_COLUMNS),
        nargs="?",
        const=10,
        help="rows of the predicted x_start at COLUMNS steps (default: 10); --num-images counts the rows "
        "(default: 8)",
    )
    output.add_argument(
        "--out",
        metavar="PATH",
        type=Path,
        help="x.png: a grid; x.npz: an array; without a suffix: a folder of pictures "
        "(default: RUN/samples/samples-NUMBER.png, interpolation-NUMBER.png or trajectory-NUMBER.png)",
    )


def add_reconstruct_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `reconstruct`."""
    _add_network_options(parser)
    sampling = parser.add_argument_group("images and sampling")
    _add_part(sampling, Kind.DATA, _OF_THE_RUN)
    _add_part(sampling, Kind.TIMESTEP_SUBSET, _OF_THE_RUN)
    sampling.add_argument(
        "--steps",
        dest="steps_list",
        metavar="N,N,...",
        help="numbers of steps (default: 10,20,50,100,200,500,1000, as far as there are timesteps)",
    )
    sampling.add_argument(
        "--num-images",
        dest="images",
        metavar="N",
        type=_count(1, MAX_IMAGES),
        default=100,
        help="test images, evenly chosen; all where there are no more (default: 100)",
    )
    _add_setting(sampling, "batch_size", _OF_THE_RUN, _SAMPLING_HELP["batch_size"])
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FILE.png",
        type=Path,
        help="originals and reconstructions side by side; the numbers go to a JSON file beside it "
        "(default: RUN/samples/reconstruction-NUMBER.png)",
    )


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `evaluate`."""
    _add_network_options(parser)
    sampling = parser.add_argument_group(
        "images and sampling", "every combination of --steps, --eta and --seed is scored"
    )
    _add_part(sampling, Kind.DATA, _OF_THE_RUN)
    for name in ("samples", "steps", "eta", "seed"):
        _add_evaluation_option(sampling, name)
    _add_part(sampling, Kind.TIMESTEP_SUBSET, _OF_THE_RUN)
    _add_part(sampling, Kind.SOLVER, _OF_THE_RUN)
    for name in ("clip", "clip_range", "batch_size"):
        _add_setting(sampling, name, _OF_THE_RUN, _SAMPLING_HELP.get(name))
    measuring = parser.add_argument_group("measuring")
    for name in ("features", "reference", "grids"):
        _add_evaluation_option(measuring, name)
    _add_observer(measuring, _OF_THE_RUN)


def add_optimize_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `optimize`."""
    _add_network_options(parser)
    search = parser.add_argument_group("search")
    search.add_argument(
        "--steps",
        dest="steps_list",
        metavar="N,N,...",
        default="3,5,7,10",
        help="numbers of steps, a subset for each (default: 3,5,7,10)",
    )
    _add_part(search, Kind.SEARCH, DEFAULT_PARTS[Kind.SEARCH])
    search.add_argument(
        "--teacher-steps",
        metavar="N",
        type=_count(2, 10_000),
        default=100,
        help="steps of the teacher, whose timesteps are chosen from; all timesteps if there are fewer "
        "(default: 100)",
    )
    search.add_argument(
        "--images",
        metavar="N",
        type=_count(2, MAX_GRID_IMAGES),
        default=512,
        help="images that the teacher samples, of noise that nothing else samples from (default: 512)",
    )
    for name in ("clip", "clip_range", "seed", "batch_size"):
        _add_setting(search, name, _OF_THE_RUN, _SAMPLING_HELP.get(name))
    refinement = parser.add_argument_group("refinement")
    refinement.add_argument(
        "--refine",
        choices=("none", "teacher", "features"),
        default="none",
        help="then move timesteps as long as images of a sampler come nearer to the teacher's, in the mean "
        "square of their pixels or in the Fréchet distance of their features: many more network calls "
        "(default: none)",
    )
    _add_part(refinement, Kind.SOLVER, _OF_THE_RUN)


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `import`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder that diffusers has saved a pipeline in, or a name of the Hugging Face hub: OWNER/NAME",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the run directory to make")
    parser.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit on the hub (default: its main branch)"
    )
    parser.add_argument(
        "--plugin", metavar="NAME", help="the framework: torch, jittor, ... (default: the only one)"
    )
    parser.add_argument(
        Kind.DATA.flag,
        metavar="PART",
        help="the images that the network was trained on, which a pipeline does not tell (default: none)",
    )


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `export`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a trained run")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder to make")
    parser.add_argument(
        "--plugin",
        metavar="NAME",
        help=f"the framework, if the run's is not installed (default: {_OF_THE_RUN})",
    )
    _add_weights_options(parser, [name for name in CHECKPOINTS if name != "ensemble"])


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `compare`."""
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="the folders of runs, at least one")
    parser.add_argument(
        "--format",
        choices=("html", "md", "json"),
        default="html",
        help="html: a page with curves and pictures; md: words and numbers; json: the same for programs "
        "(default: html)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="(default: comparison.html, .md or .json in the current folder)",
    )
    parser.add_argument("--force", action="store_true", help="replace the file where it exists")


def add_plugins_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `plugins`."""
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="a part, a plugin or a distribution: in detail"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for other programs")


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `doctor`."""
    parser.add_argument("--plugin", metavar="NAME", help="look at this framework only")


def add_new_plugin_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of `new-plugin`."""
    parser.add_argument(
        "name", metavar="NAME", help="what users will write, as in --loss NAME; the distribution is ddim-NAME"
    )
    parser.add_argument("--kind", required=True, choices=PLUGIN_KINDS, help="what it is to be")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the folder to make (default: ddim-NAME)")


def evaluation_options(options: argparse.Namespace) -> dict[str, str]:
    """Return the options of an evaluation that were given to `evaluate` or to `sweep`."""
    given = vars(options)
    return {name: text for name in EVALUATION_OPTIONS if (text := given[f"evaluate_{name}"]) is not None}


def requested(options: argparse.Namespace, config: ConfigFile | None = None) -> Request:
    """Return what the options ask for, on top of a file and of `--preset`.

    Raises:
        UserError: An option's value cannot be read or is not allowed.
    """
    given = vars(options)
    parts = {kind: parse_choice(text) for kind in PART_KINDS if (text := given.get(kind.option)) is not None}
    settings = {
        name: read_setting(name, text, origin=setting.option)
        for name, setting in SETTINGS.items()
        if (text := given.get(name)) is not None
    }
    if settings.keys() >= LENGTHS:
        raise UserError("--epochs and --train-steps both set the length", fix="give one of them")
    request = Request(options.plugin, parts, settings, requested_watchers(options))
    if config is not None:
        request = request.over(config.request)
    if given.get("preset") is not None:
        request = request.over(read_preset(options.preset))
    return request


def requested_watchers(options: argparse.Namespace) -> Watchers | None:
    """Return the observers that the options ask for; None if they say nothing about them.

    Raises:
        UserError: One cannot be read.
    """
    texts = getattr(options, "observer", None)
    return None if texts is None else Watchers(tuple(map(parse_choice, texts)))


def _add_observer(group: argparse._ArgumentGroup, default: str) -> None:
    group.add_argument(
        Kind.OBSERVER.flag,
        metavar="PART",
        action="append",
        help="who is told of metrics, grids and scores; give it again for several: tensorboard, of "
        f"ddim-tensorboard (default: {default})",
    )


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a trained run")
    network = parser.add_argument_group("network")
    network.add_argument(
        "--plugin", metavar="NAME", help=f"the framework: torch, jittor, ... (default: {_OF_THE_RUN})"
    )
    _add_weights_options(network, CHECKPOINTS)
    for name in ("device", "precision"):
        _add_setting(network, name, _OF_THE_RUN)


def _add_weights_options(
    group: argparse.ArgumentParser | argparse._ArgumentGroup, checkpoints: Sequence[str]
) -> None:
    ensemble = "; or the mean of the predictions of these three" if "ensemble" in checkpoints else ""
    group.add_argument(
        "--checkpoint",
        choices=checkpoints,
        default="latest",
        help="the newest one; the best epoch by train loss, test loss, or (5 train + test) / 6, of the raw "
        f"weights{ensemble} (default: latest)",
    )
    group.add_argument(
        "--weights", choices=("ema", "raw"), default="ema", help="averaged or raw weights (default: ema)"
    )


def _add_part(group: argparse._ArgumentGroup, kind: Kind, default: str, *, action: str = "store") -> None:
    text = f"{_PART_HELP[kind]} (default: {default})"
    group.add_argument(kind.flag, metavar="PART", action=action, help=text)


def _add_evaluation_option(group: argparse._ArgumentGroup, name: str, *, prefix: str = "") -> None:
    takes, text = EVALUATION_OPTIONS[name]
    group.add_argument(f"--{prefix}{name}", dest=f"evaluate_{name}", metavar=takes, help=text)


def _add_setting(
    group: argparse._ArgumentGroup,
    name: str,
    default: str,
    text: str | None = None,
    *,
    action: str = "store",
) -> None:
    # Values are checked later, in one place with those of TOML files.
    setting = SETTINGS[name]
    text = f"{text or setting.help} (default: {default})"
    group.add_argument(setting.option, metavar=_METAVARS[setting.annotation], action=action, help=text)


def _count(least: int, most: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"it takes: integer, from {least} to {most:,}, not {text!r:.40}")
        return int(text)

    return count

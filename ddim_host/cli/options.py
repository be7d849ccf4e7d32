"""Options of the commands, built from the tables of parts and settings."""

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
    from ddim_host.run.images import Enlargement

_PART_HELP = {
    Kind.DATA: "images: digits, mnist, fashion_mnist, cifar10, or images:path=FOLDER_OR_FILE",
    Kind.MODEL: "the network, e.g. unet:base_channels=64,dropout=0; its size depends on the images",
    Kind.NOISE_SCHEDULE: "the noise schedule: linear, cosine, quad, sigmoid, explicit:betas=B,B,...",
    Kind.TIMESTEP_SAMPLER: "the distribution of training timesteps: uniform, antithetic, importance",
    Kind.LOSS: "the loss of an image: mse, l2, l1, huber:delta=D, balanced:alpha=A",
    Kind.LOSS_WEIGHTING: "the weight of each timestep's loss: none, min_snr:gamma=G, p2:gamma=G,k=K",
    Kind.TIMESTEP_SUBSET: "timesteps for sampling: linear, quad, cosine, leading, trailing, explicit:t=0,9",
    Kind.SOLVER: "the solver: ddim; dpmpp_2m, ipndm, unipc, heun (eta 0)",
    Kind.SEARCH: "the search over the teacher's timesteps: dynamic_programming",
}
_PARTS_NOTE = "NAME, NAME:parameter=value,... or DISTRIBUTION/NAME; `ddim-host plugins` lists all parts"
_METAVARS = {bool: "true|false", int: "N", float: "X", str: "NAME"}
_OF_THE_RUN = "the run's"
_SAMPLING_HELP = {
    "seed": "seed of the noise",
    "batch_size": "images per network call",
}

_MOST_COLUMNS = 1000
_MOST_SCALE = 64

SHELLS = ("bash", "zsh", "fish")
"""Shells with a completion script."""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    files = _add_experiment_options(parser)
    files.add_argument(
        "--config", metavar="FILE", type=Path, help="TOML file with any of the options above except --preset"
    )
    files.add_argument(
        "--out", metavar="DIR", type=Path, help="the run directory (default: runs/PLUGIN-DATA-NUMBER)"
    )
    files.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out with its settings; with --config, start the run if it does not "
        "exist, so that the same command can be repeated after any interruption",
    )
    files.add_argument(
        "--start-from",
        metavar="RUN",
        type=Path,
        help="start a new run from the newest checkpoint and the settings of RUN; options override any "
        "setting, including the framework",
    )
    files.add_argument("--dry-run", action="store_true", help="show the assembled experiment and exit")
    _add_grid_options(files)


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sweep`: the options of `run`, each allowed several times."""
    files = _add_experiment_options(parser, repeated=True)
    files.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="TOML file with any of the options above, each a value or a list; the evaluation options go in "
        "[evaluate]",
    )
    files.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="the folder for all runs; finished work is not repeated; without parts and settings, continue "
        "the experiments already in it (default: sweeps/NUMBER)",
    )
    files.add_argument(
        "--jobs",
        metavar="N",
        type=_count(1, 1000),
        default=1,
        help="number of experiments to run at a time; with more than one, times are not comparable "
        "(default: 1)",
    )
    instead = files.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run",
        action="store_true",
        help="assemble the experiments, check that the features of --evaluate are available, show the "
        "remaining work and exit",
    )
    instead.add_argument(
        "--prepare",
        action="store_true",
        help="write the folders and DIR/jobs.txt, one training command per line, for a scheduler; once these "
        "jobs are done, the same command without --prepare does the remaining work",
    )
    evaluation = parser.add_argument_group(
        "evaluation", "see `ddim-host evaluate --help`; each of these options implies --evaluate"
    )
    evaluation.add_argument("--evaluate", action="store_true", help="evaluate each run after training")
    for name in EVALUATION_OPTIONS:
        _add_evaluation_option(evaluation, name, prefix="evaluate-")


def _add_experiment_options(
    parser: argparse.ArgumentParser, *, repeated: bool = False
) -> argparse._ArgumentGroup:
    """Add the options that define a run; return the group of file options, so that more can be added."""
    action = "append" if repeated else "store"
    again = "; repeat any option to try several values" if repeated else ""
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
        help="a named set of settings, which options override; paper-cifar10: the protocol of the DDIM paper",
    )
    return files


def add_sample_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sample`."""
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
        help="draw rows of COLUMNS images that interpolate between two noise samples (slerp; needs eta 0); "
        "--num-images is the number of rows (default: 8; 16 in an animation)",
    )
    kinds.add_argument(
        "--show-trajectory",
        metavar="COLUMNS",
        type=_count(1, _MOST_COLUMNS),
        nargs="?",
        const=0,
        help="draw rows of the predicted x_start at COLUMNS steps (default: 10; all of them in an "
        "animation); --num-images is the number of rows (default: 8; 16 in an animation)",
    )
    output.add_argument(
        "--out",
        metavar="PATH",
        type=Path,
        help="x.png: a grid; x.gif, x.apng or x.webp: an animated trajectory or interpolation, one frame per "
        "column; x.npz: an array; no suffix: a folder of pictures "
        "(default: RUN/samples/samples-NUMBER.png, interpolation-NUMBER.png or trajectory-NUMBER.png)",
    )
    _add_grid_options(output)


def add_reconstruct_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `reconstruct`."""
    _add_network_options(parser)
    sampling = parser.add_argument_group("images and sampling")
    _add_part(sampling, Kind.DATA, _OF_THE_RUN)
    _add_part(sampling, Kind.TIMESTEP_SUBSET, _OF_THE_RUN)
    sampling.add_argument(
        "--steps",
        dest="steps_list",
        metavar="N,N,...",
        help="numbers of steps (default: 10,20,50,100,200,500,1000, without those above T)",
    )
    sampling.add_argument(
        "--num-images",
        dest="images",
        metavar="N",
        type=_count(1, MAX_IMAGES),
        default=100,
        help="number of test images, evenly spaced; all if there are fewer (default: 100)",
    )
    _add_setting(sampling, "batch_size", _OF_THE_RUN, _SAMPLING_HELP["batch_size"])
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FILE.png",
        type=Path,
        help="picture of originals and reconstructions side by side; the errors are written to a JSON file "
        "next to it (default: RUN/samples/reconstruction-NUMBER.png)",
    )
    _add_grid_options(output)


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
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
    _add_grid_options(measuring)
    _add_observer(measuring, _OF_THE_RUN)


def add_optimize_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `optimize`."""
    _add_network_options(parser)
    search = parser.add_argument_group("search")
    search.add_argument(
        "--steps",
        dest="steps_list",
        metavar="N,N,...",
        default="3,5,7,10",
        help="numbers of steps, each with its own subset (default: 3,5,7,10)",
    )
    _add_part(search, Kind.SEARCH, DEFAULT_PARTS[Kind.SEARCH])
    search.add_argument(
        "--teacher-steps",
        metavar="N",
        type=_count(2, 10_000),
        default=100,
        help="minimum number of steps of the teacher; the search chooses among its timesteps, which also "
        "include those of `linear` for each of --steps; all timesteps if there are fewer (default: 100)",
    )
    search.add_argument(
        "--images",
        metavar="N",
        type=_count(2, MAX_GRID_IMAGES),
        default=512,
        help="number of images that the teacher samples, from noise used for nothing else (default: 512)",
    )
    for name in ("clip", "clip_range", "seed", "batch_size"):
        _add_setting(search, name, _OF_THE_RUN, _SAMPLING_HELP.get(name))
    refinement = parser.add_argument_group("refinement")
    refinement.add_argument(
        "--refine",
        choices=("none", "teacher", "features"),
        default="none",
        help="after the search, keep moving timesteps while this brings the images closer to the teacher's, "
        "measured by the mean squared error of pixels (teacher) or the Fréchet distance of features "
        "(features); needs many more network calls (default: none)",
    )
    _add_part(refinement, Kind.SOLVER, _OF_THE_RUN)


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `import`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder with a saved diffusers pipeline, or its name on the Hugging Face Hub: OWNER/NAME",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the run directory to create")
    parser.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit on the Hub (default: main branch)"
    )
    parser.add_argument(
        "--plugin", metavar="NAME", help="the framework: torch, jittor, ... (default: the only one)"
    )
    parser.add_argument(
        Kind.DATA.flag,
        metavar="PART",
        help="the images that the network was trained on, which a pipeline does not record (default: none)",
    )


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `export`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a trained run")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder to create")
    parser.add_argument(
        "--plugin",
        metavar="NAME",
        help=f"the framework to use if the run's own is not installed (default: {_OF_THE_RUN})",
    )
    _add_weights_options(parser, [name for name in CHECKPOINTS if name != "ensemble"])


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `compare`."""
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="the folders of one or more runs")
    parser.add_argument(
        "--format",
        choices=("html", "md", "json"),
        default="html",
        help="html: a page with curves and pictures; md: text and tables; json: for other programs "
        "(default: html)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the file to write (default: comparison.html, .md or .json in the current folder)",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="rewrite the page whenever the run changes, until the run ends or you press Ctrl-C; "
        "the page reloads itself",
    )


def add_plugins_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `plugins`."""
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "name", metavar="NAME", nargs="?", help="show details of this part, plugin or distribution"
    )
    output.add_argument("--json", action="store_true", help="print JSON for other programs")


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `doctor`."""
    parser.add_argument("--plugin", metavar="NAME", help="check this framework only")
    parser.add_argument("--json", action="store_true", help="print JSON, for bug reports and programs")


def add_new_plugin_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `new-plugin`."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="the part's name, as in --loss NAME; the distribution is called ddim-NAME",
    )
    parser.add_argument("--kind", required=True, choices=PLUGIN_KINDS, help="the kind of part to create")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the folder to create (default: ddim-NAME)")


def add_completion_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `completion`."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"the shell: {', '.join(SHELLS)}")


def evaluation_options(options: argparse.Namespace) -> dict[str, str]:
    """Return the evaluation options given to `evaluate` or `sweep`."""
    given = vars(options)
    return {name: text for name in EVALUATION_OPTIONS if (text := given[f"evaluate_{name}"]) is not None}


def requested(options: argparse.Namespace, config: ConfigFile | None = None) -> Request:
    """Build a request from the options, which override the file and `--preset`.

    Raises:
        UserError: An option's value cannot be parsed or is not allowed.
    """
    given = vars(options)
    parts = {kind: parse_choice(text) for kind in PART_KINDS if (text := given.get(kind.option)) is not None}
    settings = {
        name: read_setting(name, text, origin=setting.option)
        for name, setting in SETTINGS.items()
        if (text := given.get(name)) is not None
    }
    if settings.keys() >= LENGTHS:
        raise UserError("--epochs and --train-steps are mutually exclusive", fix="remove one of them")
    request = Request(options.plugin, parts, settings, requested_watchers(options))
    if config is not None:
        request = request.over(config.request)
    if given.get("preset") is not None:
        request = request.over(read_preset(options.preset))
    return request


def requested_watchers(options: argparse.Namespace) -> Watchers | None:
    """Return the requested observers, or None if the options do not mention any.

    Raises:
        UserError: The text of an observer cannot be parsed.
    """
    texts = getattr(options, "observer", None)
    return None if texts is None else Watchers(tuple(map(parse_choice, texts)))


def requested_enlargement(options: argparse.Namespace) -> Enlargement:
    """Return the requested enlargement of small images in grids."""
    from ddim_host.run.images import Enlargement  # noqa: PLC0415 - imports NumPy, which `--help` does not need

    return Enlargement(options.grid_scale, options.nearest)


def _add_grid_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--grid-scale",
        metavar="N",
        type=_count(1, _MOST_SCALE),
        help="enlarge the images of a grid N times (default: to a width of 64 to 128 pixels)",
    )
    group.add_argument(
        "--nearest",
        action="store_true",
        help="show the pixels of enlarged images as squares (default: enlarge smoothly)",
    )


def _add_observer(group: argparse._ArgumentGroup, default: str) -> None:
    group.add_argument(
        Kind.OBSERVER.flag,
        metavar="PART",
        action="append",
        help="an observer that receives metrics, grids and scores, e.g. tensorboard from ddim-tensorboard; "
        f"repeat for several (default: {default})",
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
    ensemble = "; or the mean prediction of these three" if "ensemble" in checkpoints else ""
    group.add_argument(
        "--checkpoint",
        choices=checkpoints,
        default="latest",
        help="the newest checkpoint; the best epoch by train loss, test loss, or (5 train + test) / 6, "
        f"measured with the raw weights{ensemble} (default: latest)",
    )
    group.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="ema: averaged weights; raw: weights without averaging (default: ema)",
    )


def _add_part(group: argparse._ArgumentGroup, kind: Kind, default: str, *, action: str = "store") -> None:
    text = f"{_PART_HELP[kind]} (default: {default})"
    group.add_argument(kind.flag, metavar="PART", action=action, help=text)


def _add_evaluation_option(group: argparse._ArgumentGroup, name: str, *, prefix: str = "") -> None:
    metavar, text = EVALUATION_OPTIONS[name]
    group.add_argument(f"--{prefix}{name}", dest=f"evaluate_{name}", metavar=metavar, help=text)


def _add_setting(
    group: argparse._ArgumentGroup,
    name: str,
    default: str,
    text: str | None = None,
    *,
    action: str = "store",
) -> None:
    # Values are checked later, together with those of TOML files.
    setting = SETTINGS[name]
    text = f"{text or setting.help} (default: {default})"
    group.add_argument(setting.option, metavar=_METAVARS[setting.annotation], action=action, help=text)


def _count(least: int, most: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"must be an integer from {least} to {most:,}, not {text!r:.40}")
        return int(text)

    return count

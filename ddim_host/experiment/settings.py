"""The settings of a run that are not parts: one table for the command line, TOML files and the checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from ddim_host.errors import UserError
from ddim_host.plugin.parameters import Value, convert, type_name
from ddim_host.system.limits import MAX_IMAGES, MAX_SEED, MAX_STEPS, MAX_TIMESTEPS

if TYPE_CHECKING:
    from collections.abc import Callable

CheckpointChoice: TypeAlias = Literal["latest", "best-train", "best-test", "best-avg", "ensemble"]
"""Whose weights to sample with: the newest, the best epoch by one of three losses, or all three together."""

_PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
"""Those of `ddim_host.diffusion`, which would import NumPy for `--help`."""

CHECKPOINTS: tuple[CheckpointChoice, ...] = get_args(CheckpointChoice)


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: Key in a TOML file; with dashes the option of the command line.
        annotation: Its type.
        default: Its default; None where that depends on the data set (see `ddim_host.experiment.defaults`).
        help: One line for `--help`.
        accepts: Whether a value of the right type is allowed.
        rule: The same for people: "at least 1".
    """

    name: str
    annotation: Any
    default: Value
    help: str
    accepts: Callable[[Any], bool]
    rule: str

    @property
    def option(self) -> str:
        """The option of the command line: `--batch-size`."""
        return "--" + self.name.replace("_", "-")

    def read(self, given: object, *, origin: str) -> Value:
        """Convert and check a value.

        Args:
            given: Text from the command line, or a value from a TOML file.
            origin: Where it was given, for the message: `--batch-size`, or `batch_size in run.toml`.

        Raises:
            UserError: It has the wrong type or is not allowed.
        """
        try:
            value = convert(given, self.annotation)
        except ValueError:
            value = None
        finite = not isinstance(value, float) or math.isfinite(value)
        if value is None or not finite or not self.accepts(value):
            kind = type_name(self.annotation)
            requirement = f"{kind}, {self.rule}" if self.rule else kind
            raise UserError(f"{origin} cannot be {given!r}", why=f"it takes: {requirement}")
        return value


def _count(name: str, default: int | None, text: str, *, most: int = MAX_STEPS) -> Setting:
    return Setting(name, int, default, text, lambda n: 1 <= n <= most, f"from 1 to {most:,}")


def _choice(name: str, default: str, choices: tuple[str, ...], text: str) -> Setting:
    return Setting(name, str, default, text, lambda s: s in choices, f"one of {', '.join(choices)}")


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        _count("num_train_timesteps", 1000, "T, the timesteps of the forward process", most=MAX_TIMESTEPS),
        _choice(
            "prediction_type", "epsilon", _PREDICTION_TYPES,
            "what the network predicts: epsilon (the noise), sample (x_start) or v_prediction",
        ),
        Setting(
            "rescale_zero_snr", bool, False,
            "stretch the noise schedule to end in pure noise (not with epsilon)", lambda _: True, "",
        ),
        _count("steps", 20, "S, the timesteps that sampling visits, a network call each", most=MAX_TIMESTEPS),
        Setting(
            "eta", float, 0.0, "0: deterministic DDIM; 1: as random as DDPM",
            lambda x: 0 <= x <= 1, "in [0, 1]",
        ),
        Setting(
            "clip", bool, True, "limit the predicted x_start while sampling",
            lambda _: True, "",
        ),
        Setting(
            "clip_range", float, 1.0, "the largest absolute value of x_start that clip leaves",
            lambda x: x > 0, "above 0",
        ),
        _count("num_images", 64, "images to sample", most=MAX_IMAGES),
        _count("train_steps", None, "length of the training in optimizer steps"),
        _count("epochs", None, "length of the training in passes over the images, in place of train_steps"),
        _count("batch_size", None, "images per step, in training and in sampling", most=100_000),
        Setting("lr", float, None, "learning rate of Adam", lambda x: x > 0, "above 0"),
        Setting(
            "lr_warmup_steps", int, None, "steps over which the learning rate rises to its value",
            lambda n: 0 <= n <= MAX_STEPS, f"from 0 to {MAX_STEPS:,}",
        ),
        Setting(
            "ema_decay", float, None, "decay of the averaged weights, reached gradually",
            lambda x: 0 <= x < 1, "in [0, 1)",
        ),
        Setting("max_grad_norm", float, 1.0, "limit of the gradient's norm", lambda x: x > 0, "above 0"),
        Setting(
            "checkpoint_seconds", float, 300.0, "seconds of training between two checkpoints",
            lambda x: x >= 0, "0 or more",
        ),
        _count("test_images", 2000, "most test images that each test loss is measured on"),
        Setting("seed", int, 0, "seed of all randomness", lambda n: 0 <= n <= MAX_SEED, "in [0, 2^63)"),
        _choice("device", "auto", ("auto", "cpu", "cuda"), "where to compute: auto, cpu or cuda"),
        _choice(
            "precision", "auto", ("auto", "fp32", "bf16"),
            "arithmetic of the network: auto (bf16 on a GPU that has it, otherwise fp32), fp32 or bf16",
        ),
    )
}  # fmt: skip


def read_setting(name: str, given: object, *, origin: str) -> Value:
    """Convert and check the value of one setting; see `Setting.read`."""
    return SETTINGS[name].read(given, origin=origin)


def read_list(name: str, text: str, *, origin: str) -> tuple[Any, ...]:
    """Read several values of one setting, as in `10,20,50`, sorted and without repetition.

    Args:
        name: A key of `SETTINGS`.
        text: The values, with commas between.
        origin: Where they were given, for the message.

    Raises:
        UserError: One of them cannot be read or is not allowed.
    """
    try:
        values = {read_setting(name, item.strip(), origin=origin) for item in text.split(",")}
    except UserError as error:
        why = f"{error.why}; several with commas between"
        raise UserError(f"{origin} cannot be {text!r:.80}", why=why) from None
    return tuple(sorted(cast("set[float]", values)))

"""Settings of a run that are not parts, in one table for the command line, TOML files and validation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from ddim_host.errors import UserError
from ddim_host.plugin.parameters import Value, convert, described_type
from ddim_host.system.limits import MAX_IMAGES, MAX_SEED, MAX_STEPS, MAX_TIMESTEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CheckpointChoice: TypeAlias = Literal["latest", "best-train", "best-test", "best-avg", "ensemble"]
"""Weights to sample with: the latest, the best by one of three losses, or an ensemble of those three."""

_PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
"""Copied from `ddim_host.diffusion`, which imports NumPy; `--help` should not have to wait for that."""

CHECKPOINTS: tuple[CheckpointChoice, ...] = get_args(CheckpointChoice)


@dataclass(frozen=True)
class Setting:
    """A setting of a run.

    Attributes:
        name: Key in a TOML file; also the command-line option, with dashes.
        annotation: The type.
        default: The default; None if it depends on the data set (see `ddim_host.experiment.defaults`).
        help: One line for `--help`.
        accepts: Returns whether a value of the right type is allowed.
        rule: Description of `accepts`, to follow the type: "above 0". For strings, all allowed values.
        choices: All values, for completion in shells; empty if there are too many to list.
        words: Words accepted instead of a value of the type, and the values that they stand for.
    """

    name: str
    annotation: Any
    default: Value
    help: str
    accepts: Callable[[Any], bool]
    rule: str
    choices: tuple[str, ...] = ()
    words: Mapping[str, Value] = field(default_factory=dict)

    @property
    def option(self) -> str:
        """The command-line option, such as `--batch-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def allowed(self) -> str:
        """The allowed values, as in `--eta must be a number in [0, 1]`."""
        return (
            self.rule if self.annotation is str else f"{described_type(self.annotation)} {self.rule}".strip()
        )

    def read(self, given: object, *, origin: str) -> Value:
        """Convert and validate a value.

        Args:
            given: Text from the command line, or a value from a TOML file.
            origin: Source of the value for the error message: `--batch-size`, or `batch_size in run.toml`.

        Raises:
            UserError: The value has the wrong type or is not allowed.
        """
        if isinstance(given, str) and given in self.words:
            return self.words[given]
        try:
            value = convert(given, self.annotation)
        except ValueError:
            value = None
        finite = not isinstance(value, float) or math.isfinite(value)
        if value is None or not finite or not self.accepts(value):
            raise UserError(f"{origin} must be {self.allowed}, not {given!r:.80}")
        return value


def _count(name: str, default: int | None, text: str, *, most: int = MAX_STEPS) -> Setting:
    return Setting(name, int, default, text, lambda n: 1 <= n <= most, f"from 1 to {most:,}")


def _choice(name: str, default: str, choices: tuple[str, ...], text: str) -> Setting:
    rule = f"one of {', '.join(choices)}"
    return Setting(name, str, default, text, lambda s: s in choices, rule, choices)


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        _count("num_train_timesteps", 1000, "T, the number of timesteps of the forward "
            "process", most=MAX_TIMESTEPS),
        _choice(
            "prediction_type", "epsilon", _PREDICTION_TYPES,
            "the network's target: epsilon (the noise), sample (x_start) or v_prediction",
        ),
        Setting(
            "rescale_zero_snr", bool, False,
            "rescale the noise schedule to end in pure noise (not with prediction type epsilon)",
            lambda _: True, "",
        ),
        _count("steps", 20, "S, the number of timesteps that sampling visits", most=MAX_TIMESTEPS),
        Setting(
            "eta", float, 0.0, "noise added while sampling, from 0 (deterministic DDIM) to 1 (DDPM)",
            lambda x: 0 <= x <= 1, "in [0, 1]",
        ),
        Setting(
            "clip", bool, True, "clip the predicted x_start while sampling",
            lambda _: True, "",
        ),
        Setting(
            "clip_range", float, 1.0, "largest absolute value of x_start if clip is true",
            lambda x: x > 0, "above 0",
        ),
        _count("num_images", 64, "number of images to sample", most=MAX_IMAGES),
        _count("train_steps", None, "length of training in optimizer steps"),
        _count("epochs", None, "length of training in epochs, instead of train_steps"),
        _count("batch_size", None, "images per step, in training and sampling", most=100_000),
        Setting("lr", float, None, "learning rate of Adam", lambda x: x > 0, "above 0"),
        Setting(
            "lr_warmup_steps", int, None, "steps of learning-rate warm-up",
            lambda n: 0 <= n <= MAX_STEPS, f"from 0 to {MAX_STEPS:,}",
        ),
        Setting(
            "ema_decay", float, None, "decay of the averaged (EMA) weights, reached gradually",
            lambda x: 0 <= x < 1, "in [0, 1)",
        ),
        Setting("max_grad_norm", float, 1.0, "clip the gradient to this norm", lambda x: x > 0, "above 0"),
        Setting(
            "checkpoint_seconds", float, 300.0, "seconds of training between checkpoints",
            lambda x: x >= 0, "of at least 0",
        ),
        Setting(
            "sample_every", int, "auto",
            "training steps between sample grids, all from the same noise; auto: ten grids; none or 0: no "
            "grids",
            lambda n: 0 <= n <= MAX_STEPS, f"from 0 to {MAX_STEPS:,}, auto or none",
            words={"auto": "auto", "none": 0},
        ),
        Setting(
            "real_images", bool, True,
            "include test images, and training images next to samples, in the run's folder and page",
            lambda _: True, "",
        ),
        _count("test_images", 2000, "maximum number of test images for the test loss"),
        Setting("seed", int, 0, "random seed", lambda n: 0 <= n <= MAX_SEED, "in [0, 2^63)"),
        _choice("device", "auto", ("auto", "cpu", "cuda"), "device to compute on: auto, cpu or cuda"),
        _choice(
            "precision", "auto", ("auto", "fp32", "bf16"),
            "precision of the network: auto (bf16 on a GPU that supports it and on a CPU with matrix units, "
            "otherwise fp32), fp32 or bf16",
        ),
    )
}  # fmt: skip


def read_setting(name: str, given: object, *, origin: str) -> Value:
    """Convert and validate the value of a setting; see `Setting.read`."""
    return SETTINGS[name].read(given, origin=origin)


def read_list(name: str, text: str, *, origin: str) -> tuple[Any, ...]:
    """Parse several values of one setting, such as `10,20,50`; return them sorted, without duplicates.

    Args:
        name: A key of `SETTINGS`.
        text: The values, separated by commas.
        origin: Source of the values for the error message.

    Raises:
        UserError: A value cannot be read or is not allowed.
    """
    try:
        values = {read_setting(name, item.strip(), origin=origin) for item in text.split(",")}
    except UserError:
        allowed = SETTINGS[name].allowed
        raise UserError(
            f"{origin} must be {allowed}, or several separated by commas, not {text!r:.80}"
        ) from None
    return tuple(sorted(cast("set[float]", values)))

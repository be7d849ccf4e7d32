"""Check that parts honour their contracts; errors name the part and its distribution."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import safetensors.numpy

from ddim_host.diffusion import NoiseSchedule, Teacher
from ddim_host.errors import UserError
from ddim_host.framework.interface import Model
from ddim_host.plugin.data import DataSource, TrainTest
from ddim_host.plugin.framework_guard import FRAMEWORK_ROOTS
from ddim_host.system.arrays import safetensors_bytes
from ddim_host.system.limits import MAX_SAMPLER_STATE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ddim_host.diffusion import DDIMStep, PredictionType
    from ddim_host.framework.interface import Loss, Tensor
    from ddim_host.plugin.contracts import FeatureExtractor, Observer, SamplerState, Solver, TimestepSampler
    from ddim_host.plugin.data import Images
    from ddim_host.plugin.parameters import Value
    from ddim_host.plugin.registry import Part

_Result = TypeVar("_Result")

_LARGEST_WEIGHT = 1e4

_SAMPLER_MEMBERS = ("needs_losses", "sample", "update", "state_dict", "load_state_dict")
_OBSERVER_MEMBERS = ("on_begin", "on_row", "on_grid", "on_score", "on_end")
_MODEL_MEMBERS = tuple(name for name in vars(Model) if not name.startswith("_"))

_STORED = "the state is from a checkpoint, which another version of the plugin may have written"

# If the share of the image in x_T is smaller than this, nothing is left of the image in fp32.
_SMALLEST_SHARE = 1e-12


def use(
    part: Part, call: Callable[[], _Result], *notes: str, passing: tuple[type[Exception], ...] = ()
) -> _Result:
    """Run a part's code, and convert exceptions to errors that name the part and include these notes.

    `UserError` and the exceptions in `passing`, which the caller handles, are raised unchanged.
    """
    kept: tuple[type[Exception], ...] = (UserError, *passing)
    try:
        return call()
    except kept:
        raise
    except (Exception, SystemExit) as error:
        raise part.failed(error, *notes) from error


def checked_schedule(
    part: Part,
    parameters: Mapping[str, Value],
    num_train_timesteps: int,
    prediction_type: PredictionType = "epsilon",
    *,
    rescale_zero_snr: bool = False,
) -> NoiseSchedule:
    """Return the checked noise schedule of a part, with betas float64 `(T,)` in (0, 1), the last in (0, 1].

    Args:
        part: The part.
        parameters: Its parameters.
        num_train_timesteps: T.
        prediction_type: The type of prediction.
        rescale_zero_snr: Rescale the schedule to end in pure noise.

    Raises:
        UserError: The part breaks its contract, or the schedule cannot be used for sampling, e.g. because it
            ends in pure noise and the network predicts epsilon.
    """
    betas = use(part, lambda: part.make(num_train_timesteps, **parameters))
    _require_array(part, "its betas", betas, np.float64, (num_train_timesteps,))
    if not np.all((betas > 0.0) & (betas <= 1.0)) or np.any(betas[:-1] == 1.0):
        raise part.broken("its betas must be strictly between 0 and 1 (the last one may be 1)")
    schedule = NoiseSchedule(betas)
    first, last = schedule.alphas_cumprod[0], schedule.alphas_cumprod[-1]
    vanishing = schedule.sqrt_alphas_cumprod < _SMALLEST_SHARE
    # Betas too small to change alphas_cumprod are lost to rounding.
    falls = bool(np.all(np.diff(schedule.alphas_cumprod, prepend=1.0) < 0.0))
    unusable = UserError(
        f"{part.label} with these parameters cannot be used for sampling",
        why=f"alphas_cumprod goes from {first:g} to {last:g}; "
        "it must decrease at each timestep, from below 1 to above 0",
        fix="choose other betas, or fewer timesteps",
    )
    if vanishing[:-1].any() or not falls:
        raise unusable
    if rescale_zero_snr:
        if num_train_timesteps == 1:
            raise UserError(
                "--rescale-zero-snr needs at least 2 timesteps", fix="use a larger --num-train-timesteps"
            )
        try:
            schedule = schedule.rescaled_to_zero_snr()
        except ValueError:  # a decrease was lost to rounding
            raise unusable from None
    if schedule.sqrt_alphas_cumprod[-1] < _SMALLEST_SHARE and prediction_type == "epsilon":
        raise UserError(
            "a network that predicts epsilon cannot be used with a noise schedule that ends in pure noise",
            why="in pure noise, x_t is equal to epsilon, so the prediction does not determine x_start",
            fix="add --prediction-type v_prediction, or remove --rescale-zero-snr"
            if rescale_zero_snr
            else "add --prediction-type v_prediction, or choose another --noise-schedule",
        )
    return schedule


def checked_weighting(
    part: Part,
    parameters: Mapping[str, Value],
    schedule: NoiseSchedule,
    prediction_type: PredictionType = "epsilon",
) -> NDArray[np.float64]:
    """Return the checked factors of a loss weighting: float64 `(T,)`, finite, not negative, largest near 1.

    A constant factor does not affect Adam as long as fp32 can represent the gradients. If the factor is far
    from 1, they overflow or vanish, and the network silently stops learning.
    """
    weights = use(part, lambda: part.make(schedule, prediction_type, **parameters))
    _require_array(part, "its weights", weights, np.float64, (schedule.num_train_timesteps,))
    if not np.all(np.isfinite(weights)) or np.any(weights < 0.0):
        raise part.broken("its weights must be finite and at least 0")
    if not 1.0 / _LARGEST_WEIGHT <= weights.max() <= _LARGEST_WEIGHT:
        raise UserError(
            f"{part.label} with these parameters cannot be used for training",
            why=f"its largest weight is {weights.max():g}; "
            f"in fp32 it must be within a factor of {_LARGEST_WEIGHT:g} of 1",
            fix="choose other parameters",
        )
    return np.asarray(weights)


def checked_subset(
    part: Part, parameters: Mapping[str, Value], schedule: NoiseSchedule, num_inference_steps: int
) -> NDArray[np.int64]:
    """Return a checked timestep subset: int64 `(S,)`, strictly increasing, in [0, T)."""
    _require_steps(schedule, num_inference_steps)
    timesteps = schedule.num_train_timesteps
    subset = use(part, lambda: part.make(schedule, num_inference_steps, **parameters))
    _require_array(part, "its timesteps", subset, np.int64, (num_inference_steps,))
    if np.any(np.diff(subset) <= 0) or subset[0] < 0 or subset[-1] >= timesteps:
        raise part.broken(f"its timesteps must strictly increase within [0, {timesteps})")
    return np.array(subset)


def _require_steps(schedule: NoiseSchedule, num_inference_steps: int) -> None:
    """Check that the noise schedule has enough timesteps for this number of sampling steps."""
    timesteps = schedule.num_train_timesteps
    if num_inference_steps > timesteps:
        raise UserError(
            f"cannot sample in {num_inference_steps} steps",
            why=f"the noise schedule has {timesteps} timesteps, and sampling visits each at most once",
            fix=f"use --steps {timesteps} or less",
        )


def checked_search(
    part: Part,
    parameters: Mapping[str, Value],
    schedule: NoiseSchedule,
    teacher: Teacher,
    sizes: Iterable[int],
) -> dict[int, NDArray[np.int64]]:
    """Return the checked subsets that a search found: for each size S, int64 `(S,)`, strictly increasing.

    All timesteps are among the teacher's.
    """
    wanted = tuple(sorted(set(sizes)))
    found = use(part, lambda: part.make(schedule, teacher, wanted, **parameters))
    if not isinstance(found, Mapping) or {*found} != {*wanted}:
        given = sorted(map(str, found)) if isinstance(found, Mapping) else _type_name(found)
        raise part.broken(f"it must return timesteps for each of the sizes {list(wanted)}, not {given!s:.80}")
    for size, timesteps in found.items():
        _require_array(part, f"its timesteps for S = {size}", timesteps, np.int64, (size,))
        if np.any(np.diff(timesteps) <= 0) or not np.isin(timesteps, teacher.timesteps).all():
            raise part.broken(
                f"its timesteps for S = {size} must be strictly increasing and among the teacher's, not "
                f"{timesteps.tolist()!s:.80}"
            )
    return {size: np.array(found[size]) for size in wanted}


def try_search(
    part: Part, parameters: Mapping[str, Value], schedule: NoiseSchedule, sizes: Iterable[int]
) -> None:
    """Try a subset search on a tiny teacher, so that its errors are found before the network samples.

    Raises:
        UserError: A size is above the number of timesteps, or the search breaks its contract.
    """
    wanted = tuple(sizes)
    _require_steps(schedule, max(wanted))
    last = schedule.num_train_timesteps - 1
    timesteps = np.unique(np.linspace(0, last, max(wanted) + 2).astype(np.int64))
    noise, *x_start = np.random.default_rng(0).standard_normal((1 + len(timesteps), 2, 12), dtype=np.float32)
    teacher = Teacher(timesteps, noise, np.stack(x_start))
    for array in (teacher.timesteps, teacher.noise, teacher.x_start):
        array.flags.writeable = False
    checked_search(part, parameters, schedule, teacher, wanted)


class DeterministicSolverError(UserError):
    """The steps require noise, but the solver adds none."""


@dataclass(frozen=True)
class SamplingPlan:
    """The steps from noise to image, and the solver that follows them.

    Attributes:
        steps: The steps, in the order of sampling.
        solver: The solver, with its parameters set.
        calls: Network calls per image.
    """

    steps: tuple[DDIMStep, ...]
    solver: Solver
    calls: int


def checked_solver(part: Part, parameters: Mapping[str, Value], steps: Sequence[DDIMStep]) -> SamplingPlan:
    """Return the plan of a solver, after trying the solver on NumPy arrays with exactly these steps.

    Raises:
        UserError: The solver breaks its contract or rejects these steps; or the steps require noise, but the
            solver adds none.
    """

    def solver(
        x_t: Tensor,
        steps: Sequence[DDIMStep],
        predict: Callable[[Tensor, DDIMStep], tuple[Tensor, Tensor]],
        fresh_noise: Callable[[DDIMStep], Tensor],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        others: list[Exception] = []  # the network's errors, which are not the solver's fault

        def called(x_t: Tensor, step: DDIMStep) -> tuple[Tensor, Tensor]:
            try:
                return predict(x_t, step)
            except Exception as error:
                others.append(error)
                raise

        try:
            yield from part.make(x_t, steps, called, fresh_noise, **parameters)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            if any(error is other for other in others):
                raise
            raise part.failed(error) from error

    calls, drawn = _try_solver(part, solver, steps)
    noisy = next((step for step in steps if step.sigma > 0.0), None)
    if noisy is not None and not drawn:
        raise DeterministicSolverError(
            f"{part.label} adds no noise, so eta must be 0",
            why=f"with this eta, the step from t = {noisy.t} would have to add noise",
            fix=part.for_users(f"add --eta 0, or choose another solver with {part.kind.flag}"),
        )
    return SamplingPlan(tuple(steps), solver, calls)


def _try_solver(part: Part, solver: Solver, steps: Sequence[DDIMStep]) -> tuple[int, int]:
    """Follow the steps on small NumPy arrays; return the numbers of network calls and of noise draws."""
    calls = drawn = 0

    def predict(x_t: Tensor, step: DDIMStep) -> tuple[Tensor, Tensor]:
        """Return the optimal prediction for images with standard normal pixels."""
        nonlocal calls
        calls += 1
        return x_t * math.sqrt(step.alpha_cumprod), x_t * math.sqrt(1.0 - step.alpha_cumprod)

    def fresh_noise(_: DDIMStep) -> Tensor:
        nonlocal drawn
        drawn += 1
        return trial[::-1]

    trial = np.linspace(-1.0, 1.0, 2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    with np.errstate(all="ignore"):
        states = list(solver(trial.copy(), steps, predict, fresh_noise))
    if len(states) != len(steps):
        raise part.broken(
            f"it must yield after each of {len(steps)} steps, but it yielded {len(states)} times"
        )
    for state in states:
        if not isinstance(state, tuple) or len(state) != 2:
            raise part.broken("it must yield (x, x_start)")
        for name, array in zip(("x", "x_start"), state, strict=True):
            _require_array(part, f"the {name} that it yields", array, np.float32, trial.shape)
            if not np.isfinite(array).all():
                raise part.broken("it yielded values that are not finite")
    return calls, drawn


def checked_loss(part: Part, parameters: Mapping[str, Value]) -> Loss:
    """Return a loss with its parameters set, whose results are checked: `(B,)`, of the same framework.

    The loss is first tried on NumPy arrays, so that invalid parameters are found before training begins.
    """

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        try:
            losses = part.make(prediction, target, **parameters)
            shape = None if (given_shape := getattr(losses, "shape", None)) is None else tuple(given_shape)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise _failed_loss(part, error, prediction) from error
        given, wanted = type(prediction), (prediction.shape[0],)
        if shape != wanted:
            it = _type_name(losses) + ("" if shape is None else f" of shape {shape}")
            raise part.broken(f"it must return one number per image, of shape {wanted}, not {it}")
        if not isinstance(losses, given) and not isinstance(prediction, type(losses)):
            raise part.broken(
                "it must return an array of the same framework as its arguments, "
                f"{_type_name(prediction)}, not {_type_name(losses)}"
            )
        return losses

    trial = np.linspace(-1.0, 1.0, 2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    with np.errstate(all="ignore"):
        values = loss(trial, -trial)
    if values.dtype.kind != "f":
        raise part.broken(f"it must return floating-point numbers, not {values.dtype}")
    if not np.isfinite(values).all():
        raise UserError(
            f"{part.label} with these parameters cannot be used for training",
            why=f"its losses for two small images are {' and '.join(f'{value:g}' for value in values)}",
            fix=part.for_users(
                "choose other parameters, or another loss, or report it to the authors of "
                f"{part.distribution}"
            ),
        )
    return loss


def _failed_loss(part: Part, error: BaseException, prediction: Tensor) -> UserError:
    """Return the error for a loss that raised an exception, usually because arrays lack an operation."""
    framework = _imported_framework(part)
    context = f"its module imports {framework}, but a loss must work on arrays of any framework; "
    kind = "NumPy arrays" if isinstance(prediction, np.ndarray) else _type_name(prediction)
    return part.failed(
        error,
        f"it was called with {kind} of shape {tuple(prediction.shape)}, and may use only operations that all "
        "frameworks share: + - * /, **, abs, reshape(tuple), sum and mean over one axis",
        context=context if framework else "",
    )


def _imported_framework(part: Part) -> str | None:
    """Return the framework from which a part's module imports anything, or None."""
    module = sys.modules.get(str(getattr(part.make, "__module__", "")))
    for value in vars(module).values() if module else ():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        root = str(name).partition(".")[0]
        if root in FRAMEWORK_ROOTS:
            return root
    return None


def _type_name(value: object) -> str:
    """Return the qualified name of a value's type: `float`, `torch.Tensor`."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class CheckedSampler:
    """A timestep sampler that checks timesteps and weights as they are drawn.

    Args:
        part: The part that creates the sampler.
        parameters: Its parameters.
        schedule: The noise schedule of the run.
    """

    def __init__(self, part: Part, parameters: Mapping[str, Value], schedule: NoiseSchedule) -> None:
        self._part = part
        self._timesteps: int = schedule.num_train_timesteps
        self._sampler: TimestepSampler = use(part, lambda: part.make(schedule, **parameters))
        _require_members(part, self._sampler, _SAMPLER_MEMBERS)
        self.needs_losses = use(part, lambda: bool(self._sampler.needs_losses))

    def sample(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `TimestepSampler.sample`."""
        drawn = use(self._part, lambda: self._sampler.sample(batch_size, rng))
        if not isinstance(drawn, tuple) or len(drawn) != 2:
            raise self._part.broken("sample() must return (t, weights)")
        t, weights = drawn
        _require_array(self._part, "the timesteps of sample()", t, np.int64, (batch_size,))
        _require_array(self._part, "the weights of sample()", weights, np.float32, (batch_size,))
        if np.any((t < 0) | (t >= self._timesteps)):
            raise self._part.broken(f"the timesteps of sample() must be in [0, {self._timesteps})")
        if not np.all(np.isfinite(weights)) or np.any(weights < 0.0):
            raise self._part.broken("the weights of sample() must be finite and at least 0")
        return t, weights

    def update(self, t: NDArray[np.int64], losses: NDArray[np.float32]) -> None:
        """See `TimestepSampler.update`."""
        use(self._part, lambda: self._sampler.update(t, losses))

    def state_dict(self) -> SamplerState:
        """See `TimestepSampler.state_dict`."""
        state = use(self._part, self._sampler.state_dict)
        if not isinstance(state, dict):
            raise self._part.broken("state_dict() must return a dict of float64 arrays")
        for name, value in state.items():
            if not isinstance(name, str):
                raise self._part.broken(f"the keys of state_dict() must be text, not {name!r:.40}")
            _require_array(self._part, f"{name!r} of state_dict()", value, np.float64, None)
        size = sum(value.nbytes for value in state.values())
        if size > MAX_SAMPLER_STATE_BYTES:
            raise self._part.broken(
                f"state_dict() must return at most {MAX_SAMPLER_STATE_BYTES:,} bytes of arrays, not {size:,}"
            )
        return state

    def stored_state(self) -> SamplerState:
        """Return the state as it is read back from a checkpoint."""
        state = self.state_dict()
        for name, value in state.items():
            if not np.isfinite(value).all():
                raise self._part.broken(f"{name!r} of state_dict() must be finite")
        return use(self._part, lambda: safetensors.numpy.load(safetensors_bytes(state)))

    def load_state_dict(
        self, state: Mapping[str, NDArray[np.float64]], notes: Sequence[str] = (_STORED,)
    ) -> None:
        """See `TimestepSampler.load_state_dict`; errors include the notes."""
        use(self._part, lambda: self._sampler.load_state_dict(state), *notes)


def checked_sampler(
    part: Part, parameters: Mapping[str, Value], schedule: NoiseSchedule, batch_size: int
) -> CheckedSampler:
    """Return a new timestep sampler, after trying every method on another instance with this batch size.

    Raises:
        UserError: The sampler breaks its contract.
    """
    trial, resumed = (CheckedSampler(part, parameters, schedule) for _ in range(2))
    _try_sampler(trial, batch_size)
    resumed.load_state_dict(trial.stored_state(), notes=())
    _try_sampler(resumed, batch_size)
    return CheckedSampler(part, parameters, schedule)


def _try_sampler(sampler: CheckedSampler, batch_size: int) -> None:
    t, _ = sampler.sample(batch_size, np.random.default_rng(0))
    if sampler.needs_losses:
        sampler.update(t, np.linspace(0.1, 1.0, batch_size, dtype=np.float32))


def checked_source(part: Part, parameters: Mapping[str, Value]) -> DataSource:
    """Return a data set, after checking that it declares square grey or RGB images."""
    source = use(part, lambda: part.make(**parameters))
    if not isinstance(source, DataSource):
        raise part.broken(f"it returned a {type(source).__name__}, not a DataSource")
    shape = source.image_shape
    if not (isinstance(shape, tuple) and len(shape) == 3 and all(isinstance(n, Integral) for n in shape)):
        raise part.broken(f"its image_shape must be a tuple of 3 integers (H, W, C), not {shape!r:.80}")
    height, width, channels = map(int, shape)
    if height != width or height < 1 or channels not in (1, 3):
        raise part.broken(
            f"its images must be square with 1 or 3 channels, not {height} x {width} x {channels}"
        )
    if source.known is not None and not isinstance(source.known, TrainTest):
        raise part.broken(f"its known images must be a TrainTest, not a {type(source.known).__name__}")
    if not isinstance(source.resolved, Mapping):
        raise part.broken(f"its resolved must be a dict, not a {type(source.resolved).__name__}")
    for name, value in source.resolved.items():
        if name not in parameters:
            raise part.broken(f"it resolved {name}, but has no parameter of this name")
        if not isinstance(value, bool | int | float | str):
            raise part.broken(
                f"its resolved {name} must be a bool, int, float or str, not a {_type_name(value)}"
            )
    return replace(source, image_shape=(height, width, channels))


def checked_model(part: Part, build: Callable[[], Model]) -> Model:
    """Return the network built by a factory, after checking it.

    Raises:
        ImportError: Raised by the factory; handled by the caller, which knows the framework.
    """
    model = use(part, build, passing=(ImportError,))
    _require_members(part, model, _MODEL_MEMBERS, f"it returned a {type(model).__name__}, not a Model: ")
    return model


def checked_images(part: Part, source: DataSource) -> TrainTest:
    """Return the checked images of a data set: uint8 `(N, H, W, C)`, as declared, at least one per split."""
    images = use(part, source.load)
    if not isinstance(images, TrainTest):
        raise part.broken(f"load() returned a {type(images).__name__}, not a TrainTest")
    for name, half in (("train", images.train), ("test", images.test)):
        wanted = f"uint8 of shape (N, {', '.join(map(str, source.image_shape))})"
        if not isinstance(half, np.ndarray):
            raise part.broken(f"its {name} images must be {wanted}, not a {type(half).__name__}")
        if half.dtype != np.uint8 or half.shape[1:] != source.image_shape:
            raise part.broken(f"its {name} images must be {wanted}, not {half.dtype} of shape {half.shape}")
        if len(half) == 0:
            raise part.broken(f"it has no {name} images")
    return images


def framework_of(part: Part) -> str | None:
    """Return the framework that a feature extractor declares, or None if it declares none."""
    framework = use(part, lambda: getattr(part.make, "framework", None))
    if framework is not None and not (isinstance(framework, str) and framework in FRAMEWORK_ROOTS):
        known = ", ".join(sorted(FRAMEWORK_ROOTS))
        raise part.broken(f"its framework must be one of {known}, not {framework!r:.40}")
    return framework


def checked_extractor(part: Part, parameters: Mapping[str, Value]) -> FeatureExtractor:
    """Return a feature extractor, after checking that it has a fingerprint of its weights.

    Raises:
        UserError: The extractor breaks its contract, or needs a package that is not installed.
    """
    try:
        extractor = use(part, lambda: part.make(**parameters), passing=(ImportError,))
    except ImportError as error:
        raise UserError(
            f"{part.label} needs a package that is not installed",
            why=str(error),
            fix=part.for_users(
                f"install the requirements of {part.distribution}, or choose another extractor with "
                "--features"
            ),
        ) from error
    fingerprint = use(part, lambda: getattr(extractor, "fingerprint", None))
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{8,}", fingerprint):
        raise part.broken(f"its fingerprint must be hexadecimal text, not {fingerprint!r:.40}")
    if not callable(extractor):
        raise part.broken(f"it returned a {type(extractor).__name__}, which is not callable")
    return cast("FeatureExtractor", extractor)


def checked_features(
    part: Part, extractor: FeatureExtractor, images: Images, dimension: int | None = None
) -> NDArray[np.float32]:
    """Return checked features float32 `(N, D)` of images uint8 `(N, H, W, C)`; D is `dimension` if given."""
    features = use(part, lambda: extractor(images))
    _require_array(part, "its features", features, np.float32, None)
    count = len(images)
    if features.ndim != 2 or features.shape != (count, dimension or features.shape[1]) or not features.size:
        raise part.broken(f"it returned features of shape {features.shape} for {count} images")
    if not np.isfinite(features).all():
        raise part.broken("its features are not all finite")
    return features


def checked_observer(part: Part, parameters: Mapping[str, Value]) -> Observer:
    """Return an observer, after checking that it has all methods; it has received no events yet."""
    observer = use(part, lambda: part.make(**parameters))
    missing = use(
        part, lambda: [name for name in _OBSERVER_MEMBERS if not callable(getattr(observer, name, None))]
    )
    if missing:
        raise part.broken(f"it has no {missing[0]}(); derive it from ddim_host.Observer")
    return cast("Observer", observer)


def _require_members(part: Part, value: object, names: Iterable[str], context: str = "") -> None:
    """Check that an object from a part has these attributes; the message begins with `context`."""
    missing = use(part, lambda: [name for name in names if not hasattr(value, name)])
    if missing:
        raise part.broken(f"{context}it has no {missing[0]}")


def _require_array(
    part: Part, what: str, value: object, dtype: type[np.generic], shape: tuple[int, ...] | None
) -> None:
    """Check the type and shape of an array from a part; `what` names the array in the message."""
    wanted = f"{np.dtype(dtype)} of shape {shape}" if shape is not None else str(np.dtype(dtype))
    if not isinstance(value, np.ndarray):
        raise part.broken(f"{what} must be a NumPy array, {wanted}, not a {type(value).__name__}")
    if value.dtype != dtype or (shape is not None and value.shape != shape):
        raise part.broken(f"{what} must be {wanted}, not {value.dtype} of shape {value.shape}")

"""Parts by name: who provides each, and what to say where that is nobody, or more than one."""

from __future__ import annotations

import contextlib
import functools
import re
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError
from ddim_host.plugin.parameters import Parameter, PartChoice, suggestion, user_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

OWN_DISTRIBUTIONS = (
    "ddim-host",
    "ddim-torch",
    "ddim-jittor",
    "ddim-timestep-samplers",
    "ddim-losses",
    "ddim-tensorboard",
)
"""Those of this project, installed or not."""


def normalised_distribution(name: str) -> str:
    """The one spelling of a distribution's name: `ddim_losses` and `DDIM.Losses` are `ddim-losses`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_installed(distribution: str) -> bool:
    """Whether a distribution of this name, normalised, is installed."""
    from importlib.metadata import distributions  # noqa: PLC0415 - slow to import, and seldom needed

    for found in distributions():
        # Any of them may be damaged.
        with contextlib.suppress(Exception):
            if normalised_distribution(found.metadata["Name"]) == distribution:
                return True
    return False


def own_first(distributions: Iterable[str]) -> list[str]:
    """Distributions, each once, sorted; those of this project come first."""
    return sorted(set(distributions), key=lambda name: (name not in OWN_DISTRIBUTIONS, name))


def which(flag: str, name: str, owners: Sequence[str]) -> str:
    """What to write for a name that several give: `--loss ddim-losses/mse or --loss other-losses/mse`.

    Args:
        flag: The option.
        name: The name.
        owners: The distributions that give it. One that gives it twice cannot be chosen, and is left out.
    """
    once = [owner for owner in own_first(owners) if owners.count(owner) == 1]
    return " or ".join(f"{flag} {owner}/{name}" for owner in once)


class Kind(Enum):
    """A kind of part; the value is the hook that gives it."""

    MODEL = "ddim_model_factories"
    NOISE_SCHEDULE = "ddim_noise_schedules"
    TIMESTEP_SAMPLER = "ddim_timestep_samplers"
    LOSS = "ddim_losses"
    LOSS_WEIGHTING = "ddim_loss_weightings"
    TIMESTEP_SUBSET = "ddim_timestep_subsets"
    SOLVER = "ddim_solvers"
    SEARCH = "ddim_subset_searches"
    DATA = "ddim_datasets"
    FEATURES = "ddim_feature_extractors"
    OBSERVER = "ddim_observers"

    @property
    def option(self) -> str:
        """The key in a configuration: `noise_schedule`; with dashes the option of the command line."""
        return self.name.lower()

    @property
    def flag(self) -> str:
        """The option of the command line: `--noise-schedule`."""
        return "--" + self.option.replace("_", "-")

    @property
    def words(self) -> str:
        """The kind as people call it: `noise schedule`."""
        return _WORDS.get(self, self.option.replace("_", " "))

    @property
    def arguments(self) -> tuple[str, ...]:
        """What a part of this kind is called with, by position; see `ddim_host.plugin.contracts`."""
        return _ARGUMENTS.get(self, ())


_WORDS = {Kind.SEARCH: "subset search", Kind.DATA: "data set", Kind.FEATURES: "feature extractor"}

_ARGUMENTS = {
    Kind.MODEL: ("spec", "device", "precision"),
    Kind.NOISE_SCHEDULE: ("num_train_timesteps",),
    Kind.TIMESTEP_SAMPLER: ("schedule",),
    Kind.LOSS: ("prediction", "target"),
    Kind.LOSS_WEIGHTING: ("schedule", "prediction_type"),
    Kind.TIMESTEP_SUBSET: ("schedule", "num_inference_steps"),
    Kind.SOLVER: ("x_t", "steps", "predict", "fresh_noise"),
    Kind.SEARCH: ("schedule", "teacher", "sizes"),
}


@dataclass(frozen=True)
class Part:
    """A part, and who provides it.

    Attributes:
        kind: What it is.
        name: Its name among its kind.
        make: The callable that the plugin gave.
        distribution: The distribution that provides it.
        version: The distribution's version.
    """

    kind: Kind
    name: str
    make: Callable[..., Any]
    distribution: str
    version: str

    @property
    def label(self) -> str:
        """For messages: `loss 'mse'`."""
        return f"{self.kind.words} {self.name!r}"

    def parameters(self) -> tuple[Parameter, ...]:
        """What users may set.

        Raises:
            UserError: The part's signature breaks the contract.
        """
        try:
            return user_parameters(self.make, len(self.kind.arguments))
        except TypeError as error:
            raise self.broken(str(error)) from error

    @property
    def package(self) -> str:
        """The top-level module of its code."""
        make = self.make
        while isinstance(make, functools.partial):
            make = make.func
        return str(getattr(make, "__module__", "")).partition(".")[0]

    def broken(self, problem: str, *notes: str) -> UserError:
        """The error that says that this part does not keep its contract.

        Args:
            problem: What is wrong with it.
            notes: More about that, a line each.
        """
        return UserError(
            f"{self.label} of {self.distribution} {self.version} does not work",
            why=problem,
            notes=notes,
            fix=f"choose another {self.kind.words}, or tell the authors of {self.distribution}",
        )


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded.

    Attributes:
        distribution: Whose it is.
        hooks: The hooks that it implements, where it came as far as that.
        text: What is wrong with it, in one line.
    """

    distribution: str
    hooks: frozenset[str]
    text: str

    def may_concern(self, kind: Kind, distribution: str | None) -> bool:
        """Whether a part of this kind, perhaps of this distribution, may be missing because of it."""
        return distribution in (None, self.distribution) and (not self.hooks or kind.value in self.hooks)


class Registry:
    """All parts of the plugins that were loaded.

    Args:
        parts: The parts, in any order.
        failures: The plugins that could not be loaded, shown where a name is not found.
    """

    def __init__(self, parts: Iterable[Part], failures: Iterable[Failure] = ()) -> None:
        self._parts: dict[tuple[Kind, str], list[Part]] = defaultdict(list)
        for part in parts:
            self._parts[part.kind, part.name].append(part)
        self.failures = tuple(failures)

    def conflicts(self) -> list[tuple[Kind, str, list[str]]]:
        """Names that several distributions give, each with their distributions."""
        return [
            (kind, name, [part.distribution for part in parts])
            for (kind, name), parts in self._parts.items()
            if len(parts) > 1
        ]

    def of_kind(self, kind: Kind) -> list[Part]:
        """All parts of one kind, by name and distribution."""
        found = [part for parts in self._parts.values() for part in parts if part.kind is kind]
        return sorted(found, key=lambda part: (part.name, part.distribution))

    def names(self, kind: Kind) -> list[str]:
        """The names of one kind, sorted."""
        return sorted(name for part_kind, name in self._parts if part_kind is kind)

    def find(self, kind: Kind, choice: PartChoice) -> Part:
        """The part that was asked for.

        Raises:
            UserError: No such part, or several distributions give the name and the user did not say which.
        """
        named = self._parts.get((kind, choice.name), [])
        wanted = None if choice.distribution is None else normalised_distribution(choice.distribution)
        found = [part for part in named if wanted in (None, part.distribution)]
        if len(found) == 1:
            return found[0]
        owners = sorted({f"{part.distribution} {part.version}" for part in found})
        if len(owners) == 1:
            raise found[0].broken(f"{owners[0]} gives this name twice")
        if owners:
            choices = which(kind.flag, choice.name, [part.distribution for part in found])
            raise UserError(
                f"several distributions give the {kind.words} {choice.name!r}",
                why=" and ".join(owners),
                fix=f"say which: {choices}, or uninstall one" if choices else "uninstall one",
            )
        notes = [failure.text for failure in self.failures if failure.may_concern(kind, wanted)]
        if wanted is not None:
            raise self._not_of(kind, choice.name, wanted, notes)
        names = self.names(kind)
        raise UserError(
            f"there is no {kind.words} named {choice.name!r}{suggestion(choice.name, names)}",
            why=f"installed: {', '.join(names) or 'none'}",
            notes=notes,
            fix="choose one of these, or install the distribution that provides it",
        )

    def _not_of(self, kind: Kind, name: str, distribution: str, notes: list[str]) -> UserError:
        """The error that says that a distribution does not give this part."""
        own = [part.name for part in self.of_kind(kind) if part.distribution == distribution]
        if own:
            why = f"it gives {', '.join(own)}"
        elif is_installed(distribution):
            why = f"it gives no {kind.words}"
        else:
            why = f"no distribution {distribution!r} is installed"
        others = [part.distribution for part in self._parts.get((kind, name), [])]
        elsewhere = which(kind.flag, name, others)
        return UserError(
            f"there is no {kind.words} named {name!r} in {distribution}{suggestion(name, own)}",
            why=why,
            notes=notes,
            fix=f"write {elsewhere}" if elsewhere else f"choose another {kind.words}",
        )

"""Registry of parts by name, with errors for missing or ambiguous names."""

from __future__ import annotations

import contextlib
import functools
import re
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from ddim_host.errors import TRACEBACK, UserError, described
from ddim_host.plugin.parameters import (
    Parameter,
    PartChoice,
    resolve,
    suggestion,
    suggestion_of_part,
    user_parameters,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ddim_host.plugin.parameters import Value

OWN_DISTRIBUTIONS = (
    "ddim-host",
    "ddim-torch",
    "ddim-jittor",
    "ddim-timestep-samplers",
    "ddim-losses",
    "ddim-tensorboard",
)
"""Distributions of this project, installed or not."""


def normalised_distribution(name: str) -> str:
    """Return a distribution's normalised name: `ddim_losses` and `DDIM.Losses` are `ddim-losses`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_installed(distribution: str) -> bool:
    """Return whether a distribution with this normalised name is installed."""
    from importlib.metadata import distributions  # noqa: PLC0415 - slow to import, and rarely needed

    for found in distributions():
        # Any distribution may be damaged.
        with contextlib.suppress(Exception):
            if normalised_distribution(found.metadata["Name"]) == distribution:
                return True
    return False


def own_first(distributions: Iterable[str]) -> list[str]:
    """Return the distributions sorted and without duplicates; those of this project come first."""
    return sorted(set(distributions), key=lambda name: (name not in OWN_DISTRIBUTIONS, name))


def which(flag: str, name: str, owners: Sequence[str]) -> str:
    """Return the options to choose among for an ambiguous name: `--loss one/mse or --loss other/mse`.

    Args:
        flag: The option.
        name: The name.
        owners: The distributions that provide it. A distribution that provides it twice cannot be chosen, and
            is omitted.
    """
    once = [owner for owner in own_first(owners) if owners.count(owner) == 1]
    return " or ".join(f"{flag} {owner}/{name}" for owner in once)


class Kind(Enum):
    """A kind of part; the value is the hook that provides it."""

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
        """The key in a configuration: `noise_schedule`; with dashes, the command-line option."""
        return self.name.lower()

    @property
    def flag(self) -> str:
        """The command-line option: `--noise-schedule`."""
        return "--" + self.option.replace("_", "-")

    @property
    def words(self) -> str:
        """The kind in words: `noise schedule`."""
        return _WORDS.get(self, self.option.replace("_", " "))

    @property
    def arguments(self) -> tuple[str, ...]:
        """The positional arguments of a part of this kind; see `ddim_host.plugin.contracts`."""
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
    """A part and its distribution.

    Attributes:
        kind: The kind of part.
        name: Its name, unique within the kind.
        make: The plugin's callable.
        distribution: The distribution that provides it; empty if the part's author is testing it.
        version: The distribution's version.
    """

    kind: Kind
    name: str
    make: Callable[..., Any]
    distribution: str
    version: str

    @property
    def label(self) -> str:
        """Return the label for messages: `loss 'mse'`."""
        return f"{self.kind.words} {self.name!r}"

    def parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters that users may set.

        Raises:
            UserError: The part's signature breaks the contract.
        """
        try:
            return user_parameters(self.make, len(self.kind.arguments))
        except TypeError as error:
            raise self.broken(str(error)) from error

    def values(self, arguments: Mapping[str, object], *, more: Sequence[Parameter] = ()) -> dict[str, Value]:
        """Return values for all parameters: the given ones converted, defaults for the others.

        Args:
            arguments: Text or TOML values by name.
            more: Further parameters that users may set, before the part's own.

        Raises:
            UserError: An argument is unknown, has the wrong type, or is missing and has no default; or the
                part's signature breaks the contract.
        """
        setting = f"{self.name}:{{}}=VALUE" if self.distribution else 'parameters = {{"{}": VALUE}}'
        return resolve(self.label, (*more, *self.parameters()), arguments, setting=setting.format)

    @property
    def package(self) -> str:
        """The top-level package of its code."""
        make = self.make
        while isinstance(make, functools.partial):
            make = make.func
        return str(getattr(make, "__module__", "")).partition(".")[0]

    def broken(self, problem: str, *notes: str) -> UserError:
        """Return the error for a part that breaks its contract.

        Args:
            problem: The reason.
            notes: Further details, one line each.
        """
        owner = f" of {self.distribution} {self.version}" if self.distribution else ""
        fix = f"choose another {self.kind.words}, or report it to the authors of {self.distribution}"
        return UserError(
            f"{self.label}{owner} does not work", why=problem, notes=notes, fix=self.for_users(fix)
        )

    def failed(self, error: BaseException, *notes: str, context: str = "") -> UserError:
        """Return the error for a part that raised an exception; the message begins with `context`."""
        broken = self.broken(f"{context}it raised {described(error, self.package)}", *notes)
        broken.fix = self.for_users(f"{broken.fix}; {TRACEBACK}=1 prints the traceback")
        return broken

    def for_users(self, fix: str) -> str:
        """Return a remedy for users; empty if the part's author is testing it and can change the code."""
        return fix if self.distribution else ""


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded.

    Attributes:
        distribution: The distribution that contains it.
        hooks: The hooks that it implements, if loading got that far.
        text: The reason, on one line.
    """

    distribution: str
    hooks: frozenset[str]
    text: str

    def may_concern(self, kind: Kind, distribution: str | None) -> bool:
        """Return whether this failure may explain why a part is missing.

        Args:
            kind: The kind of the missing part.
            distribution: The distribution that should provide it; None for any.
        """
        return distribution in (None, self.distribution) and (not self.hooks or kind.value in self.hooks)


class Registry:
    """All parts of the loaded plugins.

    Args:
        parts: The parts, in any order.
        failures: The plugins that could not be loaded, shown if a name is not found.
    """

    def __init__(self, parts: Iterable[Part], failures: Iterable[Failure] = ()) -> None:
        self._parts: dict[tuple[Kind, str], list[Part]] = defaultdict(list)
        for part in parts:
            self._parts[part.kind, part.name].append(part)
        self.failures = tuple(failures)

    def conflicts(self) -> list[tuple[Kind, str, list[str]]]:
        """Return the names provided more than once, each with its distributions."""
        return [
            (kind, name, [part.distribution for part in parts])
            for (kind, name), parts in self._parts.items()
            if len(parts) > 1
        ]

    def of_kind(self, kind: Kind) -> list[Part]:
        """Return all parts of one kind, sorted by name and distribution."""
        found = [part for parts in self._parts.values() for part in parts if part.kind is kind]
        return sorted(found, key=lambda part: (part.name, part.distribution))

    def names(self, kind: Kind) -> list[str]:
        """Return the names of the parts of one kind, sorted."""
        return sorted(name for part_kind, name in self._parts if part_kind is kind)

    def find(self, kind: Kind, choice: PartChoice) -> Part:
        """Return the requested part.

        Raises:
            UserError: The part does not exist, or several distributions provide the name and none was
                specified.
        """
        named = self._parts.get((kind, choice.name), [])
        wanted = None if choice.distribution is None else normalised_distribution(choice.distribution)
        found = [part for part in named if wanted in (None, part.distribution)]
        if len(found) == 1:
            return found[0]
        owners = sorted({f"{part.distribution} {part.version}" for part in found})
        if len(owners) == 1:
            raise found[0].broken(f"{owners[0]} provides this name twice")
        if owners:
            choices = which(kind.flag, choice.name, [part.distribution for part in found])
            raise UserError(
                f"several distributions provide the {kind.words} {choice.name!r}",
                why=" and ".join(owners),
                fix=f"choose one: {choices}, or uninstall the others" if choices else "uninstall all but one",
            )
        notes = [failure.text for failure in self.failures if failure.may_concern(kind, wanted)]
        if wanted is not None:
            raise self._not_of(kind, choice.name, wanted, notes)
        names = self.names(kind)
        meant = suggestion_of_part(kind.flag, choice.name, names)
        raise UserError(
            f"there is no {kind.words} named {choice.name!r}{meant}",
            why=f"installed: {', '.join(names) or 'none'}",
            notes=notes,
            fix="choose one of these, or install the distribution that provides it",
        )

    def _not_of(self, kind: Kind, name: str, distribution: str, notes: list[str]) -> UserError:
        """Return the error for a distribution that does not provide this part."""
        own = [part.name for part in self.of_kind(kind) if part.distribution == distribution]
        others = [part.distribution for part in self._parts.get((kind, name), [])]
        elsewhere = which(kind.flag, name, others)
        fix = f"write {elsewhere}" if elsewhere else f"choose another {kind.words}"
        if own:
            why = f"it provides {', '.join(own)}"
        elif is_installed(distribution):
            why = f"it provides no {kind.words}"
        else:
            why = f"the distribution {distribution!r} is not installed"
            # Another part may not be possible: the configuration of a run names this one.
            fix = f"install {distribution}, or {fix}" if elsewhere else f"install {distribution}"
        return UserError(
            f"there is no {kind.words} named {name!r} in {distribution}{suggestion(name, own)}",
            why=why,
            notes=notes,
            fix=fix,
        )

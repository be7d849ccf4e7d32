"""Parts by name: who provides each, and what to say where that is nobody, or more than one."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError
from ddim_host.parameters import Parameter, PartChoice, suggestion, user_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Kind", "Part", "Registry", "normalised_distribution"]


def normalised_distribution(name: str) -> str:
    """The one spelling of a distribution's name: `ddim_losses` and `DDIM.Losses` are `ddim-losses`."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Kind(Enum):
    """A kind of part; the value is the hook that gives it."""

    MODEL = "ddim_model_factories"
    NOISE_SCHEDULE = "ddim_noise_schedules"
    TIMESTEP_SAMPLER = "ddim_timestep_samplers"
    LOSS = "ddim_losses"
    LOSS_WEIGHTING = "ddim_loss_weightings"
    TIMESTEP_SUBSET = "ddim_timestep_subsets"
    DATA = "ddim_datasets"
    FEATURES = "ddim_feature_extractors"

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
        return {"data": "data set", "features": "feature extractor"}.get(
            self.option, self.option.replace("_", " ")
        )


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
            return user_parameters(self.make)
        except TypeError as error:
            raise self.broken(str(error)) from error

    def broken(self, problem: str) -> UserError:
        """The error that says that this part does not keep its contract."""
        return UserError(
            f"{self.label} of {self.distribution} {self.version} does not work",
            why=problem,
            fix=f"choose another {self.kind.words}, or tell the authors of {self.distribution}",
        )


class Registry:
    """All parts of the plugins that were loaded.

    Args:
        parts: The parts, in any order.
        failures: One line for each plugin that could not be loaded, shown where a name is not found.
    """

    def __init__(self, parts: Iterable[Part], failures: Iterable[str] = ()) -> None:
        self._parts: dict[tuple[Kind, str], list[Part]] = defaultdict(list)
        for part in parts:
            self._parts[part.kind, part.name].append(part)
        self._failures = tuple(failures)

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
        found = self._parts.get((kind, choice.name), [])
        if choice.distribution is not None:
            wanted = normalised_distribution(choice.distribution)
            found = [part for part in found if part.distribution == wanted]
        if len(found) == 1:
            return found[0]
        owners = sorted({f"{part.distribution} {part.version}" for part in found})
        if len(owners) == 1:
            raise found[0].broken(f"{owners[0]} gives this name twice")
        if owners:
            raise UserError(
                f"several distributions give the {kind.words} {choice.name!r}",
                why=" and ".join(owners),
                fix=f"say which: {kind.flag} {found[0].distribution}/{choice.name}, or uninstall one",
            )
        names = self.names(kind)
        origin = f" in {choice.distribution}" if choice.distribution else ""
        raise UserError(
            f"there is no {kind.words} named {choice.name!r}{origin}{suggestion(choice.name, names)}",
            why="; ".join([f"installed: {', '.join(names) or 'none'}", *self._failures]),
            fix="choose one of these, or install the distribution that provides it",
        )

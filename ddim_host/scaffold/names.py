"""The kinds of new plugins, and the names derived from the user's choice."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass

from ddim_host.errors import UserError
from ddim_host.plugin.registry import Kind

PLUGIN_KINDS = {
    "timestep-sampler": Kind.TIMESTEP_SAMPLER,
    "loss": Kind.LOSS,
    "loss-weighting": Kind.LOSS_WEIGHTING,
    "noise-schedule": Kind.NOISE_SCHEDULE,
    "timestep-subset": Kind.TIMESTEP_SUBSET,
    "solver": Kind.SOLVER,
    "subset-search": Kind.SEARCH,
    "dataset": Kind.DATA,
    "feature-extractor": Kind.FEATURES,
    "observer": Kind.OBSERVER,
    "framework": Kind.MODEL,
}


@dataclass(frozen=True)
class NewPlugin:
    """The names of a new distribution.

    Attributes:
        part: The name of the part, as users write it: `my_sampler`.
        kind: The kind of part.
    """

    part: str
    kind: Kind

    @property
    def distribution(self) -> str:
        """The name for pip: `ddim-my-sampler`."""
        return f"ddim-{self.part.replace('_', '-')}"

    @property
    def package(self) -> str:
        """The name for Python imports: `ddim_my_sampler`."""
        return f"ddim_{self.part}"

    @property
    def class_name(self) -> str:
        """The name of the part's class: `MySampler`."""
        return "".join(word.capitalize() for word in self.part.split("_"))


def new_plugin(name: str, kind: Kind) -> NewPlugin:
    """Derive all names from the user's choice.

    Args:
        name: `my-sampler`, `my_sampler` or `ddim-my-sampler`.
        kind: The kind of part.

    Raises:
        UserError: The name is not valid as both a part name and a package name.
    """
    part = name.replace("-", "_").removeprefix("ddim_")
    plugin = NewPlugin(part, kind)
    problem = f"{name!r} is not a valid name for a plugin"
    for word in filter(keyword.iskeyword, (part, plugin.class_name)):
        raise UserError(
            problem,
            why=f"{word!r} is a Python keyword, so no function or class can have this name",
            fix=f"choose another name, such as my-{part}",
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", part):
        raise UserError(
            problem,
            why="the part and its Python package are named after it",
            fix="use lower-case letters, digits and dashes, and begin with a letter: my-sampler",
        )
    return plugin

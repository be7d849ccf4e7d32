"""The kinds of new plugins, and the names that follow from the one that the user chose."""

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
        part: The part, as users will write it: `my_sampler`.
        kind: What it is.
    """

    part: str
    kind: Kind

    @property
    def distribution(self) -> str:
        """What pip installs: `ddim-my-sampler`."""
        return f"ddim-{self.part.replace('_', '-')}"

    @property
    def package(self) -> str:
        """What Python imports: `ddim_my_sampler`."""
        return f"ddim_{self.part}"

    @property
    def class_name(self) -> str:
        """What a class for it is called: `MySampler`."""
        return "".join(word.capitalize() for word in self.part.split("_"))


def new_plugin(name: str, kind: Kind) -> NewPlugin:
    """The names that follow from the one that the user chose.

    Args:
        name: `my-sampler`, `my_sampler` or `ddim-my-sampler`.
        kind: What it is to be.

    Raises:
        UserError: It cannot be the name of a part and of a package.
    """
    part = name.replace("-", "_").removeprefix("ddim_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", part) or keyword.iskeyword(part):
        raise UserError(
            f"{name!r} cannot be the name of a plugin",
            why="it becomes the name of a part and of a Python package",
            fix="use small letters, digits and dashes, with a letter first: my-sampler",
        )
    return NewPlugin(part, kind)

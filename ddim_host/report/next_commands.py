"""Suggested next commands for a run, ready to copy."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.errors import printable

if TYPE_CHECKING:
    from ddim_host.report.reported_run import ReportedRun


@dataclass(frozen=True)
class NextCommand:
    """A command and its purpose."""

    purpose: str
    text: str


def next_commands(run: ReportedRun) -> list[NextCommand]:
    """Return suggested commands for a run, omitting those that its checkpoints do not allow."""
    path, config = (printable(shlex.quote(str(p))) for p in (run.path, run.path / "config.toml"))
    other = printable(shlex.quote(f"{run.path}-longer"))
    commands = []
    if run.training is not None and not run.training.is_complete and run.metrics:
        commands.append(NextCommand("finish the training", f"ddim-host run --resume --out {path}"))
    if run.num_parameters is not None:
        commands += [
            NextCommand("sample", f"ddim-host sample {path} --steps 50 --seed 1"),
            NextCommand("show the steps from noise to images", f"ddim-host sample {path} --show-trajectory"),
            # The defaults, 10,000 samples and four values of eta, take hours on a CPU.
            NextCommand(
                "measure sample quality",
                f"ddim-host evaluate {path} --samples 1000 --steps 10,20,50 --eta 0,1",
            ),
        ]
        if run.training is not None and run.training.is_complete and run.metrics:
            steps = 2 * run.metrics[-1].step
            longer = f"ddim-host run --start-from {path} --train-steps {steps} --out {other}"
            commands.append(NextCommand("train longer, as a new run", longer))
    return [
        *commands,
        NextCommand("repeat the run", f"ddim-host run --config {config}"),
        NextCommand("compare the run with another one", f"ddim-host compare {path} OTHER_RUN"),
        NextCommand("write this page again", f"ddim-host report {path}"),
    ]

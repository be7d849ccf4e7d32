"""The model card of an exported pipeline: description, use, training and scores."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, printable
from ddim_host.evaluation.scores import EvaluationFile, Scores
from ddim_host.evaluation.tables import as_markdown, tables_of
from ddim_host.experiment.config import clip_in_words
from ddim_host.experiment.defaults import distinguishing_parameters
from ddim_host.plugin.parameters import format_choice, shortened
from ddim_host.system.files import file_errors, read_bytes, read_json

if TYPE_CHECKING:
    from ddim_host.experiment.assembly import Experiment
    from ddim_host.run.directory import RunDirectory
    from ddim_host.run.trained import UsedWeights

_MOST_BYTES = 32 << 20
_FOLDERS = re.compile(r"(?<![\w.-])(?:~|\.{1,2}|[\w.-]+)?/(?:[\w.-]+/)*(?=[\w.-])")
"""Matches the folders before the last component of a path in prose: `/home/name/`, `../` or `runs/`."""
_FOLDERS_OF_WORD = re.compile(r"[^=,]*/(?=[^=,/])")
"""Matches the same in a word of a command, where folder names may contain spaces."""

_CARD = """\
---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags:
- diffusers
- ddim
- ddim-host
---

# {name}

This network generates {colours} images of {height} x {width} pixels with DDIM (arXiv 2010.02502).
It was {made} with `ddim-host`.
{picture}
## Use

```python
from diffusers import DDIMPipeline

pipeline = DDIMPipeline.from_pretrained({python_name})
images = pipeline(batch_size=4, num_inference_steps={steps}{clipped}).images
```

`DDIMScheduler` always steps down by T // S timesteps. With the `timestep_spacing` in its
configuration, it therefore follows the formulas exactly if `num_inference_steps` divides {timesteps:,}.

With `ddim-host`, in PyTorch or Jittor, with any timestep subset and any solver:

```sh
ddim-host import {shell_name} --plugin torch --out run
ddim-host sample run --steps {steps}
```

## How it was made

{facts}
{scores}"""


@dataclass(frozen=True)
class Card:
    """A model card, complete except for the name of its folder.

    Attributes:
        fields: Values of the template's fields.
        picture: A grid of samples as PNG, or None.
    """

    fields: dict[str, object]
    picture: bytes | None

    picture_name = "samples.png"

    def text(self, name: str) -> str:
        """Return the card as Markdown with a metadata block, for a folder with this name."""
        picture = f"\n![Samples]({self.picture_name})\n" if self.picture else ""
        name = printable(name)
        return _CARD.format(
            name=name,
            python_name=json.dumps(name, ensure_ascii=False),
            shell_name=shlex.quote(name),
            picture=picture,
            **self.fields,
        )


def card_of(experiment: Experiment, run: RunDirectory, used: UsedWeights) -> Card:
    """Return the model card for the given weights of a run.

    Raises:
        UserError: A file of the run is damaged.
    """
    config = experiment.config
    height, width, channels = experiment.image_shape
    ancestor = run.config.ancestor
    made = "imported" if run.config.is_imported else "trained"
    steps = next(n for n in (20, 10, 1) if config.num_train_timesteps % n == 0)
    schedule = format_choice(config.noise_schedule.name, config.noise_schedule.parameters)
    facts = {
        "network": format_choice(config.model.name, distinguishing_parameters(config.model.parameters)),
        "noise schedule": f"{shortened(schedule, 200)}, {config.num_train_timesteps:,} timesteps"
        + (", stretched to end in pure noise" if config.rescale_zero_snr else ""),
        "predicts": config.prediction_type,
        "predicted image": clip_in_words(config.x_start_limit),
    }
    if ancestor:
        # A local path means nothing elsewhere, so only the folder's name is written.
        ancestor = ancestor | {"pipeline": _public(ancestor.get("pipeline", "unknown"))}
        facts |= {f"imported {name.replace('_', ' ')}": value for name, value in ancestor.items()}
    # The folder of the images, or its parent, may be named after a person.
    folder = str(config.data.parameters.get("path", ""))

    def last_names(text: str) -> str:
        text = text.replace(folder, Path(folder).name) if folder else text
        return _FOLDERS.sub("", text)

    if not run.config.is_imported:
        data = last_names(format_choice(config.data.name, config.data.parameters))
        weights = "averaged (EMA)" if used.weights == "ema" else "raw"
        facts |= {
            "weights": f"{weights}, after {used.steps[0]:,} steps",
            "images": f"{data}: {run.config.fingerprint}",
            "training": f"batches of {config.batch_size}, learning rate {config.lr:g}, "
            f"EMA decay {config.ema_decay:g}, dropout as above, seed {config.seed}",
            "loss": f"{format_choice(config.loss.name, config.loss.parameters)}, weighting "
            f"{format_choice(config.loss_weighting.name, config.loss_weighting.parameters)}",
            "framework": f"{config.plugin.name} ({config.plugin.distribution} {config.plugin.version})",
            "command": f"`{_without_folders(run.config.made_with.get('command', 'unknown'))}`",
        }
    scores = _scores(run, used)
    fields: dict[str, object] = {
        "height": height,
        "width": width,
        "colours": "grey" if channels == 1 else "RGB",
        "made": f"{made} from imported weights" if ancestor and made == "trained" else made,
        "steps": steps,
        "timesteps": config.num_train_timesteps,
        "clipped": ", use_clipped_model_output=True" if config.clip else "",
        "facts": "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        "scores": last_names(f"\n{as_markdown(tables_of(scores))}") if scores.scores else "",
    }
    return Card(fields, _picture(run, used))


def _without_folders(command: str) -> str:
    """Reduce every path in a command to its last component."""
    try:
        words = shlex.split(command)
    except ValueError:  # edited by hand
        return "unknown"
    return shlex.join(_FOLDERS_OF_WORD.sub("", word) for word in words)


def _public(pipeline: str) -> str:
    return Path(pipeline).name if Path(pipeline).is_absolute() else pipeline


def _scores(run: RunDirectory, used: UsedWeights) -> Scores:
    """Return the scores of exactly these weights."""
    scores = EvaluationFile(run.path / "evaluation.json").read()
    wanted = (used.weights, tuple(used.steps))
    return Scores(
        tuple(s for s in scores.scores if (s.sampled.weights, tuple(s.sampled.checkpoint_steps)) == wanted),
        scores.noise_floors,
    )


def _picture(run: RunDirectory, used: UsedWeights) -> bytes | None:
    """Return the newest grid of samples of exactly these weights, or None."""
    for path in sorted(run.samples_path.glob("*.png"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            with file_errors(f"cannot read {path}"):
                record = read_json(path.with_suffix(".json"))
                made = (record["kind"], record["weights"], tuple(record["checkpoint_steps"]))
                if made == ("samples", used.weights, tuple(used.steps)):
                    return read_bytes(path, _MOST_BYTES)
        except (UserError, KeyError, TypeError, ValueError):
            continue  # without a readable record, the picture may be of other weights
    return None

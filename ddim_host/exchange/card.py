"""The card of an exported pipeline: what it is, how to use it, how good it is and how it was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import UserError
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

A network that draws images of {height} x {width} pixels, {colours}, with DDIM (arXiv 2010.02502).
It was {made} with `ddim-host`.
{picture}
## Use

```python
from diffusers import DDIMPipeline

pipeline = DDIMPipeline.from_pretrained("{name}")
images = pipeline(batch_size=4, num_inference_steps={steps}{clipped}).images
```

`DDIMScheduler` always goes T // S timesteps down. So it samples as the formulas say if `num_inference_steps`
divides {timesteps:,}, with the `timestep_spacing` in its configuration.

With `ddim-host`, in PyTorch or in Jittor, with any subset of timesteps and any solver:

```sh
ddim-host import {name} --plugin torch --out run
ddim-host sample run --steps {steps}
```

## How it was made

{facts}
{scores}"""


@dataclass(frozen=True)
class Card:
    """A card, but for the name of its folder.

    Attributes:
        fields: What stands in it, by name.
        picture: A grid of samples as PNG, or None.
    """

    fields: dict[str, object]
    picture: bytes | None

    picture_name = "samples.png"

    def text(self, name: str) -> str:
        """Return the card as Markdown with a block of metadata, for a folder of this name."""
        picture = f"\n![Samples]({self.picture_name})\n" if self.picture else ""
        return _CARD.format(name=name, picture=picture, **self.fields)


def card_of(experiment: Experiment, run: RunDirectory, used: UsedWeights) -> Card:
    """Return the card of some weights of a run.

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
        # A local path means nothing to others: the name of the folder is enough.
        ancestor = ancestor | {"pipeline": _public(ancestor.get("pipeline", "unknown"))}
        facts |= {f"imported {name.replace('_', ' ')}": value for name, value in ancestor.items()}
    if not run.config.is_imported:
        weights = "averaged (EMA)" if used.weights == "ema" else "raw"
        facts |= {
            "weights": f"{weights}, after {used.steps[0]:,} steps",
            "images": f"{format_choice(config.data.name, config.data.parameters)}: {run.config.fingerprint}",
            "training": f"batches of {config.batch_size}, learning rate {config.lr:g}, "
            f"EMA {config.ema_decay:g}, dropout as above, seed {config.seed}",
            "loss": f"{format_choice(config.loss.name, config.loss.parameters)}, weighting "
            f"{format_choice(config.loss_weighting.name, config.loss_weighting.parameters)}",
            "framework": f"{config.plugin.name} ({config.plugin.distribution} {config.plugin.version})",
            "command": f"`{run.config.provenance_table.get('command', 'unknown')}`",
        }
    scores = _scores(run, used)
    fields: dict[str, object] = {
        "height": height,
        "width": width,
        "colours": "grey" if channels == 1 else "in RGB",
        "made": f"{made} from imported weights" if ancestor and made == "trained" else made,
        "steps": steps,
        "timesteps": config.num_train_timesteps,
        "clipped": ", use_clipped_model_output=True" if config.clip else "",
        "facts": "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        "scores": f"\n{as_markdown(tables_of(scores))}" if scores.scores else "",
    }
    return Card(fields, _picture(run, used))


def _public(pipeline: str) -> str:
    return Path(pipeline).name if Path(pipeline).is_absolute() else pipeline


def _scores(run: RunDirectory, used: UsedWeights) -> Scores:
    """The scores of these very weights."""
    scores = EvaluationFile(run.path / "evaluation.json").read()
    wanted = (used.weights, tuple(used.steps))
    return Scores(
        tuple(s for s in scores.scores if (s.sampled.weights, tuple(s.sampled.checkpoint_steps)) == wanted),
        scores.noise_floors,
    )


def _picture(run: RunDirectory, used: UsedWeights) -> bytes | None:
    """The newest grid of samples of these very weights, if there is one."""
    for path in sorted(run.samples_path.glob("*.png"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            with file_errors(f"cannot read {path}"):
                record = read_json(path.with_suffix(".json"))
                made = (record["kind"], record["weights"], tuple(record["checkpoint_steps"]))
                if made == ("samples", used.weights, tuple(used.steps)):
                    return read_bytes(path, _MOST_BYTES)
        except (UserError, KeyError, TypeError, ValueError):
            continue  # a picture that nothing is known of is none for the card
    return None

"""Scores as people read them: eta x steps for the terminal and as Markdown, and every score as CSV."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ddim_host.evaluation.paper import FID_WEIGHTS, PAPER_FIDS, differences_from_the_paper, is_cifar10
from ddim_host.experiment.config import clip_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ddim_host.evaluation.scores import NoiseFloor, Ruler, Score, Scores
    from ddim_host.evaluation.statistics import Measures

_Cells = list[list[str]]


@dataclass(frozen=True)
class Shown:
    """A measure, and how it is shown.

    Attributes:
        name: What it is, with this ruler.
        value: The number.
        higher_is_better: Whether that is so; otherwise lower is.
    """

    name: Callable[[Ruler], str]
    value: Callable[[Measures], float]
    higher_is_better: bool

    def title(self, ruler: Ruler) -> str:
        """What it is, in which features, and which way is better."""
        better = "higher" if self.higher_is_better else "lower"
        return f"{self.name(ruler)} in the features of {ruler.features.name}; {better} is better"


@dataclass(frozen=True)
class Table:
    """Scores of one protocol, which differ in steps, eta and seed only.

    Attributes:
        scores: The scores, at least one.
        noise_floor: What real images score with the same ruler; None where that was not measured.
    """

    scores: tuple[Score, ...]
    noise_floor: NoiseFloor | None

    @property
    def etas(self) -> list[float]:
        """The rows."""
        return sorted({score.sampled.eta for score in self.scores})

    @property
    def steps(self) -> list[int]:
        """The columns."""
        return sorted({score.sampled.steps for score in self.scores})

    @property
    def seeds(self) -> list[int]:
        """Those of any cell."""
        return sorted({score.sampled.seed for score in self.scores})

    def calls(self, steps: int) -> int:
        """The network calls for an image with so many steps; 0 if there is no such score."""
        return max((score.calls for score in self.scores if score.sampled.steps == steps), default=0)

    def cell(self, eta: float, steps: int) -> list[Score]:
        """The scores of one cell, one for each seed."""
        return [s for s in self.scores if (s.sampled.eta, s.sampled.steps) == (eta, steps)]

    def cell_text(self, shown: Shown, eta: float, steps: int) -> str:
        """The mean of one cell, with its range where there are several seeds; a dash where there is none."""
        values = [shown.value(score.measures) for score in self.cell(eta, steps)]
        if len(values) < 2:
            text = number(values[0] if values else None)
        else:
            text = f"{number(sum(values) / len(values))} ({number(min(values))} to {number(max(values))})"
        return text if len(values) in (0, len(self.seeds)) else f"{text}, {len(values)} of them"


def column_title(steps: int, calls: int) -> str:
    """The title of a column: S, and the network calls for an image if they are others."""
    return f"S = {steps}" if calls == steps else f"S = {steps}, {calls} calls"


def _frechet_name(ruler: Ruler) -> str:
    is_fid = ruler.features.fingerprint == FID_WEIGHTS
    return "FID, the Fréchet distance" if is_fid else "Fréchet distance (no FID)"


SHOWN = (
    Shown(_frechet_name, lambda m: m.frechet_distance, higher_is_better=False),
    Shown(
        lambda _: "Kernel distance (MMD^2) x 1000",
        lambda m: 1000.0 * m.kernel_distance,
        higher_is_better=False,
    ),
    Shown(
        lambda _: "Precision, generated images that look real,",
        lambda m: m.precision,
        higher_is_better=True,
    ),
    Shown(
        lambda _: "Recall, real images that are covered,",
        lambda m: m.recall,
        higher_is_better=True,
    ),
)


def tables_of(scores: Scores) -> list[Table]:
    """The scores in tables, one for each protocol.

    A subset that was searched for may have other timesteps after another search: those are a table of their
    own.
    """
    groups: dict[object, list[_SameTimesteps]] = defaultdict(list)
    for score in scores.scores:
        tables = groups[score.protocol]
        if not any(table.takes(score) for table in tables):
            tables.append(_SameTimesteps(score))
    return [
        Table(
            tuple(table.scores),
            next((floor for floor in scores.noise_floors if floor.ruler == table.scores[0].ruler), None),
        )
        for tables in groups.values()
        for table in tables
    ]


class _SameTimesteps:
    """Scores of one protocol that have the same timesteps for each number of steps."""

    def __init__(self, score: Score) -> None:
        self.scores = [score]
        self._timesteps = {score.sampled.steps: score.sampled.timesteps}

    def takes(self, score: Score) -> bool:
        """Take a score, and return True, unless there are other timesteps for its number of steps."""
        timesteps = score.sampled.timesteps
        if self._timesteps.setdefault(score.sampled.steps, timesteps) != timesteps:
            return False
        self.scores.append(score)
        return True


def as_text(table: Table) -> str:
    """A table for the terminal."""
    blocks = [_wrapped(protocol_lines(table))]
    for title, cells in _grids(table):
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rows = ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in cells]
        blocks.append("\n".join([_wrapped([title]), *rows]))
    return "\n\n".join([*blocks, _wrapped(remarks(table))]).rstrip()


def as_markdown(tables: Sequence[Table]) -> str:
    """A Markdown document with all tables."""
    blocks = ["# Evaluation"]
    if len(tables) > 1:
        blocks.append(
            f"{len(tables)} tables with different protocols; numbers of different tables are not comparable "
            "unless their protocols say so."
        )
    for number, table in enumerate(tables, start=1):
        blocks.append(f"## Table {number}" if len(tables) > 1 else "## Protocol")
        blocks.append("\n".join(f"- {line}" for line in protocol_lines(table)))
        for title, cells in _grids(table):
            rows = [f"| {' | '.join(row)} |" for row in cells]
            rule = f"| {' | '.join(['---:'] * len(cells[0]))} |"
            blocks += [f"**{title}**", "\n".join([rows[0], rule, *rows[1:]])]
        blocks += remarks(table)
    return "\n\n".join(blocks) + "\n"


def as_csv(scores: Scores) -> str:
    """A row for every score, with its protocol."""
    rows = [_flat(score) for score in scores.scores]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _wrapped(lines: list[str]) -> str:
    """Paragraphs as wide as a terminal."""
    return "\n".join(textwrap.fill(line, 110, subsequent_indent="  ") for line in lines)


def _flat(score: Score) -> dict[str, object]:
    sampled = asdict(score.sampled)
    # That of the measures has the same name.
    sampled["arithmetic"] = sampled.pop("precision")
    sampled["timesteps"] = " ".join(map(str, score.sampled.timesteps))
    sampled["checkpoint_steps"] = " ".join(map(str, score.sampled.checkpoint_steps))
    ruler = score.ruler
    return {
        "steps": score.sampled.steps,
        "eta": score.sampled.eta,
        "seed": score.sampled.seed,
        **asdict(score.measures),
        **{f"seconds_{name}": value for name, value in asdict(score.seconds).items()},
        "calls": score.calls,
        "batch_size": score.batch_size,
        **sampled,
        **{f"features_{name}": value for name, value in asdict(ruler.features).items()},
        **{f"reference_{name}": value for name, value in asdict(ruler.reference).items()},
        **asdict(ruler.settings),
        "warnings": "; ".join(score.warnings),
    }


def protocol_lines(table: Table) -> list[str]:
    """All that the numbers depend on, a line each."""
    sampled, ruler = table.scores[0].sampled, table.scores[0].ruler
    features, reference = ruler.features, ruler.reference
    after = " and ".join(f"{step:,}" for step in sampled.checkpoint_steps)
    which = "averaged (EMA)" if sampled.weights == "ema" else "raw"
    seeds = ", ".join(map(str, table.seeds))
    return [
        f"images: {sampled.num_images:,} for each number, sampled in {sampled.plugin} "
        f"({sampled.device}, {sampled.precision}); seed{'s' * (len(table.seeds) > 1)} {seeds}",
        f"network: {sampled.checkpoint} checkpoint, step {after}, {which} weights",
        f"sampling: timestep subset {sampled.timestep_subset}, solver {sampled.solver}, "
        + clip_in_words(sampled.clip),
        *_found_timesteps(table),
        f"features: {features.choice} of {features.distribution} {features.version}, {features.dimension:,} "
        f"for an image, weights {features.fingerprint[:12]}",
        f"reference: the {reference.num_images:,} {reference.half} images of {reference.data}, "
        f"sha256 {reference.sha256[:12]}",
    ]


def _found_timesteps(table: Table) -> list[str]:
    """The timesteps of a subset that was searched for: its name does not say them."""
    if not table.scores[0].sampled.timestep_subset.startswith("optimized"):
        return []
    subsets = sorted({score.sampled.timesteps for score in table.scores}, key=len)
    return [f"timesteps: {'; '.join(', '.join(map(str, subset)) for subset in subsets)}"]


def _grids(table: Table) -> list[tuple[str, _Cells]]:
    """A title and cells, header included, for each measure; then the paper's where that is comparable."""
    header = ["eta", *(column_title(steps, table.calls(steps)) for steps in table.steps)]
    spread = f"; {over_seeds([table])}" if len(table.seeds) > 1 else ""
    grids = []
    for shown in SHOWN:
        rows = [
            [f"{eta:g}", *(table.cell_text(shown, eta, steps) for steps in table.steps)] for eta in table.etas
        ]
        grids.append((shown.title(table.scores[0].ruler) + spread, [header, *rows]))
    if not differences_from_the_paper(table.scores[0].sampled, table.scores[0].ruler):
        rows = [
            [f"{eta:g}", *(number(PAPER_FIDS.get(eta, {}).get(steps)) for steps in table.steps)]
            for eta in table.etas
        ]
        grids.append(("FID in the DDIM paper (arXiv 2010.02502, table 1)", [header, *rows]))
    return grids


def over_seeds(tables: Sequence[Table]) -> str:
    """What a cell of several seeds is: these draw other noise, but the weights are those of one training."""
    counts = sorted({len(table.seeds) for table in tables})
    each = " each" if len(tables) > 1 else ""
    return f"mean (range) of {' or '.join(map(str, counts))} sampling seeds, 1 training{each}"


def remarks(table: Table) -> list[str]:
    """The noise floor, what is doubtful, and why the paper's numbers are not beside these."""
    lines = []
    floor = table.noise_floor
    if floor is not None:
        m = floor.measures
        lines.append(
            f"Noise floor, {floor.real.num_images:,} real {floor.real.half} images against the reference: "
            f"Fréchet {number(m.frechet_distance)} (it falls as the number of images grows, and is only "
            f"comparable for as many), kernel x 1000 {number(1000.0 * m.kernel_distance)}, "
            f"precision {number(m.precision)}, recall {number(m.recall)}. Where the two halves of a data "
            "set are not alike, samples can come closer to the reference than these."
        )
    doubts = {doubt: None for score in table.scores for doubt in score.warnings}
    lines += [f"Warning: {doubt}." for doubt in doubts]
    differences = differences_from_the_paper(table.scores[0].sampled, table.scores[0].ruler)
    if differences and is_cifar10(table.scores[0].ruler.reference.data):
        lines.append(f"Not comparable with the DDIM paper's table: {'; '.join(differences)}.")
    return lines


def number(value: float | None) -> str:
    """Three digits that count, without exponent; `-` where there is no number."""
    if value is None or not math.isfinite(value):
        return "-"
    decimals = max(0, 2 - _magnitude(value))
    return f"{value:.{min(decimals, 6)}f}"


def _magnitude(value: float) -> int:
    """The exponent of ten, as rounded to three digits."""
    return int(f"{abs(value):.2e}".partition("e")[2]) if value else 0

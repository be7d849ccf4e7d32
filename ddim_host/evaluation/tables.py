"""Tables of scores: eta x steps as text and Markdown, and every score as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
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
    """A measure and its presentation.

    Attributes:
        name: Function that returns its name, which depends on the ruler.
        value: Function that returns its value.
        higher_is_better: True if higher values are better, False if lower ones are.
    """

    name: Callable[[Ruler], str]
    value: Callable[[Measures], float]
    higher_is_better: bool

    def title(self, ruler: Ruler) -> str:
        """Return a title that names the measure, its features and the better direction."""
        better = "higher" if self.higher_is_better else "lower"
        return f"{self.name(ruler)} in the features of {ruler.features.name}; {better} is better"


@dataclass(frozen=True)
class Table:
    """Scores of one protocol, which differ only in steps, eta and seed.

    Attributes:
        scores: The scores, at least one.
        noise_floor: The score of real images with the same ruler; None if it was not measured.
    """

    scores: tuple[Score, ...]
    noise_floor: NoiseFloor | None

    @property
    def etas(self) -> list[float]:
        """The values of eta, one per row."""
        return sorted({score.sampled.eta for score in self.scores})

    @property
    def steps(self) -> list[int]:
        """The numbers of steps, one per column."""
        return sorted({score.sampled.steps for score in self.scores})

    @property
    def seeds(self) -> list[int]:
        """The seeds of all cells."""
        return sorted({score.sampled.seed for score in self.scores})

    def calls(self, steps: int) -> int:
        """Return the network calls per image for this number of steps, or 0 if no score uses it."""
        return max((score.calls for score in self.scores if score.sampled.steps == steps), default=0)

    def cell(self, eta: float, steps: int) -> list[Score]:
        """Return the scores of one cell, one per seed."""
        return [s for s in self.scores if (s.sampled.eta, s.sampled.steps) == (eta, steps)]

    def cell_text(self, shown: Shown, eta: float, steps: int) -> str:
        """Return the mean of a cell, with the range if it has several seeds, or a dash if it is empty."""
        values = [shown.value(score.measures) for score in self.cell(eta, steps)]
        return mean_and_range(values, len(self.seeds))


def mean_and_range(values: Sequence[float], expected: int) -> str:
    """Format the mean of one value per seed; add the range, and the number of seeds if some are missing."""
    if len(values) < 2:
        text = number(values[0] if values else None)
    else:
        text = f"{number(sum(values) / len(values))} ({number(min(values))} to {number(max(values))})"
    return text if len(values) in (0, expected) else f"{text}, {len(values)} seed{'s' * (len(values) > 1)}"


def column_title(steps: int, calls: int) -> str:
    """Return the title of a column: S, and the network calls per image if they differ from S."""
    return f"S = {steps}" if calls == steps else f"S = {steps}, {calls} calls"


def _frechet_name(ruler: Ruler) -> str:
    is_fid = ruler.features.fingerprint == FID_WEIGHTS
    return "FID, the Fréchet distance" if is_fid else "Fréchet distance (not FID)"


SHOWN = (
    Shown(_frechet_name, lambda m: m.frechet_distance, higher_is_better=False),
    Shown(
        lambda _: "Kernel distance (MMD^2) x 1000",
        lambda m: 1000.0 * m.kernel_distance,
        higher_is_better=False,
    ),
    Shown(
        lambda _: "Precision (share of generated images that look real)",
        lambda m: m.precision,
        higher_is_better=True,
    ),
    Shown(
        lambda _: "Recall (share of real images that are covered)",
        lambda m: m.recall,
        higher_is_better=True,
    ),
)


def tables_of(scores: Scores) -> list[Table]:
    """Group the scores into tables, one for each protocol.

    Searches may have found different timesteps for the same subset; their scores are in separate tables.
    """
    groups: dict[object, list[_SameTimesteps]] = defaultdict(list)
    for score in scores.scores:
        tables = groups[score.protocol]
        if not any(table.add_if_same(score) for table in tables):
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
    """Scores of one protocol that use the same timesteps for each number of steps."""

    def __init__(self, score: Score) -> None:
        self.scores = [score]
        self._timesteps = {score.sampled.steps: score.sampled.timesteps}

    def add_if_same(self, score: Score) -> bool:
        """Add a score, unless earlier scores with as many steps use other timesteps; return True if added."""
        timesteps = score.sampled.timesteps
        if self._timesteps.setdefault(score.sampled.steps, timesteps) != timesteps:
            return False
        self.scores.append(score)
        return True


def as_text(table: Table) -> str:
    """Format a table for the terminal."""
    blocks = [_wrapped(protocol_lines(table))]
    for title, cells in _grids(table):
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rows = ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in cells]
        blocks.append("\n".join([_wrapped([title]), *rows]))
    return "\n\n".join([*blocks, _wrapped(remarks(table))]).rstrip()


def as_markdown(tables: Sequence[Table]) -> str:
    """Format all tables as a Markdown document."""
    blocks = ["# Evaluation"]
    if len(tables) > 1:
        blocks.append(
            f"{len(tables)} tables with different protocols. Compare numbers between tables only if "
            "their protocols allow it."
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
    """Format every score as a row of CSV, with its protocol."""
    rows = [_flat(score) for score in scores.scores]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _wrapped(lines: list[str]) -> str:
    """Wrap paragraphs to the width of a terminal, without breaking paths or parting numbers from nouns."""
    kept = [_AFTER_NUMBER.sub(_NO_BREAK, line) for line in lines]
    filled = [
        textwrap.fill(line, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in kept
    ]
    return "\n".join(filled).replace(_NO_BREAK, " ")


_NO_BREAK = "\0"
"""Placeholder for a non-breaking space while text is wrapped; it cannot occur in printable text."""

_AFTER_NUMBER = re.compile(r"(?<=\d) (?=[a-z])")


def _flat(score: Score) -> dict[str, object]:
    sampled = asdict(score.sampled)
    # One of the measures is also called precision.
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
    """Return the lines that describe a table's protocol."""
    sampled, ruler = table.scores[0].sampled, table.scores[0].ruler
    features, reference = ruler.features, ruler.reference
    after = " and ".join(f"{step:,}" for step in sampled.checkpoint_steps)
    which = "averaged (EMA)" if sampled.weights == "ema" else "raw"
    seeds = ", ".join(map(str, table.seeds))
    return [
        f"images: {sampled.num_images:,} per score, sampled with {sampled.plugin} "
        f"({sampled.device}, {sampled.precision}); seed{'s' * (len(table.seeds) > 1)} {seeds}",
        f"network: {sampled.checkpoint} checkpoint, step {after}, {which} weights",
        f"sampling: timestep subset {sampled.timestep_subset}, solver {sampled.solver}, "
        + clip_in_words(sampled.clip),
        *_found_timesteps(table),
        f"features: {features.choice} of {features.distribution} {features.version}, {features.dimension:,} "
        f"per image, weights {features.fingerprint[:12]}",
        f"reference: the {reference.num_images:,} {reference.half} images of {reference.data}, "
        f"sha256 {reference.sha256[:12]}",
    ]


def _found_timesteps(table: Table) -> list[str]:
    """List the timesteps of an optimized subset, whose name does not determine them."""
    if not table.scores[0].sampled.timestep_subset.startswith("optimized"):
        return []
    subsets = sorted({score.sampled.timesteps for score in table.scores}, key=len)
    return [f"timesteps: {'; '.join(', '.join(map(str, subset)) for subset in subsets)}"]


def _grids(table: Table) -> list[tuple[str, _Cells]]:
    """Return a title and cells with a header for each measure, and for the paper's FIDs if comparable."""
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
    """Describe cells that combine several seeds: the noise differs, but the trained weights are the same."""
    counts = sorted({len(table.seeds) for table in tables})
    each = " each" if len(tables) > 1 else ""
    return f"mean (range) over {' or '.join(map(str, counts))} sampling seeds, 1 training run{each}"


def remarks(table: Table) -> list[str]:
    """List remarks: the scores of real images, warnings, and reasons for not showing the paper's FIDs."""
    lines = []
    floor = table.noise_floor
    if floor is not None:
        m = floor.measures
        lines.append(
            f"For comparison, {floor.real.num_images:,} real {floor.real.half} images measured against the "
            f"reference: Fréchet {number(m.frechet_distance)} (it falls as the number of images grows, so "
            "compare it only for equal numbers of images), "
            f"kernel x 1000 {number(1000.0 * m.kernel_distance)}, "
            f"precision {number(m.precision)}, recall {number(m.recall)}. If the two halves of a data set "
            "differ, samples can be closer to the reference than real images are."
        )
    warnings = dict.fromkeys(warning for score in table.scores for warning in score.warnings)
    # One about the reference applies to both.
    of_floor = [warning for warning in (floor.warnings if floor else ()) if warning not in warnings]
    warnings |= {f"noise floor: {warning}": None for warning in of_floor}
    lines += [f"Warning: {warning}." for warning in warnings]
    differences = differences_from_the_paper(table.scores[0].sampled, table.scores[0].ruler)
    if differences and is_cifar10(table.scores[0].ruler.reference.data):
        lines.append(f"Not comparable with the DDIM paper's table: {'; '.join(differences)}.")
    return lines


def number(value: float | None) -> str:
    """Format a number with three significant digits, without an exponent; `-` if it is missing."""
    if value is None or not math.isfinite(value):
        return "-"
    decimals = max(0, 2 - _magnitude(value))
    return f"{value:.{min(decimals, 6)}f}"


def _magnitude(value: float) -> int:
    """Return the decimal exponent of a value rounded to three digits."""
    return int(f"{abs(value):.2e}".partition("e")[2]) if value else 0

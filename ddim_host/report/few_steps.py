"""Plots for sampling in few steps: errors of optimized timesteps, and quality against network calls."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from ddim_host.evaluation.tables import SHOWN, number
from ddim_host.report.comparison import names_of
from ddim_host.report.plots import Plot, spans_decades
from ddim_host.report.svg import Curve, curves_svg

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ddim_host.evaluation.scores import Score
    from ddim_host.parts.found_subsets import FoundSubset
    from ddim_host.report.comparison import Comparison


@dataclass(frozen=True)
class Front:
    """The subsets found by one search for a run, the newest of each size.

    Attributes:
        run: The name of the run.
        search: Short description of the search.
        subsets: The subsets, by increasing number of timesteps S.
    """

    run: str
    search: str
    subsets: tuple[FoundSubset, ...]


def fronts_of(comparison: Comparison) -> list[Front]:
    """Return the subsets found for each run, one front for each search."""
    fronts = []
    for run in comparison.runs:
        found: dict[str, dict[int, FoundSubset]] = defaultdict(dict)
        for subset in run.subsets:
            found[_search_words(subset)][subset.steps] = subset
        fronts += [
            Front(run.name, words, tuple(by_size[size] for size in sorted(by_size)))
            for words, by_size in found.items()
        ]
    return fronts


def _search_words(subset: FoundSubset) -> str:
    search = subset.search
    refinement = search.refinement
    return (
        search.method
        + (
            f", refined with {refinement.solver} by the distance between {refinement.distance}"
            if refinement
            else ""
        )
        + ("" if search.weights == "ema" else f", {search.weights} weights")
        + ("" if search.checkpoint == "latest" else f", checkpoint {search.checkpoint}")
    )


def front_plots(comparison: Comparison) -> list[Plot]:
    """Return the plot of expected error against S, or an empty list if no run has optimized subsets."""
    fronts = fronts_of(comparison)
    if not fronts:
        return []
    several = len(comparison.runs) > 1
    curves, rows = [], []
    for position, front in enumerate(fronts):
        sizes = [subset.steps for subset in front.subsets]
        name = f"{front.run}, {front.search}" if several else front.search
        linear = [subset.linear_expected_error for subset in front.subsets]
        curves += [
            Curve(name, sizes, [subset.expected_error for subset in front.subsets], position),
            Curve(f"{name}: linear", sizes, linear, position, dash=2),
        ]
        rows += [
            [
                front.run,
                front.search,
                str(subset.steps),
                number(subset.expected_error),
                number(subset.linear_expected_error),
                ", ".join(map(str, subset.timesteps)),
            ]
            for subset in front.subsets
        ]
    return [
        Plot(
            "Expected error against the number of optimized timesteps",
            curves_svg(
                "front",
                curves,
                x="S, the number of timesteps",
                y="mean squared difference per pixel",
                logarithmic=spans_decades(curves),
            ),
            "; ".join(
                f"{c.label}: {number(c.y[0])} at S = {c.x[0]}, {number(c.y[-1])} at {c.x[-1]}" for c in curves
            ),
            ["run", "search", "S", "error", "error of linear timesteps", "timesteps"],
            rows,
        )
    ]


def _ends(curves: list[Curve], axis: str) -> str:
    """Describe both ends of each curve in words."""
    return "; ".join(
        f"{curve.label}: {number(curve.y[0])} at {axis}{curve.x[0]}"
        + (f", {number(curve.y[-1])} at {curve.x[-1]}" if len(curve.x) > 1 else "")
        for curve in curves
    )


@dataclass(frozen=True)
class _Line:
    """Key of a line in a plot; its scores differ only in S and the seed.

    Attributes:
        name: The name of the run, and what distinguishes the sampled network from others of the run.
        subset: The timestep subset.
        solver: The solver.
    """

    name: str
    subset: str
    solver: str


def quality_plots(comparison: Comparison) -> list[Plot]:
    """Return plots of quality against network calls, with a line for each run, subset and solver.

    Each protocol with scores at several numbers of calls gets a plot, only for the lowest eta: low eta is
    best with few steps, and the tables contain the other scores.
    """
    groups: dict[object, list[tuple[str, Score]]] = defaultdict(list)
    for run in comparison.runs:
        for score in run.scores.scores:
            sampled, ruler = score.protocol
            # Networks, subsets and solvers are compared; everything else must be equal.
            same = replace(sampled.on_any_network(), timestep_subset="", solver="")
            groups[same, ruler].append((run.name, score))
    plots: list[Plot] = []
    for scores in groups.values():
        lowest = min(score.sampled.eta for _, score in scores)
        lines = _lines([(run, score) for run, score in scores if score.sampled.eta == lowest])
        if len({score.calls for of_line in lines.values() for score in of_line}) > 1:
            plots.append(_quality_plot(f"calls-{len(plots)}", lines))
    return plots


def _lines(scores: Sequence[tuple[str, Score]]) -> dict[_Line, list[Score]]:
    """Group scores, each with the name of its run."""
    names = names_of((run, score.sampled) for run, score in scores)
    lines: dict[_Line, list[Score]] = defaultdict(list)
    for run, score in scores:
        one = score.sampled
        lines[_Line(names[run, one], one.timestep_subset, one.solver)].append(score)
    return lines


def _quality_plot(name: str, lines: dict[_Line, list[Score]]) -> Plot:
    several = len({line.name for line in lines}) > 1
    first = next(iter(lines.values()))[0]
    shown = SHOWN[0]
    curves, rows = [], []
    for position, (line, scores) in enumerate(lines.items()):
        points = sorted((score.calls, fmean(values)) for score, values in _over_seeds(scores))
        label = ", ".join([line.name] * several + [line.subset, line.solver])
        curves.append(
            Curve(label, [x for x, _ in points], [y for _, y in points], position, dash=position // 6)
        )
        rows += [[line.name, line.subset, line.solver, str(calls), number(value)] for calls, value in points]
    what, features = shown.name(first.ruler), first.ruler.features.name
    return Plot(
        f"{what} of {first.sampled.num_images:,} samples at eta {first.sampled.eta:g} against network calls, "
        f"in the features of {features}",
        curves_svg(
            name,
            curves,
            x="network calls per image",
            y=what,
            logarithmic=spans_decades(curves),
        ),
        _ends(curves, "calls = "),
        ["run", "timestep subset", "solver", "calls", what],
        rows,
    )


def _over_seeds(scores: Iterable[Score]) -> list[tuple[Score, list[float]]]:
    """Return a score and the values of all seeds for each S, using the newest subset of repeated searches."""
    newest: dict[int, list[Score]] = {}
    for score in scores:
        same = newest.setdefault(score.sampled.steps, [])
        if same and same[-1].sampled.timesteps != score.sampled.timesteps:
            same.clear()
        same.append(score)
    shown = SHOWN[0]
    return [(same[0], [shown.value(score.measures) for score in same]) for same in newest.values()]

"""How figures look: one restrained style, and one function for each kind of figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

INK = "#1b1f24"
"""Colour of text and axes; on the page it follows the reader's colour scheme."""

FAINT = "#8a9099"

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a6761d", "#8a9099", "#e69f00")
"""After Okabe & Ito: colour-blind readers can tell them apart, on white and on black."""

MARKERS = "osD^v<>"

LINES = ("-", "--", "-.", ":")

CHOICE, BASELINE, REFERENCE = "choice", "baseline", "reference"
"""Kinds of series: what competes, what sees no image, and what both are held against."""

KINDS: dict[str, dict[str, Any]] = {
    CHOICE: {},
    BASELINE: {"color": INK, "linewidth": 1.1, "linestyle": ":"},
    REFERENCE: {"color": FAINT, "linewidth": 1},
}

LABEL_SIZE, LABEL_STEPS = 6.5, 50
"""Size of labels of points, and steps in which they are moved apart."""

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    # Dollar signs in a name do not make it a formula.
    "text.parse_math": False,
    "pdf.fonttype": 42,
}


def heat_map(axes: Axes, data: pd.DataFrame) -> None:
    """Columns row, column, value, text; a cell without a value shows its text small."""
    rows, columns = sorted(set(data["row"])), sorted(set(data["column"]))
    table = np.full((len(rows), len(columns)), np.nan)
    for cell in _records(data):
        table[rows.index(cell["row"]), columns.index(cell["column"])] = cell["value"]
    finite = table[np.isfinite(table)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    axes.imshow(table, cmap="cividis", aspect="auto", vmin=low, vmax=max(high, low + 1e-9))
    for cell in _records(data):
        dark = cell["value"] < (low + high) / 2
        colour = ("white" if dark else "black") if np.isfinite(cell["value"]) else INK
        at = columns.index(cell["column"]), rows.index(cell["row"])
        text = axes.text(*at, cell["text"], ha="center", va="center", color=colour, size=7)
        text.set_in_layout(False)  # it lies inside the axes, so measuring it takes time for nothing
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _records(data: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in data.to_dict("records")]


def _series(data: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Yield each series with its name and style, which follows from its kind where it has one."""
    for number, (name, part) in enumerate(data.groupby("series", sort=False)):
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number % len(LINES)]}
        kind = part["kind"].iloc[0] if "kind" in part else CHOICE
        yield str(name), part, style | KINDS[kind]


def _legend(axes: Axes) -> None:
    """Put the legend below the axes, where it covers no data."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.19), ncols=2)


def _lines(axes: Axes, data: pd.DataFrame, markers: bool = False) -> None:
    """Draw lines, with a band around the first only: overlapping bands hide what they show."""
    for number, (name, part, style) in enumerate(_series(data)):
        if markers and part["kind"].iloc[0] == CHOICE:
            style["marker"] = MARKERS[number % len(MARKERS)]
        axes.plot(part["x"], part["y"], label=name, **style)
        if number == 0:
            axes.fill_between(
                part["x"], part["low"], part["high"], color=style["color"], alpha=0.18, linewidth=0
            )


def curves(x: str, y: str) -> Callable[[Axes, pd.DataFrame], None]:
    """Columns series, kind, x, y, low, high: lines, and a band around the first."""

    def draw(axes: Axes, data: pd.DataFrame) -> None:
        _lines(axes, data)
        axes.set(xlabel=x, ylabel=y)
        _legend(axes)

    return draw


def unit_square(x: str, y: str) -> Callable[[Axes, pd.DataFrame], None]:
    """Curves whose axes both go from 0 to 1."""
    lines = curves(x, y)

    def draw(axes: Axes, data: pd.DataFrame) -> None:
        lines(axes, data)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))

    return draw


def points_over_k(y: str) -> Callable[[Axes, pd.DataFrame], None]:
    """Columns series, kind, x (patients per class), y, low, high: few-shot curves."""

    def draw(axes: Axes, data: pd.DataFrame) -> None:
        _lines(axes, data, markers=True)
        axes.set_xscale("log", base=2)
        ticks = sorted(set(data["x"]))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="patients per class in training (k)", ylabel=y)
        _legend(axes)

    return draw


def trade_off(x: str, y: str) -> Callable[[Axes, pd.DataFrame], None]:
    """Columns series, label, x, y, front: points, the Pareto front joined and named."""

    def draw(axes: Axes, data: pd.DataFrame) -> None:
        from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

        for number, (name, part, style) in enumerate(_series(data)):
            axes.plot(
                part["x"],
                part["y"],
                color=style["color"],
                label=name,
                linestyle="none",
                marker=MARKERS[number % len(MARKERS)],
                markersize=4.7,
                alpha=0.8,
                markeredgewidth=0,
            )
        front = data[data["front"]].sort_values("x")
        axes.plot(front["x"], front["y"], color=FAINT, linewidth=1, zorder=0)
        axes.set_xscale("log")
        small = data["x"].min() < 1  # "10m" could be read as ten minutes or millions
        numbers = FuncFormatter(lambda value, _: f"{value:g}") if small else EngFormatter(sep="")
        axes.xaxis.set_major_formatter(numbers)
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.12, y=0.15)
        _name_points(axes, front, data)
        axes.set(xlabel=x, ylabel=y)
        _legend(axes)

    return draw


def _name_points(axes: Axes, named: pd.DataFrame, points: pd.DataFrame) -> None:
    """Write the labels of some points beside them, where they cover no label and few points."""
    from adjustText import adjust_text

    axes.autoscale_view()
    texts = [
        axes.text(point["x"], point["y"], point["label"], size=LABEL_SIZE)
        for point in _records(named)
    ]
    # Steps instead of seconds, so that a figure is the same on every machine.
    targets = {"target_x": named["x"].to_numpy(), "target_y": named["y"].to_numpy()}
    obstacles = points["x"].to_numpy(), points["y"].to_numpy()
    adjust_text(texts, *obstacles, **targets, ax=axes, iter_lim=LABEL_STEPS)


def forest(x: str, zero: float | None = None) -> Callable[[Axes, pd.DataFrame], None]:
    """Columns label, value, low, high: points with intervals, one row each.

    Rows whose column ``kind`` says reference are vertical lines.
    """

    def draw(axes: Axes, data: pd.DataFrame) -> None:
        is_line = data["kind"] == REFERENCE if "kind" in data else np.zeros(len(data), dtype=bool)
        lines, data = data[is_line], data[~is_line]
        for number, line in enumerate(_records(lines)):
            style = LINES[1 + number % (len(LINES) - 1)]
            axes.axvline(
                line["value"], color=FAINT, linewidth=1, linestyle=style, label=line["label"]
            )
        place = np.arange(len(data))[::-1]
        values = data["value"].to_numpy(float)
        reach = np.stack([values - data["low"], data["high"] - values])
        reach = np.where(np.isfinite(reach), np.maximum(reach, 0), 0)
        axes.errorbar(
            values,
            place,
            xerr=reach,
            fmt="o",
            color=COLOURS[0],
            ecolor=COLOURS[0],
            elinewidth=1.2,
            capsize=0,
        )
        for row in np.flatnonzero(np.isnan(values)):
            axes.annotate(
                "not defined",
                (0.01, place[row]),
                xycoords=("axes fraction", "data"),
                color=FAINT,
                size=7,
                va="center",
            )
        if zero is not None:
            axes.axvline(zero, color=FAINT, linewidth=1, zorder=0)
        axes.set_yticks(place, data["label"])
        axes.set_ylim(-0.7, len(data) - 0.3)
        axes.set_xlabel(x)
        if len(lines):  # in inches, since these figures have as many rows as choices
            below = -0.5 / (axes.get_window_extent().height / axes.figure.dpi)
            axes.legend(loc="upper center", bbox_to_anchor=(0.4, below), ncols=2, fontsize=7)
        axes.tick_params(axis="y", length=0)

    return draw


def confusion(axes: Axes, data: pd.DataFrame) -> None:
    """Columns label, decision, n, share (of the label's patients)."""
    names = list(dict.fromkeys(data["label"]))
    table = data["share"].to_numpy(float).reshape(len(names), len(names))
    axes.imshow(table, cmap="cividis", vmin=0, vmax=1)
    for cell in _records(data):
        at = names.index(cell["decision"]), names.index(cell["label"])
        text, colour = f"{cell['n']:.0f}\n{100 * cell['share']:.0f} %", "white"
        if cell["share"] > 0.5:
            colour = "black"
        axes.text(*at, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="decided", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def reliability(axes: Axes, data: pd.DataFrame) -> None:
    """Columns series, kind, x (forecast), y (event rate), low, high, n; intervals for the first."""
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":", label="ideal")
    for number, (name, part, style) in enumerate(_series(data)):
        style["marker"] = MARKERS[number % len(MARKERS)]
        axes.plot(part["x"], part["y"], label=name, **style)
        if number == 0:
            reach = np.stack([part["y"] - part["low"], part["high"] - part["y"]]).clip(0)
            axes.errorbar(
                part["x"], part["y"], reach, fmt="none", elinewidth=0.9, ecolor=COLOURS[0]
            )
    axes.set(xlabel="forecast", ylabel="observed", xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes)


def rank_diagram(axes: Axes, data: pd.DataFrame) -> None:
    """Columns choice, rank, and p:<choice> of all pairs: critical-difference diagram."""
    from scikit_posthocs import critical_difference_diagram

    ranks = data.set_index("choice")["rank"]
    pairwise = data.set_index("choice")[[f"p:{name}" for name in ranks.index]]
    pairwise.columns = ranks.index
    critical_difference_diagram(
        ranks,
        pairwise,
        ax=axes,
        label_props={"size": 7},
        text_h_margin=0.02,
        color_palette=dict.fromkeys(ranks.index, INK),
        crossbar_props={"color": COLOURS[1]},
    )

"""Figures: what each is, in words and data, and how it becomes a file or a part of the page."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from prognobench.analysis.catalogue import CHOICES, CONTEXT
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.report.drawing import (
    CHOICE,
    FAINT,
    INK,
    REFERENCE,
    STYLE,
    forest,
    heat_map,
    points_over_k,
    rank_diagram,
    trade_off,
)
from prognobench.analysis.scores import CHANCE, Scored
from prognobench.analysis.summaries.aggregate import (
    Context,
    describe_context,
    is_reference,
    iter_main_contexts,
)
from prognobench.analysis.summaries.costs import pareto
from prognobench.analysis.summaries.ranks import Ranks
from prognobench.analysis.summaries.score_tables import reference_label
from prognobench.analysis.tables import make_slug
from prognobench.files import guard, write_bytes, write_table
from prognobench.metrics.metric import Metric
from prognobench.workers import shared_out

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_SERIES, MOST_ROWS = 6, 15
"""Lines, and rows of intervals, that a reader can still tell apart."""

PROCESSES_FROM = 5
"""From so many figures on, drawing in several processes saves more time than starting them."""

FORMATS = ("svg", "png", "pdf")

MARGIN = 0.05
"""Around a figure, in inches."""

WIDE = 5.5
"""Figures that are wider than this many inches get a row of their own on the page."""


@dataclass(frozen=True)
class Figure:
    """A figure: its data, how it is drawn, and what it shows in words.

    Attributes
    ----------
    name
        Of its files.
    alt
        What a reader who cannot see the figure needs to know.
    data
        Everything that is drawn.
    command
        That makes the numbers again.
    """

    name: str
    title: str
    alt: str
    data: pd.DataFrame
    command: str
    draw: Callable[[Axes, pd.DataFrame], None]
    size: tuple[float, float] = (4.4, 3.7)
    synthetic: bool = False

    def render(self, kind: str) -> bytes:
        """Return the figure as ``svg``, ``png`` or ``pdf``."""
        import matplotlib
        from matplotlib.figure import Figure as Canvas

        style: Any = {**STYLE, "svg.hashsalt": self.name}
        with matplotlib.rc_context(), warnings.catch_warnings():
            # A name that the font lacks a character for is drawn with a box in its place.
            warnings.filterwarnings("ignore", "Glyph ", UserWarning)
            matplotlib.rcdefaults()  # drops what a caller has set in this process
            matplotlib.rcParams.update(style)
            canvas = Canvas(figsize=self.size)
            axes = canvas.subplots()
            self.draw(axes, self.data)
            for axis in (axes.xaxis, axes.yaxis):
                # An empty label gets a fixed place; else it is placed by drawing all tick labels.
                if not axis.get_label_text():
                    axis.set_label_coords(0, 0)
            if self.synthetic:
                canvas.suptitle("synthetic images", x=0.995, ha="right", size=7, color=FAINT)
            stream = io.BytesIO()
            plain = {"Date": None} if kind == "svg" else {}
            background = "none" if kind == "svg" else "white"
            # bbox_inches="tight" finds the same box by drawing everything once more.
            box = canvas.get_tightbbox().padded(MARGIN)
            canvas.savefig(
                stream,
                format=kind,
                dpi=200,
                metadata=plain,
                facecolor=background,
                bbox_inches=box,
            )
        return stream.getvalue()

    def inline(self) -> str:
        """Return the SVG for a page: with its words, in the page's colour, no id twice on it."""
        # XML holds no control characters, and classes and centres may.
        root = ElementTree.fromstring(_NO_XML.sub(b"", self.render("svg")))
        for node in root.findall(f"{{{SVG}}}metadata"):
            root.remove(node)
        used = {name for node in root.iter() for name in _references(node)}
        for node in root.iter():
            if node.get("id") not in used:
                node.attrib.pop("id", None)
        root.set("role", "img")
        root.set("aria-label", self.alt)
        return ElementTree.tostring(root, encoding="unicode").replace(INK, "currentColor")

    @property
    def link(self) -> str:
        """The data as an address that a browser saves as CSV."""
        safe = self.data.map(guard).rename(columns=guard)
        content = safe.to_csv(index=False, float_format="%.5g").encode()
        return f"data:text/csv;base64,{base64.b64encode(content).decode()}"

    @property
    def is_wide(self) -> bool:
        return self.size[0] > WIDE


_NO_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
for _prefix, _space in (("", SVG), ("xlink", XLINK)):
    ElementTree.register_namespace(_prefix, _space)


def _references(node: ElementTree.Element) -> Iterator[str]:
    """Names of the elements that an element uses, as ``#name`` or ``url(#name)``."""
    for value in node.attrib.values():
        yield from re.findall(r"(?:^|url\()#([\w-]+)", value)


def load_drawing() -> None:
    """Import what drawing needs, and exempt it from garbage collection, which takes longer."""
    import gc

    for name in ("matplotlib.figure", "matplotlib.backends.backend_svg", "pandas"):
        import_module(name)
    gc.freeze()


def save_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write each figure as SVG, PNG and PDF, and its data as CSV; return where they are."""
    separate = len(figures) >= PROCESSES_FROM
    return [
        path
        for written in shared_out(partial(_save, folder), figures, separate=separate)
        for path in written
    ]


def _save(folder: Path, figure: Figure) -> list[Path]:
    write_table(folder / f"{figure.name}.csv", figure.data)
    paths = [folder / f"{figure.name}.{kind}" for kind in FORMATS]
    for path, kind in zip(paths, FORMATS, strict=True):
        write_bytes(path, figure.render(kind))
    return paths


def table_command(rows: str, columns: str, named: Mapping[str, Any], metric: Metric) -> str:
    """Return the command that makes the numbers of a table again."""
    choice = f"--metric {metric.name} --dataset {named['dataset']}"
    return f"prognobench table --rows {rows} --columns {columns} {choice}"


def say_left_out(number: int, command: str) -> str:
    """Return a sentence that counts what a figure leaves out; empty if that is nothing."""
    if number <= 0:
        return ""
    return f" {number} more {'is' if number == 1 else 'are'} not drawn: see '{command}'."


def report_command(metric: Metric) -> str:
    """Return the command that writes a figure and its data to files."""
    return f"prognobench report --metric {metric.name} --figures"


# ------------------------------------------------------------------ model by strategy


def heat_maps(cells: pd.DataFrame, metric: Metric) -> Iterator[Figure]:
    """Yield maps of scores, model by strategy, one figure per dataset."""
    import pandas as pd

    for named, own, _ in iter_main_contexts(cells[cells["metric"] == metric.name]):
        models, strategies = own["model"].nunique(), own["strategy"].nunique()
        if models * strategies < 2:
            continue
        reasons = own["reason"].where(own["reason"].str.startswith("n/a"), "").str[:3]
        texts = own["mean"].map("{:.2f}".format).where(own["mean"].notna(), reasons)
        data = pd.DataFrame(
            {
                "row": own["model"].to_numpy(),
                "column": own["strategy"].to_numpy(),
                "value": own["mean"].to_numpy(float),
                "text": texts.to_numpy(),
            }
        )
        best = own.loc[own["mark"] == "best", list(CHOICES)].agg(", ".join, axis=1)
        yield Figure(
            make_slug("heat", metric.name, *named.values()),
            f"{metric.title}, {describe_context(named)}",
            f"Heat map of mean {metric.title} over folds, {models} models by {strategies} "
            f"strategies. Best: {', '.join(best)}.",
            data,
            table_command("model", "strategy", named, metric),
            heat_map,
            size=(1.6 + 0.52 * strategies, 1.1 + 0.26 * models),
            synthetic=bool(own["synthetic"].any()),
        )


# ------------------------------------------------------------------ few-shot


def few_shot(cells: pd.DataFrame, metric: Metric) -> Iterator[Figure]:
    """Yield scores over k, one figure per dataset, of the best choices at the largest k."""
    import pandas as pd

    own = cells[(cells["metric"] == metric.name) & (cells["k"] > 0) & cells["mean"].notna()]
    for (dataset, regime, cv), group in own.groupby(["dataset", "regime", "cv"], sort=True):
        if group["k"].nunique() < 2:
            continue
        named = {"dataset": dataset, "regime": regime, "k": 0, "cv": cv}
        real = group[~is_reference(group)]
        last = real[real["k"] == real["k"].max()]
        ranked = last.iloc[np.argsort(metric.distance(last["mean"].to_numpy(float)))]
        command = table_command("model,strategy", "k", named, metric)
        chosen = ranked[list(CHOICES)].head(MOST_SERIES).agg(", ".join, axis=1).tolist()
        labels = group[list(CHOICES)].agg(", ".join, axis=1)
        # References have one name as model and as strategy.
        references = {f"{kind}, {kind}": reference_label(kind) for kind in (ORACLE, CHANCE)}
        labels = labels.replace(references)
        wanted = [*chosen, *references.values()]
        data = pd.DataFrame(
            {
                "series": labels.to_numpy(),
                "kind": np.where(labels.isin(chosen), CHOICE, REFERENCE),
                "x": group["k"].to_numpy(),
                "y": group["mean"].to_numpy(float),
                "low": (group["mean"] - group["sd"]).to_numpy(float),
                "high": (group["mean"] + group["sd"]).to_numpy(float),
            }
        )
        data = data[data["series"].isin(wanted)]
        order = data["series"].map(wanted.index)
        data = data.assign(order=order).sort_values(["order", "x"]).drop(columns="order")
        yield Figure(
            make_slug("few-shot", metric.name, dataset, cv),
            f"{metric.title} over k, {dataset} · {cv}",
            f"{metric.title} against patients per class in training; best at the largest k: "
            f"{chosen[0]}. The band is one standard deviation over folds and draws."
            + say_left_out(len(ranked) - MOST_SERIES, command),
            data,
            command,
            points_over_k(metric.title),
            synthetic=bool(group["synthetic"].any()),
        )


# ------------------------------------------------------------------ cost


def trade_offs(cells: pd.DataFrame, scored: Scored, metric: Metric) -> Iterator[Figure]:
    """Yield scores against trainable parameters and training time, the Pareto front marked."""
    costs = scored.runs.groupby([*CONTEXT, *CHOICES])[["parameters_trainable", "seconds_train"]]
    axes = {
        "parameters_trainable": "trainable parameters",
        "seconds_train": "training time per fold (s)",
    }
    table = cells[(cells["metric"] == metric.name) & cells["mean"].notna()]
    table = table.merge(costs.mean().reset_index(), how="left")
    for named, own, _ in iter_main_contexts(table):
        for column, title in axes.items():
            known = own[own[column] > 0]
            if len(known) < 3:
                continue
            data = known.rename(columns={column: "x", "mean": "y", "strategy": "series"})
            data = data.assign(label=data["model"] + ", " + data["series"])
            data["front"] = pareto(data["x"].to_numpy(float), data["y"].to_numpy(float), metric)
            front = ", ".join(data.loc[data["front"], "label"])
            yield Figure(
                make_slug("cost", column, metric.name, *named.values()),
                f"{metric.title} against {title}, {describe_context(named)}",
                f"Scatter of {metric.title} against {title} on a logarithmic axis. On the Pareto "
                f"front: {front}.",
                data[["series", "label", "x", "y", "front"]].sort_values(["series", "x"]),
                report_command(metric),
                trade_off(title, metric.title),
                synthetic=bool(own["synthetic"].any()),
            )


# ------------------------------------------------------------------ differences and ranks


def draw_differences(context: Context, compared: pd.DataFrame, metric: Metric) -> Figure:
    """Draw :func:`.compare_with_best` of the nearest choices and all baselines."""
    named, own, _ = context
    baselines = compared["baseline"].astype(bool)
    shown = compared[baselines | ((~baselines).cumsum() <= MOST_ROWS)]
    best = own[own["mark"] == "best"].iloc[0]
    winner = ", ".join(str(best[name]) for name in CHOICES)
    choices = int((~shown["baseline"].astype(bool)).sum())
    left = say_left_out(len(compared) - len(shown), "prognobench compare")
    return Figure(
        make_slug("difference", metric.name, *named.values()),
        f"Difference to {winner} in {metric.title}, {describe_context(named)}",
        f"Mean paired difference in {metric.title} over folds with 95 % intervals (corrected "
        f"t-test), to the best, {winner}: choices, the nearest first ({choices}), and baselines "
        f"({len(shown) - choices}).{left}",
        shown.drop(columns="baseline"),
        report_command(metric),
        forest(f"difference in {metric.title}", 0.0),
        size=(4.4, 0.9 + 0.22 * len(shown)),
        synthetic=bool(own["synthetic"].any()),
    )


def rank_figure(ranks: Ranks, metric: Metric, synthetic: bool) -> Iterator[Figure]:
    """Yield the critical-difference diagram, where there are enough datasets."""
    if ranks.pairwise is None:
        return
    shown = list(ranks.mean_rank.index[:MOST_ROWS])
    data = ranks.pairwise.loc[shown, shown].add_prefix("p:")
    data.insert(0, "rank", ranks.mean_rank[shown])
    best = ", ".join(f"{name} {rank:.1f}" for name, rank in ranks.mean_rank.head(3).items())
    yield Figure(
        make_slug("ranks", metric.name),
        f"Mean rank in {metric.title} over {len(ranks.scores)} datasets",
        f"Critical-difference diagram, Friedman p = {ranks.p:.3g}. Best mean ranks: {best}. "
        "Choices under one bar do not differ significantly."
        + say_left_out(len(ranks.mean_rank) - MOST_ROWS, "prognobench compare --ranks"),
        data.rename_axis("choice").reset_index(),
        report_command(metric),
        rank_diagram,
        size=(6.4, 1.2 + 0.18 * len(shown)),
        synthetic=synthetic,
    )

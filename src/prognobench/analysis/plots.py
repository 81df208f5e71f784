"""Figures: what is drawn, in words and data, and how it becomes a file or part of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.analysis.drawing import FAINT, INK
from prognobench.files import write_bytes, write_table
from prognobench.workers import shared_out

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

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
    # A name is no formula, whatever dollar signs are in it.
    "text.parse_math": False,
    "pdf.fonttype": 42,
}

PROCESSES_FROM = 5
"""So many figures are worth the time that starting processes takes."""

FORMATS = ("svg", "png", "pdf")

MARGIN = 0.05
"""Around a figure, in inches."""


@dataclass(frozen=True)
class Figure:
    """A figure, what it is made of, and how to say it in words.

    Attributes
    ----------
    name
        Of its files.
    alt
        What a reader who cannot see it should know.
    data
        Everything that is drawn.
    command
        Makes the numbers again.
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
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # a figure looks alike in every process
            matplotlib.rcParams.update(style)
            canvas = Canvas(figsize=self.size)
            axes = canvas.subplots()
            self.draw(axes, self.data)
            for axis in (axes.xaxis, axes.yaxis):
                if not axis.get_label_text():
                    axis.set_label_coords(0, 0)  # or its place is sought below all tick labels
            if self.synthetic:
                canvas.suptitle("synthetic images", x=0.995, ha="right", size=7, color=FAINT)
            stream = io.BytesIO()
            plain = {"Date": None} if kind == "svg" else {}
            background = "none" if kind == "svg" else "white"
            # "tight" would find the same box by drawing everything once more.
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
        """Return the SVG for a page: said in words, in the page's colour, no id twice on it."""
        text = self.render("svg").decode()
        text = text[text.index("<svg") :].replace(INK, "currentColor")
        used = set(re.findall(r"#([\w-]+)[\")]", text))
        text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        said = f'<svg role="img" aria-label="{escape(self.alt, quote=True)}" '
        return text.replace("<svg ", said, 1)


def load() -> None:
    """Import what drawing takes, and never look for garbage in it."""
    import gc

    for name in ("matplotlib.figure", "matplotlib.backends.backend_svg", "pandas"):
        import_module(name)
    gc.freeze()


def save(figures: Sequence[Figure], folder: Path) -> list[Path]:
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

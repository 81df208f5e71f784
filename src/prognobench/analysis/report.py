"""One HTML page that says what was run, what came out, and how sure that is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path

from prognobench.analysis.aggregate import CHOICES, Selection, aggregate
from prognobench.analysis.claims import check_claims
from prognobench.analysis.closeups import choose
from prognobench.analysis.details import detail_figures
from prognobench.analysis.figures import (
    describe,
    differences,
    few_shot,
    heat_maps,
    rank_figure,
    trade_offs,
)
from prognobench.analysis.fragments import best_first, claim_fragment, figure_fragment, listed
from prognobench.analysis.headline import headline
from prognobench.analysis.inventory import datasets, models, strategies, unfinished
from prognobench.analysis.listings import efficiency, rank_table, wins_table
from prognobench.analysis.plots import Figure, load, save
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.ranks import rank
from prognobench.analysis.render import html_tables
from prognobench.analysis.scored import Scored, read_scores
from prognobench.analysis.tables import SYNTHETIC, lay_out, remarks
from prognobench.files import read_json, write_text
from prognobench.metrics.metric import Metric, find_metric
from prognobench.workers import Beside

METRICS = ("mcc", "average_precision", "roc_auc", "balanced_accuracy", "brier")
"""Columns of the headline table; the first is the page's own metric unless another is asked for."""

STEPS = 13

Progress = Callable[[str, int, int], None]


def report(
    results: Path,
    out: Path | None = None,
    *,
    metric: str = "mcc",
    figures: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the report of a results folder as one self-contained HTML file.

    Parameters
    ----------
    out
        Where to write it; ``results/report.html`` by default.
    metric
        What maps, curves over k and comparisons show.
    figures
        Also write every figure as SVG, PNG and PDF, and its data as CSV, to ``results/figures``.

    Raises
    ------
    StoreError
        If there are no runs.
    ConfigError
        If the metric is unknown.
    """
    found = find_metric(metric)
    say = progress or (lambda label, done, total: None)
    say("report", 0, STEPS)
    with Beside(Figure.inline) as studio:
        studio.prepare(load)
        scored = read_scores(results)
        say("report", 1, STEPS)
        page = _Page(results, scored, found, studio)
        sections = []
        for number, (name, title, html) in enumerate(page.sections()):
            sections.append((name, title, html))
            say("report", 2 + number, STEPS)
        drawn = studio.finish()
    out = out or results / "report.html"
    write_text(out, page.whole([section for section in sections if section[2]], drawn))
    if figures:
        save(page.figures, results / "figures")
    say("report", STEPS, STEPS)
    return out


class _Page:
    """The sections of the page, and the figures that they show."""

    def __init__(
        self, results: Path, scored: Scored, metric: Metric, studio: Beside[Figure, str]
    ) -> None:
        self.results, self.scored, self.metric, self.studio = results, scored, metric, studio
        self.metrics = list(dict.fromkeys([metric.name, *METRICS]))
        self.cells = aggregate(scored, Selection(self.metrics))
        self.notes = remarks(scored, self.cells)
        self.figures: list[Figure] = []

    def sections(self) -> Iterator[tuple[str, str, str]]:
        """Yield name, title and content; one without content is left out."""
        yield "best", "The best choice", self._headline()
        yield "scores", "Scores", self._scores()
        yield "maps", "Model by strategy", self._grid(heat_maps(self.cells, self.metric))
        yield "few-shot", "Few-shot", self._few_shot()
        yield "details", "A closer look at the best", self._details()
        yield "compare", "Comparisons", self._comparisons()
        yield "cost", "Score against cost", self._costs()
        yield "claims", "Claims", self._claims()
        yield "run", "What was run", self._inventory()
        yield "open", "Not finished, failed, not applicable", self._open()
        yield "repeat", "Environment, and how to repeat", self._repeat()

    # -------------------------------------------------------------- sections

    def _headline(self) -> str:
        table = headline(self.cells, self.scored, self.metric)
        return html_tables([table]) if table else "<p>No run has a score yet.</p>"

    def _inventory(self) -> str:
        parts = []
        for table, said in datasets(self.scored):
            parts.append(html_tables([table]) + listed(said))
        return "".join(parts) + html_tables([models(self.scored), strategies(self.scored)])

    def _scores(self) -> str:
        whole = self.cells[self.cells["k"] == 0]
        cells = whole if len(whole) else self.cells
        tables = lay_out(cells, ("model", "strategy"), "metric", self.metrics)
        return html_tables([best_first(table, self.metric) for table in tables])

    def _few_shot(self) -> str:
        own = self.cells[self.cells["metric"] == self.metric.name]
        if own.loc[own["k"] > 0, "k"].nunique() < 2:
            return ""
        named = ["dataset", *CHOICES]
        drawn = own.loc[own["k"] > 0, named].drop_duplicates()
        some = own[named].apply(tuple, axis=1).isin(drawn.apply(tuple, axis=1))
        some |= own["dataset"].isin(drawn["dataset"]) & own["baseline"]
        tables = list(lay_out(own[some], ("model", "strategy"), "k", self.metrics))
        return self._grid(few_shot(self.cells, self.metric)) + html_tables(tables)

    def _details(self) -> str:
        parts = []
        for chosen in choose(self.cells, self.scored, self.metric):
            title = escape(describe(chosen.named))
            parts.append(f"<h3>{title}</h3>{self._grid(detail_figures(chosen))}")
        return "".join(parts)

    def _comparisons(self) -> str:
        parts = []
        ranks = rank(self.cells, self.metric.name)
        if ranks is not None and len(ranks.scores) > 1:
            synthetic = bool(self.cells["synthetic"].any())
            parts = [html_tables([rank_table(ranks), wins_table(ranks)])]
            parts.append(self._grid(rank_figure(ranks, self.metric, synthetic)))
        parts.append(self._grid(differences(self.cells, self.scored, self.metric)))
        return "".join(parts)

    def _costs(self) -> str:
        tables = efficiency(self.cells, self.scored, self.metrics[:2])
        return self._grid(trade_offs(self.cells, self.scored, self.metric)) + html_tables(
            [best_first(table, self.metric) for table in tables]
        )

    def _claims(self) -> str:
        return "".join(map(claim_fragment, check_claims(self.results, scored=self.scored)))

    def _open(self) -> str:
        table = unfinished(self.scored)
        return html_tables([table]) if table else "<p>Every run is complete.</p>"

    def _repeat(self) -> str:
        runs = self.scored.runs[self.scored.runs["model"] != ORACLE]
        groups = ("dataset", "model", "strategy", "regime", "cv", "seed")
        lines = [
            "prognobench run "
            + " ".join(f"{name}={run[name]}" for name in groups)
            + (f" regime.k={run['k']}" if run["regime"] == "few_shot" else "")
            for run in runs.drop_duplicates([*groups, "k"]).to_dict("records")
        ]
        environment = read_json(self.scored.folders[runs.index[0]].path / "environment.json")
        described = escape(json.dumps(environment, indent=2))
        return (
            "<p>The runs, each with its defaults and whatever else its <code>run.json</code> "
            f"says:</p><details><summary>{len(lines)} commands</summary>"
            f"<pre class='scroll'>{escape(chr(10).join(lines))}</pre></details>"
            "<p>The scores, tables and this page: <code>prognobench score</code>, "
            "<code>prognobench table</code>, <code>prognobench report</code>.</p>"
            "<details><summary>environment of the first run</summary>"
            f"<pre class='scroll'>{described}</pre></details>"
        )

    # -------------------------------------------------------------- pieces

    def _grid(self, figures: Iterable[Figure]) -> str:
        cards = []
        for figure in figures:
            self.studio.add(figure)
            # Text on the page is escaped: nothing but this is a comment.
            cards.append(figure_fragment(figure, f"<!--{len(self.figures)}-->"))
            self.figures.append(figure)
        return f'<div class="figures">{"".join(cards)}</div>' if cards else ""

    def whole(self, sections: Sequence[tuple[str, str, str]], drawn: Sequence[str]) -> str:
        """Return the page, with each figure in its place."""
        runs = self.scored.runs[self.scored.runs["model"] != ORACLE]
        facts = {
            "datasets": runs["dataset"].nunique(),
            "models": runs["model"].nunique(),
            "strategies": runs["strategy"].nunique(),
            "runs": len(runs),
            "folds done": f"{runs['done'].sum():,} of {runs['cells'].sum():,}",
        }
        lead = "".join(f"<div><dt>{n}</dt><dd>{v}</dd></div>" for n, v in facts.items())
        lead = f'<dl class="facts">{lead}</dl>'
        synthetic = sorted(set(runs.loc[runs["synthetic"].astype(bool), "dataset"]))
        if synthetic:
            names = escape(", ".join(synthetic))
            lead = f'<p class="notice">{names}: {SYNTHETIC}.</p>' + lead
        lead += "".join(f'<p class="notice">{escape(note)}</p>' for note in self.notes)
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        page = _part("page.html")
        body = "".join(
            f'<section id="{name}"><h2>{title}</h2>{html}</section>'
            for name, title, html in sections
        )
        values = {
            "@title": "prognobench report",
            "@style": _part("page.css"),
            "@lead": lead,
            "@contents": "".join(f'<li><a href="#{n}">{t}</a></li>' for n, t, _ in sections),
            "@foot": f"Made by prognobench {escape(', '.join(self.scored.versions))} on {now}.",
            "@script": _part("page.js"),
            "@body": re.sub("<!--([0-9]+)-->", lambda found: drawn[int(found[1])], body),
        }
        # One pass: what stands in a value is never taken for a place.
        return re.sub("|".join(values), lambda found: values[found[0]], page)


def _part(name: str) -> str:
    return (files("prognobench") / "analysis" / "page" / name).read_text(encoding="utf-8")

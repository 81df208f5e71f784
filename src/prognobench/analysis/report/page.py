"""One HTML page that says what was run, what came out, and how sure that is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prognobench.analysis.catalogue import CHOICES
from prognobench.analysis.claims.judging import check_claims
from prognobench.analysis.claims.reading import are_about, find_claims, read_claims
from prognobench.analysis.report.calibrating import (
    compare_calibration,
    draw_calibration,
    follow_calibration,
)
from prognobench.analysis.report.closeup_figures import draw_closeup
from prognobench.analysis.report.closeups import choose_closeups
from prognobench.analysis.report.figures import (
    Figure,
    draw_differences,
    few_shot,
    heat_maps,
    load_drawing,
    rank_figure,
    save_figures,
    trade_offs,
)
from prognobench.analysis.report.groups import compare_groups, find_groups, pool_by_centre
from prognobench.analysis.report.sections import (
    WriteCommand,
    list_commands,
    list_datasets,
    list_models,
    list_strategies,
    list_unfinished,
    make_headline,
    real_runs,
    sort_rows,
)
from prognobench.analysis.scores import Scored, read_scores
from prognobench.analysis.shown import show_runs
from prognobench.analysis.summaries import costs, score_tables
from prognobench.analysis.summaries.aggregate import (
    Selection,
    aggregate,
    describe_context,
)
from prognobench.analysis.summaries.best import best_table, compare_each
from prognobench.analysis.summaries.ranks import rank, rank_table, wins_table
from prognobench.analysis.summaries.selection import add_optimism
from prognobench.analysis.summaries.verdict import reach_verdicts
from prognobench.analysis.tables import SYNTHETIC, Table, templates
from prognobench.files import write_text
from prognobench.metrics.metric import Metric, find_metric
from prognobench.records import Progress
from prognobench.workers import Beside

METRICS = ("mcc", "average_precision", "roc_auc", "balanced_accuracy", "brier")
"""Columns of the table of scores, after the metric of the page."""

STEPS = 13
"""Of the progress: reading the scores, eleven sections, drawing what is left."""


Kind = Literal["verdicts", "heading", "text", "tables", "figures", "remarks", "claims", "repeat"]


@dataclass(frozen=True)
class Block:
    """A piece of a section: its content, and the macro of ``blocks.html`` that shows it."""

    kind: Kind
    content: Any


@dataclass(frozen=True)
class Section:
    """A section of the page; without blocks it is left out."""

    name: str
    title: str
    blocks: tuple[Block, ...]


def write_report(
    results: Path,
    out: Path | None = None,
    *,
    metric: str = "mcc",
    figures: bool = False,
    everything: bool = False,
    claims: str | Path | None = None,
    write_command: WriteCommand | None = None,
    progress: Progress | None = None,
    scored: Scored | None = None,
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
    everything
        Hide no run: see :func:`.shown.show_runs`.
    claims
        A file of claims to check, or ``study``. By default the study's findings, where its data
        are among the results.
    write_command
        Makes the command of a run from the content of its ``run.json``.
    scored
        The results, if they are read already.

    Raises
    ------
    StoreError
        If there are no runs.
    ConfigError
        If the metric is unknown.
    """
    found = find_metric(metric)
    tell = progress or (lambda label, done, total: None)
    tell("report", 0, STEPS)
    # Other processes draw the figures of a section while this one computes the next section.
    with Beside(Figure.inline) as studio:
        studio.prepare(load_drawing)
        scored = scored or read_scores(results)
        tell("report", 1, STEPS)
        page = _Page(results, show_runs(scored, everything=everything), found, studio)
        page.as_stored, page.claims, page.write_command = scored, claims, write_command
        sections = []
        for number, section in enumerate(page.sections()):
            sections.append(section)
            tell("report", 2 + number, STEPS)
        drawn = studio.finish()
    out = out or results / "report.html"
    write_text(out, page.render([section for section in sections if section.blocks], drawn))
    if figures:
        save_figures(page.figures, results / "figures")
    tell("report", STEPS, STEPS)
    return out


class _Page:
    """The sections of the page, and the figures that they show."""

    def __init__(
        self, results: Path, scored: Scored, metric: Metric, studio: Beside[Figure, str]
    ) -> None:
        self.results, self.scored, self.metric, self.studio = results, scored, metric, studio
        self.metrics = list(dict.fromkeys([metric.name, *METRICS]))
        self.cells = add_optimism(aggregate(scored, Selection(self.metrics)), scored)
        self.notes = score_tables.note_results(scored)
        self.as_stored = scored
        self.claims: str | Path | None = None
        self.write_command: WriteCommand | None = None
        self.figures: list[Figure] = []

    def sections(self) -> Iterator[Section]:
        """Yield the sections in their order."""
        parts: tuple[tuple[str, str, Callable[[], Iterable[Block]]], ...] = (
            ("best", "The best choice", self._headline),
            ("scores", "Scores", self._scores),
            ("maps", "Model by strategy", self._maps),
            ("few-shot", "Few-shot", self._few_shot),
            ("details", "A closer look at the best", self._details),
            ("compare", "Comparisons", self._comparisons),
            ("cost", "Score against cost", self._costs),
            ("claims", "Claims", self._claims),
            ("run", "What was run", self._inventory),
            ("open", "Not finished, failed, not applicable", self._open),
            ("repeat", "Environment, and how to repeat", self._repeat),
        )
        for name, title, make in parts:
            yield Section(name, title, tuple(make()))

    # -------------------------------------------------------------- sections

    def _headline(self) -> Iterator[Block]:
        verdicts = reach_verdicts(self.scored, self.metric.name)
        yield Block("verdicts", verdicts)
        table = make_headline(self.cells, verdicts, self.metric)
        yield self._tables([table]) if table else Block("text", "No run has a score yet.")

    def _scores(self) -> Iterator[Block]:
        whole = self.cells[self.cells["k"] == 0]
        cells = whole if len(whole) else self.cells
        notes = score_tables.note_strategies(self.scored.runs, cells)
        tables = score_tables.lay_out(cells, ("model", "strategy"), "metric", self.metrics, notes)
        yield self._tables(sort_rows(table, self.metric) for table in tables)

    def _maps(self) -> Iterator[Block]:
        yield from self._figures(heat_maps(self.cells, self.metric))

    def _few_shot(self) -> Iterator[Block]:
        own = self.cells[self.cells["metric"] == self.metric.name]
        if own.loc[own["k"] > 0, "k"].nunique() < 2:
            return
        # Whole training parts are a column of the table too, for choices that have a curve.
        named = ["dataset", *CHOICES]
        drawn = own.loc[own["k"] > 0, named].drop_duplicates()
        some = own[named].apply(tuple, axis=1).isin(drawn.apply(tuple, axis=1))
        some |= own["dataset"].isin(drawn["dataset"]) & own["baseline"]
        yield from self._figures(few_shot(self.cells, self.metric))
        yield self._tables(
            score_tables.lay_out(own[some], ("model", "strategy"), "k", self.metrics)
        )

    def _details(self) -> Iterator[Block]:
        closeups, missing = choose_closeups(self.cells, self.scored, self.metric)
        for closeup in closeups:
            groups = find_groups(closeup)
            yield Block("heading", describe_context(closeup.named))
            yield from self._figures(draw_closeup(closeup, groups))
            compared = compare_groups(closeup, groups), pool_by_centre(closeup)
            yield self._tables([table for table in compared if table is not None])
            if closeup.is_binary:
                stages = follow_calibration(closeup)
                yield self._tables([compare_calibration(closeup, stages)])
                yield from self._figures([draw_calibration(closeup, stages)])
        if missing:
            yield Block("remarks", missing)

    def _comparisons(self) -> Iterator[Block]:
        ranks = rank(self.cells, self.metric.name)
        if ranks is not None and len(ranks.scores) > 1:
            synthetic = bool(self.cells["synthetic"].any())
            yield self._tables([rank_table(ranks), wins_table(ranks)])
            yield from self._figures(rank_figure(ranks, self.metric, synthetic))
        compared = list(compare_each(self.cells, self.scored, self.metric))
        for context, table in compared:
            yield self._tables([best_table(context, table, self.metric)])
        yield from self._figures(
            draw_differences(context, table, self.metric) for context, table in compared
        )

    def _costs(self) -> Iterator[Block]:
        yield from self._figures(trade_offs(self.cells, self.scored, self.metric))
        tables = costs.lay_out(self.cells, self.scored, self.metrics[:2])
        yield self._tables(sort_rows(table, self.metric) for table in tables)

    def _claims(self) -> Iterator[Block]:
        names = set(real_runs(self.as_stored)["dataset"])
        if self.claims or are_about(read_claims(find_claims(None)), names):
            yield Block("claims", check_claims(self.results, self.claims, self.as_stored))

    def _inventory(self) -> Iterator[Block]:
        for table, remarks in list_datasets(self.scored):
            yield self._tables([table])
            yield Block("remarks", remarks)
        yield self._tables([list_models(self.scored), list_strategies(self.scored)])

    def _open(self) -> Iterator[Block]:
        table = list_unfinished(self.scored)
        yield self._tables([table]) if table else Block("text", "Every run is complete.")

    def _repeat(self) -> Iterator[Block]:
        first = self.scored.folders[real_runs(self.scored).index[0]]
        environment = first.environment()
        yield Block(
            "repeat",
            {
                "commands": list_commands(self.scored, self.write_command),
                "environment": json.dumps(environment, indent=2),
            },
        )

    # -------------------------------------------------------------- pieces

    def _tables(self, tables: Iterable[Table]) -> Block:
        return Block("tables", list(tables))

    def _figures(self, figures: Iterable[Figure]) -> Iterator[Block]:
        """Hand figures to the processes that draw them; the page finds each by its number."""
        numbered = []
        for figure in figures:
            numbered.append((len(self.figures), figure))
            self.figures.append(figure)
            self.studio.add(figure)
        if numbered:
            yield Block("figures", numbered)

    def render(self, sections: Sequence[Section], drawn: Sequence[str]) -> str:
        """Return the page; ``drawn`` is the SVG of each figure."""
        runs = real_runs(self.scored)
        seeing = runs[~runs["baseline"].astype(bool)]
        seeing = seeing if len(seeing) else runs
        return (
            templates()
            .get_template("page.html")
            .render(
                title="prognobench report",
                sections=sections,
                drawn=drawn,
                facts={
                    "datasets": runs["dataset"].nunique(),
                    "models": seeing["model"].nunique(),
                    "strategies": seeing["strategy"].nunique(),
                    "runs": len(runs),
                    "folds done": f"{runs['done'].sum():,} of {runs['cells'].sum():,}",
                },
                generated=sorted(set(runs.loc[runs["synthetic"].astype(bool), "dataset"])),
                synthetic=SYNTHETIC,
                notes=self.notes,
                versions=self.scored.versions,
                now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            )
        )

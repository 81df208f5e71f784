"""The appendix of a paper: tables of reporting guidelines, filled with what the results tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.analysis.report.facts import gather_facts
from prognobench.analysis.report.sections import real_runs
from prognobench.analysis.scores import Scored
from prognobench.analysis.subgroups import groupable_columns, has_bands
from prognobench.analysis.summaries.verdict import reach_verdicts
from prognobench.analysis.tables import SYNTHETIC, Entry, Row, Table, markdown, templates
from prognobench.files import write_text
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd

BLANK = "▢ to be written by the authors"

FEWEST_SHOWN = 5
"""A smaller number of patients with a property is not shown: it may name them."""


def write_appendix(
    results: Path, scored: Scored, metric: str = "mcc", title: str = "appendix"
) -> list[Path]:
    """Write ``appendix.md`` and ``appendix.html`` into a results folder.

    Parameters
    ----------
    scored
        The runs that are shown.
    metric
        Of the verdicts.
    """
    facts = gather_facts(scored, reach_verdicts(scored, metric))
    tables = [*tabulate_guidelines(facts)]
    for name, folder in _list_cohorts(scored).items():
        tables += [tabulate_events(name, folder), tabulate_characteristics(name, folder)]
    generated = sorted(set(scored.runs.loc[scored.runs["synthetic"].astype(bool), "dataset"]))
    notice = f"{', '.join(generated)}: {SYNTHETIC}." if generated else ""
    heading = "Reporting guidelines, filled with what the results tell"
    text = "\n\n".join(filter(None, [f"# {heading}", notice, markdown(tables)]))
    page = templates().get_template("appendix.html")
    written = {
        "md": text,
        "html": page.render(title=heading, notice=notice, tables=tables),
    }
    paths = [results / f"{title}.{ending}" for ending in written]
    for path, content in zip(paths, written.values(), strict=True):
        write_text(path, content)
    return paths


def read_guidelines() -> list[dict[str, Any]]:
    """Return the guidelines: ``name``, ``source`` and ``items``."""
    import yaml

    file = files("prognobench.analysis.report") / "templates" / "guidelines.yaml"
    guidelines: list[dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return guidelines


def tabulate_guidelines(facts: Mapping[str, Sequence[str]]) -> Iterator[Table]:
    """Yield a table for each guideline: item, what it asks for, and what is known."""
    for guideline in read_guidelines():
        rows: list[Row] = []
        for item in guideline["items"]:
            known = [said for name in item.get("filled", ()) for said in facts[name]]
            answer = " ".join(known) or BLANK
            rows.append(((item["item"], item["asks"]), (Entry(answer),)))
        blank = sum(row[1][0].text == BLANK for row in rows)
        yield Table(
            guideline["name"],
            ("item", "what it asks for"),
            ("known from the results",),
            tuple(rows),
            notes=(
                f"items after {guideline['source']}, in our words: the guideline itself counts",
                f"{blank} of {len(rows)} items are left to the authors ({BLANK}); check the others",
            ),
        )


def _list_cohorts(scored: Scored) -> dict[str, RunFolder]:
    runs = real_runs(scored)
    first = runs.drop_duplicates(["dataset", "cv", "regime", "k"])
    found: dict[str, RunFolder] = {}
    for row in first.index:
        run = runs.loc[row]
        k = f", k={run['k']}" if run["k"] else ""
        found[f"{run['dataset']}, {run['cv']}{k}"] = scored.folders[row]
    return found


# ------------------------------------------------------------------ patients and events


def tabulate_events(name: str, folder: RunFolder) -> Table:
    """Return patients and events of each part: the mean over folds, least and most."""
    folds, cohort, classes = folder.folds(), folder.cohort(), folder.meta["classes"]
    labels = cohort.groupby("patient_id")["label"].first()
    event = len(classes) - 1
    marked = folds.assign(event=folds["patient_id"].map(labels) == event)
    axes = [axis for axis in ("repeat", "fold", "draw") if axis in marked]
    counts = marked.groupby([*axes, "part"], dropna=False)["event"].agg(["size", "sum"])
    rows: list[Row] = []
    for part in ("train", "validation", "test"):
        if part not in counts.index.get_level_values("part"):
            continue
        own = counts.xs(part, level="part")
        rows.append(((part,), (_range(own["size"]), _range(own["sum"]))))
    return Table(
        f"patients and events in each part: {name}",
        ("part",),
        ("patients", f"events ({classes[event]})"),
        tuple(rows),
        notes=("mean over folds, repetitions and draws, with the least and the most",),
    )


def _range(counts: pd.Series[Any]) -> Entry:
    low, high, mean = int(counts.min()), int(counts.max()), float(counts.mean())
    return Entry(f"{mean:.1f} ({low} to {high})", value=mean)


# ------------------------------------------------------------------ characteristics


def tabulate_characteristics(name: str, folder: RunFolder) -> Table:
    """Return "Table 1": each covariate by outcome, with the patients who lack it."""
    cohort, classes = folder.cohort(), folder.meta["classes"]
    patients = cohort.drop_duplicates("patient_id")
    groups = [patients, *(patients[patients["label"] == code] for code in range(len(classes)))]
    rows: list[Row] = [(("patients", ""), (*(Entry(f"{len(g):,}") for g in groups), Entry("")))]
    images = [cohort["patient_id"].isin(group["patient_id"]).sum() for group in groups]
    rows.append((("images", ""), (*(Entry(f"{n:,}") for n in images), Entry(""))))
    for column in groupable_columns(cohort):
        rows += _describe(column, groups)
    skipped = len(cohort.columns) - len(groupable_columns(cohort))
    return Table(
        f"characteristics of patients by outcome: {name}",
        ("covariate", "value"),
        ("all", *(str(each) for each in classes), "missing"),
        tuple(rows),
        notes=(
            "numbers: median [quartiles]; categories: patients (share of those with a value), of "
            "each patient's first row",
            f"fewer than {FEWEST_SHOWN} patients are shown as <{FEWEST_SHOWN}, and the other "
            f"numbers of that covariate in multiples of {FEWEST_SHOWN} (≈), so that no difference "
            "gives them away",
            f"{skipped} columns that name rows, hold the outcome or have too many or too few "
            "values are not shown",
        ),
    )


def _describe(column: str, groups: Sequence[pd.DataFrame]) -> Iterator[Row]:
    """Yield the rows of a covariate: all patients and each class, then who lacks a value."""
    values = [group[column] for group in groups]
    lacking, patients = int(values[0].isna().sum()), len(groups[0])
    if has_bands(values[0]):
        missing = _share(lacking, patients, rounded=_is_small(lacking))
        yield (column, "median [quartiles]"), (*map(_quartiles, values), Entry(missing))
        return
    names = sorted(values[0].dropna().unique(), key=str)
    counts = {name: [int((each == name).sum()) for each in values] for name in names}
    known = [int(each.notna().sum()) for each in values]
    # One small number follows from the others and their sum: then none of them is exact.
    rounded = any(_is_small(n) for row in (*counts.values(), [lacking]) for n in row)
    missing = _share(lacking, patients, rounded=rounded)
    for number, (name, row) in enumerate(counts.items()):
        cells = [Entry(_share(n, of, rounded=rounded)) for n, of in zip(row, known, strict=True)]
        yield (column, str(name)), (*cells, Entry("" if number else missing))


def _quartiles(values: pd.Series[Any]) -> Entry:
    known = values.dropna()
    if len(known) < FEWEST_SHOWN:
        return Entry(f"<{FEWEST_SHOWN} patients")
    low, middle, high = known.quantile([0.25, 0.5, 0.75])
    return Entry(f"{middle:.3g} [{low:.3g}, {high:.3g}]")


def _is_small(count: int) -> bool:
    return 0 < count < FEWEST_SHOWN


def _share(count: int, of: int, *, rounded: bool) -> str:
    """Return a number of patients with its share, or less than that where it may name them."""
    if _is_small(count):
        return f"<{FEWEST_SHOWN}"
    if not of:
        return "0"
    # The share is of the rounded number too: of few patients, a per cent tells the number.
    shown = FEWEST_SHOWN * round(count / FEWEST_SHOWN) if rounded else count
    return f"{'≈' if rounded and count else ''}{shown:,} ({100 * min(shown / of, 1):.0f} %)"

"""What stored runs tell of a study, as the sentences that reporting guidelines ask for.

Facts are sentences by name; :mod:`.appendix` puts them beside the items of the guidelines. No
sentence names a patient or an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prognobench.analysis.report.sections import count_exclusions, real_runs
from prognobench.analysis.scores import Scored
from prognobench.analysis.summaries.verdict import Verdict
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd

MOST_NAMES = 12
"""Values that a sentence lists; the others are counted."""

RULES = ("select", "on_missing", "on_unknown_label", "on_conflict", "positive", "classes", "task")
"""Settings of datasets that say who is in and what is predicted, and name nobody."""


@dataclass(frozen=True)
class Study:
    """What the facts are taken from.

    Attributes
    ----------
    runs
        Those that somebody computed.
    cohorts
        Name of each data set -> a run of it.
    """

    scored: Scored
    verdicts: list[Verdict]
    runs: pd.DataFrame = field(init=False)
    cohorts: Mapping[str, RunFolder] = field(init=False)

    def __post_init__(self) -> None:
        runs = real_runs(self.scored)
        first = runs.drop_duplicates("dataset")
        object.__setattr__(self, "runs", runs)
        folders = {str(runs.at[row, "dataset"]): self.scored.folders[row] for row in first.index}
        object.__setattr__(self, "cohorts", folders)

    def folders(self) -> list[RunFolder]:
        return [self.scored.folders[row] for row in self.runs.index]

    @property
    def of_images(self) -> pd.DataFrame:
        """The runs whose strategy looks at images."""
        reads = [self.scored.folders[row].meta.get("reads", ["image"]) for row in self.runs.index]
        return self.runs[["image" in each for each in reads]]

    def configs(self, section: str) -> list[Mapping[str, Any]]:
        """Return the different contents of a section of the runs' configs."""
        found: list[Mapping[str, Any]] = []
        for folder in self.folders():
            content = folder.meta.get("config", {}).get(section)
            if isinstance(content, Mapping) and content not in found:
                found.append(content)
        return found


def gather_facts(scored: Scored, verdicts: list[Verdict]) -> dict[str, list[str]]:
    """Return the sentences of each fact; a fact of which nothing is known is empty."""
    study = Study(scored, verdicts)
    return {name: list(make(study)) for name, make in FACTS.items()}


def _list(names: Iterable[Any]) -> str:
    different = list(dict.fromkeys(str(name) for name in names))
    more = len(different) - MOST_NAMES
    return ", ".join(different[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _of_cohorts(say: Callable[[RunFolder], str]) -> Callable[[Study], Iterator[str]]:
    """Make a fact that is said of each data set."""

    def make(study: Study) -> Iterator[str]:
        for name, folder in study.cohorts.items():
            if said := say(folder):
                yield f"{name}: {said}."

    return make


# ------------------------------------------------------------------ data


def _data(folder: RunFolder) -> str:
    cohort = folder.cohort()
    drawn = "; images drawn by a generator, no patients" if folder.meta["synthetic"] else ""
    return (
        f"{cohort['patient_id'].nunique():,} patients, {len(cohort):,} images "
        f"(digest {folder.meta['fingerprints']['cohort'][:12]}){drawn}"
    )


def _dates(folder: RunFolder) -> str:
    cohort = folder.cohort()
    if "order" not in cohort or not cohort["order"].notna().any():
        return "the order of images in time is not known"
    known = int(cohort["order"].notna().sum())
    return f"the order in time is known of {known:,} of {len(cohort):,} images"


def _selection(folder: RunFolder) -> str:
    settings = folder.meta.get("config", {}).get("dataset", {}).get("settings", {})
    said = [
        f"{name}={settings[name]}" for name in RULES if settings.get(name) not in (None, [], "")
    ]
    return f"rules of the reader: {', '.join(said)}" if said else ""


def _predicted_when(folder: RunFolder) -> str:
    select = folder.meta.get("config", {}).get("dataset", {}).get("settings", {}).get("select")
    if select is None:
        return ""
    which = {"first": "the first image of a patient", "last": "the last image of a patient"}
    return f"predicted from {which.get(select, 'every image of a patient, averaged')}"


def _outcome(folder: RunFolder) -> str:
    classes = folder.meta["classes"]
    positive = f", {classes[-1]} is the positive one" if len(classes) == 2 else ""
    return f"classes {', '.join(map(str, classes))}{positive}"


def _centres(folder: RunFolder) -> str:
    cohort = folder.cohort()
    count = cohort["centre"].nunique() if "centre" in cohort else 0
    said = f"{count} centres" if count > 1 else "one centre, or centres that are not known"
    if folder.meta.get("cv") == "leave_one_centre_out":
        said += (
            "; each centre is tested by models that never saw it, and the report pools the centres "
            "with random effects"
        )
    return said


def _missing(folder: RunFolder) -> str:
    cohort = folder.cohort()
    counts = cohort.drop_duplicates("patient_id").isna().sum()
    lacking = [f"{name} {n}" for name, n in counts.items() if n and name != "order"]
    if not lacking:
        return "no covariate has missing values"
    return (
        f"patients without a value: {_list(lacking)}. Image models do not read these columns; "
        "baselines of covariates impute within each training part"
    )


def _flow(folder: RunFolder) -> str:
    cohort = folder.cohort()
    out = "; ".join(count_exclusions(folder)) or "nothing was left out by the reader"
    return (
        f"{out}; analysed {cohort['patient_id'].nunique():,} patients with {len(cohort):,} images"
    )


def _parts(study: Study) -> Iterator[str]:
    for cv in study.configs("cv"):
        settings = ", ".join(f"{k}={v}" for k, v in cv.get("settings", {}).items())
        yield f"Cross-validation {cv.get('name', '')}{f' ({settings})' if settings else ''}."
    yield f"Seeds {_list(study.runs['seed'])}."


def _leaks(study: Study) -> Iterator[str]:
    yield "Parts are disjoint by patient; equal and near-equal pictures across parts are searched."
    for checks in study.configs("checks"):
        yield f"Leaks: {checks.get('leaks')}; duplicates: {checks.get('duplicates')}."


def _shortcuts(study: Study) -> Iterator[str]:
    for name, folder in study.cohorts.items():
        for warning in folder.meta.get("warnings", ()):
            yield f"{name}: {str(warning).removeprefix(f'{name}: ')}."
    yield "What files tell without pixels is a baseline ('shortcut') in every table."


# ------------------------------------------------------------------ models


def _predictors(study: Study) -> Iterator[str]:
    seen = {tuple(folder.meta.get("reads", ["image"])) for folder in study.folders()}
    reads = _list(sorted(" and ".join(each) or "nothing" for each in seen))
    yield f"Models read: {reads}. No predictor was selected by its association with the outcome."


def _compared(study: Study) -> Iterator[str]:
    runs = study.of_images
    yield (
        f"Compared on the same patients: models {_list(runs['model'])}; strategies "
        f"{_list(runs['strategy'])}."
    )
    others = study.runs.drop(index=runs.index)
    if len(others):
        yield f"Baselines that see no image: {_list(others['strategy'])}."


def _models(study: Study) -> Iterator[str]:
    for name, runs in study.of_images.groupby("model", sort=True):
        total = runs["parameters_total"].max()
        size = f", {total / 1e6:.2f} million parameters" if not math.isnan(total) else ""
        yield f"{name}{size}, adapted by {_list(runs['strategy'])}."


def _pretrained(study: Study) -> Iterator[str]:
    for name, runs in study.of_images.groupby("model", sort=True):
        if origins := _list(filter(None, map(str, runs["weights"].dropna()))):
            yield f"{name}: {origins}."


def _training(study: Study) -> Iterator[str]:
    for recipe in study.configs("train"):
        yield "Recipe: " + ", ".join(f"{k}={v}" for k, v in recipe.items() if v is not None) + "."


def _choice(study: Study) -> Iterator[str]:
    yield "The best epoch, head or candidate of a fold is chosen on its validation part alone."
    if any(recipe.get("refit") for recipe in study.configs("train")):
        yield "It is then fitted again on training and validation parts together."
    yield "The optimism of choosing the best of several on the same folds is given as a number."


def _preprocessing(study: Study) -> Iterator[str]:
    for image in study.configs("image"):
        yield "Images: " + ", ".join(f"{k}={v}" for k, v in image.items()) + "."


def _imbalance(study: Study) -> Iterator[str]:
    for loss in study.configs("loss"):
        settings = ", ".join(f"{k}={v}" for k, v in loss.get("settings", {}).items())
        yield f"Loss {loss.get('name', '')}{f' ({settings})' if settings else ''}."
    yield (
        "What class weights do to the risks is undone exactly before risks are scored; the report "
        "shows calibration before and after."
    )


def _software(study: Study) -> Iterator[str]:
    yield f"prognobench {', '.join(study.scored.versions)}."
    environment = study.folders()[0].environment()
    libraries = environment.get("libraries", {}).items()
    device = environment.get("device_name") or environment.get("device")
    yield (
        f"Python {environment.get('python')}, "
        f"{_list(f'{name} {version}' for name, version in libraries)}; computed on {device}."
    )


def _scaling(study: Study) -> Iterator[str]:
    scaling = study.scored.scaling
    yield (
        "Risks were not scaled after training."
        if scaling == "none"
        else f"Risks were calibrated by {scaling} scaling on each fold's validation part."
    )


def _external(study: Study) -> Iterator[str]:
    cvs = {folder.meta.get("cv") for folder in study.folders()}
    if cvs & {"external", "leave_one_centre_out"}:
        yield "Some test parts are whole centres or data sets that training never saw."
    else:
        yield "No external data were tested: all parts come from the same data sets."


def _performance(study: Study) -> Iterator[str]:
    for verdict in study.verdicts:
        yield f"{verdict.context}: {' '.join(verdict.says)}"


def _limits(study: Study) -> Iterator[str]:
    for verdict in study.verdicts:
        if verdict.limits:
            yield f"{verdict.context}: {' '.join(verdict.limits)}"


def _say(*sentences: str) -> Callable[[Study], Iterator[str]]:
    return lambda study: iter(sentences)


FACTS: Mapping[str, Callable[[Study], Iterator[str]]] = {
    "data": _of_cohorts(_data),
    "dates": _of_cohorts(_dates),
    "selection": _of_cohorts(_selection),
    "predicted_when": _of_cohorts(_predicted_when),
    "outcome": _of_cohorts(_outcome),
    "centres": _of_cohorts(_centres),
    "missing": _of_cohorts(_missing),
    "flow": _of_cohorts(_flow),
    "faulty": _say("Files that are not whole images are refused or left out, with a count."),
    "characteristics": _say("See the tables of characteristics below."),
    "events": _say("See the tables of patients and events below."),
    "size": _limits,
    "parts": _parts,
    "leaks": _leaks,
    "shortcuts": _shortcuts,
    "predictors": _predictors,
    "compared": _compared,
    "models": _models,
    "pretrained": _pretrained,
    "training": _training,
    "choice": _choice,
    "preprocessing": _preprocessing,
    "imbalance": _imbalance,
    "ensembles": _say("None: each fold has one model of its own; a patient's images are averaged."),
    "measures": _say(
        "MCC, average precision, ROC-AUC, balanced accuracy, Brier score; calibration curves and "
        "net benefit beside them."
    ),
    "uncertainty": _say(
        "Strategies are compared by the corrected t-test over folds, repeats and seeds (Nadeau and "
        "Bengio 2003), Holm over the family; intervals over patients are 95 % bootstrap intervals."
    ),
    "pooled": _say(
        "Out-of-fold predictions: each patient is predicted by models that never saw the patient. "
        "Images of a patient are averaged."
    ),
    "fairness": _say("The report gives scores of subgroups and their differences, with intervals."),
    "output": _say(
        "A probability of each class. Decisions are at 0.5 of the weighted model and at the "
        "threshold of largest MCC on the validation part; the report gives the cutoffs as risks."
    ),
    "scaling": _scaling,
    "external": _external,
    "software": _software,
    "commands": _say("The report's section 'how to repeat' has the command of each run."),
    "saved": _say("Runs with train.save=best keep each fold's model; weights are safetensors."),
    "performance": _performance,
    "limits": _limits,
    "confusion": _say("The report has the confusion matrix of the best choice."),
}
"""Name of a fact -> its sentences."""

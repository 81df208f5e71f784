"""What a run stores where patients have pseudonyms: tables renamed, texts without names and paths.

Numbers, folds and keys are made from the true names, so they are those of a plain run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import ConfigError, PrognobenchError
from prognobench.files import HIDDEN, NAMED, Pseudonyms
from prognobench.records import Files, Privacy
from prognobench.registry import DATASETS, GROUPS, Part
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from prognobench.records import Cohort, RunConfig

_REST = r"[^\s'\",;:()\[\]]*"
_ROW = re.compile(r" row \d+$")
_PATH = re.compile(r"(?:[A-Za-z]:[\\/]|~?/)\w" + _REST)


@cache
def read_key(privacy: Privacy) -> Pseudonyms | None:
    """Return the pseudonyms that a run's settings ask for, or ``None`` for plain names."""
    if privacy.ids == "plain":
        return None
    import platformdirs

    default = platformdirs.user_config_path("prognobench") / "pseudonyms.key"
    return Pseudonyms.of(Path(privacy.key).expanduser() if privacy.key else default)


def check_names(folder: RunFolder, pseudonyms: Pseudonyms | None) -> None:
    """Refuse to go on with a run that is stored under other names.

    Raises
    ------
    ConfigError
        Saying under which names it is stored.
    """
    stored = folder.meta.get("privacy") if folder.is_described else describe_names(pseudonyms)
    if stored == describe_names(pseudonyms):
        return
    how = "plain names" if stored is None else f"pseudonyms of the key {stored['key']}"
    raise ConfigError(
        f"{folder.path} is stored under {how}; set privacy.ids and privacy.key as they were, or "
        "choose another folder with paths.results=FOLDER"
    )


def describe_names(pseudonyms: Pseudonyms | None) -> dict[str, str] | None:
    """Return what ``run.json`` says of the names of patients; nothing of plain ones."""
    return None if pseudonyms is None else {"ids": "pseudonyms", "key": pseudonyms.fingerprint}


@dataclass(frozen=True)
class Hiding:
    """The names of a cohort, and what is stored in their place."""

    pseudonyms: Pseudonyms
    cohort: Cohort

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Every name of the cohort and of what was left out -> its pseudonym."""
        table, names = self.cohort.table, dict[str, str]()
        for column, kind in NAMED.items():
            for value in table[column].dropna().unique():
                names[str(value)] = self.pseudonyms.name(kind, str(value))
        for image in table["image"].astype(str):
            names.setdefault(Path(image).name, names[image])
            names.setdefault(Path(image).stem, names[image])
        for place in table["where"].astype(str).unique() if "where" in table else ():
            file = _ROW.sub("", place).rpartition(": ")[2]
            names.setdefault(file, self.pseudonyms.name("table", file))
        if self.cohort.exclusions is not None:
            for item in self.cohort.exclusions["item"].astype(str):
                names.setdefault(item, self.pseudonyms.name("item", item))
        names.pop("", None)
        return names

    def hide_table(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table of the cohort's rows under pseudonyms, without rows of the user's files.

        The order of images is often a date: it becomes the rank among a patient's images.
        """
        hidden = self.pseudonyms.rename(table).drop(columns="where", errors="ignore")
        if "order" in hidden:
            hidden["order"] = table.groupby("patient_id")["order"].rank(method="dense")
        return hidden

    def hide_exclusions(self, exclusions: pd.DataFrame) -> pd.DataFrame:
        """Return what was left out, by pseudonym; reasons without names."""
        items = [self.pseudonyms.name("item", str(item)) for item in exclusions["item"]]
        reasons = exclusions["reason"].astype(str)
        hidden = {reason: self.hide_text(reason) for reason in reasons.unique()}
        return exclusions.assign(item=items, reason=reasons.map(hidden))

    def hide_text(self, text: str) -> str:
        """Return a text in which names of the cohort and paths of files are hidden."""
        for source in self.cohort.sources.values():
            if isinstance(source, Files):
                text = re.sub(re.escape(str(source.root)) + _REST, HIDDEN, text)
        for name in sorted((name for name in self.names if name in text), key=len, reverse=True):
            # Whole words, or the patient called 7 would be found in every number.
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", self.names[name], text)
        return _PATH.sub(HIDDEN, text)

    def hide_values(self, value: Any) -> Any:
        """Return JSON values whose texts name nobody."""
        if isinstance(value, Mapping):
            return {self.hide_text(str(k)): self.hide_values(inner) for k, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide_values(inner) for inner in value]
        return self.hide_text(value) if isinstance(value, str) else value

    def hide_error(self, error: Exception) -> PrognobenchError:
        """Return an error to store: its kind and what it says, without names and traceback."""
        return PrognobenchError(f"{type(error).__name__}: {self.hide_text(str(error))}")


def hide_config(config: RunConfig, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``run.json`` says of a config, without paths and names of patients and images."""
    hidden = {**described, "paths": {}}
    for group in GROUPS.keys() & described.keys():
        part = GROUPS[group][getattr(config, group).builder]
        is_private = _names_patients if group == DATASETS.kind else _names_file
        settings = {
            name: HIDDEN if is_private(part, name, value) else value
            for name, value in described[group]["settings"].items()
        }
        hidden[group] = {**described[group], "settings": settings}
    return hidden


def _names_patients(part: Part, name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return False
    # A mapping holds settings of the parts of a union.
    is_marked = name in (*part.private, *part.locations) or isinstance(value, Mapping)
    return is_marked or _PATH.search(str(value)) is not None


def _names_file(part: Part, name: str, value: Any) -> bool:
    """Whether a setting is a file of this machine, not what a hub calls it."""
    if not isinstance(value, str):
        return False
    is_here = name in part.locations and Path(value).expanduser().is_file()
    return is_here or _PATH.match(value) is not None

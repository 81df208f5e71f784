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
from prognobench.records import Component, Files, Privacy
from prognobench.registry import DATASETS
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from prognobench.records import Cohort

_REST = r"[^\s'\",;:()\[\]]*"
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
        if self.cohort.exclusions is not None:
            for item in self.cohort.exclusions["item"].astype(str):
                names.setdefault(item, self.pseudonyms.name("item", item))
        names.pop("", None)
        return names

    def hide_table(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table of the cohort's rows under pseudonyms.

        The order of images is often a date: it becomes the rank among a patient's images.
        """
        hidden = self.pseudonyms.rename(table)
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


def hide_settings(dataset: Component) -> dict[str, Any]:
    """Return a dataset's settings without paths, and without those that name patients or images."""
    part = DATASETS[dataset.builder]
    return {
        name: HIDDEN if _is_private(name, value, (*part.private, *part.locations)) else value
        for name, value in dataset.settings.items()
    }


def _is_private(name: str, value: Any, marked: tuple[str, ...]) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return False
    return name in marked or isinstance(value, Mapping) or _PATH.search(str(value)) is not None

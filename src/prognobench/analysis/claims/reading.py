"""Files of claims: what a claim says, and about which runs and data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from prognobench.errors import ConfigError
from prognobench.metrics.metric import find_metric

Range = tuple[float, float]
Patterns = Mapping[str, tuple[str, ...]]
"""Column -> shell patterns of names; all columns must match."""

Kind = Literal["better", "not_worse", "steadier", "better_balanced", "no_single_winner"]

STUDY = "study"
"""How a command line asks for the study's findings."""


@dataclass(frozen=True)
class Where:
    """Which contexts a claim is about."""

    regime: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    patients: Range = (0, float("inf"))
    minority: Range = (0, 0.5)


@dataclass(frozen=True)
class Statement:
    """What can be tested: two groups of runs, and how they differ.

    Attributes
    ----------
    first, second
        Names of groups; only runs that belong to all of them count.
    within
        The two are compared where this is the same: a strategy within its backbone. By default
        the name that neither group restricts; empty where both restrict both.
    """

    kind: Kind
    metric: str = "mcc"
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    within: tuple[Literal["model", "strategy"], ...] | None = None
    margin: Annotated[float, Ge(0)] = 0.0
    where: Where = Where()
    balanced: Range = (0.35, 0.5)
    imbalanced: Range = (0.0, 0.2)


@dataclass(frozen=True)
class Claim:
    """A claim of one statement or of several that must all hold.

    ``configs/claims/study.yaml`` explains the kinds.
    """

    name: str
    says: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class ClaimFile:
    """A file of claims.

    Attributes
    ----------
    groups
        Name -> the runs that belong to it.
    datasets
        Patterns of the data sets that the claims were made about; empty for any.
    """

    claims: tuple[Claim, ...]
    groups: Mapping[str, Patterns]
    datasets: tuple[str, ...] = ()

    def find_matched(self, statement: Statement) -> tuple[str, ...]:
        """Return the names that two compared runs share."""
        if statement.within is not None:
            return statement.within
        groups = (*statement.first, *statement.second)
        restricted = {column for name in groups for column in self.groups[name]}
        free = {"model", "strategy"} - restricted
        return tuple(sorted(free)) if len(free) == 1 else ()


def find_claims(asked: str | Path | None) -> Path:
    """Return the file that is asked for; the study's by default."""
    return study_claims() if asked is None or str(asked) == STUDY else Path(asked)


def study_claims() -> Path:
    """Return the file with the study's findings."""
    package = Path(str(files("prognobench")))
    # Beside the code where it is installed, beside src in a checkout.
    roots = (package / "configs", package.parents[1] / "configs")
    return next(path for root in roots if (path := root / "claims" / "study.yaml").exists())


def are_about(file: ClaimFile, datasets: Iterable[str]) -> bool:
    """Whether the claims of a file were made about any of these data sets."""
    return any(fnmatch(name, each) for name in datasets for each in file.datasets or ("*",))


def read_claims(file: Path) -> ClaimFile:
    """Read and check a file of claims; all its faults are one :class:`ConfigError`."""
    import yaml
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    try:
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    strict = ConfigDict(extra="forbid")
    for record in (ClaimFile, Claim, Statement, Where):
        with_config(strict)(record)
    try:
        found = TypeAdapter(ClaimFile).validate_python(_spell_out(written))
    except ValidationError as error:
        raise ConfigError(
            f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors()
        ) from error
    faults = [
        f"{file}: claim {claim.name!r} names an unknown group {group!r} "
        f"(known: {', '.join(found.groups)})"
        for claim in found.claims
        for statement in claim.statements
        for group in (*statement.first, *statement.second)
        if group not in found.groups
    ]
    if faults:
        raise ConfigError(faults)
    for claim in found.claims:
        for statement in claim.statements:
            find_metric(statement.metric)
    return found


def _spell_out(written: object) -> object:
    """Give claims that are one statement a list of one."""
    if not isinstance(written, dict) or not isinstance(written.get("claims"), list):
        return written
    return {**written, "claims": [_with_statements(claim) for claim in written["claims"]]}


def _with_statements(claim: object) -> object:
    if not isinstance(claim, dict) or "statements" in claim:
        return claim
    statement = {key: claim[key] for key in claim if key not in ("name", "says")}
    names = {key: claim[key] for key in claim if key in ("name", "says")}
    return {**names, "statements": [statement]}

"""Files of claims: named groups of runs, and statements about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from prognobench.errors import ConfigError
from prognobench.metrics.metric import find_metric

Range = tuple[float, float]
Patterns = Mapping[str, tuple[str, ...]]
"""Column -> shell patterns of names; all columns must match."""


@dataclass(frozen=True)
class Where:
    """Which contexts a claim speaks of."""

    regime: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    patients: Range = (0, float("inf"))
    minority: Range = (0, 0.5)


@dataclass(frozen=True)
class Claim:
    """One statement; ``configs/claims/study.yaml`` explains the kinds.

    ``first`` and ``second`` name groups; a run belongs to all of them or does not count.
    """

    name: str
    says: str
    kind: Literal["better", "not_worse", "steadier", "better_balanced", "no_single_winner"]
    metric: str = "mcc"
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    margin: Annotated[float, Ge(0)] = 0.0
    where: Where = Where()
    balanced: Range = (0.35, 0.5)
    imbalanced: Range = (0.0, 0.2)


@dataclass(frozen=True)
class ClaimFile:
    """A file of claims: named groups of runs, and statements about them."""

    claims: tuple[Claim, ...]
    groups: Mapping[str, Patterns]


def study_claims() -> Path:
    """Return the file with the study's findings."""
    package = Path(__file__).parents[1]
    roots = (package / "configs", package.parents[1] / "configs")
    return next(path for root in roots if (path := root / "claims" / "study.yaml").exists())


def read_claims(file: Path) -> ClaimFile:
    """Read and check a file of claims; all its faults are one :class:`ConfigError`."""
    import yaml
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    # The same loader in C, where PyYAML was built with it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        written = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    strict = ConfigDict(extra="forbid")
    for record in (ClaimFile, Claim, Where):
        with_config(strict)(record)
    try:
        found = TypeAdapter(ClaimFile).validate_python(written)
    except ValidationError as error:
        raise ConfigError(
            f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors()
        ) from error
    faults = [
        f"{file}: claim {claim.name!r} speaks of an unknown group {group!r} "
        f"(there are: {', '.join(found.groups)})"
        for claim in found.claims
        for group in (*claim.first, *claim.second)
        if group not in found.groups
    ]
    if faults:
        raise ConfigError(faults)
    for claim in found.claims:
        find_metric(claim.metric)
    return found

"""Named parts that a config can choose: datasets, models, strategies, and the rest.

A part is one builder function. Its keyword-only parameters are the settings that its YAML may
carry; its positional parameters are handed over by the runner.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints

from prognobench.errors import ConfigError

Builder = TypeVar("Builder", bound=Callable[..., Any])

ENTRY_POINT_GROUP = "prognobench.components"


def near(name: str, known: Iterator[str] | Mapping[str, Any] | list[str]) -> str:
    """Return ". Did you mean 'a' or 'b'?" for a mistyped name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f". Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


@dataclass(frozen=True)
class Part:
    """One registered builder."""

    kind: str
    name: str
    builder: Callable[..., Any]

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return self.builder(*args, **settings)

    @cached_property
    def settings(self) -> Mapping[str, inspect.Parameter]:
        """The keyword-only parameters, by name: what a YAML may set."""
        parameters = inspect.signature(self.builder).parameters.values()
        return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    @cached_property
    def annotations(self) -> Mapping[str, Any]:
        """The type of each setting, with its ``Annotated`` constraints."""
        written = {name: p.annotation for name, p in self.settings.items()}
        # Only these are resolved: a positional parameter's type may exist for the checker alone.
        holder = SimpleNamespace(__annotations__=written)
        names = getattr(self.builder, "__globals__", {})
        return get_type_hints(holder, globalns=names, include_extras=True)

    @cached_property
    def produces(self) -> str:
        """The name of the record that the builder returns, by its return annotation."""
        produced = inspect.signature(self.builder).return_annotation
        return produced if isinstance(produced, str) else produced.__name__

    @property
    def summary(self) -> str:
        """The first line of the builder's docstring."""
        return (inspect.getdoc(self.builder) or "").partition("\n")[0]


class Registry(Mapping[str, Part]):
    """The parts of one kind, found by importing the module or folder that holds them."""

    def __init__(self, kind: str, home: str) -> None:
        self.kind = kind
        self._home = home
        self._parts: dict[str, Part] = {}
        self._loaded = False
        self._loading = threading.RLock()

    def register(self, name: str) -> Callable[[Builder], Builder]:
        """Decorate a builder; a second builder of the same name is refused."""

        def add(builder: Builder) -> Builder:
            if name in self._parts:
                raise ConfigError(f"two {self.kind} builders are called {name!r}; rename one")
            self._parts[name] = Part(self.kind, name, builder)
            return builder

        return add

    def _load(self) -> None:
        with self._loading:  # so that another thread waits until all parts are there
            if self._loaded:
                return
            self._loaded = True
            home = importlib.import_module(self._home)
            for module in pkgutil.iter_modules(getattr(home, "__path__", [])):
                importlib.import_module(f"{self._home}.{module.name}")
            for entry in entry_points(group=ENTRY_POINT_GROUP):
                entry.load()

    def __getitem__(self, name: str) -> Part:
        self._load()
        if name not in self._parts:
            raise ConfigError(
                f"unknown {self.kind} builder {name!r}{near(name, self._parts)} "
                f"(known: {', '.join(sorted(self._parts))})"
            )
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._parts))

    def __len__(self) -> int:
        self._load()
        return len(self._parts)


DATASETS = Registry("dataset", "prognobench.datasets")
MODELS = Registry("model", "prognobench.models")
STRATEGIES = Registry("strategy", "prognobench.strategies")
LOSSES = Registry("loss", "prognobench.losses")
METRICS = Registry("metric", "prognobench.metrics")
CVS = Registry("cv", "prognobench.folds")
REGIMES = Registry("regime", "prognobench.folds")

GROUPS: Mapping[str, Registry] = {
    registry.kind: registry for registry in (DATASETS, MODELS, STRATEGIES, LOSSES, CVS, REGIMES)
}
"""The registries whose parts a config group chooses."""


def load_components(folder: Path) -> None:
    """Import a user's own components: every ``*.py`` file directly in ``folder``.

    Raises
    ------
    ConfigError
        If the folder does not exist or a file in it cannot be imported.
    """
    if not folder.is_dir():
        raise ConfigError(f"components: no folder {folder}")
    for file in sorted(folder.glob("*.py")):
        name = f"prognobench_components.{file.stem}"
        if getattr(sys.modules.get(name), "__file__", None) == str(file):
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ConfigError(f"components: {file} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ConfigError(f"components: {file} cannot be imported: {error}") from error

"""Named parts that a config can choose: datasets, models, strategies, and the rest.

A part is one builder function. Its keyword-only parameters are the settings that its YAML may
carry; its positional parameters come from the run. What other modules need to know of
a part, it declares as a fact where it is registered. Other modules do not ask for it by name.
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
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, get_args, get_type_hints

from prognobench.errors import ConfigError

Builder = TypeVar("Builder", bound=Callable[..., Any])

ENTRY_POINT_GROUP = "prognobench.components"

OWN = "prognobench_components"
"""The package in which modules of own components stand."""


def near(name: str, known: Iterator[str] | Mapping[str, Any] | list[str]) -> str:
    """Return ". Did you mean 'a' or 'b'?" for a mistyped name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f". Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


@dataclass(frozen=True)
class Location:
    """Marks a setting that says where content is found, as in ``Annotated[str, Location()]``.

    A run is known by the fingerprint of the content instead, so that a moved file is the same run.
    """


@dataclass(frozen=True)
class Private:
    """Marks a setting that names patients or images, which a report must not show."""


@dataclass(frozen=True)
class Part:
    """One registered builder, and the facts that it declares."""

    kind: str
    name: str
    builder: Callable[..., Any]
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)

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
    def locations(self) -> tuple[str, ...]:
        """Names of the settings that are paths, or marked as a :class:`Location`."""
        paths = (n for n, a in self.annotations.items() if Path in (a, *get_args(a)))
        return (*self._marked(Location), *paths)

    @cached_property
    def private(self) -> tuple[str, ...]:
        """Names of the settings that are marked as :class:`Private`."""
        return self._marked(Private)

    def _marked(self, mark: type) -> tuple[str, ...]:
        marks = {name: getattr(a, "__metadata__", ()) for name, a in self.annotations.items()}
        return tuple(n for n, of in marks.items() if any(isinstance(m, mark) for m in of))

    @cached_property
    def produces(self) -> str:
        """The name of the record that the builder returns, by its return annotation."""
        produced = inspect.signature(self.builder).return_annotation
        return produced if isinstance(produced, str) else produced.__name__

    @property
    def home(self) -> Path | None:
        """The folder of own components that it was loaded from; ``None`` for all other parts."""
        module = getattr(self.builder, "__module__", "")
        if not module.startswith(f"{OWN}."):
            return None
        return Path(str(sys.modules[module].__file__)).parent

    @property
    def summary(self) -> str:
        """The first line of the builder's docstring."""
        return (inspect.getdoc(self.builder) or "").partition("\n")[0]


class Registry(Mapping[str, Part]):
    """The parts of one kind, found by importing the module or folder that holds them.

    Parameters
    ----------
    kind
        As the config group is called.
    home
        The module or folder that holds the parts.
    facts
        What a part of this kind may declare of itself, with what holds for one that does not.
    """

    def __init__(self, kind: str, home: str, facts: Mapping[str, Any] | None = None) -> None:
        self.kind = kind
        self._home = home
        self._facts = dict(facts or {})
        self._parts: dict[str, Part] = {}
        self._loaded = False
        self._loading = threading.RLock()

    def register(self, name: str, **facts: Any) -> Callable[[Builder], Builder]:
        """Decorate a builder; a second builder of the same name is refused.

        Parameters
        ----------
        facts
            What the part declares of itself, as in ``register("lora", shorthand=True)``.
        """
        if unknown := facts.keys() - self._facts.keys():
            raise ConfigError(
                f"{self.kind} builder {name!r} declares {', '.join(sorted(unknown))}; a "
                f"{self.kind} can declare {', '.join(self._facts) or 'nothing'}"
            )

        def add(builder: Builder) -> Builder:
            if name in self._parts:
                raise ConfigError(f"two {self.kind} builders are called {name!r}; rename one")
            self._parts[name] = Part(self.kind, name, builder, {**self._facts, **facts})
            return builder

        return add

    def declaring(self, fact: str) -> tuple[str, ...]:
        """Return the names of the parts for which a fact holds."""
        return tuple(name for name, part in self.items() if part.facts[fact])

    def _load(self) -> None:
        with self._loading:  # so that another thread waits until all parts are there
            if self._loaded:
                return
            from importlib.metadata import entry_points  # it takes as long as Click

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
STRATEGIES = Registry(
    "strategy", "prognobench.strategies", facts={"shorthand": False, "joins_sweeps": False}
)
"""``shorthand``: ``NAME=true`` on the command line stands for ``strategy=NAME``. ``joins_sweeps``:
a baseline that every sweep gets, with its defaults, where the cohort has what it reads."""
LOSSES = Registry("loss", "prognobench.losses", facts={"usual": False})
"""``usual``: the loss of the builder's own name is not added to the names of strategies."""
METRICS = Registry("metric", "prognobench.metrics")
CVS = Registry("cv", "prognobench.folds")
REGIMES = Registry("regime", "prognobench.folds")
ENGINES = Registry("engine", "prognobench.runs.engines")

GROUPS: Mapping[str, Registry] = {
    registry.kind: registry
    for registry in (DATASETS, MODELS, STRATEGIES, LOSSES, CVS, REGIMES, ENGINES)
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
    for file in sorted(folder.resolve().glob("*.py")):  # as modules note their files
        name = f"{OWN}.{file.stem}"
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

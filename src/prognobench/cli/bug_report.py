"""The file that a bug leaves: where in the code it happened, and nothing of the user's data."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from prognobench import __version__

LIBRARIES = ("torch", "timm", "peft", "hydra-core", "scikit-learn", "pandas", "numpy")

WITHOUT_DATA = (AttributeError, NameError, ZeroDivisionError)
"""Errors whose message names code only; others may quote a patient, an image or a path."""


def write_report(error: BaseException, commands: Collection[str]) -> str:
    """Write what a developer needs of an error, and return the file's path.

    Where no file can be written, the report goes to stderr.

    Parameters
    ----------
    commands
        Words of the command line that may be shown: all others may name files and people.
    """
    text = "\n".join([*_machine(commands), "", *_chain(error), ""])
    try:
        number, file = tempfile.mkstemp(prefix="prognobench-bug-", suffix=".txt")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except OSError:
        click.echo(text, err=True)
        return "as printed above"
    return file


def _machine(commands: Collection[str]) -> Iterator[str]:
    yield f"prognobench {__version__}, Python {platform.python_version()}, {platform.system()}"
    yield f"command: {next((word for word in sys.argv[1:] if word in commands), 'none')}"
    for library in LIBRARIES:
        try:
            yield f"{library} {version(library)}"
        except PackageNotFoundError:
            yield f"{library} is missing"


def _chain(error: BaseException) -> Iterator[str]:
    """Yield the error and, below it, those that it came from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        said = f": {current}" if isinstance(current, WITHOUT_DATA) else ""
        yield f"{type(current).__module__}.{type(current).__qualname__}{said}"
        for frame in traceback.extract_tb(current.__traceback__):
            yield f"  {_inside(frame.filename)}:{frame.lineno} {frame.name}: {frame.line}"
        current = current.__cause__ or current.__context__


def _inside(file: str) -> str:
    """Return a file's place inside its package; what lies above may name people and projects."""
    parts = Path(file).parts
    for root in ("site-packages", "prognobench", f"python3.{sys.version_info.minor}"):
        if root in parts:
            rest = parts[len(parts) - parts[::-1].index(root) :]
            return "/".join(rest if root == "site-packages" else (root, *rest))
    return Path(file).name

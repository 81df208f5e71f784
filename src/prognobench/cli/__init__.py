"""The command line: one file per family of commands; each command is one call, then printing.

Click and Hydra are used here and nowhere else; nothing is computed here. The commands are in
``apply``, ``data``, ``discover``, ``handing_on``, ``results`` and ``run``. ``compose`` turns
arguments into configs, with ``config_files``, ``overrides`` and ``values``; the other files serve
every command.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings

import click

from prognobench import __version__
from prognobench.cli import console, ending
from prognobench.cli.apply import export, predict
from prognobench.cli.data import data
from prognobench.cli.discover import list_
from prognobench.cli.handing_on import results_
from prognobench.cli.results import claims, compare, report, score, table
from prognobench.cli.run import plan, run, status

NAME, COMPLETION = "prognobench", "_PROGNOBENCH_COMPLETE"

GARBAGE_AT = 100_000
"""How many new objects start a garbage collection. Python's 700 search all that imports bring again
and again, a tenth of a short command. Tensors are freed without a collection."""

HELP = """
Find out which backbone, adapted by which strategy, works best on your patients' images, and how
sure that is.

\b
Examples:
  prognobench run dataset=mortality model=vit lora=true
  prognobench run -m model=vit,cnn strategy=full,linear_probe,lora,bitfit
  prognobench run dataset=table dataset.table=cohort.csv dataset.images=images \\
      dataset.label=outcome dataset.positive=dead
  prognobench table --metric mcc

Choices and settings are given as key=value: group=name chooses ('prognobench list' shows the
names), group.key=value sets a value. Results are stored in ./results, or in paths.results=FOLDER.
Nothing leaves this machine.

Exit codes: 0 all done; 1 some cells failed (the others are stored); 2 the command, config or data
is wrong (nothing was started); 3 the machine refused something (disk full, no memory, no
permission); 130 or 143 interrupted (the same command goes on); 70 a bug (a report file is named).

Completion in the shell: eval "$(_PROGNOBENCH_COMPLETE=bash_source prognobench)" (or zsh_source,
fish_source).
"""


class _InOrder(click.Group):
    """Lists its commands in the order of work, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    pass


for command in (
    run,
    plan,
    status,
    data,
    score,
    table,
    compare,
    claims,
    report,
    predict,
    export,
    results_,
    list_,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; errors for the user end without a traceback."""
    gc.set_threshold(GARBAGE_AT)
    warnings.showwarning = lambda message, *_: console.warn(str(message))
    try:
        ending.finish(_call, cli.commands)
    finally:
        gc.freeze()  # or the interpreter searches all modules once more at exit, for a second


def _call() -> int:
    """Do what the arguments say, and return the exit code."""
    if COMPLETION in os.environ:
        cli.main(prog_name=NAME)
    # Not by main(), which answers interrupts and closed pipes in its own way.
    try:
        with cli.make_context(NAME, sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0

"""The command line: the only place that knows click. Each command is one call, then printing."""

from __future__ import annotations

import gc
import os
import sys
import warnings

import click

from prognobench import __version__
from prognobench.cli import console
from prognobench.cli.computing import export, list_, plan, predict, run
from prognobench.cli.desk import data
from prognobench.cli.reading import claims, compare, report, score, table
from prognobench.errors import PrognobenchError

EXIT_FAILED_CELLS, EXIT_WRONG, EXIT_INTERRUPTED = 1, 2, 130

GARBAGE_AT = 100_000
"""New objects before Python looks for garbage: what imports bring stays, and is looked through at
every search (a tenth of a short command); models and their tensors go without one."""

HELP = """
Which backbone, adapted how, predicts a patient's outcome from a medical image, and how sure is
that?

\b
  prognobench run dataset=mortality model=vit lora=true
  prognobench run -m model=vit,cnn strategy=full,linear_probe,lora,bitfit
  prognobench run dataset=table dataset.table=cohort.csv dataset.images=images \\
      dataset.label=outcome dataset.positive=dead
  prognobench table --metric mcc

Choices and settings are given as key=value: group=name chooses ('prognobench list' shows what there
is), group.key=value sets. Results go to ./results, or paths.results=FOLDER. Nothing is sent
anywhere.

Exit codes: 0 all done, 1 some cells failed (the others are stored), 2 the command or config is
wrong (nothing was started).

Completion: eval "$(_PROGNOBENCH_COMPLETE=bash_source prognobench)" (or zsh_source, fish_source).
"""


class _Group(click.Group):
    """Commands in the order of work, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    pass


for command in (run, plan, data, score, table, compare, claims, report, predict, export, list_):
    cli.add_command(command)


def main() -> None:
    """Run the command line; errors for the user end without a traceback."""
    gc.set_threshold(GARBAGE_AT)
    warnings.showwarning = lambda message, *_: console.warn(str(message))
    try:
        sys.exit(cli.main(prog_name="prognobench", standalone_mode=False))
    except PrognobenchError as error:
        console.complain(str(error))
        sys.exit(EXIT_WRONG)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_WRONG)
    except (click.Abort, KeyboardInterrupt):
        console.say("interrupted; what was finished is stored, the same command goes on from there")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output is gone; nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED_CELLS)
    finally:
        gc.freeze()  # the process ends: a last search through all modules takes a second

"""The command line: one file per family of commands; each command is one call, then printing.

Click and Hydra are used here and nowhere else; nothing is computed here.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings

import click

from prognobench import __version__
from prognobench.cli import console
from prognobench.cli.apply import export, predict
from prognobench.cli.data import data
from prognobench.cli.discover import list_
from prognobench.cli.results import claims, compare, report, score, table
from prognobench.cli.run import plan, run
from prognobench.errors import PrognobenchError

EXIT_FAILED_CELLS, EXIT_WRONG, EXIT_INTERRUPTED = 1, 2, 130

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

Exit codes: 0 all done; 1 some cells failed (the others are stored); 2 the command or config is
wrong (nothing was started).

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
        console.say(
            "interrupted: finished cells are stored, and the same command goes on from there"
        )
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of stdout (head, say) is gone, and flushing at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED_CELLS)
    finally:
        gc.freeze()  # or the interpreter searches all modules once more at exit, for a second

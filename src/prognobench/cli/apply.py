"""Commands that put a trained model to use: predict, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from prognobench.cli import console
from prognobench.cli.options import FOLDER

RUN = click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path, exists=True))
WEIGHTS = click.option(
    "--weights",
    metavar="FILE",
    help="The backbone's weights, if they have moved since the run.",
)


@click.command(short_help="Predict new images with a saved model.")
@RUN
@click.argument("images", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--cell",
    "cells",
    multiple=True,
    help="Use only this cell's model (may be given several times); default: all.",
)
@click.option(
    "--images-folder",
    "folder",
    type=FOLDER,
    metavar="FOLDER",
    help="The folder that a table's image names start from; default: the table's own.",
)
@WEIGHTS
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="Where to compute: auto, cpu or cuda.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a CSV file instead of printing.",
)
def predict(run_folder: Path, images: Path, out: Path | None, device: str, **options: Any) -> None:
    """Predict new images with the saved models of a run: the mean over the folds' models.

    RUN is the run's folder; it has models if it was computed with train.save=best. IMAGES is an
    image, a folder of images, or a table with a column 'image' (and the covariates, where the
    strategy reads them).

    \b
    Examples:
      prognobench run dataset=mortality model=vit lora=true train.save=best
      prognobench predict results/runs/mortality/vit/lora/KEY images/ --out risk.csv
    """
    from prognobench.config import default_cache
    from prognobench.files import write_table
    from prognobench.runs.applying.predict import predict_images
    from prognobench.training.hardware import resolve_device

    with console.progress_bars() as progress:
        table = predict_images(
            run_folder,
            images,
            cache=default_cache(),
            device=resolve_device(device),
            progress=progress,
            **options,
        )
    for note in table.attrs["notes"]:
        console.say(note)
    if out is None:
        console.print_frame(table)
    else:
        write_table(out, table)
        console.say(f"written: {out}")


@click.command(short_help="Write a saved model as one weights file.")
@RUN
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--cell", default="r0-f0", show_default=True, help="Which of the run's models.")
@WEIGHTS
def export(run_folder: Path, file: Path, cell: str, weights: str | None) -> None:
    """Write one saved model of a run as a safetensors file, adapters merged into its weights.

    \b
    Examples:
      prognobench export results/runs/mortality/vit/lora/KEY merged.safetensors
      prognobench export results/runs/mortality/vit/lora/KEY fold2.safetensors --cell r0-f2
    """
    from prognobench.runs.applying.predict import export_merged

    export_merged(run_folder, cell, file, weights)
    console.say(f"written: {file}")

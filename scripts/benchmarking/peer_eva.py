"""A benchmark framework: kaiko-eva embeds every image once, and trains a head per fold.

Runs in an environment of its own, with kaiko-eva, timm and opencv-python-headless. Its loaders get
no worker processes, whose starts take most of the time of its own configs; the best epoch is kept,
as in these.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

import pandas as pd
import timm
import torch
from eva.core.callbacks.writers.embeddings.classification import ClassificationEmbeddingsWriter
from eva.core.data.dataloaders import DataLoader
from eva.core.data.datamodules import DataModule
from eva.core.data.datamodules.schemas import DataloadersSchema, DatasetsSchema
from eva.core.data.datasets import EmbeddingsClassificationDataset, MapDataset
from eva.core.interface import Interface
from eva.core.metrics.defaults import MulticlassClassificationMetrics
from eva.core.metrics.structs import MetricsSchema
from eva.core.models.modules import HeadModule, InferenceModule
from eva.core.trainers import Trainer
from images import Images, arguments
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

PARTS = ("train", "val", "test")
MONITOR = "val/MulticlassAccuracy"


class Set(MapDataset):
    """Every image, decoded when it is asked for."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def filename(self, index: int) -> str:
        return self.images.paths[index].name

    def __len__(self) -> int:
        return len(self.images.paths)

    def __getitem__(self, index: int):
        target = torch.tensor(int(self.images.labels[index]))
        return torch.from_numpy(self.images.image(index)), target, {}


def main() -> None:
    given = arguments()
    images = Images.read(given["table"])
    plain = partial(
        DataLoader, num_workers=0, prefetch_factor=None, persistent_workers=False, pin_memory=False
    )
    with tempfile.TemporaryDirectory() as folder:
        trained = partial(
            Trainer,
            default_root_dir=f"{folder}/logs",
            accelerator="cpu",
            precision="bf16-mixed" if given["precision"] == "bf16" else "32-true",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        backbone = timm.create_model(given["architecture"], num_classes=0)
        Interface().predict(
            trained(callbacks=[ClassificationEmbeddingsWriter(folder, overwrite=True)]),
            InferenceModule(backbone),
            DataModule(
                DatasetsSchema(predict=Set(images)), DataloadersSchema(predict=plain(batch_size=32))
            ),
        )
        manifest = pd.read_csv(f"{folder}/manifest.csv").set_index("origin")
        for number, fold in enumerate(images.folds(given["folds"])):
            rows = [
                manifest.loc[[images.paths[row].name for row in part]].assign(split=name)
                for name, part in zip(PARTS, fold, strict=True)
            ]
            pd.concat(rows).to_csv(Path(folder) / f"{number}.csv")
            sets = {
                name: EmbeddingsClassificationDataset(folder, f"{number}.csv", name)
                for name in PARTS
            }
            loaders = {name: plain(batch_size=256, shuffle=name == "train") for name in PARTS}
            Interface().fit(
                trained(
                    max_epochs=given["epochs"],
                    callbacks=[ModelCheckpoint(monitor=MONITOR, mode="max", filename="best")],
                ),
                HeadModule(
                    head=nn.Linear(backbone.num_features, 2),
                    criterion=nn.CrossEntropyLoss(),
                    optimizer=partial(torch.optim.AdamW, lr=3e-4),
                    metrics=MetricsSchema(common=MulticlassClassificationMetrics(2)),
                ),
                DataModule(DatasetsSchema(**sets), DataloadersSchema(**loaders)),
            )


if __name__ == "__main__":
    main()
    print(json.dumps({}))

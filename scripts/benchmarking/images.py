"""The images that every contender reads: a folder of images with a table."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

IMAGE_SIZE = 224
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1}


@dataclass(frozen=True)
class Images:
    """Paths, labels and patients of a table with columns image, outcome, patient."""

    paths: list[Path]
    labels: np.ndarray
    patients: np.ndarray

    @classmethod
    def read(cls, table: str) -> Images:
        rows = pd.read_csv(table)
        folder = Path(table).parent
        return cls(
            [folder / image for image in rows["image"]],
            rows["outcome"].to_numpy(),
            rows["patient"].to_numpy(),
        )

    def folds(self, number: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Train, validation and test rows of five folds, or the first ``number`` of them."""
        from sklearn.model_selection import StratifiedGroupKFold

        split = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        parts = [test for _, test in split.split(self.labels, self.labels, self.patients)]
        return [
            (
                np.concatenate([parts[(i + k) % 5] for k in (2, 3, 4)]),
                parts[(i + 1) % 5],
                parts[i],
            )
            for i in range(number)
        ]

    def image(self, row: int) -> np.ndarray:
        """Decode one image, as float (3, side, side), normalised."""
        grey = cv2.imread(str(self.paths[row]), cv2.IMREAD_GRAYSCALE)
        grey = cv2.resize(grey, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC)
        return np.repeat((grey[None] / 255 - 0.5).astype(np.float32) / 0.5, 3, 0)


def arguments() -> dict[str, Any]:
    """What scripts/bench hands to a contender."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def adapted(architecture: str, strategy: str, num_classes: int = 2):
    """A timm network as people adapt it by hand: frozen, LoRA by peft, BitFit, or full."""
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=num_classes)
    head = model.pretrained_cfg["classifier"]
    if strategy == "lora":
        from peft import LoraConfig, get_peft_model

        targets = ["qkv", "fc1", "fc2"] if "vit" in architecture else r".*conv\d"
        return get_peft_model(
            model, LoraConfig(target_modules=targets, modules_to_save=[head], **LORA)
        )
    for name, parameter in model.named_parameters():
        trains = strategy == "full" or name.startswith(f"{head}.")
        parameter.requires_grad_(trains or (strategy == "bitfit" and name.endswith(".bias")))
    return model

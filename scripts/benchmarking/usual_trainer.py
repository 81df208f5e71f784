"""The usual way: transformers.Trainer with timm and peft, decoding in the loop, fp32."""

from __future__ import annotations

import json
import tempfile
import time

START = time.perf_counter()

import torch  # noqa: E402
from images import Images, adapted, arguments  # noqa: E402
from torch import nn  # noqa: E402
from transformers import Trainer, TrainingArguments  # noqa: E402


class Set(torch.utils.data.Dataset):
    def __init__(self, images: Images, rows) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        row = self.rows[i]
        return {
            "pixel_values": torch.from_numpy(self.images.image(row)),
            "labels": torch.tensor(self.images.labels[row]),
        }


class Classifier(nn.Module):
    def __init__(self, model: nn.Module, weight: torch.Tensor) -> None:
        super().__init__()
        self.model, self.weight = model, weight

    def forward(self, pixel_values, labels=None):
        logits = self.model(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels, self.weight), "logits": logits}


given = arguments()
images = Images.read(given["table"])
ready = time.perf_counter() - START
trained = []
for train, validation, test in images.folds(given["folds"]):
    counts = torch.bincount(torch.as_tensor(images.labels[train]), minlength=2)
    model = Classifier(adapted(given["architecture"], given["strategy"]), len(train) / (2 * counts))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                num_train_epochs=given["epochs"],
                per_device_train_batch_size=16,
                per_device_eval_batch_size=16,
                eval_strategy="epoch",
                report_to=[],
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
                bf16=given["precision"] == "bf16",
                use_cpu=True,
            ),
            train_dataset=Set(images, train),
            eval_dataset=Set(images, validation),
        )
        begin = time.perf_counter()
        trainer.train()
        trained.append(time.perf_counter() - begin)
        trainer.predict(Set(images, test))
print(json.dumps({"start": ready, "epoch": sum(trained) / given["epochs"] / len(trained)}))

"""The other usual way: a plain PyTorch loop, DataLoader with worker processes, fp32."""

from __future__ import annotations

import json
import time

START = time.perf_counter()

import torch  # noqa: E402
from images import Images, adapted, arguments  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402


class Set(Dataset):
    def __init__(self, images: Images, rows) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        row = self.rows[i]
        return torch.from_numpy(self.images.image(row)), int(self.images.labels[row])


def batches(images: Images, rows, shuffle: bool = False) -> DataLoader:
    return DataLoader(Set(images, rows), 16, shuffle=shuffle, num_workers=2)


def passes(model: nn.Module, loader: DataLoader) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(images) for images, _ in loader])


if __name__ == "__main__":
    given = arguments()
    images = Images.read(given["table"])
    ready = time.perf_counter() - START
    trained = []
    for train, validation, test in images.folds(given["folds"]):
        counts = torch.bincount(torch.as_tensor(images.labels[train]), minlength=2)
        criterion = nn.CrossEntropyLoss(len(train) / (2 * counts))
        model = adapted(given["architecture"], given["strategy"])
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
        begin = time.perf_counter()
        for _ in range(given["epochs"]):
            model.train()
            for pixels, labels in batches(images, train, shuffle=True):
                optimiser.zero_grad()
                criterion(model(pixels), labels).backward()
                optimiser.step()
            passes(model, batches(images, validation))
        trained.append(time.perf_counter() - begin)
        passes(model, batches(images, test))
    print(json.dumps({"start": ready, "epoch": sum(trained) / given["epochs"] / len(trained)}))

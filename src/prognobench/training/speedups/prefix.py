"""The frozen beginning of a network: computed once for each image, then remembered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prognobench.training.hardware import Precision, autocast

LARGEST_BYTES = 2**29
"""So much is remembered at most; the images beyond it are computed each time."""

SMALLEST_SHARE = 0.1
"""Of the parameters: a shorter beginning is not worth remembering."""


MOST_TRIED = 4
"""Modules, from the last on, that are tried as the end of the beginning."""


class RememberedPrefix:
    """A model whose frozen beginning runs once for each image that comes unchanged.

    The beginning ends with the last module in whose output nothing trained has a part and through
    which all that follows sees the image; its output is what is remembered. That there is such a
    module is tried out on two random images.

    Parameters
    ----------
    model
        In training mode, with what trains requiring gradients.
    shape
        Of one image.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, ...],
        precision: Precision,
        device: torch.device,
    ) -> None:
        self.model = model
        self._outputs: dict[int, Tensor] = {}
        self._bytes = 0
        self._cut = _find_cut(model, shape, precision, device)

    @property
    def remembers(self) -> bool:
        """Whether there is a beginning worth remembering."""
        return self._cut is not None

    def __call__(self, images: Tensor, rows: NDArray[np.intp]) -> Tensor:
        """Return the model's output; ``rows`` name images that are the same each time."""
        if self._cut is None:
            logits: Tensor = self.model(images)
        elif all(row in self._outputs for row in rows.tolist()):
            known = torch.stack([self._outputs[row] for row in rows.tolist()])
            logits = _replay(self.model, self._cut, known, images[:1])
        else:
            seen: list[Tensor] = []
            with _watching(self._cut, seen):
                logits = self.model(images)
            self._remember(rows, seen[-1].detach())
        return logits

    def _remember(self, rows: NDArray[np.intp], outputs: Tensor) -> None:
        for row, output in zip(rows.tolist(), outputs, strict=True):
            if row not in self._outputs and self._bytes + output.nbytes <= LARGEST_BYTES:
                self._outputs[row] = output.clone()
                self._bytes += output.nbytes


def _find_cut(
    model: nn.Module, shape: tuple[int, ...], precision: Precision, device: torch.device
) -> nn.Module | None:
    """Return the module after which to cut, or ``None`` where nothing can be gained."""
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if frozen < SMALLEST_SHARE * sum(p.numel() for p in model.parameters()):
        return None
    random = torch.Generator().manual_seed(0)
    images = torch.randn(2, *shape, generator=random).to(device)
    changeable = {module for module in model.modules() if _changes_in_training(module)}
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), _begun(model), autocast(precision, device):
            expected, ran, untrained = _run_recorded(model, images)
            for position in sorted(untrained)[: -1 - MOST_TRIED : -1]:
                cut = ran[position]
                before = {inner for module in ran[: position + 1] for inner in module.modules()}
                if changeable & before or _share(model, before) < SMALLEST_SHARE:
                    continue
                if _same(model, cut, untrained[position], images, expected):
                    return cut
    except torch.OutOfMemoryError:  # training will split its batches, or say so
        return None
    finally:
        for module, training in was_training.items():
            module.training = training
    return None


@contextmanager
def _begun(model: nn.Module) -> Iterator[None]:
    """Let what trains be other than it starts: a branch that starts at zero hides what it sees."""
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    random = torch.Generator().manual_seed(0)
    try:
        for p in trained:
            p.add_(0.02 * torch.randn(p.shape, generator=random).to(p))
        yield
    finally:
        for p, value in zip(trained, before, strict=True):
            p.copy_(value)


def _changes_in_training(module: nn.Module) -> bool:
    """Whether a module, as it stands, is random or has statistics that move."""
    kind = type(module).__name__
    return module.training and ("Drop" in kind or "BatchNorm" in kind)


def _run_recorded(
    model: nn.Module, images: Tensor
) -> tuple[Tensor, list[nn.Module], dict[int, Tensor]]:
    """Return the output, the modules as they were done, and outputs that nothing trained touched.

    Autograd knows, also of parameters that a layer reads out of another module without calling it.
    The outputs are named by their position among the modules.
    """
    ran: list[nn.Module] = []
    untrained: dict[int, Tensor] = {}

    def after(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not output.requires_grad and len(output) == len(images):
            untrained[len(ran)] = output
        ran.append(module)

    handles = [module.register_forward_hook(after) for module in model.modules()]
    try:
        with torch.enable_grad():
            return model(images).detach(), ran, untrained
    finally:
        for handle in handles:
            handle.remove()


def _share(model: nn.Module, modules: Iterable[nn.Module]) -> float:
    inside = {p: p.numel() for module in modules for p in module.parameters()}
    return sum(inside.values()) / max(1, sum(p.numel() for p in model.parameters()))


def _same(
    model: nn.Module, cut: nn.Module, output: Tensor, images: Tensor, expected: Tensor
) -> bool:
    """Whether the output of the cut gives the model's, whatever image the rest is shown."""
    try:
        found, other = (_replay(model, cut, output, image[None]) for image in images)
    except RuntimeError:  # shapes that do not fit: something bypasses the cut
        return False
    if found.shape != expected.shape or not torch.equal(found, other):
        return False
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def _replay(model: nn.Module, cut: nn.Module, output: Tensor, image: Tensor) -> Tensor:
    """Run the model with a module's output given; what lies before it runs on one image only."""
    cut.forward = lambda *_, **__: output
    try:
        logits: Tensor = model(image)
    finally:
        del cut.forward
    return logits


@contextmanager
def _watching(module: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield
    finally:
        handle.remove()

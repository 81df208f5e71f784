"""What the machine can do: precision, memory format, peak memory."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from prognobench.errors import ConfigError, TrainingError
from prognobench.workers import return_freed_memory

Made = TypeVar("Made")
Precision = Literal["auto", "fp32", "tf32", "bf16"]


def resolve_device(name: str) -> torch.device:
    """Return the device that a config names; ``auto`` takes a GPU where there is one.

    Raises
    ------
    ConfigError
        If the device is unknown or not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise ConfigError(
            f"device={name} must be auto, cpu or cuda (or one GPU as in cuda:1, or mps)"
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={name} cannot be used here: {reason}") from error
    return device


def require_compiler() -> None:
    """Check that ``torch.compile`` finds what it needs.

    Raises
    ------
    ConfigError
        If there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "cl" if sys.platform == "win32" else "g++")
    if not any(map(shutil.which, (compiler, "clang++"))):
        raise ConfigError(
            f"train.compile=true needs a C++ compiler, and {compiler} is not found; install one, "
            "name it in the variable CXX, or set train.compile=false"
        )


def resolve_precision(
    precision: Precision, device: torch.device
) -> Literal["fp32", "tf32", "bf16"]:
    """Return the precision to compute in; ``auto`` takes bf16 where the hardware multiplies in it.

    Parameters
    ----------
    precision
        ``tf32`` is fp32 whose products are made of numbers rounded to ten bits.

    Raises
    ------
    ConfigError
        If it is ``tf32``, and the device is not a GPU that has it.
    """
    ampere = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if precision == "tf32" and not ampere:
        raise ConfigError(
            f"train.precision=tf32 needs a GPU (NVIDIA Ampere or later), but device={device} is "
            "not one; set train.precision=fp32 or auto"
        )
    if precision != "auto":
        return precision
    native = ampere or (
        device.type == "cpu"
        and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    )
    return "bf16" if native else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a model computes in a resolved precision."""
    if device.type == "cuda":
        # By default torch rounds in convolutions but not in products. Here fp32 means fp32.
        rounded = precision != "fp32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = rounded
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def in_parts(
    compute: Callable[[int], Made], parts: int, images: int, device: torch.device
) -> tuple[Made, int]:
    """Compute on a batch in as many parts as memory needs, ``parts`` to begin with.

    Parameters
    ----------
    compute
        Called with the number of parts.
    images
        Number of images in the batch.

    Returns
    -------
    What it returned, and in how many parts.
    """
    parts = min(parts, images)
    while True:
        try:
            return compute(parts), parts
        except torch.OutOfMemoryError:
            parts = more_parts(parts, images, device)


def more_parts(parts: int, images: int, device: torch.device) -> int:
    """Return into how many parts to split a batch that did not fit in memory in ``parts``.

    Raises
    ------
    TrainingError
        If each part is a single image already.
    """
    if parts >= images:
        raise TrainingError(
            f"{device} runs out of memory on a single image; use a smaller model or image size"
        )
    if device.type == "cuda":
        # Blocks that the allocator keeps are cut to the size that failed.
        torch.cuda.empty_cache()
    return min(2 * parts, images)


def memory_format(model: nn.Module) -> torch.memory_format:
    """Return channels-last for convolutional networks, which run faster in it.

    A transformer's patch embedding is a convolution too, but its stride is its kernel.
    """
    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    overlapping = any(tuple(m.stride) != tuple(m.kernel_size) for m in convolutions)
    return torch.channels_last if overlapping else torch.contiguous_format


class PeakMemory:
    """The largest memory in use since this was made.

    On CUDA what tensors took on the device, elsewhere the resident memory of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            return_freed_memory()
            # Writing 5 resets the peak (man 5 proc). Only Linux can; elsewhere the peak counts from
            # the start of the process.
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    @property
    def bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return _peak_of_process()


def _peak_of_process() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

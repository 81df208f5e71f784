"""Load files of weights into networks: read safely, match names, compare, load."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prognobench.errors import WeightsError, listed
from prognobench.models.encoders.file_kinds import is_safetensors, refuse_foreign
from prognobench.models.encoders.layouts import LAYOUTS, State

SHOWN = 5
"""How many differences a message lists."""


class WithoutInitialisation(TorchFunctionMode):
    """Builds modules without drawing the random weights that a checkpoint then overwrites."""

    RANDOM = frozenset(
        getattr(Tensor, name)
        for name in ("normal_", "uniform_", "erfinv_", "bernoulli_", "exponential_")
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.RANDOM or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def read(path: Path) -> State:
    """Read a safetensors file or a state dict, never executing anything from it.

    A dictionary around the state dict (``{"epoch": ..., "state_dict": ...}``) is removed.

    Raises
    ------
    WeightsError
        If the file is broken or holds no state dict.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    refuse_foreign(path)
    try:
        if is_safetensors(path):
            content: Any = load_file(path)
        else:
            # Opened here, since torch.load believes the suffix of a path.
            with torch.serialization.safe_globals(_records()), path.open("rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        objects = re.search(r"GLOBAL (\S+)", str(error))
        what = f"a pickle of Python objects ({objects[1]})" if objects else "no pickle of tensors"
        raise WeightsError(
            f"the file is {what}, or broken; executable pickles are refused: "
            "save the model's state_dict() as safetensors and set model.weights to that file"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(
            f"the file is broken, perhaps half downloaded ({_first_line(error)}); "
            "delete it and get it again"
        ) from error
    state = _tensors(content)
    if not state:
        raise WeightsError("the file holds no named tensors")
    return state


def _records() -> list[Any]:
    """Return what training scripts store beside the tensors, and what runs no code when read."""
    import argparse

    import numpy as np
    from numpy._core import multiarray

    scalar: Any = multiarray.scalar
    types = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    return [
        *(argparse.Namespace, scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype),
        *types,
    ]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _tensors(content: Any) -> State:
    """Return the mapping, at any depth, that holds the most tensors.

    Of equals it is the averaged one: self-supervised methods store student and teacher.
    """
    if not isinstance(content, Mapping):
        return {}
    here = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    averaged_first = sorted(content, key=lambda key: not _averaged(str(key)))
    return max([here, *(_tensors(content[key]) for key in averaged_first)], key=len)


def _averaged(name: str) -> bool:
    """Return whether a name means weights averaged over training, which are the better ones."""
    return re.search(r"(^|[._])(ema|teacher)([._]|$)", name) is not None


def strip_prefix(state: State, wanted: set[str]) -> tuple[State, str]:
    """Remove the prefix that most of the wanted names have in ``state``.

    Of equal prefixes (student and teacher) it is the averaged one. Without a prefix ``state`` comes
    back unchanged.
    """
    # Every tail of every key that the network knows votes for what stands before it.
    prefixes: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in wanted:
                prefixes["".join(part + "." for part in parts[:cut])] += 1
    if not prefixes:
        return state, ""
    prefix, hits = max(prefixes.items(), key=lambda item: (item[1], _averaged(item[0])))
    # Fewer than half is chance: names like "norm.weight" occur in every network.
    if not prefix or 2 * hits < len(wanted):
        return state, ""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, prefix


def fill(network: nn.Module, state: State) -> tuple[str, ...]:
    """Load ``state`` into ``network`` and report what matched.

    Names are converted by :data:`~prognobench.models.encoders.layouts.LAYOUTS`. Every tensor of
    the network must then be there, in its shape; what else the file has (a classifier, a text
    tower) is left out and reported.

    Raises
    ------
    WeightsError
        With the first differences, if the file is of another architecture.
    """
    wanted = network.state_dict()
    total = len(state)
    state, prefix = strip_prefix(state, set(wanted))
    try:
        for layout in LAYOUTS:
            state = layout(state, network)
    except (RuntimeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        raise WeightsError(
            f"the weights are of another architecture: {_first_line(error)}"
        ) from error
    # Once more: in the other library's names the prefix could not be recognised.
    state, _ = strip_prefix(state, set(wanted))
    # Old files lack these counters of BatchNorm, which play no part while momentum is set.
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in state and key not in counters]
    shapes = [
        f"{key} is {tuple(state[key].shape)} in the file, {tuple(value.shape)} in the network"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or shapes:
        raise WeightsError(
            _other_channels(wanted, state, missing) or _differences(wanted, state, missing, shapes)
        )
    whole = [k for k, v in wanted.items() if v.is_floating_point() and not _is_real(state, k)]
    if whole:
        raise WeightsError(
            f"{len(whole)} tensors hold whole numbers, as quantised models do, without the scales "
            f"that belong to them ({listed(whole, SHOWN)}); take the weights before quantisation"
        )
    used = {key: state[key] for key in wanted if key in state}
    network.load_state_dict(used, strict=False)
    left_out = sorted(key for key in state if key not in wanted)
    report = [f"{len(used)} of {len(wanted)} tensors of the network came from the file ({total})"]
    if prefix:
        report.append(f"prefix {prefix!r} removed")
    if left_out:
        report.append(f"left out: {listed(left_out, SHOWN)}")
    return tuple(report)


def _is_real(state: State, key: str) -> bool:
    return key not in state or state[key].is_floating_point()


def _other_channels(wanted: State, state: State, missing: list[str]) -> str:
    """Say that nothing but the number of the images' channels differs; nothing if more does."""
    apart = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing or len(apart) != 1 or wanted[apart[0]].ndim != 4:
        return ""
    found, expected = state[apart[0]].shape, wanted[apart[0]].shape
    if (found[0], *found[2:]) != (expected[0], *expected[2:]):
        return ""
    advice = "; set model.channels=sum" if (found[1], expected[1]) == (1, 3) else ""
    return f"the weights read images of {found[1]} channels, the network of {expected[1]}{advice}"


def _differences(wanted: State, state: State, missing: list[str], shapes: list[str]) -> str:
    lines = ["the weights are of another architecture:"]
    lines += [f"  {shape}" for shape in shapes[:SHOWN]]
    if len(shapes) > SHOWN:
        lines.append(f"  and {len(shapes) - SHOWN} more tensors of another shape")
    if missing:
        lines.append(
            f"  not in the file ({len(missing)} of {len(wanted)}): {listed(missing, SHOWN)}"
        )
    unknown = [key for key in state if key not in wanted]
    if unknown:
        lines.append(f"  only in the file ({len(unknown)}): {listed(unknown, SHOWN)}")
    return "\n".join(lines)

"""Which submodule has which role, by the names and types within a timm network."""

from __future__ import annotations

import re

from torch import nn

PATTERNS = {
    "attention_qkv": r"attn\.qkv",
    "attention_query": r"attn\.(q_proj|qkv\.query)",
    "attention_key": r"attn\.(k_proj|qkv\.key)",
    "attention_value": r"attn\.(v_proj|qkv\.value)",
    "attention_output": r"attn\.proj",
    "feed_forward_in": r"mlp\.(fc1|fc1_g|fc1_x|w1|w2|w12)",
    "feed_forward_out": r"mlp\.(fc2|w3)",
}
"""Role -> how timm calls such a matrix within a block."""


def role_names(network: nn.Module, prefix: str) -> dict[str, tuple[str, ...]]:
    """Return role -> names of submodules, input first; roles that nothing has are absent.

    The patch embedding of a transformer does not count as ``convolution``: its stride is its
    kernel, and no strategy that adapts convolutions means it.
    """
    blocks = block_names(network, "")
    found: dict[str, list[str]] = {}
    for name, module in network.named_modules():
        role = _role(name, module, blocks)
        if role:
            found.setdefault(role, []).append(prefix + name)
    return {role: tuple(names) for role, names in found.items()}


def _role(name: str, module: nn.Module, blocks: tuple[str, ...]) -> str | None:
    if isinstance(module, nn.Conv2d):
        return None if name.startswith("patch_embed") else "convolution"
    if isinstance(module, nn.Linear) and name.startswith(tuple(f"{block}." for block in blocks)):
        for role, pattern in PATTERNS.items():
            if re.search(rf"(^|\.){pattern}$", name):
                return role
    # By the name of the class, since timm has two dozen of its own; without weights there is
    # nothing to train.
    own = any(True for _ in module.parameters(recurse=False))
    return "norm" if own and "norm" in type(module).__name__.lower() else None


def block_names(network: nn.Module, prefix: str) -> tuple[str, ...]:
    """Return the names of the repeated blocks or stages, input first."""
    inside, parent = "", network
    for container in ("blocks", "stages", "layers", "features"):
        child = getattr(network, container, None)
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child) > 1:
            inside, parent = f"{container}.", child
            break
    # Some containers (DenseNet's features) also hold the stem's convolution and norm, which are
    # single layers: a block has children.
    trained = {n: m for n, m in parent.named_children() if any(True for _ in m.parameters())}
    deep = [name for name, module in trained.items() if any(True for _ in module.children())]
    return tuple(f"{prefix}{inside}{name}" for name in deep or trained)

"""Which submodule has which role, by the names and types within a timm network."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

ATTENTION = (
    r"(?:attn(?:_in|_out|_downsample)?"  # most networks; TNT; LeViT between its stages
    r"|factoratt_crpe\d?|e_mhsa|xca|token_mixer|local_mixer)"  # CoaT, NextViT, EdgeNeXt, others
)
"""How timm's families call a module of attention."""

FEED_FORWARD = r"mlp(?:_in|_tokens|_channels|\d)?"
"""How they call a feed-forward part."""

# LeViT and Gemma wrap a matrix in a module, and keep it as "linear" in there.
_END = r"(?:\.ln)?(?:\.linear)?"

PATTERNS = {
    "attention_qkv": rf"{ATTENTION}\.qkv{_END}",
    "attention_query_key": rf"{ATTENTION}\.qk",
    "attention_key_value": rf"{ATTENTION}\.kv{_END}",
    "attention_query": rf"{ATTENTION}\.(q|q_proj|wq|to_query|qkv\.query){_END}",
    "attention_key": rf"{ATTENTION}\.(k|k_proj|wk|to_key|qkv\.key){_END}",
    "attention_value": rf"{ATTENTION}\.(v|v_proj|wv|qkv\.value){_END}",
    "attention_output": rf"{ATTENTION}\.(proj|o_proj|final){_END}",
    "feed_forward_in": (
        rf"{FEED_FORWARD}\.(fc1|fc1_g|fc1_x|w0|w1|w2|w12|gate_proj|up_proj|ln1){_END}"
    ),
    "feed_forward_out": rf"{FEED_FORWARD}\.(fc2|w3|down_proj|ln2){_END}",
}
"""Role -> how timm calls such a matrix within a block."""

# SwiGLU counts its matrices differently: w3 leads out where w1 and w2 lead in, and w2 does where
# w0 and w1 lead in (ViTamin).
GATED_BY_W0 = {"w0": "feed_forward_in", "w1": "feed_forward_in", "w2": "feed_forward_out"}

HEADWISE = ("timm.models.efficientformer", "timm.models.levit", "timm.models.tiny_vit")
"""Where the rows of a fused matrix are sorted by head first: no third of them is the queries."""


CLASS_BLOCKS = ("blocks_token_only", "cls_attn_blocks", "post_network")
"""How CaiT, XCiT and VOLO call the blocks in which the class token attends to the patches."""


def role_names(network: nn.Module, prefix: str) -> dict[str, tuple[str, ...]]:
    """Return role -> names of submodules, input first; roles that nothing has are absent.

    The patch embedding of a transformer does not count as ``convolution``: its stride is its
    kernel, and no strategy that adapts convolutions means it.
    """
    inside = tuple(f"{block}." for block in (*block_names(network, ""), *CLASS_BLOCKS))
    found: dict[str, list[str]] = {}
    for name, module in network.named_modules():
        if role := _role(network, name, module, inside):
            found.setdefault(role, []).append(prefix + name)
    return {role: tuple(names) for role, names in found.items()}


def _role(network: nn.Module, name: str, module: nn.Module, inside: tuple[str, ...]) -> str | None:
    if isinstance(module, nn.Conv2d):
        return None if name.startswith("patch_embed") else "convolution"
    if isinstance(module, nn.Linear) and name.startswith(inside):
        for role, pattern in PATTERNS.items():
            if re.search(rf"(^|\.){pattern}$", name):
                return _exact(role, network.get_submodule(name.rpartition(".")[0]), name)
    # By the name of the class, since timm has two dozen of its own; without weights there is
    # nothing to train.
    own = any(True for _ in module.parameters(recurse=False))
    return "norm" if own and "norm" in type(module).__name__.lower() else None


def _exact(role: str, parent: nn.Module, name: str) -> str:
    """Correct a role that the name alone suggests."""
    last = name.rpartition(".")[2]
    if last in GATED_BY_W0 and hasattr(parent, "w0"):
        return GATED_BY_W0[last]
    if role != "attention_qkv":
        return role
    if getattr(parent, "use_global", False):  # GC-ViT's global queries come from elsewhere
        return "attention_key_value"
    headwise = type(parent).__module__ in HEADWISE or last == "linear"
    return "attention_mixed" if headwise or getattr(parent, "head_first", False) else role


CONTAINERS = (
    *("blocks", "stages", "layers", "features"),
    *("levels", "transformers", "dense_stages", "network", "body", "encoder"),
)
"""How timm's families call what holds their blocks, the most telling names first."""


def block_names(network: nn.Module, prefix: str) -> tuple[str, ...]:
    """Return the names of the repeated blocks or stages, input first."""
    for container in CONTAINERS:
        child = getattr(network, container, None)
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child) > 1:
            return tuple(f"{prefix}{container}.{name}" for name in _deep(child))
        if container in ("body", "encoder") and isinstance(child, nn.Module):
            # A network within the network: the blocks are in there.
            return block_names(child, f"{prefix}{container}.")
    return tuple(f"{prefix}{name}" for name in _deep(network))


def _deep(parent: nn.Module) -> list[str]:
    """Return the children that have matrices further down, or else those that have parameters.

    Some containers (DenseNet's ``features``) also hold the stem's convolution and a last norm,
    which are single layers, with an activation at most.
    """
    trained = {n: m for n, m in parent.named_children() if any(True for _ in m.parameters())}
    deep = [name for name, module in trained.items() if any(True for _ in _matrices(module))]
    return deep or list(trained)


def _matrices(module: nn.Module) -> Iterator[nn.Parameter]:
    return (
        parameter
        for child in module.children()
        for parameter in child.parameters()
        if parameter.ndim >= 2
    )

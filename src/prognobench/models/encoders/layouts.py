"""Names of tensors as other libraries write them, converted to timm's.

Each layout takes a state dict and the network to fill, and returns a state dict in timm's names.
One that does not recognise its library returns its input; tensors that it does not know keep their
names, so that the report lists them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
Layout = Callable[[State, nn.Module], State]
Renames = Sequence[tuple[str, str]]

TRANSFORMERS_ANCHORS = (
    "embeddings.class_embedding",  # CLIP
    "embeddings.cls_token",  # ViT, DINOv2
    "embeddings.norm.weight",  # Swin
    "embeddings.patch_embedding.weight",  # SigLIP
)
"""Tensors by which a vision tower of transformers is found, whatever stands before their names."""

# transformers names what a part is for (embeddings, encoder, attention), timm what it is in a plain
# ViT. The order matters: ".attention.output.dense" must be gone before ".output.dense" is renamed.
TRANSFORMERS: Renames = (
    (r"^embeddings\.(class_embedding|cls_token)$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings?(\.weight)?$", "pos_embed"),
    (r"^embeddings\.patch_embeddings?(\.projection)?\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^pre_layrnorm\.", "norm_pre."),  # CLIP's own spelling
    (r"^(post_layernorm|layernorm)\.", "norm."),
    (r"^encoder\.layers\.(\d+\.(blocks|downsample))\.", r"layers.\1."),  # Swin has stages
    (r"^encoder\.layers?\.", "blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(self_attn\.out_proj|attention\.output\.dense)\.", ".attn.proj."),
    (r"\.(self_attn|attention\.attention|attention\.self)\.", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    # SigLIP pools by attention of one learned query.
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)

# EfficientNet-PyTorch numbers a block's norms from 0, timm from 1.
EFFICIENTNET: Renames = (
    (r"^_conv_stem\.", "conv_stem."),
    (r"^_bn0\.", "bn1."),
    (r"^_conv_head\.", "conv_head."),
    (r"^_bn1\.", "bn2."),
    (r"^_fc\.", "classifier."),
    (r"\._se_(reduce|expand)\.", r".se.conv_\1."),
    (r"\._depthwise_conv\.", ".conv_dw."),
)
# A block that widens its input first has three convolutions; one that does not has two, so that
# the same number means another place in it.
EXPANDING: Renames = (
    (r"\._expand_conv\.", ".conv_pw."),
    (r"\._bn0\.", ".bn1."),
    (r"\._bn1\.", ".bn2."),
    (r"\._project_conv\.", ".conv_pwl."),
    (r"\._bn2\.", ".bn3."),
)
NOT_EXPANDING: Renames = (
    (r"\._bn([12])\.", r".bn\1."),
    (r"\._project_conv\.", ".conv_pw."),
)


def _rename(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def from_transformers(state: State, network: nn.Module) -> State:
    """Convert CLIP, SigLIP, ViT, DINOv2 and Swin towers of Hugging Face's transformers."""
    prefix = next(
        (
            key.removesuffix(anchor)
            for anchor in TRANSFORMERS_ANCHORS
            for key in state
            if key.endswith(anchor) and not key.startswith("text_model")
        ),
        None,
    )
    if prefix is None:
        return state
    tower = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    tower.pop("embeddings.mask_token", None)  # of masked pretraining, no part of the encoder
    renamed = _fuse({_rename(key, TRANSFORMERS): value for key, value in tower.items()})
    for key in renamed.keys() & {"cls_token", "pos_embed"}:
        # transformers may keep them as (width,) and (positions, width).
        renamed[key] = renamed[key].reshape(1, -1, renamed[key].shape[-1])
    if getattr(network, "no_embed_class", False) and "cls_token" in renamed:
        # Where there are registers, timm has the class token's position added to it already.
        position = renamed["pos_embed"]
        renamed["cls_token"] = renamed["cls_token"] + position[:, :1]
        renamed["pos_embed"] = position[:, 1:]
    return {_next_stage(key): value for key, value in renamed.items()}


def _next_stage(key: str) -> str:
    """Move a patch merging from the end of a stage to the start of the next, as timm has it."""
    merging = r"^layers\.(\d+)\.downsample\."
    return re.sub(merging, lambda found: f"layers.{int(found[1]) + 1}.downsample.", key)


def _fuse(state: State) -> State:
    """Fuse queries, keys and values into one matrix; separate SigLIP's pooling query from it."""
    fused: State = {}
    for key, value in state.items():
        if found := re.fullmatch(r"(.*\.attn)\.(q_proj|query)\.(weight|bias)", key):
            own, end = found[2], found[3]
            others = ("k_proj", "v_proj") if own == "q_proj" else ("key", "value")
            parts = [value, *(state[f"{found[1]}.{other}.{end}"] for other in others)]
            fused[f"{found[1]}.qkv.{end}"] = torch.cat(parts)
        elif found := re.fullmatch(r"attn_pool\.qkv\.(weight|bias)", key):
            width = len(value) // 3
            fused[f"attn_pool.q.{found[1]}"] = value[:width]
            fused[f"attn_pool.kv.{found[1]}"] = value[width:]
        elif not re.search(r"\.attn\.(k_proj|v_proj|key|value)\.", key):
            fused[key] = value
    return fused


def from_torchvision(state: State, network: nn.Module) -> State:
    """Convert torchvision's DenseNet, whose older files call a layer's ``norm1`` ``norm.1``."""
    old = r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"
    return {re.sub(old, r"\1\2", key): value for key, value in state.items()}


def from_efficientnet_pytorch(state: State, network: Any) -> State:
    """Convert files of EfficientNet-PyTorch, which numbers blocks through all stages."""
    if "_conv_stem.weight" not in state:
        return state
    places = [
        f"blocks.{s}.{b}" for s, stage in enumerate(network.blocks) for b in range(len(stage))
    ]
    converted: State = {}
    for key, value in state.items():
        name = key
        if found := re.match(r"_blocks\.(\d+)\.", key):
            expands = f"{found[0]}_expand_conv.weight" in state
            name = _rename(key, EXPANDING if expands else NOT_EXPANDING)
            name = name.replace(found[0], f"{places[int(found[1])]}.", 1)
        converted[_rename(name, EFFICIENTNET)] = value
    return converted


def from_timm(state: State, network: nn.Module) -> State:
    """Apply timm's own conversion for this family; it also resamples position embeddings.

    It knows OpenAI's and OpenCLIP's towers, the files of DINOv2 and many others.
    """
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return dict(convert(state, network)) if convert else state


def sum_first_convolution(state: State, network: Any) -> State:
    """Sum the first convolution over its input channels, if the network has one input channel.

    A grey image in three equal channels gives the same output through the unsummed one.
    """
    first = network.pretrained_cfg["first_conv"]
    wanted = network.state_dict()
    for name in [f"{conv}.weight" for conv in ([first] if isinstance(first, str) else first)]:
        if name in state and wanted[name].shape[1] == 1:
            state = {**state, name: state[name].sum(1, keepdim=True)}
    return state


LAYOUTS: tuple[Layout, ...] = (
    from_transformers,
    from_torchvision,
    from_efficientnet_pytorch,
    from_timm,
    sum_first_convolution,
)
"""All of them, in the order in which they apply: timm's conversion expects names near its own."""

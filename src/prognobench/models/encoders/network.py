"""Encoders: one interface to timm's networks of every family."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from prognobench.models.encoders.roles import block_names, role_names

Pooling = Literal["auto", "own"]


class Tokens(NamedTuple):
    """Output of the last block after the final norm.

    ``class_token`` is ``(batch, width)`` or ``None``; ``patches`` is ``(batch, positions, width)``.
    """

    class_token: Tensor | None
    patches: Tensor


class NetworkEncoder(nn.Module):
    """What encoders of every family share: a timm network without its classifier, and its names.

    Attributes
    ----------
    network
        timm's own module; names in ``roles`` and ``blocks`` begin with ``network.``.
    layers
        Name -> width, the pooled feature first.
    """

    def __init__(self, network: nn.Module, layers: dict[str, int]) -> None:
        super().__init__()
        self.network: Any = network
        self.layers = layers

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        return role_names(self.network, "network.")

    @property
    def blocks(self) -> tuple[str, ...]:
        return block_names(self.network, "network.")


class MapEncoder(NetworkEncoder):
    """A network of feature maps (CNNs, Swin): one layer, the globally pooled features.

    Its patch tokens are the positions of the last map.
    """

    def __init__(self, network: Any) -> None:
        width = int(getattr(network, "head_hidden_size", 0) or network.num_features)
        super().__init__(network, {"last1": width})

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.network(images)
        return pooled

    def tokens(self, images: Tensor) -> Tokens:
        maps: Tensor = self.network.forward_features(images)
        if maps.ndim == 4:  # Swin has channels last, CNNs have them first
            channels_first = maps.shape[1] == self.network.num_features
            maps = maps.flatten(2).mT if channels_first else maps.flatten(1, 2)
        return Tokens(None, maps)

    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return {"last1": self(images)} if layers else {}


class TokenEncoder(NetworkEncoder):
    """A plain vision transformer.

    With a class token, ``last1`` is that of the last block after the final norm, ``last4`` the
    four last blocks' concatenated, each after the final norm, and ``+avg`` appends the mean patch
    token of the last block, as in DINOv2's linear evaluation. Without a class token (SigLIP), or
    with ``pooling="own"``, ``last1`` is what the network itself pools (attention pooling, the mean
    patch token), and there is no ``last4``.
    """

    def __init__(self, network: Any, pooling: Pooling = "auto") -> None:
        width = int(network.num_features)
        super().__init__(network, {})
        self.own = pooling == "own" or getattr(network, "cls_token", None) is None
        self.layers["last1"] = width
        if not self.own and len(self.network.blocks) >= 4:
            self.layers["last4"] = 4 * width
        self.layers |= {f"{layer}+avg": size + width for layer, size in self.layers.items()}

    def forward(self, images: Tensor) -> Tensor:
        return self._pool(self.network.forward_features(images))

    def _pool(self, tokens: Tensor) -> Tensor:
        """Pool normed tokens ``(batch, prefix + positions, width)``."""
        if self.own:
            pooled: Tensor = self.network.forward_head(tokens, pre_logits=True)
            return pooled
        # Networks made to pool by the mean have their last norm after the pooling.
        last_norm = getattr(self.network, "fc_norm", None)
        return last_norm(tokens[:, 0]) if last_norm else tokens[:, 0]

    def tokens(self, images: Tensor) -> Tokens:
        tokens: Tensor = self.network.forward_features(images)
        has_class = getattr(self.network, "cls_token", None) is not None
        return Tokens(tokens[:, 0] if has_class else None, tokens[:, self._prefix :])

    @property
    def _prefix(self) -> int:
        return int(self.network.num_prefix_tokens)

    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        depth = 4 if any(layer.startswith("last4") for layer in layers) else 1
        blocks = self.network.forward_intermediates(
            images,
            indices=depth,
            norm=True,
            return_prefix_tokens=bool(self._prefix),
            output_fmt="NLC",
            intermediates_only=True,
        )
        # Class token and registers come apart from the patches; a block's tokens are both.
        if self._prefix:
            blocks = [torch.cat((prefix, patches), 1) for patches, prefix in blocks]
        pooled = {"last1": self._pool(blocks[-1])}
        if depth == 4:
            pooled["last4"] = torch.cat([self._pool(tokens) for tokens in blocks], -1)
        mean = blocks[-1][:, self._prefix :].mean(1)
        pooled |= {f"{layer}+avg": torch.cat((x, mean), -1) for layer, x in pooled.items()}
        return {layer: pooled[layer] for layer in layers}


def encoder(network: Any, pooling: Pooling = "auto") -> MapEncoder | TokenEncoder:
    """Wrap a timm network that was made with ``num_classes=0``."""
    intermediates = getattr(network, "forward_intermediates", None)
    # timm offers this argument for networks that work on one sequence of tokens, and no others.
    has_tokens = (
        intermediates is not None and "return_prefix_tokens" in signature(intermediates).parameters
    )
    return TokenEncoder(network, pooling) if has_tokens else MapEncoder(network)

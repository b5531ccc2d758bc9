"""Attention rollout: how much of each input token reaches each output token.

    Quantifying Attention Flow in Transformers. Abnar & Zuidema, ACL 2020.

Letters: L layers, B batch, H heads, N tokens (the class token is token 0).

| paper                                   | here                          |
|-----------------------------------------|-------------------------------|
| heads averaged                          | `maps.mean(dim=2)`            |
| A = 0.5 W_att + 0.5 I                   | `mix_residual`                |
| A~(l_i) = A(l_i) A~(l_{i-1})            | `rollout`                     |
| first row of A~(L), all that DCAL needs | `cls_rollout`, `row_chain`    |

What we do differently: nothing is renormalised. Rows of a softmax sum to 1, so rows of `mix_residual` do too.
The full product costs O(L N^3); the row of the class token is a chain of vector-matrix products, O(L N^2).
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def mix_residual(attention: Float[Tensor, "*B N N"], residual: float = 0.5) -> Float[Tensor, "*B N N"]:
    """Return S~ = (1 - residual) S + residual E: the residual connection passes every token on to itself.

    Args:
        attention: maps whose rows sum to 1, heads already averaged.
        residual: weight of the identity E, in [0, 1]; 0.5 in both papers (DCAL, Eq. 2).
    """
    _check_residual(residual)
    identity = torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    return torch.lerp(attention, identity.expand_as(attention), residual)


def rollout(maps: Float[Tensor, "L B H N N"], *, residual: float = 0.5) -> Float[Tensor, "B N N"]:
    """Multiply the layers' maps, the first layer rightmost: S^_L = S~_L ... S~_1 (DCAL, Eq. 2).

    Args:
        maps: attention maps as `attention_maps` returns them, first layer first.
        residual: weight of the identity, in [0, 1].

    Returns:
        The share of input token j in output token i at (i, j). Rows sum to 1.
    """
    product = None
    for layer in maps.mean(dim=2).unbind():  # heads averaged: Abnar & Zuidema, section 3
        mixed = mix_residual(layer, residual)
        product = mixed if product is None else mixed @ product  # later layers on the left
    return product


def cls_rollout(maps: Float[Tensor, "L B H N N"], *, residual: float = 0.5) -> Float[Tensor, "B N"]:
    """Return the class token's row of `rollout(maps)` without forming the product.

    Args and source: as `rollout`. Rows sum to 1; column 0 is what the class token kept of itself.
    """
    return row_chain((layer.mean(dim=1) for layer in reversed(maps.unbind())), residual=residual)


def row_chain(
    layers: Iterable[Float[Tensor, "B N N"]],
    *,
    residual: float = 0.5,
) -> Float[Tensor, "B N"]:
    """Push the class token's row e_0 through the layers, last first: (e_0 S~_L) S~_{L-1} ...

    Args:
        layers: head-averaged maps, the LAST layer first. A generator is consumed one map at a time,
            so that no more than one needs to exist.
        residual: weight of the identity, in [0, 1].

    Returns:
        The row, at least float32 even for half-precision maps: in bfloat16 the chain would lose 5 %
        of the top patches.
    """
    _check_residual(residual)
    row = None
    for layer in layers:
        if row is None:
            dtype = torch.promote_types(layer.dtype, torch.float32)
            row = layer.new_zeros(len(layer), 1, layer.shape[-1], dtype=dtype)
            row[..., 0] = 1
        with _no_autocast(layer.device.type):
            # = row @ mix_residual(layer)
            row = (1 - residual) * (row @ layer.to(row.dtype)) + residual * row
    if row is None:
        raise ValueError("at least one layer's map expected, got none; "
                         "pass maps of shape (L, B, H, N, N) with L >= 1")  # fmt: skip
    return row.squeeze(1)


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    """Switch autocast off on a device that has it; the meta device, which counts costs, has none."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _check_residual(residual: float) -> None:
    if not 0 <= residual <= 1:
        raise ValueError(f"a residual weight in [0, 1] expected, got {residual}; both papers use 0.5")

"""Scaled dot-product attention, with and without its map.

Letters: B batch, H heads, M query tokens, N key tokens, d width of one head.
"""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def split_heads(tokens: Float[Tensor, "B N D"], heads: int) -> Float[Tensor, "B H N d"]:
    """Cut the width D of every token into `heads` slices of width d = D / heads."""
    if tokens.shape[-1] % heads:
        raise ValueError(f"a width divisible by {heads} heads expected, got {tokens.shape[-1]}; choose another `heads`")
    return rearrange(tokens, "B N (H d) -> B H N d", H=heads)


def merge_heads(tokens: Float[Tensor, "B H N d"]) -> Float[Tensor, "B N D"]:
    """Put the heads' slices side by side again: the inverse of `split_heads`."""
    return rearrange(tokens, "B H N d -> B N (H d)")


def attention_map(
    query: Float[Tensor, "B H M d"], key: Float[Tensor, "B H N d"], *, scale: float | None = None
) -> Float[Tensor, "B H M N"]:
    """Return S = softmax(Q K^T / sqrt(d)), the weights with which each query reads the keys.

    Args:
        query: queries, one row a token and head.
        key: keys; their number may differ from that of the queries.
        scale: factor of the scores, d ** -0.5 if None.

    Returns:
        The map. Each row is non-negative and sums to 1.

    Source: Vaswani et al. 2017, Eq. 1; the S of Zhu et al. 2022, Eq. 1.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return (query * scale @ key.transpose(-2, -1)).softmax(dim=-1)


def attend(
    query: Float[Tensor, "B H M d"], key: Float[Tensor, "B H N d"], value: Float[Tensor, "B H N d"], *, dropout=0.0
) -> Float[Tensor, "B H M d"]:
    """Return `attention_map(query, key) @ value` by the fused kernel, which never stores the map.

    Args:
        query, key, value: as in `attention_map`.
        dropout: probability with which an entry of the map is dropped, in [0, 1); give 0 in evaluation.
    """
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)

"""The plain forms of what the library computes in another way: the benchmark times them, tests and chapters compare."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def reranked_distances(distances: np.ndarray, queries: int, k1: int, k2: int, lambda_value: float) -> np.ndarray:
    """k-reciprocal re-ranking by its definition, with dense matrices: one image, one neighbour at a time.

    Args:
        distances: squared Euclidean, of queries and gallery (N) to both, (N, N).
        queries: how many of the N are queries; they come first.
    """
    size = len(distances)
    original = distances / distances.max(axis=1, keepdims=True)
    order = distances.copy()
    np.fill_diagonal(order, -1)
    order = order.argsort(axis=1, kind="stable")

    def reciprocal(p: int, k: int) -> np.ndarray:
        near = order[p, : k + 1]
        return near[(order[near, : k + 1] == p).any(axis=1)]

    weights = np.zeros_like(original)
    for p in range(size):
        core = set(reciprocal(p, k1))
        members = set(core)
        for q in core:
            half = set(reciprocal(q, int(np.around(k1 / 2))))
            if len(half & core) > 2 / 3 * len(half):
                members |= half
        members = sorted(members)
        similar = np.exp(-original[p, members])
        weights[p, members] = similar / similar.sum()
    weights = np.stack([weights[near].mean(axis=0) for near in order[:, :k2]])
    users = [np.flatnonzero(column) for column in weights.T]  # who has this neighbour
    final = np.zeros((queries, size), dtype=original.dtype)
    for q in range(queries):
        smaller = np.zeros(size, dtype=original.dtype)  # min(0, w) = 0: only the neighbours of q count
        for j in np.flatnonzero(weights[q]):
            smaller[users[j]] += np.minimum(weights[q, j], weights[users[j], j])
        larger = weights[q].sum() + weights.sum(axis=1) - smaller
        final[q] = (1 - lambda_value) * (1 - smaller / larger) + lambda_value * original[q]
    return final[:, queries:]


def pwca_materialised(layer, tokens, partner):
    """Eq. 4 as it is written: each image's queries, the keys and values of both images concatenated.

    Args:
        layer: timm's attention layer.
        tokens: normalised tokens (B, N, D).
        partner: index of each image's partner, (B,).
    """
    batch, count, width = tokens.shape
    qkv = layer.qkv(tokens).reshape(batch, count, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv
    keys = torch.cat([key, key[partner]], dim=2)
    values = torch.cat([value, value[partner]], dim=2)
    scores = query @ keys.transpose(-2, -1) / query.shape[-1] ** 0.5
    mixed = F.softmax(scores, dim=-1) @ values
    return layer.proj(mixed.transpose(1, 2).reshape(batch, count, width))


def _conv_norm_relu(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width_out, 1, bias=False), nn.BatchNorm2d(width_out), nn.ReLU())


# Channels and size of ResNet-50's stages at 256 x 128 pixels, last stride 1.
RGA_STAGES = [(256, (64, 32)), (512, (32, 16)), (1024, (16, 8)), (2048, (16, 8))]


class AffinityRGA(nn.Module):
    """RGA-SC as the paper has it: the affinity of all pairs, each node's row and column stacked, then embedded."""

    def __init__(self, channels: int, positions: int):
        super().__init__()
        for name, features, nodes in (("spatial", channels, positions), ("channel", positions, channels)):
            for part in ("theta", "phi", "gx"):
                self.add_module(f"{part}_{name}", _conv_norm_relu(features, features // 8))
            self.add_module(f"gg_{name}", _conv_norm_relu(2 * nodes, nodes // 8))
            width = 1 + nodes // 8
            last = [nn.Conv2d(width // 8, 1, 1, bias=False), nn.BatchNorm2d(1)]
            self.add_module(f"W_{name}", nn.Sequential(*_conv_norm_relu(width, width // 8), *last))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x * self.weights("spatial", x.reshape(batch, channels, height * width)).view(batch, 1, height, width)
        nodes = x.reshape(batch, channels, height * width).transpose(1, 2)
        return x * self.weights("channel", nodes).view(batch, channels, 1, 1)

    def weights(self, name: str, nodes: Tensor) -> Tensor:
        """One weight for each node; nodes (B, F, P)."""
        x = nodes[..., None]
        theta, phi, original = (getattr(self, f"{part}_{name}")(x) for part in ("theta", "phi", "gx"))
        affinity = torch.einsum("bfi,bfj->bij", theta[..., 0], phi[..., 0])
        row, column = affinity.transpose(1, 2), affinity  # numbered by the other node, for each node
        relations = getattr(self, f"gg_{name}")(torch.cat([row, column], dim=1)[..., None])
        joined = torch.cat([original.mean(dim=1, keepdim=True), relations], dim=1)
        return torch.sigmoid(getattr(self, f"W_{name}")(joined))[:, 0, :, 0]

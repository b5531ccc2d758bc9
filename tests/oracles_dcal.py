"""Slow, obvious versions of DCAL's equations: loops and materialised tensors, for comparison only."""

import torch
import torch.nn.functional as F


def attention_by_loops(query, key):
    """Eq. 1, one query at a time: softmax(q K^T / sqrt(d)) for tensors (B, H, N, d)."""
    rows = [
        torch.stack([torch.stack([(q @ k / len(q) ** 0.5) for k in keys]).softmax(0) for q in queries])
        for queries, keys in zip(query.flatten(0, 1), key.flatten(0, 1), strict=True)
    ]
    return torch.stack(rows).reshape(*query.shape[:2], query.shape[2], key.shape[2])


def rollout_by_loops(maps, residual=0.5):
    """Eq. 2, entry by entry: every path through the layers, heads averaged, for maps (L, B, H, N, N)."""
    layers, batch, _, count, _ = maps.shape
    result = torch.empty(batch, count, count, dtype=maps.dtype)
    for b in range(batch):
        flow = torch.eye(count, dtype=maps.dtype)
        for layer in range(layers):
            mixed = torch.zeros(count, count, dtype=maps.dtype)
            for i in range(count):
                for j in range(count):
                    mixed[i, j] = (1 - residual) * maps[layer, b, :, i, j].mean() + residual * (i == j)
            new = torch.zeros_like(flow)
            for i in range(count):
                for j in range(count):
                    new[i, j] = sum(mixed[i, k] * flow[k, j] for k in range(count))
            flow = new
        result[b] = flow
    return result


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


def triplet_by_loops(features, labels, margin=None):
    """Batch-hard triplet loss, one anchor at a time."""
    terms = []
    for i, anchor in enumerate(features):
        distances = [((anchor - other) ** 2).sum().sqrt() for other in features]
        positive = max(d for d, label in zip(distances, labels, strict=True) if label == labels[i])
        negative = min(d for d, label in zip(distances, labels, strict=True) if label != labels[i])
        gap = positive - negative
        terms.append(torch.log1p(gap.exp()) if margin is None else (gap + margin).clamp(min=0))
    return torch.stack(terms).mean()

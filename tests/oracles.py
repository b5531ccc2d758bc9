"""Slow answers, written as loops from the definitions, that the tests compare the library's with."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ranking_scores(
    distances: np.ndarray,
    query_ids: Sequence[int],
    gallery_ids: Sequence[int],
    query_cams: Sequence[int],
    gallery_cams: Sequence[int],
) -> dict[str, np.ndarray]:
    """CMC (whole curve), AP, trapezoid AP and INP of each valid query, by sorting and walking down the list."""
    cmc, ap, trapezoid, inp = [], [], [], []
    for q, row in enumerate(distances):
        hits = []
        for g in sorted(range(len(row)), key=lambda g: (row[g], g)):
            same = gallery_ids[g] == query_ids[q]
            if gallery_ids[g] != -1 and not (same and gallery_cams[g] == query_cams[q]):
                hits.append(bool(same))
        if any(hits):
            cmc.append([any(hits[: k + 1]) for k in range(len(row))])
            ap.append(average_precision(hits))
            trapezoid.append(average_precision_matlab(hits))
            inp.append(sum(hits) / (max(i for i, hit in enumerate(hits) if hit) + 1))
    return {"cmc": np.array(cmc), "ap": np.array(ap), "trapezoid": np.array(trapezoid), "inp": np.array(inp)}


def average_precision(hits: Sequence[bool]) -> float:
    """Mean of the precision at each hit."""
    precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
    return sum(precisions) / len(precisions)


def average_precision_matlab(hits: Sequence[bool]) -> float:
    """Area under the precision-recall curve by trapezoids, as compute_AP.m of Market-1501 walks the list."""
    area, old_recall, old_precision, found = 0.0, 0.0, 1.0, 0
    for i, hit in enumerate(hits):
        found += hit
        recall, precision = found / sum(hits), found / (i + 1)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


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


# --- HA-CNN's definition, with the parameter names of the public code ---


class _Block(nn.Module):
    def __init__(self, width_in: int, width_out: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2)
        self.bn = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class _Inception(nn.Module):
    def __init__(self, width_in: int, width_out: int, *, halve: bool):
        super().__init__()
        q = width_out // 4
        if halve:
            self.stream1 = nn.Sequential(_Block(width_in, q), _Block(q, q, 3, 2))
            self.stream2 = nn.Sequential(_Block(width_in, q), _Block(q, q, 3), _Block(q, q, 3, 2))
            self.stream3 = nn.Sequential(nn.MaxPool2d(3, 2, 1), _Block(width_in, 2 * q))
        else:
            for i in (1, 2, 3):
                self.add_module(f"stream{i}", nn.Sequential(_Block(width_in, q), _Block(q, q, 3)))
            self.stream4 = nn.Sequential(nn.AvgPool2d(3, 1, 1), _Block(width_in, q))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([stream(x) for stream in self.children()], dim=1)


class PortHACNN(nn.Module):
    """HA-CNN as torchreid's port computes it, in evaluation: one region after the other, with PyTorch's transformer."""

    def __init__(self, classes: int, widths: Sequence[int] = (128, 256, 384), size: tuple[int, int] = (24, 28)):
        super().__init__()
        self.size, before, self.conv = size, 32, _Block(3, 32, 3, 2)
        for level, width in enumerate(widths, start=1):
            halves = _Inception(before, width, halve=False), _Inception(width, width, halve=True)
            self.add_module(f"inception{level}", nn.Sequential(*halves))
            spatial = nn.ModuleDict({"conv1": _Block(1, 1, 3, 2), "conv2": _Block(1, 1)})
            channel = nn.ModuleDict({"conv1": _Block(width, width // 16), "conv2": _Block(width // 16, width)})
            soft = {"spatial_attn": spatial, "channel_attn": channel, "conv": _Block(width, width)}
            hard = nn.ModuleDict({"fc": nn.Linear(width, 8)})
            self.add_module(f"ha{level}", nn.ModuleDict({"soft_attn": nn.ModuleDict(soft), "hard_attn": hard}))
            self.add_module(f"local_conv{level}", _Inception(before, width, halve=True))
            before = width
        for name, width in (("global", before), ("local", 4 * before)):
            self.add_module(f"fc_{name}", nn.Sequential(nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU()))
            self.add_module(f"classifier_{name}", nn.Linear(512, classes))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, regions, (height, width) = self.conv(images), [0, 0, 0, 0], self.size
        for level in (1, 2, 3):
            attention = getattr(self, f"ha{level}")
            out = getattr(self, f"inception{level}")(x)
            spatial, channel, joint = attention["soft_attn"].values()
            s = spatial["conv1"](out.mean(1, keepdim=True))
            s = spatial["conv2"](F.interpolate(s, out.shape[2:], mode="bilinear", align_corners=True))
            c = channel["conv2"](channel["conv1"](out.mean((2, 3), keepdim=True)))
            shift = attention["hard_attn"]["fc"](out.mean((2, 3))).tanh().view(-1, 4, 2)
            for t in range(4):
                theta = torch.zeros(len(x), 2, 3, dtype=x.dtype)
                theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = 1, 0.25, shift[:, t]
                crop = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
                crop = F.interpolate(crop, (height, width), mode="bilinear", align_corners=True)
                regions[t] = getattr(self, f"local_conv{level}")(crop + regions[t])
            x, (height, width) = out * torch.sigmoid(joint(s * c)), (height // 2, width // 2)
        pooled = {"global": x.mean((2, 3)), "local": torch.cat([region.mean((2, 3)) for region in regions], dim=1)}
        features = {name: getattr(self, f"fc_{name}")(value) for name, value in pooled.items()}
        return features | {f"{k} logits": getattr(self, f"classifier_{k}")(v) for k, v in features.items()}


def bilinear_crop(x: np.ndarray, centre: Sequence[float], scale: Sequence[float], size: Sequence[int]) -> np.ndarray:
    """A region of a map (C, H, W), pixel by pixel; positions in [-1, 1] from edge to edge, 0 outside."""
    channels, height, width = x.shape
    crop = np.zeros((channels, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            v = scale[1] * ((2 * i + 1) / size[0] - 1) + centre[1]
            u = scale[0] * ((2 * j + 1) / size[1] - 1) + centre[0]
            row, column = ((v + 1) * height - 1) / 2, ((u + 1) * width - 1) / 2
            for r in (int(np.floor(row)), int(np.floor(row)) + 1):
                for c in (int(np.floor(column)), int(np.floor(column)) + 1):
                    if 0 <= r < height and 0 <= c < width:
                        crop[:, i, j] += x[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return crop

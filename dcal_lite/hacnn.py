"""HA-CNN: soft attention over pixels and channels, hard attention over regions, learned together in a small network.

    Harmonious Attention Network for Person Re-Identification.
    Li, Zhu & Gong, CVPR 2018.

Letters: B batch, C channels, H x W size of a feature map, T regions (4), h x w size of a region's crop.

| paper, section 3                                        | here                     |
|---------------------------------------------------------|--------------------------|
| spatial attention: mean, conv, resize, conv             | `SoftAttention.spatial`  |
| channel attention: squeeze and excitation, r = 16       | `SoftAttention.channel`  |
| A = S x C, joined by a 1 x 1 convolution and a sigmoid  | `SoftAttention.forward`  |
| hard attention: a shift of each of T regions by tanh    | `HardAttention`          |
| the regions, cut out and resized                        | `crop_regions`           |
| CAIL: local input = crop of the global map + local map  | `HACNN.forward`          |
| two cross-entropies; 512 + 512 features                 | `Output`, branches       |

The paper's text leaves details open, and the one public port (torchreid) fills some of them in its own way. We follow
the paper by default; `port=True` follows the port, for its published weights:

| detail                          | paper's reading                    | port                                        |
|---------------------------------|------------------------------------|---------------------------------------------|
| regions before training         | four strips that tile the image    | tanh of these shifts: they overlap, and     |
|                                 |                                    | leave 6 % uncovered at each end             |
| ReLU after the attention maps   | no: a map may lower what it weighs | yes: no weight below 0.5, a map can go dead |
| crops                           | sampled once                       | sampled at full size, then resized          |
| convolutions before BatchNorm   | without bias, which it would undo  | with bias                                   |
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dcal_lite.errors import check_choice
from dcal_lite.heads import Output, create_head

BRANCHES = ("global", "local")
REDUCTION = 16  # of channel attention
CROP = (6 / 160, 7 / 64)  # of the last level's crops, relative to the image; each level before has twice the size

# --------------------------------------------------------------------------------------------------- convolutions


def conv_block(width_in: int, width_out: int, kernel: int = 1, stride: int = 1, *, bias: bool = False) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    conv = nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(width_out), nn.ReLU())


class Streams(nn.ModuleList):
    """Several streams side by side; their outputs are concatenated."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H2 W2"]:
        return torch.cat([stream(x) for stream in self], dim=1)


def inception_a(width_in: int, width_out: int, *, bias: bool = False) -> Streams:
    """Four streams of a quarter of the width each; the size stays."""
    block, quarter = partial(conv_block, bias=bias), width_out // 4
    streams = [nn.Sequential(block(width_in, quarter), block(quarter, quarter, 3)) for _ in range(3)]
    return Streams([*streams, nn.Sequential(nn.AvgPool2d(3, 1, 1), block(width_in, quarter))])


def inception_b(width_in: int, width_out: int, *, bias: bool = False) -> Streams:
    """Three streams, of a quarter, a quarter and half of the width; half the size."""
    block, quarter = partial(conv_block, bias=bias), width_out // 4
    one = nn.Sequential(block(width_in, quarter), block(quarter, quarter, 3, 2))
    two = nn.Sequential(block(width_in, quarter), block(quarter, quarter, 3), block(quarter, quarter, 3, 2))
    return Streams([one, two, nn.Sequential(nn.MaxPool2d(3, 2, 1), block(width_in, 2 * quarter))])


# ------------------------------------------------------------------------------------------------------ attention


class SoftAttention(nn.Module):
    """Weigh every value of a feature map: a map over pixels times a weight a channel, joined.

    Args:
        channels: C, divisible by 16.
        spatial, channel: False leaves one of the two out (ablations).
        port: see the module's table.

    Source: Li et al. 2018, section 3.1; squeeze and excitation: Hu et al. 2018.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial: bool = True,
        channel: bool = True,
        port: bool = False,
    ):
        super().__init__()
        if channels % REDUCTION:
            raise ValueError(f"channels divisible by {REDUCTION} expected, got {channels}: "
                             "channel attention reduces them")  # fmt: skip
        block, squeezed = partial(conv_block, bias=port), channels // REDUCTION
        self.port = port
        self.down = block(1, 1, 3, 2) if spatial else None
        self.scale = self._map(block(1, 1)) if spatial else None
        self.excite = None
        if channel:
            squeeze, widen = block(channels, squeezed), block(squeezed, channels)
            self.excite = nn.Sequential(squeeze, self._map(widen))
        self.join = self._map(block(channels, channels))

    def _map(self, block: nn.Sequential) -> nn.Sequential:
        return block if self.port else block[:-1]  # without ReLU

    def spatial(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 H W"]:
        """The map over pixels, before channels come in."""
        small, size = self.down(x.mean(dim=1, keepdim=True)), x.shape[2:]
        large = F.interpolate(small, size, mode="bilinear", align_corners=self.port)
        return self.scale(large)

    def channel(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C 1 1"]:
        """The weight of each channel, before pixels come in."""
        return self.excite(x.mean(dim=(2, 3), keepdim=True))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return a weight in (0, 1) for every value."""
        joined = torch.ones_like(x)
        if self.down is not None:
            joined = joined * self.spatial(x)
        if self.excite is not None:
            joined = joined * self.channel(x)
        return self.join(joined).sigmoid()


class HardAttention(nn.Module):
    """Shift T horizontal strips to where the parts are; width 1 and height 1/T of the map, as the paper fixes them.

    Args:
        channels: C.
        regions: T.
        port: see the module's table.

    Source: Li et al. 2018, section 3.1; Jaderberg et al. 2015 (spatial transformers).
    """

    def __init__(self, channels: int, regions: int = 4, *, port: bool = False):
        super().__init__()
        centres = strip_centres(regions)
        self.shift = nn.Linear(channels, 2 * regions)
        nn.init.zeros_(self.shift.weight)
        with torch.no_grad():
            self.shift.bias.copy_((centres if port else centres.atanh()).flatten())

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B T 2"]:
        """Return each region's centre (x, y) in [-1, 1]: left to right, top to bottom."""
        return rearrange(self.shift(x.mean(dim=(2, 3))).tanh(), "B (T xy) -> B T xy", xy=2)


def strip_centres(regions: int) -> Float[Tensor, "T 2"]:
    """Centres (x, y) of T strips that tile a map, from the top, in [-1, 1]."""
    y = (2 * torch.arange(regions, dtype=torch.float32) + 1) / regions - 1
    return torch.stack([torch.zeros_like(y), y], dim=1)


class HarmoniousAttention(nn.Module):
    """Soft and hard attention on one feature map.

    Args:
        channels: C, divisible by 16.
        regions: T.
        spatial, channel: of `SoftAttention`; without both, every weight is 1.
        regional: False keeps the regions where they start (ablation).
        port: see the module's table.
    """

    def __init__(
        self,
        channels: int,
        *,
        regions: int = 4,
        spatial: bool = True,
        channel: bool = True,
        regional: bool = True,
        port: bool = False,
    ):
        super().__init__()
        soft = spatial or channel
        self.soft = SoftAttention(channels, spatial=spatial, channel=channel, port=port) if soft else None
        self.hard = HardAttention(channels, regions, port=port) if regional else None
        self.register_buffer("centres", strip_centres(regions), persistent=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B T 2"]]:
        """Return the weight of every value, in (0, 1), and the regions' centres (x, y) in [-1, 1]."""
        weights = torch.ones_like(x) if self.soft is None else self.soft(x)
        return weights, self.centres.expand(len(x), -1, -1) if self.hard is None else self.hard(x)


def crop_regions(
    x: Float[Tensor, "B C H W"],
    centres: Float[Tensor, "B T 2"],
    scale: tuple[float, float],
    size: tuple[int, int],
) -> Float[Tensor, "B T C h w"]:
    """Cut T regions out of a map by bilinear sampling; gradients reach the map and the centres.

    With one region at centre (0, 0), scale (1, 1) and the map's size, the crop is the map. Outside
    of the map is 0.

    Args:
        x: feature map.
        centres: (x, y) of each region in [-1, 1].
        scale: width and height of the regions, relative to the map.
        size: (h, w) of the crops.

    Raises:
        ValueError: a centre is not finite (not looked for on a GPU, where looking means waiting).
    """
    if centres.device.type == "cpu" and not centres.isfinite().all():
        raise ValueError("finite centres of regions expected, got NaN or infinity: "
                         "the features they come from diverged; "
                         "lower the learning rate")  # fmt: skip
    kind = {"device": x.device, "dtype": x.dtype}
    rows, columns = ((2 * torch.arange(n, **kind) + 1) / n - 1 for n in size)
    u = scale[0] * columns + centres[..., :1]  # (B, T, w)
    v = scale[1] * rows + centres[..., 1:]  # (B, T, h)
    u, v = torch.broadcast_tensors(u[:, :, None], v[..., None])
    grid = torch.stack([u, v], dim=-1)  # (B, T, h, w, 2)
    crops = F.grid_sample(x, rearrange(grid, "B T h w xy -> B (T h) w xy"), align_corners=False)
    return rearrange(crops, "B C (T h) w -> B T C h w", h=size[0])


# ---------------------------------------------------------------------------------------------------- whole model


class HACNN(nn.Module):
    """A global branch with harmonious attention, and a local branch over the regions that it finds.

    The local convolutions are shared by the T regions, but run one region at a time: each BatchNorm then sees the
    statistics of one region, as in T streams. (All at once, in one batch, would mix them, and is no faster on a CPU.)

    Args:
        num_classes: training identities.
        img_size: (height, width) in pixels, each divisible by 16 and at least 32.
        widths: channels of the three levels, divisible by 16.
        features: numbers a branch.
        regions: T.
        branches: "global" and/or "local".
        spatial, channel, regional: of `HarmoniousAttention` (ablations).
        cail: False takes the regions' crops at the first level only (ablation: no cross-attention interaction).
        port: see the module's table.

    Raises:
        ValueError: an image size or widths that don't divide, or an unknown branch.

    Source: Li et al. 2018, sections 3 and 4; widths and the shapes of the inception blocks as in torchreid's port.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        img_size: tuple[int, int] = (160, 64),
        widths: Sequence[int] = (128, 256, 384),
        features: int = 512,
        regions: int = 4,
        branches: Sequence[str] = BRANCHES,
        spatial: bool = True,
        channel: bool = True,
        regional: bool = True,
        cail: bool = True,
        port: bool = False,
    ):
        super().__init__()
        for branch in branches:
            check_choice("branch", branch, BRANCHES)
        if not branches:
            raise ValueError("at least one of the branches 'global' and 'local' expected, got none")
        if any(n % 16 or n < 32 for n in img_size):
            raise ValueError(f"an image size of at least 32, divisible by 16, expected, got {tuple(img_size)}: the "
                             "levels halve it four times")  # fmt: skip
        self.img_size, self.branches, self.cail, self.port = tuple(img_size), tuple(branches), cail, port
        self.regions = regions
        stem = 32
        self.stem = conv_block(3, stem, 3, 2, bias=port)
        steps = list(pairwise([stem, *widths]))
        options = {"regions": regions, "spatial": spatial, "channel": channel, "port": port}
        self.inceptions = nn.ModuleList(
            nn.Sequential(inception_a(a, b, bias=port), inception_b(b, b, bias=port)) for a, b in steps
        )
        used = (
            "local" in branches,
            *[cail and "local" in branches] * (len(widths) - 1),
        )  # levels whose regions are cut out
        self.attentions = nn.ModuleList(
            HarmoniousAttention(width, regional=regional and cut, **options)
            for width, cut in zip(widths, used, strict=True)
        )
        last = [max(1, round(ratio * n)) for ratio, n in zip(CROP, img_size, strict=True)]
        self.crops = [(4 * last[0], 4 * last[1]), (2 * last[0], 2 * last[1]), tuple(last)]
        inputs = {"global": widths[-1], "local": regions * widths[-1]}
        if "local" in branches:
            self.locals = nn.ModuleList(inception_b(a, b, bias=port) for a, b in steps)
        self.embeddings = nn.ModuleDict({branch: _embedding(inputs[branch], features) for branch in branches})
        self.heads = nn.ModuleDict({branch: create_head("linear", features, num_classes) for branch in branches})

    def forward(self, images: Float[Tensor, "B 3 h w"], labels: Int[Tensor, "B"] | None = None) -> Output:
        """Return logits and features of both branches; `labels` is not used (every model takes it).

        Raises:
            ValueError: images of another size than the model was made for.
        """
        if images.shape[2:] != self.img_size:
            expected, got = (" x ".join(map(str, size)) for size in (self.img_size, images.shape[2:]))
            raise ValueError(f"images of {expected} pixels expected, got {got}; create the model with img_size={got}")
        x, local = self.stem(images), None
        for level, (inception, attention) in enumerate(zip(self.inceptions, self.attentions, strict=True)):
            out = inception(x)
            weights, centres = attention(out)
            if "local" in self.branches:
                local = self._local(level, x, centres, local)
            x = out * weights
        pooled = {"global": x.mean(dim=(2, 3))}
        if local is not None:
            pooled["local"] = torch.cat([region.mean(dim=(2, 3)) for region in local], dim=1)
        features = {branch: self.embeddings[branch](pooled[branch]) for branch in self.branches}
        return Output({branch: self.heads[branch](f) for branch, f in features.items()}, features)

    def _local(
        self,
        level: int,
        x: Tensor,
        centres: Tensor,
        local: list[Tensor] | None,
    ) -> list[Tensor]:
        """One level of the local branch: T maps (B, C, h/2, w/2)."""
        if local is None or self.cail:
            crops = self._crops(x, centres, self.crops[level]).unbind(dim=1)
            if local is not None:
                crops = [crop + old for crop, old in zip(crops, local, strict=True)]
            local = crops
        return [self.locals[level](region) for region in local]

    def _crops(self, x: Tensor, centres: Tensor, size: tuple[int, int]) -> Float[Tensor, "B T C h w"]:
        scale = (1.0, 1 / self.regions)
        if not self.port:
            return crop_regions(x, centres, scale, size)
        full = crop_regions(x, centres, scale, tuple(x.shape[2:]))
        small = F.interpolate(full.flatten(0, 1), size, mode="bilinear", align_corners=True)
        return small.unflatten(0, full.shape[:2])


def _embedding(width: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, features), nn.BatchNorm1d(features), nn.ReLU())


def from_torchreid(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the state dict of torchreid's `HACNN` for `HACNN(..., port=True).load_state_dict`.

    Blocks, levels and streams, counted from 1 there, are counted from 0 here; `.conv` and `.bn` of a block are `.0`
    and `.1`. The rest is the table `_TORCHREID`.
    """
    ours = {}
    for key, value in state.items():
        for old, new in _TORCHREID:
            key = re.sub(old, new, key)
        ours[re.sub(r"\b(inceptions|attentions|locals|stream)(\d)", _count_from_zero, key)] = value
    return ours


_TORCHREID = (
    (r"\.conv\.(?=weight|bias)", ".0."),
    (r"\.bn\.", ".1."),
    (r"^conv\.", "stem."),
    (r"^inception(\d)", r"inceptions\1"),
    (r"^ha(\d)\.soft_attn\.spatial_attn\.conv1", r"attentions\1.soft.down"),
    (r"^ha(\d)\.soft_attn\.spatial_attn\.conv2", r"attentions\1.soft.scale"),
    (r"^ha(\d)\.soft_attn\.channel_attn\.conv1", r"attentions\1.soft.excite.0"),
    (r"^ha(\d)\.soft_attn\.channel_attn\.conv2", r"attentions\1.soft.excite.1"),
    (r"^ha(\d)\.soft_attn\.conv", r"attentions\1.soft.join"),
    (r"^ha(\d)\.hard_attn\.fc", r"attentions\1.hard.shift"),
    (r"^local_conv(\d)", r"locals\1"),
    (r"^fc_", "embeddings."),
    (r"^classifier_(\w+)", r"heads.\1.classifier"),
)


def _count_from_zero(match: re.Match) -> str:
    name, number = match.groups()
    return f"{int(number) - 1}" if name == "stream" else f"{name}.{int(number) - 1}"

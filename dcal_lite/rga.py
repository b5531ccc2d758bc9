"""RGA: attention learned from the relations of every position, and every channel, to all others.

    Relation-Aware Global Attention for Person Re-identification.
    Zhang, Lan, Zeng, Jin & Chen, CVPR 2020. Official code: microsoft/Relation-Aware-Global-Attention-Networks.

Letters: B batch, C channels, H x W = N positions of a feature map. A gate sees P nodes with F features each: RGA-S the
N positions with their C channels, RGA-C the C channels with their N positions.

| paper, sections 3.2 and 3.3                        | here                                     |
|----------------------------------------------------|------------------------------------------|
| theta, phi: embeddings for the relations           | `RelationGate.project`, first two thirds |
| r_ij = theta(x_i)^T phi(x_j), the affinity         | never formed, see below                  |
| r_i = [r_i., r_.i], embedded                       | `RelationGate.relate`                    |
| pool(psi(x_i)), the original feature               | `RelationGate.project`, last third       |
| a_i = sigmoid(W2 ReLU(W1 y_i)), y_i = [pool, r_i]  | `RelationGate.gate`                      |
| RGA-S, RGA-C, RGA-SC                               | `RGA(channels, size, variant)`           |
| ResNet-50 with RGA-SC after each stage             | `ResNetRGA`                              |

What we do differently. The P x P affinity is never formed. It is only ever read by a linear map without bias,
W = [W_out | W_in], applied to r_i = [r_i., r_.i], and matrix products may be bracketed as one likes:

    W_out (theta^T phi)^T + W_in (theta^T phi) = (W_out phi^T) theta + (W_in theta^T) phi.

The brackets are small: P/8 x F/8. And theta, phi and psi are one product, for BatchNorm treats each channel alone.
RGA-C reads the map transposed. Its nodes are laid out as a map of height 1, so that for PyTorch this is the map in
another memory format (`channels_last`), and nothing is copied.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dcal_lite.backbones import arrange_strides, resnet_stages, resnet_stem, stage_shapes
from dcal_lite.errors import check_choice
from dcal_lite.heads import Output, create_head

VARIANTS = {"s": "s", "c": "c", "sc": "sc", "cs": "cs", "s//c": "sc"}  # which gates, in order
RATIO = 8  # of all embeddings to what they embed; the paper's s1 and s2

# ----------------------------------------------------------------------------------------------------- one gate


class RelationGate(nn.Module):
    """Weigh each of P nodes by what it is and how it relates to all the others.

    Args:
        features: F, numbers a node comes with.
        nodes: P; the relations of a node are numbered by the other nodes, so weights depend on it.
        relations: False leaves the relations out (the paper's "w/o Rel."). The original feature is then not pooled to
            one number, for nothing else would be left: inferred, the paper does not say.
        original: False leaves the original feature out ("w/o Ori.").
        gate_bias: added before the sigmoid at the start of training. 0, as in the official code, lets weights start at
            about one half, in a random pattern; 3 at about 0.93, so that features learned without gates pass (ours).

    Raises:
        ValueError: `features` or `nodes` is not divisible by 8.
    """

    def __init__(
        self, features: int, nodes: int, *, relations: bool = True, original: bool = True, gate_bias: float = 0.0
    ):
        super().__init__()
        if not (relations or original):
            raise ValueError("relations=True or original=True expected: else nothing is left to weigh nodes by")
        for name, count in (("channels or positions", features), ("positions or channels", nodes)):
            if count < RATIO or count % RATIO:
                raise ValueError(f"a number of {name} divisible by {RATIO} expected, got {count}")
        self.inner, self.relations, self.original = features // RATIO, relations, original
        self.project = _embedding(features, (2 * relations + original) * self.inner)  # theta, phi, psi
        if relations:
            self.relate = nn.Linear(2 * nodes, nodes // RATIO, bias=False)  # [W_out | W_in]
            self.norm = nn.BatchNorm2d(nodes // RATIO)
        width = original + nodes // RATIO if relations else self.inner
        hidden = max(1, width // RATIO)
        self.gate = nn.Sequential(*_embedding(width, hidden), NodeLinear(hidden, 1, bias=False), nn.BatchNorm2d(1))
        nn.init.constant_(self.gate[-1].bias, gate_bias)

    def forward(self, x: Float[Tensor, "B F P"]) -> Float[Tensor, "B 1 P"]:
        """Return the weight of every node, in (0, 1)."""
        embedded = self.project(x.unsqueeze(2))  # (B, 2 F/8 + F/8, 1, P)
        parts = []
        if self.original:
            psi = embedded[:, -self.inner :]
            parts.append(psi.mean(dim=1, keepdim=True) if self.relations else psi)
        if self.relations:
            parts.append(self._relations(embedded[:, : 2 * self.inner].squeeze(2)))
        # W1 [pool, r] = W1_pool pool + W1_r r: so they need not be copied side by side
        weights = self.gate[0].weight.split([part.shape[1] for part in parts], dim=1)
        hidden = sum(_map_nodes(part, weight) for part, weight in zip(parts, weights, strict=True))
        return self.gate[1:](hidden).squeeze(2).sigmoid()

    def _relations(self, pair: Float[Tensor, "B two_F P"]) -> Float[Tensor, "B R 1 P"]:
        """Embed each node's row and column of the affinity theta^T phi, without forming it."""
        theta, phi = pair.chunk(2, dim=1)
        out, into = self.relate.weight.chunk(2, dim=1)
        brackets = torch.cat([out @ phi.mT, into @ theta.mT], dim=2)  # (B, R, 2 F/8)
        return F.relu(self.norm((brackets @ pair).unsqueeze(2)), inplace=True)


class NodeLinear(nn.Linear):
    """A linear map of every node's features."""

    def forward(self, x: Float[Tensor, "B F 1 P"]) -> Float[Tensor, "B R 1 P"]:
        """Map the features."""
        return _map_nodes(x, self.weight)


def _map_nodes(x: Float[Tensor, "B F 1 P"], weight: Float[Tensor, "R F"]) -> Float[Tensor, "B R 1 P"]:
    return F.conv2d(x, weight[..., None, None])  # in the memory format of x; a Conv2d's weights may ask for another


def _embedding(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(NodeLinear(features, width, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


# ---------------------------------------------------------------------------------------------- on a feature map


class RGA(nn.Module):
    """Multiply a feature map by the weights of its positions, its channels, or both.

    Args:
        channels: C, divisible by 8.
        size: (H, W) of the feature map, H x W divisible by 8. Every weight that reads or writes positions is made for
            this size; `resize` changes it.
        variant: "s" (positions), "c" (channels), "sc" (positions, then channels: the paper's), "cs" (the other way
            round) or "s//c" (both from the same map; how the paper joins them is inferred: both are multiplied in).
        relations, original, gate_bias: what a gate reads and where it starts, see `RelationGate`.

    Raises:
        ValueError: an unknown variant, or sizes that 8 doesn't divide.

    Source: Zhang et al. 2020, sections 3.2 to 3.4; widths and BatchNorms as in the official code.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        variant: str = "sc",
        *,
        relations: bool = True,
        original: bool = True,
        gate_bias: float = 0.0,
    ):
        super().__init__()
        check_choice("RGA variant", variant, VARIANTS)
        self.channels, self.size, self.variant = channels, tuple(size), variant
        shapes = {"s": (channels, size[0] * size[1]), "c": (size[0] * size[1], channels)}
        self.gates = nn.ModuleDict(
            {
                kind: RelationGate(*shapes[kind], relations=relations, original=original, gate_bias=gate_bias)
                for kind in VARIANTS[variant]
            }
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the map times the weights.

        Raises:
            ValueError: a map of another size or channel count than the module was made for.
        """
        if x.shape[1:] != (self.channels, *self.size):
            shapes = (self.channels, *self.size), x.shape[1:]
            made, got = (" x ".join(map(str, shape)) for shape in shapes)
            raise ValueError(f"a feature map of {made} expected, got {got}: "
                             "RGA's weights are numbered by position; "
                             "create it with the right size, or call resize(size)")  # fmt: skip
        nodes = source = x.flatten(2)  # (B, C, N)
        for kind, gate in self.gates.items():
            seen = source if self.variant == "s//c" else nodes
            nodes = nodes * (gate(seen) if kind == "s" else gate(seen.mT).mT)
        return nodes.view_as(x)

    @torch.no_grad()
    def resize(self, size: tuple[int, int]) -> "RGA":
        """Carry the weights over to maps of another size, in place; embeddings keep their widths.

        A weight that reads positions is a sum over them: its rows, seen as pictures, are
        interpolated, and scaled by the ratio of the numbers of positions, so that the sum over a
        constant map stays what it was (to rounding at twice the size, to some percent at odd
        ratios).
        """
        if "s" in self.gates and self.gates["s"].relations:
            relate = self.gates["s"].relate
            halves = [self._resampled(half, size) for half in relate.weight.chunk(2, dim=1)]
            relate.weight = nn.Parameter(torch.cat(halves, dim=1))
        if "c" in self.gates:
            project = self.gates["c"].project[0]
            project.weight = nn.Parameter(self._resampled(project.weight, size))
        self.size = tuple(size)
        return self

    def _resampled(self, rows: Float[Tensor, "R N"], size: tuple[int, int]) -> Float[Tensor, "R M"]:
        pictures = rearrange(rows, "R (H W) -> R 1 H W", H=self.size[0])
        if tuple(size) != self.size:
            pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True)
        return pictures.flatten(1) * (rows.shape[1] / (size[0] * size[1]))


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the state dict of the official `RGA_Module` for `RGA.load_state_dict`.

    | official, X = spatial or channel | here, x = s or c                                         |
    |----------------------------------|----------------------------------------------------------|
    | theta_X, phi_X, gx_X             | gates.x.project, one below the other                     |
    | gg_X.0, gg_X.1                   | gates.x.relate, gates.x.norm                             |
    | W_X.0, .1, .3, .4                | gates.x.gate.0, .1, .3, .4                               |

    Args:
        state: from a module with spatial or channel attention, or both. Files older than torch 0.4.1 lack
            `num_batches_tracked`; it is then set to 0.
    """
    ours: dict[str, Tensor] = {}
    for kind, name in (("s", "spatial"), ("c", "channel")):
        if f"gg_{name}.0.weight" not in state:
            continue
        gate, embeddings = f"gates.{kind}", [f"{part}_{name}" for part in ("theta", "phi", "gx")]
        ours[f"{gate}.project.0.weight"] = torch.cat([state[f"{part}.0.weight"] for part in embeddings])[..., 0, 0]
        ours[f"{gate}.relate.weight"] = state[f"gg_{name}.0.weight"][..., 0, 0]
        for i in (0, 3):
            ours[f"{gate}.gate.{i}.weight"] = state[f"W_{name}.{i}.weight"][..., 0, 0]
        norms = {"project.1": [f"{part}.1" for part in embeddings], "norm": [f"gg_{name}.1"],
                 "gate.1": [f"W_{name}.1"], "gate.4": [f"W_{name}.4"]}  # fmt: skip
        for new, old in norms.items():
            for field in ("weight", "bias", "running_mean", "running_var"):
                ours[f"{gate}.{new}.{field}"] = torch.cat([state[f"{part}.{field}"] for part in old])
            count = state.get(f"{old[0]}.num_batches_tracked", torch.tensor(0))
            ours[f"{gate}.{new}.num_batches_tracked"] = count
    return ours


# ---------------------------------------------------------------------------------------------------- whole model


class ResNetRGA(nn.Module):
    """A ResNet with RGA after each of its four stages, last stride 1; embedding by global average pooling.

    Args:
        backbone: timm's or torchvision's `ResNet`; its own classifier is not used, and the stride of its last stage is
            set to 1 (Luo et al. 2019).
        num_classes: C, training identities or classes.
        img_size: (height, width) in pixels, for which the RGA modules are made.
        variant: of `RGA`; None leaves the modules out: the plain baseline.
        head: "bnneck" (re-ID) or "linear".
        relations, original, gate_bias: of `RGA`.
        stride_in_1x1: of `arrange_strides`; needed with weights from Caffe.

    Raises:
        ValueError: no ResNet, or an image size whose feature maps have a number of positions that 8 doesn't divide.

    Source: Zhang et al. 2020, section 3.5 and figure 3; the official code's `rga_branches.py`.
    """

    branches = ("global",)

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        img_size: tuple[int, int] = (256, 128),
        variant: str | None = "sc",
        head: str = "bnneck",
        relations: bool = True,
        original: bool = True,
        gate_bias: float = 0.0,
        stride_in_1x1: bool = False,
    ):
        super().__init__()
        self.backbone, self.img_size = arrange_strides(backbone, in_1x1=stride_in_1x1), tuple(img_size)
        shapes = stage_shapes(backbone, self.img_size)
        make = partial(RGA, variant=variant, relations=relations, original=original, gate_bias=gate_bias)
        self.attention = nn.ModuleList(nn.Identity() if variant is None else make(c, size) for c, size in shapes)
        self.heads = nn.ModuleDict({"global": create_head(head, shapes[-1][0], num_classes)})

    def forward(self, images: Float[Tensor, "B 3 h w"], labels: Int[Tensor, "B"] | None = None) -> Output:
        """Return logits and pooled features; `labels` is not used (every model takes it)."""
        x = resnet_stem(self.backbone, images)
        for stage, attention in zip(resnet_stages(self.backbone), self.attention, strict=True):
            x = attention(stage(x))
        feature = x.mean(dim=(2, 3))
        return Output({"global": self.heads["global"](feature)}, {"global": feature})

    def resize(self, img_size: tuple[int, int]) -> "ResNetRGA":
        """Carry the model over to images of another size, in place (see `RGA.resize`)."""
        for attention, (_, size) in zip(self.attention, stage_shapes(self.backbone, img_size), strict=True):
            if isinstance(attention, RGA):
                attention.resize(size)
        self.img_size = tuple(img_size)
        return self

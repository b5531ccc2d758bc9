"""What stands after a backbone: classifiers, the BN-neck, and the one `Output` that every model returns.

Letters: B batch, C classes, D width of a feature.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from dcal_lite.errors import check_choice

TRAINING_ONLY = ("pwca",)  # branches that regularise and are absent at inference


@dataclass(frozen=True)
class Output:
    """What every model returns, in training and evaluation alike.

    logits: branch -> (B, C), before softmax.
    features: branch -> (B, D), before the BN-neck; the triplet loss takes these.
    """

    logits: dict[str, Tensor]
    features: dict[str, Tensor]

    @property
    def embedding(self) -> Float[Tensor, "B D"]:
        """What re-ID ranks by: the branches' features, each L2-normalised, side by side (training-only ones left out).

        DCAL concatenates the class tokens of SA and GLCA and does not state the normalisation; HA-CNN states this one.
        """
        kept = [F.normalize(f, dim=-1) for branch, f in self.features.items() if branch not in TRAINING_ONLY]
        return torch.cat(kept, dim=-1)

    @property
    def prediction(self) -> Float[Tensor, "B C"]:
        """Class probabilities, averaged over the branches (DCAL adds them: the same order)."""
        kept = [z.softmax(dim=-1) for branch, z in self.logits.items() if branch not in TRAINING_ONLY]
        return torch.stack(kept).mean(dim=0)


class LinearHead(nn.Module):
    """A linear classifier on the feature as it is: fine-grained recognition."""

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.classifier = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Float[Tensor, "B D"], *, track: bool = True) -> Float[Tensor, "B C"]:
        return self.classifier(features)


class BNNeckHead(nn.Module):
    """BatchNorm without learned shift, then a classifier without bias, for re-ID.

    With `track=False` a training batch is normalised by its own statistics and leaves the running
    ones alone: the PWCA branch shares this head, but at inference only the SA branch exists.

    Source: Luo et al. 2019; TransReID.
    """

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.norm.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(
        self,
        features: Float[Tensor, "B D"],
        *,
        track: bool = True,
    ) -> Float[Tensor, "B C"]:
        if track or not self.training:
            return self.classifier(self.norm(features))
        copies = {name: buffer.clone() for name, buffer in self.norm.named_buffers()}
        return self.classifier(functional_call(self.norm, copies, (features,)))


def create_head(kind: str, width: int, num_classes: int) -> nn.Module:
    """Return the head named `kind`: "linear" or "bnneck"."""
    heads = {"linear": LinearHead, "bnneck": BNNeckHead}
    check_choice("head", kind, heads)
    return heads[kind](width, num_classes)

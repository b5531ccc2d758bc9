"""Losses: batch-hard triplets and the uncertainty weighting of several branches. Cross-entropy is torch's own.

Letters: B batch, D width of a feature.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def batch_hard_triplet(
    features: Float[Tensor, "B D"], labels: Int[Tensor, "B"], *, margin: float | None = None
) -> Float[Tensor, ""]:
    """Pull each sample's farthest positive nearer than its nearest negative, by Euclidean distance in the batch.

    Args:
        features: as they leave the backbone, not normalised.
        labels: identities. A batch holds P identities with K images each.
        margin: distance by which negatives should be farther; None takes the soft margin log(1 + e^x).

    Raises:
        ValueError: all samples are of one identity, so that no negative exists.

    Source: Hermans et al. 2017, Eq. 5 and section 3.2; soft margin and sampling as in TransReID.
    """
    same = labels[:, None] == labels[None, :]
    if same.all():
        raise ValueError("a batch of at least two identities expected, got one; use the P x K sampler with P >= 2")
    features = features.to(torch.promote_types(features.dtype, torch.float32))  # half precision cannot rank distances
    distance = torch.cdist(features, features)
    positive = distance.masked_fill(~same, 0).amax(dim=1)
    negative = distance.masked_fill(same, torch.inf).amin(dim=1)
    gap = positive - negative
    return (F.softplus(gap) if margin is None else F.relu(gap + margin)).mean()


class UncertaintyWeighting(nn.Module):
    """Weigh the branches' losses by learned uncertainties: 1/2 sum_b (e^{-w_b} L_b + w_b).

    DCAL only says that it follows FairMOT; the extension from two to three branches and the start
    w = 0 are inferred. At the optimum w_b = log L_b, so the total is negative once the losses are
    small enough: that is no error. Give `parameters()` to the optimiser, without weight decay
    (FairMOT first forgot to).

    Args:
        branches: names of the losses.

    Source: Kendall & Gal 2018, section 3.2; FairMOT (Zhang et al. 2021), Eq. 7; Zhu et al. 2022,
        section 3.4.
    """

    def __init__(self, branches: Iterable[str]):
        super().__init__()
        self.w = nn.ParameterDict({branch: nn.Parameter(torch.zeros(())) for branch in branches})

    def forward(self, losses: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Return the weighted total of `losses`, branch -> scalar, of the branches named before."""
        if losses.keys() != self.w.keys():
            expected, got = (", ".join(sorted(names)) for names in (self.w, losses))
            raise ValueError(f"losses of the branches {expected} expected, got {got}")
        return 0.5 * sum((-w).exp() * losses[branch] + w for branch, w in self.w.items())

"""What is minimised and how: losses, learning rate, optimiser, as a recipe says."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcal_lite.heads import Output
from dcal_lite.losses import UncertaintyWeighting, batch_hard_triplet
from dcal_lite.precision import HALF
from dcal_lite.recipe import Recipe


def branch_losses(recipe: Recipe, output: Output, targets: Tensor) -> dict[str, Tensor]:
    """Each branch's loss: cross-entropy, plus the triplet loss where the recipe says so.

    PWCA's target is the label of the image itself, not of its partner (Zhu et al. 2022, section 3.3).
    """
    losses = {}
    for branch, logits in output.logits.items():
        losses[branch] = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)
        if branch in recipe.triplet:
            losses[branch] = losses[branch] + batch_hard_triplet(output.features[branch], targets, margin=recipe.margin)
    return losses


class Objective(nn.Module):
    """A model, its losses and their weights: all that is learned, as one module.

    Args:
        recipe: which losses.
        model: from `create_model`.
    """

    def __init__(self, recipe: Recipe, model: nn.Module):
        super().__init__()
        self.recipe, self.model = recipe, model
        learned = model.branches if recipe.weighting == "uncertainty" and len(model.branches) > 1 else ()
        self.weighting = UncertaintyWeighting(learned)

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Each branch's loss, and the total."""
        precision = self.recipe.precision
        with torch.autocast(images.device.type, HALF.get(precision), enabled=precision != "fp32"):
            output = self.model(images, targets)
        losses = branch_losses(self.recipe, output, targets)
        total = self.weighting(losses) if self.weighting.w else sum(losses.values())
        return losses | {"total": total}


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The learning rate at a fractional epoch, as a factor of the peak: linear warm-up, then a cosine or halvings."""
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr + (1 - recipe.warmup_lr) * epoch / recipe.warmup_epochs
    if recipe.halve_at:
        return 0.5 ** sum(epoch >= milestone for milestone in recipe.halve_at)
    return recipe.final_lr + (1 - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))


def create_optimizer(recipe: Recipe, model: nn.Module, weighting: UncertaintyWeighting) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, Adam or AdamW. Biases have their own factor; uncertainty weights are never decayed."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vector = parameter.ndim < 2 or name.endswith(("cls_token", "pos_embed"))
            decay = recipe.weight_decay if recipe.decay_vectors or not vector else 0.0
            factor = recipe.bias_lr if name.endswith("bias") else 1.0
            groups.setdefault((decay, factor), []).append(parameter)
    options = [{"params": parameters, "weight_decay": decay, "peak": factor * recipe.lr}
               for (decay, factor), parameters in groups.items()]  # fmt: skip
    options.append({"params": list(weighting.parameters()), "weight_decay": 0.0, "peak": recipe.lr})
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(options, lr=recipe.lr, momentum=0.9, fused=True)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(options, lr=recipe.lr, fused=True)

"""What a recipe costs, before it is run: iterations, operations, memory, and hours.

Operations and memory are counted, not measured: the model runs on PyTorch's meta device, which knows shapes only.
"""

import re
from dataclasses import dataclass, replace

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from dcal_lite.backbones import checkpoint_blocks
from dcal_lite.data import REAL, load_dataset
from dcal_lite.data.official import COUNTS
from dcal_lite.models import create_model
from dcal_lite.precision import HALF
from dcal_lite.recipe import Recipe

# Operations per second without sparsity, as the makers' data sheets have them: in half precision, and in float32 as
# PyTorch computes convolutions by default (in TF32 where the card has it).
PEAK = {"T4": (65e12, 8.1e12), "V100": (125e12, 15.7e12), "L4": (121e12, 60e12), "A10G": (70e12, 35e12),
        "A100": (312e12, 156e12), "H100": (989e12, 494e12), "H200": (989e12, 494e12)}  # fmt: skip
_TRAIN = ("train", "val", "bounding_box_train", "image_train")  # parts that are trained on, as papers do
_IMAGES = 4  # in the batch that is counted: two pairs


@dataclass(frozen=True)
class Cost:
    """What a run costs.

    Args:
        iterations: steps of the optimiser.
        images: that are trained on, counting each time.
        flops: floating-point operations for an image, forward and backward, those of recomputed blocks twice.
        memory: bytes of weights, gradients, optimiser and what the backward pass needs of a part of a batch. Attention
            is counted with its maps in memory, as it is where it is not fused; what is computed and dropped, or
            recomputed, takes some more for a moment.
        precision: of the recipe.
    """

    iterations: int
    images: int
    flops: float
    memory: float
    precision: str

    def hours(self, rate: float) -> float:
        """Hours of training at a rate of operations per second, best one that was measured (`measured_rates`)."""
        return self.images * self.flops / rate / 3600

    def least_hours(self, card: str) -> float:
        """Hours that a card of `PEAK` needs for the arithmetic alone, at its peak. Real training needs several times
        as many, of small layers and small batches tens of times."""
        return self.hours(peak(card, self.precision))


def peak(card: str, precision: str) -> float:
    """Operations per second of a card's data sheet, for a recipe's precision."""
    half, single = PEAK[card]
    return single if precision == "fp32" else half


def estimate(recipe: Recipe) -> Cost:
    """What a recipe costs; for a real dataset by its official counts."""
    images, labels = _size(recipe)
    per_batch = recipe.batch_size // (recipe.instances or 1)
    batches = labels // per_batch if recipe.identities_epoch else images // recipe.batch_size
    flops, parameters, saved = _count(recipe, labels)
    state = 3 if recipe.optimizer == "sgd" else 4  # weight, gradient, one or two moments, float32
    # Recomputed blocks keep the norms' inputs: in float32.
    halved = recipe.precision in HALF and not recipe.checkpoint_blocks
    kept = saved * recipe.batch_size / recipe.accumulate * (0.5 if halved else 1.0)
    iterations = recipe.epochs * batches
    memory = 4.0 * state * parameters + kept
    return Cost(iterations, iterations * recipe.batch_size, flops, memory, recipe.precision)


def utilisation(recipe: Recipe, labels: int, images_per_second: float, device: torch.device) -> float | None:
    """Share of a GPU's peak that training reached (MFU), 0..1; None for a device whose peak is not known.

    Source: Chowdhery et al., "PaLM", 2022, appendix B; recomputed blocks don't count.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    card = next((card for card in PEAK if card in re.split("[ -]", name)), None)
    once = replace(recipe, checkpoint_blocks=False)
    return None if card is None else _count(once, labels)[0] * images_per_second / peak(card, recipe.precision)


def _size(recipe: Recipe) -> tuple[int, int]:
    """Number of training images and of their labels."""
    if recipe.dataset not in REAL:
        train = load_dataset(recipe.dataset, **recipe.dataset_args)["train"]
        return len(train), len(train.classes)
    key = next(key for key in COUNTS if key.partition("/")[0] == recipe.dataset)
    parts = [count for part, count in COUNTS[key].items() if part in _TRAIN]
    return sum(images for images, _ in parts), max(labels for _, labels in parts)


def _count(recipe: Recipe, labels: int) -> tuple[float, int, float]:
    """Operations for an image, parameters, and bytes that the backward pass of an image needs, in float32."""
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with torch.device("meta"):
        model = create_model(recipe.model, num_classes=labels, img_size=recipe.img_size, **recipe.model_args).train()
    if recipe.checkpoint_blocks:
        checkpoint_blocks(model)
    parameters = list(model.parameters())
    images = torch.zeros(_IMAGES, 3, *recipe.img_size, device="meta")
    pairs = torch.arange(_IMAGES) // 2  # labels by which PWCA finds partners, of the same class and of another
    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(images, pairs).logits
        sum(z.sum() for z in logits.values()).backward()
    for parameter in parameters:  # counted apart
        saved.pop(parameter.untyped_storage()._cdata, None)
    kept = sum(storage.nbytes() for storage in saved.values())
    return counter.get_total_flops() / _IMAGES, sum(p.numel() for p in parameters), kept / _IMAGES

"""Training: one engine for every recipe.

A run writes one folder: `recipe.yaml` (resolved), `metrics.jsonl` (a line an epoch), `last/` (to resume),
`model.safetensors` and `result.json` (scores, seed, versions, device, commit). Each appears whole or not at all.

Nothing random carries over from step to step: batches follow from (seed, epoch), augmentation and the model's own
draws from (seed, epoch, step). So a run that was stopped and resumed is, on a CPU, the same run bit for bit.
"""

import hashlib
import json
import math
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from dcal_lite.checkpoint import load_checkpoint, remove_leftovers, save_checkpoint, write_json, write_text
from dcal_lite.data import load_dataset
from dcal_lite.data.records import Dataset
from dcal_lite.data.samplers import identity_batches, shuffled_batches
from dcal_lite.data.transforms import augment
from dcal_lite.evaluation import HALF, evaluate
from dcal_lite.heads import Output
from dcal_lite.losses import UncertaintyWeighting, batch_hard_triplet
from dcal_lite.models import create_model, save_model
from dcal_lite.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path  # where everything is
    model: nn.Module  # trained, in evaluation mode
    arguments: dict[str, Any]  # of `create_model`, which rebuild the model
    result: dict[str, Any]  # what result.json says
    history: list[dict[str, Any]]  # one row an epoch, as in metrics.jsonl


def fit(
    recipe: Recipe,
    *,
    root: str | Path | None = None,
    weights: str | Path | None = None,
    output: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Run:
    """Train by a recipe, evaluate, and write the run's folder. A run that was stopped goes on where it was.

    Args:
        recipe: from `load_recipe`.
        root: folder of the dataset; None takes the environment variable DCAL_DATA, else `data`. Never saved. Decoded
            images are kept between runs in the folder DCAL_CACHE, if this variable is set (`Split.images`).
        weights: .safetensors file to start from, instead of timm's download.
        output: the run's folder; None takes `runs/` plus the recipe's name, dataset and digest.
        device: None takes the GPU where there is one.
        progress: show bars.

    Raises:
        ValueError: the data or weights are unfit, or the folder holds a run of another recipe.
        FloatingPointError: the loss is not finite. The last checkpoint is kept.
    """
    folder = Path(output or f"runs/{recipe.name}-{recipe.dataset}-{recipe.preset}-{recipe.digest}")
    _check_folder(folder, recipe)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dataset = load_dataset(recipe.dataset, root, **recipe.dataset_args)
    arguments = {"name": recipe.model, "num_classes": len(dataset["train"].classes), "img_size": recipe.img_size,
                 "drop_path": recipe.drop_path, **recipe.model_args}  # fmt: skip
    torch.manual_seed(recipe.seed)
    model = create_model(**arguments, pretrained=weights or recipe.pretrained)
    model = model.to(device, memory_format=torch.channels_last)  # convolutions like it, others do not mind
    trainer = Trainer(recipe, model, dataset, device, progress)
    write_text(folder / "recipe.yaml", recipe.to_yaml())
    remove_leftovers(folder)
    trainer.resume(folder / "last")
    for epoch in range(trainer.epoch, recipe.epochs):
        trainer.run_epoch(epoch)
        save_checkpoint(folder / "last", epoch, trainer.state())
        write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in trainer.history))
    result = _describe(recipe, trainer, weights, device)
    save_model(model, folder / "model.safetensors", arguments, card=result)
    write_json(folder / "result.json", result)
    return Run(folder, model.eval(), arguments, result, trainer.history)


class Trainer:
    """Model, optimiser, data and history of one run, between epochs.

    Args:
        recipe: what to do.
        model: on `device`.
        dataset: its train split is decoded once (see `Split.images`) and kept as uint8 on `device`.
        device: where to train.
        progress: show bars.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, dataset: Dataset, device: torch.device, progress: bool):
        self.recipe, self.model, self.dataset, self.device, self.progress = recipe, model, dataset, device, progress
        self.images = dataset["train"].images(recipe.resize or recipe.img_size, progress=progress).to(device)
        self.targets = torch.from_numpy(dataset["train"].targets).to(device)
        learned = model.branches if recipe.weighting == "uncertainty" and len(model.branches) > 1 else ()
        self.weighting = UncertaintyWeighting(learned).to(device)
        self.optimizer = create_optimizer(recipe, model, self.weighting)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.history: list[dict[str, Any]] = []

    @property
    def epoch(self) -> int:
        """The number of completed epochs."""
        return len(self.history)

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        parts = {"model": self.model, "weighting": self.weighting, "optimizer": self.optimizer, "scaler": self.scaler}
        return {"history": self.history} | {name: part.state_dict() for name, part in parts.items()}

    def resume(self, folder: Path) -> None:
        """Take up the newest checkpoint of `folder`, if there is one."""
        state = load_checkpoint(folder, map_location=self.device)
        if state is not None:
            self.history = state["history"]
            for name in ("model", "weighting", "optimizer", "scaler"):
                getattr(self, name).load_state_dict(state[name])

    def run_epoch(self, epoch: int) -> None:
        """Train one epoch, evaluate if it is due, and append a row to `history`."""
        batches = self._batches(epoch)
        self.model.train()
        started, sums = time.perf_counter(), {}
        bar = tqdm(batches, desc=f"epoch {epoch + 1}/{self.recipe.epochs}", unit="batch", disable=not self.progress)
        for i, batch in enumerate(bar):
            losses = self._step(epoch, i, len(batches), torch.from_numpy(batch).to(self.device))
            sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
            bar.set_postfix(loss=f"{losses['total']:.3f}", refresh=False)
        seconds = time.perf_counter() - started
        row = {"epoch": epoch + 1, "lr": self.optimizer.param_groups[0]["lr"]}
        row |= {f"loss/{name}": value / len(batches) for name, value in sums.items()}
        row |= {f"w/{name}": w.item() for name, w in self.weighting.w.items()}
        row |= {"seconds": seconds, "images_per_second": len(batches) * self.recipe.batch_size / seconds}
        last, every = epoch + 1 == self.recipe.epochs, self.recipe.eval_every
        if last or (every and (epoch + 1) % every == 0):
            row |= self.evaluate()
        self.history = [*self.history, row]

    def evaluate(self) -> dict[str, float]:
        """The dataset's scores of the model as it is."""
        return evaluate(self.model, self.dataset, progress=self.progress, **self.recipe.evaluation())

    def _batches(self, epoch: int) -> list:
        recipe, targets = self.recipe, self.dataset["train"].targets
        if recipe.instances:
            return identity_batches(targets, recipe.batch_size, recipe.instances, seed=recipe.seed, epoch=epoch,
                                    once=recipe.identities_epoch)  # fmt: skip
        return shuffled_batches(len(targets), recipe.batch_size, seed=recipe.seed, epoch=epoch)

    def _step(self, epoch: int, step: int, steps: int, batch: Tensor) -> dict[str, float]:
        """Take step `step` of the epoch's `steps`; return the branches' losses and the total."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(recipe, epoch + step / steps)
        seed = int.from_bytes(hashlib.sha256(f"{recipe.seed}/{epoch}/{step}".encode()).digest()[:7], "little")
        torch.manual_seed(seed)  # stochastic depth, PWCA's pairs
        generator = torch.Generator().manual_seed(seed)
        images = self.images.index_select(0, batch)  # copies whole images, which [batch] does several times slower
        images = augment(images, recipe.img_size, generator, flip=recipe.flip, pad=recipe.pad, enlarge=recipe.enlarge,
                         erase=recipe.erase, erase_noise=recipe.erase_noise, mean=recipe.mean,
                         std=recipe.std)  # fmt: skip
        targets = self.targets[batch]
        with torch.autocast(self.device.type, HALF[recipe.precision], enabled=recipe.precision != "fp32"):
            output = self.model(images, targets)
        losses = branch_losses(recipe, output, targets)
        total = self.weighting(losses) if self.weighting.w else sum(losses.values())
        report = {name: value.item() for name, value in (losses | {"total": total}).items()}
        if not math.isfinite(report["total"]):
            raise FloatingPointError(_divergence(epoch, step, report, self.optimizer.param_groups[0]["lr"]))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return report


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


# ----------------------------------------------------------------------------------------------------- small things


def _check_folder(folder: Path, recipe: Recipe) -> None:
    saved = folder / "recipe.yaml"
    if saved.is_file() and load_recipe(saved).digest != recipe.digest:
        raise ValueError(f"{folder} holds a run of another recipe; choose another output folder or delete that one")


def _divergence(epoch: int, step: int, report: dict[str, float], lr: float) -> str:
    terms = ", ".join(f"{name} {value:.4g}" for name, value in report.items())
    return (f"the loss is not finite in epoch {epoch + 1}, step {step + 1} (learning rate {lr:.3g}; {terms}); the last "
            "checkpoint is kept: lower lr, lengthen warmup_epochs, or use precision=fp32")  # fmt: skip


def _describe(recipe: Recipe, trainer: Trainer, weights: str | Path | None, device: torch.device) -> dict[str, Any]:
    """What `result.json` says; no path of this machine is in it."""
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest() if weights else None
    keep = ("rank1", "rank5", "rank10", "mAP", "mAP_trapezoid", "mINP", "top1")
    row = trainer.history[-1]
    return {
        "recipe": recipe.name,
        "preset": recipe.preset,
        "dataset": recipe.dataset,
        "model": recipe.model,
        "branches": list(trainer.model.branches),
        "seed": recipe.seed,
        "digest": recipe.digest,
        "command": recipe.command(),
        "scores": {name: row[name] for name in keep if name in row},
        "epochs": recipe.epochs,
        "train_seconds": round(sum(row["seconds"] for row in trainer.history), 1),
        "images_per_second": round(row["images_per_second"], 1),
        "weights": {"file": Path(weights).name, "sha256": digest} if weights else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " CPU",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": version("timm")},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The repository's commit, with "+" where the library differs from it; None outside a repository."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", ".", ":!zoo"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit[:12] + ("+" if changed.stdout.strip() else "")

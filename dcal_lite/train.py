"""Training: one engine for every recipe.

A run writes one folder: `recipe.yaml` (resolved), `metrics.jsonl` (a line an epoch), `last/` (to resume),
`model.safetensors` and `result.json` (scores, seed, versions, device, commit). Each appears whole or not at all.

Nothing random carries over from step to step: batches follow from (seed, epoch), augmentation and the model's own
draws from (seed, epoch, step). So no state of a random generator need be saved, and a run that was stopped anywhere and
resumed is, on a CPU, the same run bit for bit.

A batch may be computed in equal parts: one after the other (`accumulate`), or by several processes (accelerate). The
gradient is the mean over the parts. PWCA's pairs and the triplet loss see one part at a time; BatchNorm sees the parts
that several GPUs compute at once, and on CPUs one part, for PyTorch's SyncBatchNorm refuses them. So two GPUs do what
one does alone, apart from pairs, triplets and stochastic depth, which are drawn or mined in parts; two CPU processes do
what one does with twice as many parts.
"""

import hashlib
import json
import logging
import math
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import GeneralTracker
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from torch import Tensor, nn
from tqdm.auto import tqdm

from dcal_lite.backbones import attention_for, checkpoint_blocks
from dcal_lite.checkpoint import load_checkpoint, remove_leftovers, save_checkpoint, write_json, write_text
from dcal_lite.costs import utilisation
from dcal_lite.data import load_dataset
from dcal_lite.data.batches import Batches
from dcal_lite.data.records import Dataset
from dcal_lite.data.samplers import identity_batches, shuffled_batches
from dcal_lite.data.transforms import augment
from dcal_lite.evaluation import check_task, evaluate
from dcal_lite.models import create_model, save_model
from dcal_lite.optimisation import Objective, create_optimizer, learning_rate
from dcal_lite.precision import choose_precision
from dcal_lite.recipe import Recipe, load_recipe

log = logging.getLogger("dcal_lite")
History = list[dict[str, Any]]  # a row an epoch


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path  # where everything is
    model: nn.Module  # trained, in evaluation mode
    arguments: dict[str, Any]  # of `create_model`, which rebuild the model
    result: dict[str, Any]  # what result.json says
    history: History  # one row an epoch, as in metrics.jsonl


def fit(
    recipe: Recipe,
    *,
    root: str | Path | None = None,
    weights: str | Path | None = None,
    output: str | Path | None = None,
    device: str | torch.device | None = None,
    workers: int | None = None,
    save_minutes: float = 10.0,
    compiled: bool = False,
    tracker: str | GeneralTracker | None = None,
    on_epoch: Callable[[History], None] | None = None,
    progress: bool = True,
) -> Run:
    """Train by a recipe, evaluate, and write the run's folder. A run that was stopped goes on where it was.

    The recipe decides the result; all other arguments only where and how it is made. In several processes (`accelerate
    launch -m dcal_lite train ...`, or accelerate's `notebook_launcher`) each calls `fit`, and the first one writes.

    Args:
        recipe: from `load_recipe`.
        root: folder of the dataset; None takes the environment variable DCAL_DATA, else `data`. Never saved. Decoded
            images are kept between runs in the folder DCAL_CACHE, if this variable is set (`Split.images`).
        weights: .safetensors file to start from, instead of timm's download.
        output: the run's folder; None takes `runs/` plus the recipe's name, dataset and digest.
        device: None takes the GPU where there is one; of several processes each its own.
        workers: processes that read images, or 0: all images stay in memory; None decides (`Batches`). With workers, a
            script on Windows or macOS must call `fit` under `if __name__ == "__main__":`, for each imports the script.
        save_minutes: longest time between two checkpoints, of which there is one after every epoch, too.
        compiled: compile the model (torch.compile): faster on a GPU after a slow start, other last digits.
        tracker: of accelerate's, as "tensorboard" (its package must be installed) or an object; gets each epoch's row.
        on_epoch: called with the history after every epoch, in a notebook to draw it.
        progress: show bars.

    Raises:
        ValueError: the data or weights are unfit, the tracker is missing, or the folder holds a run of another recipe.
        FloatingPointError: the loss is not finite. The last checkpoint is kept.
        torch.OutOfMemoryError: the GPU's memory is too small; says what needs less.
    """
    recipe = for_device(_as_begun(recipe, output), device)
    folder = Path(output or run_folder(recipe))
    _check_folder(folder, recipe)
    accelerator = _create_accelerator(tracker, folder)
    device = torch.device(device or accelerator.device)
    _check_processes(recipe, accelerator)
    dataset = load_dataset(recipe.dataset, root, **recipe.dataset_args)
    check_task(dataset, rerank=recipe.rerank)
    arguments = {"name": recipe.model, "num_classes": len(dataset["train"].classes), "img_size": recipe.img_size,
                 "drop_path": recipe.drop_path, **recipe.model_args}  # fmt: skip
    model = _create(recipe, arguments, weights, compiled).to(device)
    trainer = Trainer(recipe, model, dataset, folder / "last", accelerator, device, workers=workers,
                      save_minutes=save_minutes, progress=progress)  # fmt: skip
    if accelerator.is_main_process:
        write_text(folder / "recipe.yaml", recipe.to_yaml())
        remove_leftovers(folder)
    accelerator.wait_for_everyone()
    trainer.resume()
    _announce(trainer, tracker)
    while trainer.epoch < recipe.epochs:
        trainer.run_epoch()
        trainer.save()
        _report(trainer, folder, tracker)
        if on_epoch:
            on_epoch(trainer.history)
    if tracker:
        accelerator.end_training()
    result = _describe(recipe, trainer, weights, device)
    if accelerator.is_main_process:
        save_model(model, folder / "model.safetensors", arguments, card=result)
        write_json(folder / "result.json", result)
    accelerator.wait_for_everyone()
    return Run(folder, model.eval(), arguments, result, trainer.history)


def for_device(recipe: Recipe, device: str | torch.device | None = None) -> Recipe:
    """The recipe as a device carries it out: with a precision in the place of "auto".

    Args:
        recipe: from `load_recipe`.
        device: as in `fit`.

    Raises:
        ValueError: the device has no instructions for the recipe's precision.
    """
    state = PartialState(cpu=_on_cpu())
    chosen = [choose_precision(recipe.precision, torch.device(device or state.device))]
    if state.num_processes > 1:
        broadcast_object_list(chosen)  # they may measure differently
    return replace(recipe, precision=chosen[0])


def run_folder(recipe: Recipe) -> Path:
    """Where `fit` puts a run that is given no folder; the recipe comes from `for_device`."""
    return Path("runs") / f"{recipe.name}-{recipe.dataset}-{recipe.preset}-{recipe.digest}"


class Trainer:
    """Model, optimiser, data and history of one run.

    Args:
        recipe: what to do.
        model: on `device`.
        dataset: its train split gives the images, see `Batches`.
        folder: where checkpoints are kept.
        accelerator: knows the processes.
        device: where to train.
        workers, save_minutes, progress: as in `fit`.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        dataset: Dataset,
        folder: Path,
        accelerator: Accelerator,
        device: torch.device,
        *,
        workers: int | None = 0,
        save_minutes: float = math.inf,
        progress: bool = False,
    ):
        self.recipe, self.model, self.dataset, self.folder = recipe, model, dataset, folder
        self.accelerator, self.device, self.save_minutes = accelerator, device, save_minutes
        self.progress = progress and accelerator.is_main_process
        size = recipe.resize or recipe.img_size
        self.images = Batches(dataset["train"], size, device, workers=workers, progress=self.progress)
        self.targets = torch.from_numpy(dataset["train"].targets)
        objective = Objective(recipe, model).to(device)
        self.weighting = objective.weighting
        self.optimizer = create_optimizer(recipe, model, self.weighting)
        _share_statistics(objective, accelerator.num_processes, device)
        self.objective = accelerator.prepare_model(objective, device_placement=False)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.history: History = []
        self.step = 0  # so many steps of the current epoch are done ...
        self.sums: dict[str, float] = {}  # ... with these sums of losses and seconds
        self.explained = False  # what a negative loss means

    @property
    def epoch(self) -> int:
        """The number of completed epochs."""
        return len(self.history)

    def save(self) -> None:
        """Write a checkpoint: everything that the next step depends on."""
        if self.accelerator.is_main_process:
            state = {"history": self.history, "step": self.step, "sums": self.sums}
            state |= {name: part.state_dict() for name, part in self._stateful().items()}
            save_checkpoint(self.folder, self.epoch, self.step, state)

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        state = load_checkpoint(self.folder, map_location=self.device)
        if state is not None:
            self.history, self.step, self.sums = state["history"], state["step"], state["sums"]
            for name, part in self._stateful().items():
                part.load_state_dict(state[name])

    def _stateful(self) -> dict[str, Any]:
        return {"model": self.model, "weighting": self.weighting, "optimizer": self.optimizer, "scaler": self.scaler}

    def run_epoch(self) -> None:
        """Train to the end of the epoch, evaluate if it is due, and append a row to `history`."""
        batches = self.batches()
        self.model.train()
        images = self.images([share for batch in batches[self.step :] for share in self._shares(batch).values()])
        saved = last = time.perf_counter()
        losses = None
        bar = tqdm(desc=f"epoch {self.epoch + 1}/{self.recipe.epochs}", initial=self.step, total=len(batches),
                   unit="batch", disable=not self.progress)  # fmt: skip
        with bar, attention_for(self.model, self.recipe.precision):
            for batch in batches[self.step :]:
                losses, before = self._try(batch, images, len(batches)), losses
                self._look(before)  # one step late, so that a GPU always has work
                self.step += 1
                due = time.perf_counter() - saved > 60 * self.save_minutes
                if due or self.step == len(batches):
                    losses = self._look(losses)
                self._add("seconds", time.perf_counter() - last)
                last = time.perf_counter()
                if due:
                    self.save()
                    saved = time.perf_counter()
                bar.update()
        self._finish(len(batches))

    def _finish(self, steps: int) -> None:
        """Append the epoch's row; a new epoch begins."""
        row = {"epoch": self.epoch + 1, "lr": self.optimizer.param_groups[0]["lr"]}
        seconds, waiting = self.sums.pop("seconds"), self.sums.pop("waiting")
        row |= {f"loss/{name}": total / steps for name, total in self.sums.items()}
        row |= {f"w/{name}": w.item() for name, w in self.weighting.w.items()}
        row |= {"seconds": seconds, "images_per_second": steps * self.recipe.batch_size / seconds}
        row |= {"waiting": waiting / seconds}  # share of the time in which the next images were not there yet
        last, every = row["epoch"] == self.recipe.epochs, self.recipe.eval_every
        if last or (every and row["epoch"] % every == 0):
            row |= self.evaluate()
        self.history, self.step, self.sums = [*self.history, row], 0, {}

    def evaluate(self) -> dict[str, float]:
        """The dataset's scores of the model as it is."""
        return evaluate(self.model, self.dataset, progress=self.progress, **self.recipe.evaluation())

    def batches(self) -> list[np.ndarray]:
        """The current epoch's batches, of all processes."""
        recipe, targets = self.recipe, self.dataset["train"].targets
        if recipe.instances:
            return identity_batches(targets, recipe.batch_size, recipe.instances, seed=recipe.seed, epoch=self.epoch,
                                    once=recipe.identities_epoch)  # fmt: skip
        return shuffled_batches(len(targets), recipe.batch_size, seed=recipe.seed, epoch=self.epoch)

    def _shares(self, batch: np.ndarray) -> dict[int, np.ndarray]:
        """This process's parts of a batch, by their numbers: what processes compute at once lies side by side."""
        processes = self.accelerator.num_processes
        parts = np.split(batch, self.recipe.accumulate * processes)
        return {i: parts[i] for i in range(self.accelerator.process_index, len(parts), processes)}

    def _try(self, *arguments: Any) -> "_Losses":
        """Take a step, and say what helps if it does not fit into the GPU's memory."""
        try:
            return self._step(*arguments)
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(f"{_memory(self.recipe)} ({str(error).partition('.')[0]})") from error

    def _step(self, batch: np.ndarray, images: Iterator[Tensor], steps: int) -> "_Losses":
        """Take a step of the epoch's `steps`."""
        recipe, shares = self.recipe, self._shares(batch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(recipe, self.epoch + self.step / steps)
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for i, share in shares.items():
            started = time.perf_counter()
            decoded = next(images)
            self._add("waiting", time.perf_counter() - started)
            ready = i == max(shares)
            with nullcontext() if ready else self.accelerator.no_sync(self.objective):
                losses = self._part(i, decoded, share)
                self.scaler.scale(losses["total"] / len(shares)).backward()
            totals = {name: totals.get(name, 0) + loss.detach() / len(shares) for name, loss in losses.items()}
        self.scaler.step(self.optimizer)
        self.scaler.update()
        values = self.accelerator.reduce(torch.stack(list(totals.values())), "mean")
        return _Losses(self.step, list(totals), values)

    def _part(self, number: int, decoded: Tensor, places: np.ndarray) -> dict[str, Tensor]:
        """The losses of one part of a batch."""
        recipe, key = self.recipe, f"{self.recipe.seed}/{self.epoch}/{self.step}"
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "little")
        torch.manual_seed(seed + number)  # stochastic depth, PWCA's pairs
        images = augment(decoded, recipe.img_size, torch.Generator().manual_seed(seed), flip=recipe.flip,
                         pad=recipe.pad, enlarge=recipe.enlarge, erase=recipe.erase, erase_noise=recipe.erase_noise,
                         mean=recipe.mean, std=recipe.std, batch_size=recipe.batch_size,
                         part=slice(number * len(places), (number + 1) * len(places)))  # fmt: skip
        return self.objective(images, self.targets[places].to(self.device, non_blocking=True))

    def _look(self, losses: "_Losses | None") -> None:
        """Add up the losses of a step; stop if one is not finite."""
        if losses is None:
            return
        report = losses.wait()
        if not math.isfinite(report["total"]):
            raise FloatingPointError(_divergence(self, losses.step, report))
        for name, value in report.items():
            self._add(name, value)
        if report["total"] < 0 and not self.explained:
            self.explained = True
            log.info("the total loss is negative now, which is no error: 1/2 sum(e^-w L + w) with its learned weights "
                     "w is below 0 where the losses L are small")  # fmt: skip

    def _add(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value


class _Losses:
    """The losses of a step, on their way from the device."""

    def __init__(self, step: int, names: list[str], values: Tensor):
        self.step, self.names, self.values = step, names, values.to("cpu", non_blocking=values.is_cuda)
        self.there = torch.cuda.Event() if values.is_cuda else None  # elsewhere, the values are there already
        if self.there:
            self.there.record()

    def wait(self) -> dict[str, float]:
        """The losses by name."""
        if self.there:
            self.there.synchronize()
        return dict(zip(self.names, self.values.tolist(), strict=True))


# ----------------------------------------------------------------------------------------------------- small things


def _on_cpu() -> bool:
    """Whether to train on CPUs; told so, accelerate joins processes on CPUs, too."""
    return not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")


def _create_accelerator(tracker: str | GeneralTracker | None, folder: Path) -> Accelerator:
    accelerator = Accelerator(cpu=_on_cpu(), log_with=tracker, project_dir=folder if tracker else None)
    if tracker and not accelerator.log_with:
        raise ValueError(f"the package of the tracker {tracker!r} is missing: install it, or leave the tracker out")
    return accelerator


def _check_processes(recipe: Recipe, accelerator: Accelerator) -> None:
    """Raise ValueError where the recipe cannot be carried out as the processes were launched."""
    if accelerator.mixed_precision != "no":
        raise ValueError("the recipe decides the precision: launch with --mixed_precision no, and set precision=bf16")
    parts = recipe.accumulate * accelerator.num_processes
    whole = parts * math.lcm(recipe.pairs, recipe.instances or 1)
    if recipe.batch_size % whole:
        raise ValueError(f"a batch_size divisible by {whole} expected, got {recipe.batch_size}: it is computed in "
                         f"{parts} parts, each of whole pairs (PWCA) and of all images that an identity has in a "
                         "batch")  # fmt: skip


def _as_begun(recipe: Recipe, output: str | Path | None) -> Recipe:
    """The recipe, with what "auto" became when the run in the folder began, if it is the same run."""
    saved = Path(output, "recipe.yaml") if output else None
    if recipe.precision == "auto" and saved and saved.is_file():
        begun = load_recipe(saved)
        return begun if replace(recipe, precision=begun.precision) == begun else recipe
    return recipe


def _check_folder(folder: Path, recipe: Recipe) -> None:
    saved = folder / "recipe.yaml"
    if saved.is_file() and load_recipe(saved).digest != recipe.digest:
        raise ValueError(f"{folder} holds a run of another recipe; choose another output folder or delete that one")


def _create(recipe: Recipe, arguments: dict[str, Any], weights: str | Path | None, compiled: bool) -> nn.Module:
    """The model, as it is before training."""
    torch.manual_seed(recipe.seed)
    model = create_model(**arguments, pretrained=weights or recipe.pretrained)
    if recipe.checkpoint_blocks:
        checkpoint_blocks(model)
    if compiled:
        model.compile()
    return model.to(memory_format=torch.channels_last)  # convolutions like it, others do not mind


def _share_statistics(objective: Objective, processes: int, device: torch.device) -> None:
    """Let every BatchNorm see the images of all processes, as one process alone would; in place, on GPUs only."""
    if processes > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(objective)


def _announce(trainer: Trainer, tracker: str | GeneralTracker | None) -> None:
    """Say what the recipe means by an epoch, about which the samplers of the papers' codes disagree."""
    recipe, train = trainer.recipe, trainer.dataset["train"]
    kind = f"{recipe.instances} images of every identity" if recipe.identities_epoch else "nearly all images"
    log.info("an epoch is %d iterations of %d images: %s of the %s", len(trainer.batches()), recipe.batch_size, kind,
             f"{len(train):,}")  # fmt: skip
    if tracker:
        config = {key: str(value) for key, value in asdict(recipe).items()}
        trainer.accelerator.init_trackers("dcal_lite", config=config)


def _report(trainer: Trainer, folder: Path, tracker: str | GeneralTracker | None) -> None:
    """Write the history, and tell the tracker."""
    if trainer.accelerator.is_main_process:
        write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in trainer.history))
    if tracker:
        trainer.accelerator.log(trainer.history[-1], step=trainer.epoch)


def _memory(recipe: Recipe) -> str:
    less = [f"accumulate={2 * recipe.accumulate}"]
    if not recipe.checkpoint_blocks:
        less.append("checkpoint_blocks=true (transformers)")
    if recipe.precision == "fp32":
        less.append("precision=fp16")
    preset = "" if recipe.preset == "t4" else "use preset=t4, or "
    return f"the GPU's memory is too small for this recipe: {preset}add {', '.join(less)}"


def _divergence(trainer: Trainer, step: int, report: dict[str, float]) -> str:
    lr, train = trainer.optimizer.param_groups[0]["lr"], trainer.dataset["train"]
    terms = ", ".join(f"{name} {value:.4g}" for name, value in report.items())
    images = ", ".join(train.records[i].source for i in trainer.batches()[step][:4])
    whole = "" if trainer.recipe.precision == "fp32" else ", or use precision=fp32"
    return (f"the loss is not finite in epoch {trainer.epoch + 1}, step {step + 1} (learning rate {lr:.3g}; {terms}; "
            f"images {images}, ...); the last checkpoint is kept: lower lr, lengthen warmup_epochs{whole}")  # fmt: skip


def _describe(recipe: Recipe, trainer: Trainer, weights: str | Path | None, device: torch.device) -> dict[str, Any]:
    """What `result.json` says; no path of this machine is in it."""
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest() if weights else None
    keep = ("rank1", "rank5", "rank10", "mAP", "mAP_trapezoid", "mINP", "top1", "class_mean", "ece")
    row = trainer.history[-1]
    return {
        "recipe": recipe.name,
        "preset": recipe.preset,
        "dataset": recipe.dataset,
        "model": recipe.model,
        "branches": list(trainer.model.branches),
        "seed": recipe.seed,
        "precision": recipe.precision,
        "digest": recipe.digest,
        "command": recipe.command(),
        "scores": {name: row[name] for name in keep if name in row},
        "losses": {name.removeprefix("loss/"): row[name] for name in row if name.startswith("loss/")},  # last epoch's
        "epochs": recipe.epochs,
        "train_seconds": round(sum(row["seconds"] for row in trainer.history), 1),
        "images_per_second": round(row["images_per_second"], 1),
        "waiting": round(row["waiting"], 3),
        "mfu": utilisation(recipe, len(trainer.dataset["train"].classes), row["images_per_second"], device),
        "processes": trainer.accelerator.num_processes,
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
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True).stdout.decode()
        status = [*git, "status", "--porcelain", ".", ":!zoo"]
        changed = subprocess.run(status, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit[:12] + ("+" if changed.stdout.strip() else "")

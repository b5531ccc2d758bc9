"""The ledger: every number that the papers' tables claim, the recipe that answers it, and what our runs said.

`book/results/claims.csv` has a line for each number. The lines of one `row` are about one experiment: a recipe with
overrides, and perhaps further ones that concern the evaluation only: the same trained model is then evaluated again.
"""

import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from torch import nn

from dcal_lite.checkpoint import write_json
from dcal_lite.costs import Cost, estimate
from dcal_lite.data import load_dataset
from dcal_lite.errors import check_choice
from dcal_lite.evaluation import evaluate
from dcal_lite.models import load_model
from dcal_lite.precision import PRECISIONS
from dcal_lite.recipe import Recipe, as_word, list_recipes, load_recipe, parse_overrides
from dcal_lite.train import fit, for_device, run_folder

CLAIMS, RESULTS = "book/results/claims.csv", "book/results/runs"  # in the repository
FULL = ("paper", "t4")  # presets that train as the paper does
CHOICES = {
    "paper": ("DCAL", "RGA", "HA-CNN"),
    "metric": ("mAP", "rank1", "top1"),
    "sure": ("seen", "inferred", "unverified", ""),
    "claimant": ("paper", "re-run", "none"),
    "runnable": ("yes", "no"),
}
EVALUATION = ("dataset_args.protocol", "model_args.inference", "eval_flip", "distance", "rerank")  # no part of training


@dataclass(frozen=True)
class Claim:
    """A number that somebody published, or one that nobody did although it is worth knowing."""

    metric: str  # "mAP", "rank1" or "top1"
    value: float | None  # percent; None: nobody published it
    where: str  # in the publication
    source: str  # the public copy in which it was read
    sure: str  # "seen", "inferred", "unverified" (recalled: check it before use), or "" without a value
    claimant: str  # "paper", "re-run" (by a third party) or "none"


class Runs(NamedTuple):
    """Results of one experiment, each as `load_results` returns it."""

    full: list[dict[str, Any]]  # trained by the paper's recipe
    reduced: list[dict[str, Any]]  # by another preset or with changed settings: no reproduction


@dataclass(frozen=True)
class Experiment:
    """A row of the ledger."""

    row: str  # its name
    paper: str  # whose method it is
    method: str
    backbone: str
    dataset: str  # as `load_dataset` knows it, if the row is runnable
    protocol: str
    recipe: str  # name
    overrides: dict[str, Any]  # of the recipe
    evaluation: dict[str, Any]  # further ones, which training does not heed
    runnable: bool
    note: str  # why it is not runnable, or how it is to be read
    claims: tuple[Claim, ...] = ()

    def resolve(self, **overrides: Any) -> Recipe:
        """The recipe to train by; overrides as in `load_recipe`, `preset` and `seed` among them.

        Raises:
            ValueError: the row is not runnable, or as in `load_recipe`.
        """
        if not self.runnable:
            raise ValueError(f"{self.row} cannot be run: {self.note}")
        return load_recipe(self.recipe, **self.overrides | overrides)

    def cost(self, **overrides: Any) -> Cost:
        """What training costs; overrides as in `resolve`."""
        return estimate(self.resolve(**overrides))

    def command(self, arguments: str = "") -> str:
        """The command line that makes a result of this row; arguments as in "preset=t4 --seeds 0 1 2"."""
        return f"make reproduce ROW={self.row}" + (f" ARGS={shlex.quote(arguments)}" if arguments else "")

    def command_of(self, runs: Sequence[Mapping[str, Any]]) -> str:
        """The command line that makes results again; the data's place and the folder of a weight file are left out.

        Args:
            runs: results of this row that differ in their seeds only.
        """
        first = runs[0]
        changes = {"preset": first["preset"], **first.get("changes", {})}
        if self.resolve(**changes).precision == "auto":
            changes["precision"] = self.recipe_of(first).precision
        words = [f"{key}={as_word(value)}" for key, value in changes.items()]
        words += ["--seeds", *(str(seed) for seed in sorted(run["seed"] for run in runs))]
        words += ["--weights", first["weights"]["file"]] if first.get("weights") else []
        return self.command(" ".join(words))

    def runs(self, results: Sequence[Mapping[str, Any]]) -> Runs:
        """Those of `load_results` that belong to this experiment, by their recipes' digests."""
        own = [dict(result) for result in results if self.recipe_of(result)]
        full = [run for run in own if run["preset"] in FULL and not run.get("changes")]
        return Runs(full, [run for run in own if run not in full])

    def recipe_of(self, result: Mapping[str, Any]) -> Recipe | None:
        """The recipe that made a result of this experiment, by its digest; None for a result of another one."""
        kind = result["recipe"], result["dataset"], result.get("evaluation", {})
        changes = result.get("changes", {})
        if kind != (self.recipe, self.dataset, self.evaluation) or (changes and result["row"] != self.row):
            return None
        recipe = self.resolve(preset=result["preset"], seed=result["seed"], **changes)
        outcomes = PRECISIONS[1:] if recipe.precision == "auto" else [recipe.precision]
        recipes = (replace(recipe, precision=precision) for precision in outcomes)
        return next((recipe for recipe in recipes if recipe.digest == result["digest"]), None)


def device_of(run: Mapping[str, Any]) -> str:
    """What a result was made with, as in "NVIDIA H200" or "x86_64 CPU, 2 threads"."""
    threads = f", {run['threads']} thread{'s' * (run['threads'] > 1)}" if "CPU" in run["device"] else ""
    return run["device"] + threads


def measured_rates(
    ledger: Mapping[str, Experiment], results: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str, str], float]:
    """Operations per second that training reached in our runs, the most for each recipe, precision and device.

    Args:
        ledger: of `load_claims`.
        results: of `load_results`.

    Returns:
        (recipe's name, precision, device) -> rate, as `Cost.hours` takes it; devices as in `device_of`.
    """
    rates: dict[tuple[str, str, str], float] = {}
    flops: dict[str, float] = {}  # of an image, by the digest of the recipe with seed 0: counting takes a while
    for experiment in ledger.values():
        for run in (run for group in experiment.runs(results) for run in group):
            recipe = replace(experiment.recipe_of(run), seed=0)
            if recipe.digest not in flops:
                flops[recipe.digest] = estimate(recipe).flops
            key = recipe.name, recipe.precision, device_of(run)
            rates[key] = max(rates.get(key, 0.0), run["images_per_second"] * flops[recipe.digest])
    return rates


# ------------------------------------------------------------------------------------------------------- the file


def load_claims(path: str | Path = CLAIMS) -> dict[str, Experiment]:
    """Read the ledger.

    Returns:
        The experiments by their rows, in the order of the file.

    Raises:
        ValueError: there is no such file, or a line is wrong; its number is named.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no ledger {path}: run this in the repository's folder, or pass --claims")
    columns = {item.name for item in (*fields(Claim), *fields(Experiment))} - {"claims"}
    experiments: dict[str, Experiment] = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        if set(lines.fieldnames or ()) != columns:
            raise ValueError(f"{path} must have the columns {', '.join(sorted(columns))}, got {lines.fieldnames}")
        for line in lines:
            try:
                experiment = _experiment(line, experiments.get(line["row"]))
            except ValueError as error:
                raise ValueError(f"line {lines.line_num} of {path}: {error}") from None
            experiments[experiment.row] = experiment
    return experiments


def _experiment(line: dict[str, Any], known: Experiment | None) -> Experiment:
    """The experiment that a line is about, with the claims known so far and the line's own."""
    if None in line or None in line.values():
        raise ValueError("as many cells as in the first line expected; a cell with a comma needs quotes")
    for column, options in CHOICES.items():
        check_choice(column, line[column], options)
    own = {item.name: line[item.name] for item in fields(Experiment) if item.name != "claims"}
    overrides, evaluation = (parse_overrides(shlex.split(line[key])) for key in ("overrides", "evaluation"))
    own |= {"overrides": overrides, "evaluation": evaluation, "runnable": line["runnable"] == "yes"}
    experiment, claim = Experiment(**own), _claim(line)
    if known is None:
        _check(experiment)
        return replace(experiment, claims=(claim,))
    for column, value in own.items():
        if getattr(known, column) != value:
            raise ValueError(f"row {known.row} has another {column} here than above: one row, one experiment")
    if claim in known.claims:
        raise ValueError(f"this {claim.metric} of {known.row} stands above, too: delete one")
    return replace(known, claims=(*known.claims, claim))


def _claim(line: dict[str, str]) -> Claim:
    published = line["claimant"] != "none"
    if (bool(line["value"]), bool(line["sure"])) != (published, published):
        raise ValueError("a value and how sure it is expected, or neither of them where the claimant is none")
    try:
        value = float(line["value"]) if published else None
    except ValueError:
        raise ValueError(f"a value in percent expected, got {line['value']!r}") from None
    return Claim(line["metric"], value, line["where"], line["source"], line["sure"], line["claimant"])


def _check(experiment: Experiment) -> None:
    """Raise ValueError unless the row says why it is not runnable, or its recipe can be resolved."""
    if not experiment.runnable:
        if experiment.recipe or not experiment.note:
            raise ValueError(f"row {experiment.row} is not runnable: a note that says why expected, and no recipe")
        return
    check_choice("recipe", experiment.recipe, list_recipes())
    for key in experiment.evaluation:
        check_choice("override of the evaluation", key, EVALUATION)
    found = experiment.resolve(**experiment.evaluation).dataset
    if found != experiment.dataset:
        raise ValueError(f"dataset {experiment.dataset} expected, but the overrides lead to {found}")


# ------------------------------------------------------------------------------------------------------- running it


def reproduce(
    experiment: Experiment,
    *,
    overrides: Mapping[str, Any] | None = None,
    results: str | Path = RESULTS,
    root: str | Path | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> Path:
    """Train as a row says, evaluate, and write the result's file. A stopped run goes on, a finished one is taken up.

    Args:
        experiment: of `load_claims`.
        overrides: as in `Experiment.resolve`.
        results: folder for the result.
        root, device: as in `fit`.
        options: of `fit`: weights, workers, save_minutes, compiled, tracker, progress.

    Returns:
        The result's file, `<row>-<preset>-s<seed>.json`; with the recipe's digest in it where settings are changed,
        else with the precision that "auto" became, unless it is bf16.

    Raises:
        ValueError: as in `Experiment.resolve` and `fit`.
    """
    overrides = dict(overrides or {})
    recipe = for_device(experiment.resolve(**overrides), device)
    if not experiment.evaluation:
        _, result = _trained(recipe, root=root, device=device, **options)
    else:
        test = experiment.resolve(**overrides | experiment.evaluation)
        dataset = load_dataset(test.dataset, root, **test.dataset_args)  # before hours of training: is all of it there?
        model, result = _trained(recipe, root=root, device=device, **options)
        if "inference" in test.model_args:
            model.inference = test.model_args["inference"]
        result["scores"] = evaluate(model, dataset, progress=options.get("progress", True), **test.evaluation())
    changes = _changes(experiment, overrides)
    result |= {"row": experiment.row, "evaluation": experiment.evaluation, "changes": changes}
    auto = recipe.precision if experiment.resolve(preset=recipe.preset).precision == "auto" else "bf16"
    kind = [recipe.digest] if changes else [auto] * (auto != "bf16")
    name = [experiment.row, recipe.preset, *kind, f"s{recipe.seed}"]
    path = Path(results) / f"{'-'.join(name)}.json"
    if PartialState().is_main_process:
        write_json(path, result)
    PartialState().wait_for_everyone()
    return path


def _changes(experiment: Experiment, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that make another experiment of a row: not its preset, its seed, or a precision for "auto"."""
    kept = {"preset", "seed"}
    if experiment.resolve(**{key: value for key, value in overrides.items() if key != "precision"}).precision == "auto":
        kept.add("precision")
    return {key: value for key, value in overrides.items() if key not in kept}


def _trained(recipe: Recipe, *, device: str | torch.device | None, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model and its result. A finished run keeps the device, versions and commit it was made with."""
    folder = run_folder(recipe)
    if (folder / "result.json").is_file():
        model = load_model(folder / "model.safetensors").to(device or PartialState().device)
        return model, json.loads((folder / "result.json").read_text(encoding="utf-8"))
    run = fit(recipe, device=device, **options)
    return run.model, run.result

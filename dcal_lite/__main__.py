"""Command line: python -m dcal_lite {list,train,evaluate,reproduce}."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import OutOfMemoryError, cuda

from dcal_lite.costs import Cost, estimate
from dcal_lite.data import list_datasets, load_dataset
from dcal_lite.errors import check_choice
from dcal_lite.evaluation import evaluate
from dcal_lite.ledger import CLAIMS, RESULTS, Claim, Experiment, load_claims, measured_rates, reproduce
from dcal_lite.models import list_models, load_model
from dcal_lite.recipe import Recipe, list_recipes, load_recipe, parse_overrides
from dcal_lite.results import load_results
from dcal_lite.train import fit, for_device


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a caller's mistake is one line on standard error and exit status 2."""
    options = _parse(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("dcal_lite").setLevel(logging.INFO if _is_first() else logging.WARNING)
    try:
        options.run(options)
    except (ValueError, FloatingPointError, OutOfMemoryError, OSError) as error:  # OSError: a full disk, a wrong folder
        print(f"dcal_lite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ndcal_lite: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; overrides may stand before and after options."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    late = [word for word in rest if "=" in word and not word.startswith("-") and hasattr(options, "overrides")]
    if late != rest:
        parser.error(f"unrecognized arguments: {' '.join(word for word in rest if word not in late)}")
    if late:
        options.overrides = [*options.overrides, *late]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dcal_lite", description="Train and evaluate the book's models.")
    commands = parser.add_subparsers(required=True)

    shown = commands.add_parser("list", help="list recipes with their presets, models and datasets")
    shown.add_argument("--recipes", action="store_true", help="only recipes: cost and paper's score (some seconds)")
    shown.set_defaults(run=_list)

    train = commands.add_parser("train", help="train by a recipe; resumes a run that was stopped")
    train.description = "Several GPUs: accelerate launch -m dcal_lite train ..."
    train.add_argument("recipe", help="name of a recipe, see `list`, or a YAML file")
    _add_overrides(train, "preset=toy seed=1")
    train.add_argument("--output", help="the run's folder (default: runs/...)")
    _add_training(train)
    _add_place(train)
    train.set_defaults(run=_train)

    test = commands.add_parser("evaluate", help="evaluate the model of a run's folder")
    test.add_argument("folder", type=Path, help="a run's folder")
    _add_overrides(test, "eval_flip=true rerank=true")
    _add_place(test)
    test.set_defaults(run=_evaluate)

    again = commands.add_parser("reproduce", help="train, evaluate and write a row of the papers' tables")
    again.add_argument("row", help="of the ledger, e.g. dcal-deit-tiny-market1501")
    _add_overrides(again, "preset=t4")
    again.add_argument("--seeds", type=int, nargs="+", help="one run for each (default: the recipe's own)")
    again.add_argument("--claims", default=CLAIMS, help="the ledger (default: %(default)s)")
    again.add_argument("--results", default=RESULTS, help="folder for results (default: %(default)s)")
    _add_training(again)
    _add_place(again)
    again.set_defaults(run=_reproduce)
    return parser


def _add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    # Without a default argparse lists what may be left out among what is required.
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=f"recipe keys, e.g. {example}")


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", help=".safetensors file to start from, instead of timm's download")
    parser.add_argument("--workers", type=int, help="processes that read images; 0: images stay in memory")
    parser.add_argument("--save-minutes", type=float, default=10.0, help="between checkpoints (default: %(default)g)")
    parser.add_argument("--compiled", action="store_true", help="compile the model with torch.compile")
    parser.add_argument("--tracker", help="of accelerate's, e.g. tensorboard; must be installed")


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "DCAL_CACHE, an environment variable: folder to keep decoded images in, for the next run."
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--root", help="folder of the data (default: the environment variable DCAL_DATA, else data)")
    parser.add_argument("--archive", help="the dataset's archive, unpacked once into the root")


def _list(options: argparse.Namespace) -> None:
    if options.recipes:
        print(_costs())
        return
    for name, presets in list_recipes().items():
        print(f"recipe   {name:12} presets: {', '.join(presets)}")
    print("models  ", ", ".join(list_models()))
    print("datasets", ", ".join(list_datasets()))


def _costs() -> str:
    """What the recipes cost, and what the paper scored by them."""
    row = "{:12}{:9}{:28}{:12}{:>11}{:>9}{:>10}{:>11}{:>7}  {}".format
    lines = [row("recipe", "preset", "model", "dataset", "iterations", "memory", "T4", "H200", "ours", "paper")]
    ledger = load_claims() if Path(CLAIMS).is_file() else {}
    rates = measured_rates(ledger, load_results(RESULTS))
    for name, presets in list_recipes().items():
        for preset in sorted({"paper", "t4"} & set(presets)):
            recipe = load_recipe(name, preset=preset)
            cost = estimate(recipe)
            cells = [f"{cost.iterations:,}", f"{cost.memory / 1e9:.1f} GB"]
            cells += [f"> {60 * cost.least_hours(card):.2g} min" for card in ("T4", "H200")]
            cells.append(f"{min(measured.values()):.0f} h" if (measured := _measured(recipe, cost, rates)) else "-")
            lines.append(row(name, preset, recipe.model, recipe.dataset, *cells, _score(recipe, ledger.values())))
    return "\n".join([*lines, ">: the arithmetic alone, at the data sheet's peak; expect several times as long",
                      "ours: at the best rate of our published runs in this precision, any device"])  # fmt: skip


def _measured(recipe: Recipe, cost: Cost, rates: dict[tuple[str, str, str], float]) -> dict[str, float]:
    """Hours of a recipe on the devices on which its like was run."""
    return {
        device: cost.hours(rate)
        for (name, precision, device), rate in rates.items()
        if (name, precision) == (recipe.name, recipe.precision)
    }


def _score(recipe: Recipe, ledger: Iterable[Experiment]) -> str:
    """The paper's score for a recipe as it stands, or "-"."""
    for experiment in ledger:
        runnable = experiment.recipe == recipe.name and not experiment.evaluation
        if runnable and experiment.resolve(preset=recipe.preset) == recipe:
            return ", ".join(_number(claim) for claim in experiment.claims if claim.claimant == "paper") or "-"
    return "-"


def _number(claim: Claim) -> str:
    return f"{claim.metric} {claim.value}"


def _train(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe, **parse_overrides(options.overrides))
    run = fit(recipe, output=options.output, **_training(options, recipe))
    _say(json.dumps(run.result["scores"]), f"written to {run.folder}")


def _training(options: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """The arguments of `fit` that the options give; the archive is unpacked."""
    if options.archive:
        load_dataset(recipe.dataset, options.root, archive=options.archive, **recipe.dataset_args)
    names = ("root", "weights", "device", "workers", "save_minutes", "compiled", "tracker")
    return {name: getattr(options, name) for name in names}


def _reproduce(options: argparse.Namespace) -> None:
    ledger = load_claims(options.claims)
    check_choice("row", options.row, ledger)
    experiment, overrides = ledger[options.row], parse_overrides(options.overrides)
    recipe = for_device(experiment.resolve(**overrides), options.device)
    _say(f"{experiment.row}: {experiment.method}, {experiment.backbone}, {experiment.dataset}, {experiment.protocol}")
    for claim in experiment.claims:
        if claim.value is not None:
            _say(f"  {_number(claim)} by the {claim.claimant}: {claim.where}; {claim.sure}, {claim.source}")
    cost = estimate(recipe)
    _say(
        f"preset {recipe.preset}, {recipe.precision}, a run: {cost.iterations:,} iterations, {cost.memory / 1e9:.1f} GB"
    )
    small, large = (f"{60 * cost.least_hours(card):.2g}" for card in ("T4", "H200"))
    _say(f"  more than {small} minutes on a T4, {large} on an H200: the arithmetic alone, at the data sheet's peak")
    rates = measured_rates(ledger, load_results(options.results))
    for device, hours in _measured(recipe, cost, rates).items():
        _say(f"  about {hours:.1f} hours on {device}, by the best rate of our runs")
    places = _training(options, recipe)
    for seed in options.seeds or [recipe.seed]:
        path = reproduce(experiment, overrides=overrides | {"seed": seed}, results=options.results, **places)
        _say(json.dumps(json.loads(path.read_text(encoding="utf-8"))["scores"]), f"written to {path}")


def _evaluate(options: argparse.Namespace) -> None:
    if not (options.folder / "model.safetensors").is_file():
        raise ValueError(f"{options.folder} holds no finished run: train it, or start the stopped run again")
    recipe = load_recipe(options.folder / "recipe.yaml", **parse_overrides(options.overrides))
    extra = {"archive": options.archive} if options.archive else {}
    dataset = load_dataset(recipe.dataset, options.root, **recipe.dataset_args, **extra)
    device = options.device or ("cuda" if cuda.is_available() else "cpu")
    model = load_model(options.folder / "model.safetensors").to(device)
    print(json.dumps(evaluate(model, dataset, progress=True, **recipe.evaluation())))


def _say(*words: str) -> None:
    if _is_first():
        print(*words)


def _is_first() -> bool:
    """Whether this is the first of the processes that a launcher has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    raise SystemExit(main())

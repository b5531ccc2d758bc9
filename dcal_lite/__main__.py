"""Command line: python -m dcal_lite {list,train,evaluate}."""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from torch import OutOfMemoryError, cuda

from dcal_lite.costs import SHARE, estimate
from dcal_lite.data import list_datasets, load_dataset
from dcal_lite.evaluation import evaluate
from dcal_lite.models import list_models, load_model
from dcal_lite.recipe import list_recipes, load_recipe, parse_overrides


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a caller's mistake is one line on standard error and exit status 2."""
    options = _parser().parse_args(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dcal_lite", description="Train and evaluate the book's models.")
    commands = parser.add_subparsers(required=True)

    shown = commands.add_parser("list", help="list recipes with their presets, models and datasets")
    shown.add_argument("--recipes", action="store_true", help="only recipes, and what they cost (some seconds)")
    shown.set_defaults(run=_list)

    train = commands.add_parser("train", help="train by a recipe; resumes a run that was stopped")
    train.description = "Several GPUs: accelerate launch -m dcal_lite train ..."
    train.add_argument("recipe", help="name of a recipe, see `list`, or a YAML file")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys, e.g. preset=toy seed=1")
    train.add_argument("--weights", help=".safetensors file to start from, instead of timm's download")
    train.add_argument("--output", help="the run's folder (default: runs/...)")
    train.add_argument("--workers", type=int, help="processes that read images; 0: images stay in memory")
    train.add_argument("--save-minutes", type=float, default=10.0, help="between checkpoints (default: %(default)g)")
    train.add_argument("--compiled", action="store_true", help="compile the model with torch.compile")
    train.add_argument("--tracker", help="of accelerate's, e.g. tensorboard; must be installed")
    _add_place(train)
    train.set_defaults(run=_train)

    test = commands.add_parser("evaluate", help="evaluate the model of a run's folder")
    test.add_argument("folder", type=Path, help="a run's folder")
    test.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys, e.g. eval_flip=true rerank=true")
    _add_place(test)
    test.set_defaults(run=_evaluate)
    return parser


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
    """What the recipes cost on the GPU that they are written for, and on a small one."""
    row = "{:12}{:9}{:28}{:12}{:>11}{:>9}{:>8}{:>9}".format
    lines = [row("recipe", "preset", "model", "dataset", "iterations", "memory", "h on T4", "on H200")]
    for name, presets in list_recipes().items():
        for preset in sorted({"paper", "t4"} & set(presets)):
            recipe = load_recipe(name, preset=preset)
            cost = estimate(recipe)
            cells = f"{cost.iterations:,}", f"{cost.memory / 1e9:.1f} GB"
            hours = (f"{cost.hours(card):.2f}" for card in ("T4", "H200"))
            lines.append(row(name, preset, recipe.model, recipe.dataset, *cells, *hours))
    return "\n".join([*lines, f"hours: at {SHARE:.0%} of the card's peak, data waiting at hand, evaluation apart"])


def _train(options: argparse.Namespace) -> None:
    from dcal_lite.train import fit

    recipe = load_recipe(options.recipe, **parse_overrides(options.overrides))
    if options.archive:
        load_dataset(recipe.dataset, options.root, archive=options.archive, **recipe.dataset_args)
    names = ("root", "weights", "output", "device", "workers", "save_minutes", "compiled", "tracker")
    run = fit(recipe, **{name: getattr(options, name) for name in names})
    if _is_first():
        print(json.dumps(run.result["scores"]), f"written to {run.folder}")


def _evaluate(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.folder / "recipe.yaml", **parse_overrides(options.overrides))
    extra = {"archive": options.archive} if options.archive else {}
    dataset = load_dataset(recipe.dataset, options.root, **recipe.dataset_args, **extra)
    device = options.device or ("cuda" if cuda.is_available() else "cpu")
    model = load_model(options.folder / "model.safetensors").to(device)
    print(json.dumps(evaluate(model, dataset, progress=True, **recipe.evaluation())))


def _is_first() -> bool:
    """Whether this is the first of the processes that a launcher has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    raise SystemExit(main())

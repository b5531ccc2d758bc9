"""Make the zoo: python -m dcal_lite.zoo [NAME ...]. Trains each entry by its recipe and stores it as float16.

The score in a model's card is that of the stored, rounded weights: what a reader who loads them measures.
"""

import argparse
from pathlib import Path

from dcal_lite.data import load_dataset
from dcal_lite.errors import check_choice
from dcal_lite.evaluation import evaluate
from dcal_lite.models import save_model
from dcal_lite.recipe import load_recipe
from dcal_lite.train import fit

ZOO = {
    "plumage-baseline": ("dcal-fgvc", {"model_args.branches": ["sa"]}),
    "plumage-dcal": ("dcal-fgvc", {}),
    "promenade-baseline": ("dcal-reid", {"model_args.branches": ["sa"]}),
    "promenade-dcal": ("dcal-reid", {}),
    "promenade-resnet": ("rga-reid", {"model_args.variant": None}),
    "promenade-rga": ("rga-reid", {}),
    "promenade-hacnn": ("hacnn-reid", {}),
}


def main() -> None:
    """Train and store the entries named on the command line, all of them if none is."""
    parser = argparse.ArgumentParser(prog="python -m dcal_lite.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ZOO))
    for name in parser.parse_args().names or ZOO:
        check_choice("zoo model", name, ZOO)
        make(name)


def make(name: str) -> None:
    """Train one entry by its recipe's preset `toy`, round its weights to float16, score and store it."""
    method, overrides = ZOO[name]
    recipe = load_recipe(method, preset="toy", **overrides)
    run = fit(recipe)
    model = run.model.half().float()
    scores = evaluate(model, load_dataset(recipe.dataset, **recipe.dataset_args), **recipe.evaluation())
    path = Path(__file__).with_name(f"{name}.safetensors")
    save_model(model.half(), path, run.arguments, card=run.result | {"scores": scores})


if __name__ == "__main__":
    main()

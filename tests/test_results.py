"""The numbers we publish: every run's command gives the recipe whose digest stands in the file."""

import json
import shlex

import pytest

from dcal_lite.recipe import load_recipe, parse_overrides
from tests.notebooks import ROOT

RUNS = sorted((ROOT / "book" / "results" / "runs").glob("*.json"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_the_command_is_the_recipe(path):
    result = json.loads(path.read_text())
    name, *overrides = shlex.split(result["command"])[4:]
    recipe = load_recipe(name, **parse_overrides(overrides))
    assert recipe.digest == result["digest"] and recipe.seed == result["seed"]
    assert path.stem.startswith(f"{recipe.name}-{recipe.dataset}-{recipe.preset}-")  # then what tells it from others
    assert path.stem.endswith(f"-s{recipe.seed}")


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_scores_are_shares_and_name_their_code(path):
    result = json.loads(path.read_text())
    assert result["scores"] and all(0 <= score <= 1 for score in result["scores"].values())
    assert result["commit"] and not result["commit"].endswith("+"), "run it from a clean checkout"

"""The numbers we publish: every run's command gives the recipe whose digest stands in the file."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import dcal_lite as dl
from book.tools.notebooks import ROOT
from dcal_lite import localisation
from dcal_lite.data.promenade import TEST, Promenade, index_of
from dcal_lite.recipe import load_recipe, parse_overrides

RESULTS = ROOT / "book" / "results"
FILES = {path.stem: json.loads(path.read_text()) for path in sorted((RESULTS / "runs").glob("*.json"))}
LEDGER = dl.load_claims(RESULTS / "claims.csv")
COMPARED = json.loads((RESULTS / "five-attentions.json").read_text())
RUNS = FILES | {f"{run['training']}, {run['seed']}": run for run in COMPARED["runs"]}


def test_results_are_gathered_and_chosen():
    rows = dl.load_results(RESULTS / "runs")
    assert [row["command"] for row in rows] == [result["command"] for result in FILES.values()]
    for row, result in zip(rows, FILES.values(), strict=True):
        assert {**row, "scores": None} == {**result, **result["scores"], "scores": None}
    chosen = dl.load_results(RESULTS / "runs", recipe="dcal-reid", seed=0)
    expected = [file["scores"]["mAP"] for file in FILES.values() if (file["recipe"], file["seed"]) == ("dcal-reid", 0)]
    assert [row["mAP"] for row in chosen] == expected


def test_intervals_are_students():
    values = [59.5, 61.2, 58.0, 60.1]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert dl.interval(values) == pytest.approx((np.mean(values), expected.low, expected.high))
    assert str(dl.interval([50.0, 52.0])) == "51.0 ± 12.7"  # 12.71 standard errors of 1
    assert str(dl.interval([50.0])) == "50.0 (one seed)"
    with pytest.raises(ValueError, match="at least one seed expected, got none"):
        dl.interval([])


def test_methods_are_compared_seed_by_seed():
    scores = {"plain": {0: 50.0, 1: 60.0, 2: 55.0}, "ours": {1: 62.0, 2: 58.0, 5: 10.0}, "other": {7: 1.0}}
    plain, ours, other = dl.compare(scores)
    expected = stats.ttest_rel([62.0, 58.0], [60.0, 55.0]).confidence_interval(0.95)
    assert ours["difference"] == pytest.approx((2.5, expected.low, expected.high))
    assert (ours["seeds"], ours["score"].mean) == (3, pytest.approx(130 / 3))
    assert plain["difference"] is None and other["difference"] is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"scores": 3}'])
def test_a_file_that_is_no_result_is_named(tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result\.json is not the result of a run .*: remove it"):
        dl.load_results(tmp_path)


def recipe_of(result):
    name, *overrides = shlex.split(result["command"])[4:]
    return load_recipe(name, **parse_overrides(overrides))


@pytest.mark.parametrize("name", RUNS)
def test_the_command_is_the_recipe(name):
    recipe = recipe_of(RUNS[name])
    if recipe.precision == "auto":  # until 0.1 the presets said bf16, and results did not repeat it
        recipe = replace(recipe, precision="bf16")
    assert (recipe.digest, recipe.seed) == (RUNS[name]["digest"], RUNS[name]["seed"])


@pytest.mark.parametrize("stem", FILES)
def test_the_name_says_what_it_is(stem):
    result = FILES[stem]
    rows = [row for row, experiment in LEDGER.items() if any(experiment.runs([result]))]
    kind = f"-{result['digest']}" if result.get("changes") else ""
    if not kind and load_recipe(result["recipe"], preset=result["preset"]).precision == "auto":
        kind = {"bf16": ""}.get(precision := result.get("precision", "bf16"), f"-{precision}")
    assert stem in [f"{row}-{result['preset']}{kind}-s{result['seed']}" for row in rows]


@pytest.mark.parametrize("name", RUNS)
def test_scores_are_shares_and_name_their_code(name):
    result = RUNS[name]
    assert result["scores"] and all(0 <= score <= 1 for score in result["scores"].values())
    assert result["commit"] and not result["commit"].endswith("+"), "run it from a clean checkout"


def test_every_model_of_the_comparison_was_scored_with_every_seed():
    trainings, seeds = ({run[key] for run in COMPARED["runs"]} for key in ("training", "seed"))
    assert len(COMPARED["runs"]) == len(trainings) * len(seeds) and len(seeds) >= 5
    scored = [(row["training"], row["seed"], row["state"], row["map"]) for row in COMPARED["rows"] if "seed" in row]
    maps = {(training, map_) for training, _, _, map_ in scored}
    assert len(scored) == len(set(scored)) == 2 * len(seeds) * len(maps)
    assert {training for training, _ in maps} == trainings


def test_the_comparison_is_about_the_images_that_it_names():
    drawings = [Promenade().draw(index_of(TEST + k, camera, 0)) for k in range(80) for camera in range(4)]
    parts = torch.stack([torch.stack([torch.from_numpy(part) for part in d.masks.values()]) for d in drawings])
    flat, masks = torch.ones(len(parts), *parts.shape[2:]), parts.any(dim=1)
    row = next(row for row in COMPARED["rows"] if row["map"] == "the same everywhere")
    assert COMPARED["images"] == len(parts)
    assert row["energy inside"] == pytest.approx(masks.double().mean().item(), abs=1e-4)
    assert row["IoU, parts"] == pytest.approx(localisation.iou_at_area(flat, masks).mean().item(), abs=1e-4)

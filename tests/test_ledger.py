"""The ledger: what it says, that every row can be run, and that running one ends in a result that joins it."""

import csv
import json
import re
import shlex
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from importlib import import_module
from inspect import signature
from types import SimpleNamespace

import pytest
import torch
from timm.models.resnet import Bottleneck, ResNet

import dcal_lite as dl
from book.tools.notebooks import ROOT
from data_scripts.__main__ import main as data_scripts
from dcal_lite import ledger
from dcal_lite.__main__ import _parse, main
from dcal_lite.backbones import create_backbone
from dcal_lite.data import official
from dcal_lite.ledger import measured_rates
from dcal_lite.train import Trainer

FILE = ROOT / ledger.CLAIMS
LEDGER = dl.load_claims(FILE)
LINES = list(csv.DictReader(FILE.read_text(encoding="utf-8").splitlines()))
RUNNABLE = {row: experiment for row, experiment in LEDGER.items() if experiment.runnable}
RECIPES = {row: experiment.resolve() for row, experiment in RUNNABLE.items()}


def value(row, metric):
    """What the paper claims, in tenths of a percent: differences are then exact."""
    (line,) = (a for a in LINES if (a["row"], a["metric"], a["claimant"]) == (row, metric, "paper"))
    return round(10 * float(line["value"]))


def firsts(kind):
    """The first runnable row of each kind."""
    return {kind(row): row for row in reversed(RUNNABLE)}.values()


def fields(row, *names):
    return tuple(getattr(RUNNABLE[row], name) for name in names)


# ---------------------------------------------------------------------------------------------------- what it says


def test_every_line_is_in_its_experiment():
    assert list(LEDGER) == list(dict.fromkeys(line["row"] for line in LINES))
    assert sum(len(experiment.claims) for experiment in LEDGER.values()) == len(LINES)
    for line in LINES:
        claims = [(c.metric, "" if c.value is None else c.value, c.source) for c in LEDGER[line["row"]].claims]
        assert (line["metric"], line["value"] and float(line["value"]), line["source"]) in claims


def test_no_number_stands_twice():
    keys = ("row", "metric", "value", "claimant", "source", "where")
    assert max(Counter(tuple(line[key] for key in keys) for line in LINES).values()) == 1
    assert max(Counter((line["row"], line["metric"]) for line in LINES if line["claimant"] == "paper").values()) == 1


def test_different_rows_are_different_experiments():
    digests = {(RECIPES[row].digest, str(experiment.evaluation)) for row, experiment in RUNNABLE.items()}
    assert len(digests) == len(RUNNABLE)


def test_tables_1_and_2_of_dcal_are_complete():
    counts = Counter(line["where"] for line in LINES if line["paper"] == "DCAL")
    assert counts["Table 1"] == 5 * 2 * 3  # backbones, with and without DCAL, datasets
    assert counts["Table 2"] == 4 * 2 * 4 * 2  # and two metrics


def test_the_gains_that_the_texts_state():
    """Zhu et al. 2022: the abstract, and the ablation of the selection."""
    assert value("dcal-deit-tiny-msmt17", "mAP") - value("sa-deit-tiny-msmt17", "mAP") == 28
    assert value("dcal-vit-base-msmt17", "mAP") - value("sa-vit-base-msmt17", "mAP") == 24
    glca = value("sa-glca-deit-tiny-cub", "top1")
    assert glca - value("sa-glca-pool-deit-tiny-cub-random", "top1") == 5
    assert glca - value("sa-glca-pool-deit-tiny-cub-last", "top1") == 3
    for row, points in {"mge-cnn-cub": 35, "cin-cub": 39, "pc-cub": 51}.items():
        assert value("dcal-r50-vit-base-cub", "top1") - value(row, "top1") == points


def test_dcals_baselines_are_transreids():
    """TransReID's README: its ViT-Base baseline, mAP and rank-1, which DCAL's equals within noise."""
    released = {
        "msmt17": (61.8, 81.8),
        "market1501": (87.1, 94.6),
        "dukemtmcreid": (79.6, 89.0),
        "veri776": (79.0, 96.6),
    }
    for dataset, scores in released.items():
        for metric, score in zip(("mAP", "rank1"), scores, strict=True):
            assert abs(value(f"sa-vit-base-{dataset}", metric) - 10 * score) < 10


def test_dcal_gains_everywhere_but_once():
    baselines = (line for line in LINES if line["where"] in ("Table 1", "Table 2") and line["method"] == "baseline")
    pairs = [(line["row"], line["metric"]) for line in baselines]
    losses = [pair for pair in pairs if value(*pair) >= value(pair[0].replace("sa-", "dcal-", 1), pair[1])]
    assert len(pairs) == (30 + 64) / 2 and losses == [("sa-vit-base-dukemtmcreid", "rank1")]


# ------------------------------------------------------------------------------------------------------- it resolves


@pytest.mark.parametrize("row", RUNNABLE)
def test_the_overrides_are_of_the_rows_dataset_and_protocol(row):
    experiment = RUNNABLE[row]
    recipe = experiment.resolve(**experiment.evaluation)
    load = import_module(f"dcal_lite.data.{experiment.dataset}").load
    if "protocol" in signature(load).parameters:
        usual = signature(load).parameters["protocol"].default
        assert recipe.dataset_args.get("protocol", usual) == experiment.protocol
    assert recipe.preset == "paper" and recipe.dataset == experiment.dataset
    assert recipe.name.split("-")[0] == experiment.paper.lower().replace("-", "")


MODELS = {
    "DeiT-Tiny": "dcal_deit_tiny_patch16_224",
    "DeiT-Small": "dcal_deit_small_patch16_224",
    "DeiT-Base": "dcal_deit_base_patch16_224",
    "ViT-Base": "dcal_vit_base_patch16_224.augreg_in21k",
    "R50-ViT-Base": "dcal_vit_base_r50_s16_224.orig_in21k",
    "ResNet-50": "rga_resnet50",
    "HA-CNN": "hacnn",
}
PARTS = {  # of a method's name: what they ask of the model
    "baseline of DCAL": {"branches": ("sa",)},
    "baseline of RGA": {"variant": None},
    **{part: {} for part in ("DCAL", "RGA-SC", "HA-CNN", "SA alone at inference", "local queries")},
    "SA + GLCA": {"branches": ("sa", "glca")},
    "SA + PWCA": {"branches": ("sa", "pwca")},
    "pooled readout": {"readout": "pool"},
    "selection by the penultimate layer": {"selection": "last"},
    "random selection": {"selection": "random"},
    "keys and values": {"glca_keys": "local"},
    "partners from the SA stream": {"partner_stream": "sa"},
    "partners of the same class": {"partner": "intra"},
    "partners of other classes": {"partner": "inter"},
    "Gaussian noise for the partner": {"partner": "noise"},
    "RGA-S": {"variant": "s"},
    "RGA-C": {"variant": "c"},
    "RGA-CS": {"variant": "cs"},
    "RGA-S and RGA-C in parallel": {"variant": "s//c"},
    "without relations": {"relations": False},
    "without the original feature": {"original": False},
    "partial weights": {"stride_in_1x1": True},
    "gates open at the start": {"gate_bias": 3.0},
    "torchreid's port": {"port": True},
    "without attention": {"spatial": False, "channel": False, "regional": False},
    "spatial attention only": {"channel": False, "regional": False},
    "channel attention only": {"spatial": False, "regional": False},
    "spatial and channel attention": {"regional": False},
    "regional attention only": {"spatial": False, "channel": False},
    "without cross-attention interaction": {"cail": False},
}


@pytest.mark.parametrize("row", RUNNABLE)
def test_the_overrides_are_what_the_methods_name_says(row):
    experiment, recipe = RUNNABLE[row], RECIPES[row]
    expected = dl.load_recipe(experiment.recipe).model_args
    for part in re.split(", | (?=without)", experiment.method):
        expected |= PARTS[f"baseline of {experiment.paper}" if part == "baseline" else part]
    assert recipe.model_args == expected and recipe.model == MODELS[experiment.backbone]
    alone = "SA alone at inference" in experiment.method
    assert experiment.evaluation.get("model_args.inference") == (["sa"] if alone else None)


@pytest.mark.parametrize(
    "row", firsts(lambda row: (RECIPES[row].model, str(RECIPES[row].model_args), RECIPES[row].img_size))
)
def test_the_model_can_be_built(row):
    recipe = RECIPES[row]
    with torch.device("meta"):
        model = dl.create_model(recipe.model, num_classes=7, img_size=recipe.img_size, **recipe.model_args)
    assert tuple(model.img_size) == recipe.img_size
    wanted = {"DeiT-Tiny": 192, "DeiT-Small": 384, "ResNet-50": 2048, "HA-CNN": 512}  # width of a branch's feature
    head = next(iter(model.heads.values()))
    assert head.classifier.in_features == wanted.get(RUNNABLE[row].backbone, 768)


# ------------------------------------------------------------------------------------------------------- bad files


def edited(tmp_path, change):
    """A ledger of the first two lines and the first that is not runnable, changed."""
    lines = [dict(line) for line in (*LINES[:2], next(a for a in LINES if a["runnable"] == "no"))]
    change(lines)
    with (tmp_path / "claims.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return tmp_path / "claims.csv"


@pytest.mark.parametrize(
    ("place", "cells", "message"),
    [
        (0, {"sure": "sen"}, "line 2 of .*unknown sure 'sen': did you mean 'seen'"),
        (0, {"claimant": "papers"}, "unknown claimant 'papers': did you mean 'paper'"),
        (0, {"paper": "DCL"}, "unknown paper 'DCL': did you mean 'DCAL'"),
        (1, {"metric": "map"}, "line 3 of .*unknown metric 'map'"),
        (1, {"recipe": "dcal-fgcv"}, "unknown recipe 'dcal-fgcv': did you mean 'dcal-fgvc'"),
        (1, {"overrides": "model_arg.branches=[sa]"}, "did you mean 'model_args'"),
        (1, {"overrides": "dataset"}, "form key=value expected"),
        (1, {"overrides": "dataset=cars"}, "dataset cub expected, but the overrides lead to cars"),
        (1, {"evaluation": "epochs=3"}, "unknown override of the evaluation 'epochs'"),
        (1, {"value": "82,1"}, "a value in percent expected, got '82,1'"),
        (1, {"value": ""}, "a value and how sure it is expected"),
        (1, {"claimant": "none"}, "a value and how sure it is expected"),
        (1, dict(LINES[0]), "line 3 of .*this top1 of sa-deit-tiny-cub stands above, too"),
        (1, {"row": LINES[0]["row"]}, "line 3 of .*row sa-deit-tiny-cub has another method here than above"),
        (2, {"note": ""}, "line 4 of .*is not runnable: a note that says why expected"),
        (2, {"runnable": "perhaps"}, "unknown runnable 'perhaps'"),
    ],
)
def test_a_bad_line_is_named(place, cells, message, tmp_path):
    path = edited(tmp_path, lambda lines: lines[place].update(cells))
    with pytest.raises(ValueError, match=message) as error:
        dl.load_claims(path)
    assert "\n" not in str(error.value)


def test_bad_columns_and_ragged_lines_are_named(tmp_path):
    path = edited(tmp_path, lambda lines: None)
    text = path.read_text()
    path.write_text(text.replace("claimant", "claimer", 1))
    with pytest.raises(ValueError, match=r"must have the columns backbone, claimant, .*got \['row'"):
        dl.load_claims(path)
    path.write_text(text.rstrip() + ",more\n")
    with pytest.raises(ValueError, match=r"line 4 of .*as many cells as in the first line"):
        dl.load_claims(path)


# -------------------------------------------------------------------------------------------------- results join it


def result_of(experiment, **overrides):
    recipe = experiment.resolve(**overrides)
    if recipe.precision == "auto":  # what it became is part of a run
        recipe = replace(recipe, precision="fp32")
    fields = ("preset", "dataset", "seed", "digest")
    return {"recipe": recipe.name} | {field: getattr(recipe, field) for field in fields}


def test_results_join_by_digest_and_stand_apart_by_preset():
    dcal, sa = LEDGER["dcal-deit-tiny-market1501"], LEDGER["sa-deit-tiny-market1501"]
    full = [result_of(dcal, seed=4), result_of(dcal, preset="t4")]
    reduced = [result_of(dcal, preset="reduced", seed=1)]
    stale = result_of(dcal) | {"digest": "0" * 12}
    results = [*full, *reduced, stale, result_of(sa)]
    assert dcal.runs(results) == (full, reduced)
    assert sa.runs(results) == ([results[-1]], [])
    owners = [row for row, experiment in LEDGER.items() if any(experiment.runs(results[:1]))]
    assert owners == [dcal.row]


def test_rates_are_those_of_the_fastest_run_of_a_kind():
    experiment = LEDGER["hacnn-market1501"]
    measured = (20, "x86_64 CPU"), (25, "x86_64 CPU"), (900, "Tesla T4")
    runs = [result_of(experiment) | {"images_per_second": speed, "device": device, "threads": 2}
            for speed, device in measured]  # fmt: skip
    rates = measured_rates(LEDGER, runs)
    assert [device for *_, device in rates] == ["x86_64 CPU, 2 threads", "Tesla T4"]
    cost = experiment.cost()
    assert [cost.hours(rate) * 3600 for rate in rates.values()] == pytest.approx([cost.images / 25, cost.images / 900])


def test_a_result_of_another_evaluation_or_with_changed_settings_is_no_full_run():
    single, multi = LEDGER["hacnn-market1501"], LEDGER["hacnn-market1501-mq"]
    plain = result_of(single)
    again = plain | {"row": multi.row, "evaluation": {"dataset_args.protocol": "multi-query"}, "changes": {}}
    changed = result_of(single, lr=0.1) | {"row": single.row, "evaluation": {}, "changes": {"lr": 0.1}}
    results = [plain, again, changed]
    assert single.runs(results) == ([plain], [changed])
    assert multi.runs(results) == ([again], [])


def test_the_command_of_published_runs_makes_them_again():
    """Seeds apart, a row's runs of one preset are one command, in which the weight file is named, too."""
    changed = result_of(LEDGER["hacnn-market1501"], lr=1e-5, weighting="uncertainty", halve_at=[2, 3])
    changed |= {"weights": None, "changes": {"lr": 1e-5, "weighting": "uncertainty", "halve_at": [2, 3]}}
    groups = [(LEDGER["hacnn-market1501"], [changed | {"row": "hacnn-market1501"}])]
    for experiment in LEDGER.values():
        by_preset = {}
        for run in (run for part in experiment.runs(dl.load_results(ROOT / ledger.RESULTS)) for run in part):
            by_preset.setdefault(run["preset"], []).append(run)
        groups += [(experiment, runs) for runs in by_preset.values()]
    assert len(groups) > 1
    for experiment, runs in groups:
        program, target, row, *arguments = shlex.split(experiment.command_of(runs[::-1]))
        assert (program, target, row) == ("make", "reproduce", f"ROW={experiment.row}")
        options = _parse(["reproduce", experiment.row, *shlex.split(arguments[0].removeprefix("ARGS="))])
        overrides = dl.parse_overrides(options.overrides)
        recipes = {seed: experiment.resolve(**overrides, seed=seed) for seed in options.seeds}
        assert "auto" not in {recipe.precision for recipe in recipes.values()}
        digests = {seed: recipe.digest for seed, recipe in recipes.items()}
        assert digests == {run["seed"]: run["digest"] for run in runs}
        assert {options.weights} == {run["weights"] and run["weights"]["file"] for run in runs}


# ----------------------------------------------------------------------------------------------------- running a row


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory):
    """Makes and verifies a dataset's miniature once, and returns its folder. A test sees its numbers as published."""
    made, read = {}, {}

    def read_once(command, **options):
        """SciPy's reader of MATLAB files starts a process each time."""
        if command[-1] not in read:
            read[command[-1]] = subprocess.run(command, **options)
        return read[command[-1]]

    def make(name, monkeypatch):
        monkeypatch.setattr(
            "dcal_lite.data.matlab.subprocess", SimpleNamespace(**vars(subprocess) | {"run": read_once})
        )
        new = name not in made
        if new:
            root = tmp_path_factory.mktemp(f"miniature-{name}")
            assert data_scripts(["miniature", name, "--root", str(root), "--labels", "6"]) == 0
            archive = min(path for path in root.iterdir() if path.suffix != ".mat")
            dl.load_dataset(name, root, archive=archive, check_counts=False)
            made[name] = root, *_numbers(name, root)
        root, counts, cameras = made[name]
        for key, numbers in counts.items():
            monkeypatch.setitem(official.COUNTS, key, numbers)
        if name in official.CAMERAS:
            monkeypatch.setitem(official.CAMERAS, name, cameras)
        assert not new or data_scripts(["verify", name, "--root", str(root)]) == 0
        return root

    return make


def _numbers(name, root):
    """The miniature's counts, by the keys of the official ones, and its number of cameras."""
    module = import_module(f"dcal_lite.data.{name}")
    find = getattr(module, "find", lambda root, layout: layout.find(root))
    counts, cameras = {}, set()
    for version, layout in getattr(module, "LAYOUTS", {"": getattr(module, "LAYOUT", None)}).items():
        folder = find(root, layout)
        if (folder / layout.holds[0]).exists():  # of MSMT17, the first version only
            parts = module.read_parts(folder, layout)
            key = f"{name}/{version}" if f"{name}/{version}" in official.COUNTS else name
            counts[key] = {part: official.count(records) for part, records in parts.items()}
            cameras |= {record.camera for records in parts.values() for record in records}
    return counts, len(cameras)


def two_blocks(name, *, img_size, pretrained, drop_path):
    """A transformer of two narrow blocks, whatever the name."""
    vit = create_backbone("vit_toy_patch8_64", img_size=img_size, drop_path=drop_path)
    vit.blocks = vit.blocks[:2]
    return vit


def four_blocks(name, *, pretrained):
    """A narrow ResNet of one bottleneck a stage."""
    return ResNet(Bottleneck, layers=(1, 1, 1, 1), channels=(16, 32, 64, 128), num_classes=0)


SMALL = {
    "dcal-fgvc": {"img_size": (64, 64), "resize": (72, 72)},
    "dcal-reid": {"img_size": (64, 32)},
    "rga-reid": {"img_size": (64, 32)},
    "hacnn-reid": {"img_size": (64, 32), "model_args.widths": (16, 16, 32), "model_args.features": 16},
}


def check_row(experiment, root, folder, monkeypatch, overrides):
    """Train two iterations, of which the second is resumed, and look at the result."""
    monkeypatch.chdir(folder)
    overrides = {"epochs": 2, "pretrained": False, **overrides}
    assert experiment.cost(**overrides).flops > 0  # the command line counts it first
    options = {"overrides": overrides, "results": folder / "results", "root": root, "device": "cpu", "progress": False}
    batches, run_epoch, seen = Trainer.batches, Trainer.run_epoch, []

    def one_epoch(self):
        seen.append(self.epoch)
        if seen == [0, 1]:
            raise KeyboardInterrupt
        run_epoch(self)

    monkeypatch.setattr(Trainer, "batches", lambda self: batches(self)[:1])
    monkeypatch.setattr(Trainer, "run_epoch", one_epoch)
    with pytest.raises(KeyboardInterrupt):
        dl.reproduce(experiment, **options)
    assert not (folder / "results").exists()
    path = dl.reproduce(experiment, **options)
    assert seen == [0, 1, 1]
    result = json.loads(path.read_text())
    assert path.stem == f"{experiment.row}-paper-{result['digest']}-s{result['seed']}"
    assert {claim.metric for claim in experiment.claims} <= result["scores"].keys()
    assert str(root) not in path.read_text() and str(folder) not in path.read_text()
    assert experiment.runs(dl.load_results(folder / "results")).reduced == [result | result.pop("scores")]
    (run,) = (folder / "runs").iterdir()
    model = dl.load_model(run / "model.safetensors").to(memory_format=torch.channels_last)  # as in training: same bits
    if experiment.method.endswith("SA alone at inference"):
        model.inference = ("sa",)
    load = import_module(f"dcal_lite.data.{experiment.dataset}").load
    protocol = {"protocol": experiment.protocol} if "protocol" in signature(load).parameters else {}
    expected = dl.evaluate(model, load(root, **protocol), **dl.load_recipe(run / "recipe.yaml").evaluation())
    assert json.loads(path.read_text())["scores"] == pytest.approx(expected)


KINDS = [*firsts(lambda row: fields(row, "paper", "method", "dataset", "protocol"))]
TRUE = [*dict.fromkeys([*KINDS, *firsts(lambda row: fields(row, "backbone", "recipe"))])]


@pytest.mark.parametrize("row", KINDS)
def test_every_kind_of_row_runs_on_a_miniature(row, miniatures, tmp_path, monkeypatch):
    experiment = RUNNABLE[row]
    monkeypatch.setattr("dcal_lite.models.create_backbone", two_blocks)
    monkeypatch.setattr("dcal_lite.models.create_resnet", four_blocks)
    overrides = {"batch_size": 12, "precision": "fp32", **SMALL[experiment.recipe]}
    check_row(experiment, miniatures(experiment.dataset, monkeypatch), tmp_path, monkeypatch, overrides)


def test_the_command_line_tells_the_claims_and_takes_a_finished_run_up(miniatures, tmp_path, monkeypatch, capsys):
    root = miniatures("market1501", monkeypatch)
    monkeypatch.chdir(tmp_path)
    few = ["epochs=1", "img_size=[64,32]", "model_args.widths=[16,16,32]", "model_args.features=16"]
    places = ["--claims", str(FILE), "--results", str(tmp_path), "--root", str(root), "--device", "cpu"]
    scores = []
    for row in ("hacnn-market1501", "hacnn-market1501-mq", "hacnn-market1501-mq"):
        capsys.readouterr()
        assert main(["reproduce", row, *few, *places, "--seeds", "3", "5"]) == 0
        shown = capsys.readouterr().out.splitlines()
        claims = [f"  {c.metric} {c.value} by the paper: {c.where}; seen, {c.source}" for c in LEDGER[row].claims]
        assert shown[1:3] == claims and shown[3].startswith("preset paper, fp32, a run: 1 iterations, ")
        scores.append([json.loads(line.partition(" written to ")[0]) for line in shown if " written to " in line])
        results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob(f"{row}-paper-*.json"))]
        assert sorted(result["seed"] for result in results) == [3, 5]
        assert all(result["scores"] in scores[-1] for result in results)
    assert scores[0] != scores[1] == scores[2]
    assert len(list((tmp_path / "runs").iterdir())) == 2  # trained once a seed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hacnn-market"], "unknown row 'hacnn-market': did you mean 'hacnn-market1501'"),
        (["rga-sc-prcc"], "rga-sc-prcc cannot be run: the dataset is not read by this library"),
        (["hacnn-market1501", "epoch=1"], "did you mean 'epochs'"),
        (["hacnn-market1501-mq", "--root", "nowhere"], "there is no folder nowhere/Market-1501"),
        (["hacnn-market1501", "--claims", "none.csv"], "there is no ledger none.csv: run this in the rep"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *words, *([] if "--claims" in words else ["--claims", str(FILE)])]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("row", TRUE)
def test_every_kind_of_row_runs_with_its_own_model_and_image_size(row, miniatures, tmp_path, monkeypatch):
    experiment = RUNNABLE[row]
    root = miniatures(experiment.dataset, monkeypatch)
    check_row(experiment, root, tmp_path, monkeypatch, {"batch_size": 8, "eval_batch_size": 8})
    shutil.rmtree(tmp_path / "runs")  # gigabytes, with the largest models

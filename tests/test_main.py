"""The command line, as a user meets it."""

import json
from functools import partial

import pytest

import dcal_lite as dl
from dcal_lite.__main__ import main
from dcal_lite.costs import estimate
from dcal_lite.ledger import measured_rates

DATA = "dataset_args={train: 64, test: 32}"


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("dcal-reid", "cpu-quick", "dcal_deit_tiny_patch16_224", "market1501"))


@pytest.mark.parametrize(("command", "missing"), [("train", "recipe"), ("evaluate", "folder"), ("reproduce", "row")])
def test_only_what_is_required_is_said_to_be(command, missing, capsys):
    with pytest.raises(SystemExit):
        main([command])
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"the following arguments are required: {missing}")


def test_list_tells_what_recipes_cost_and_what_the_paper_scored(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("dcal_lite.__main__.list_recipes", lambda: {"hacnn-reid": ["paper", "t4", "toy"]})
    results = partial(dl.load_results, recipe="hacnn-reid")  # counting the operations of all takes a while
    monkeypatch.setattr("dcal_lite.__main__.load_results", results)
    assert main(["list", "--recipes"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[:5] for row in rows[1:3]] == [
        ["hacnn-reid", preset, "hacnn", "market1501", f"{150 * (12_936 // 32):,}"] for preset in ("paper", "t4")
    ]
    cost = estimate(dl.load_recipe("hacnn-reid"))
    scores = [
        word for claim in dl.load_claims()["hacnn-market1501"].claims for word in (claim.metric, str(claim.value))
    ]
    least = [*f"> {60 * cost.least_hours('T4'):.2g} min > {60 * cost.least_hours('H200'):.2g} min".split()]
    rates = measured_rates(dl.load_claims(), results("book/results/runs"))
    hours = min(cost.hours(rate) for (_, precision, _), rate in rates.items() if precision == cost.precision)
    assert rows[1].replace(",", " ").split()[-12:] == [*least, f"{hours:.0f}", "h", *scores]
    monkeypatch.setattr("dcal_lite.__main__.estimate", lambda recipe: cost)
    monkeypatch.chdir(tmp_path)  # where there is no ledger
    assert main(["list", "--recipes"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-8:] == [*least, "-", "-"]


def test_train_then_evaluate_give_the_same_score(tmp_path, capsys):
    words = ["train", "dcal-fgvc", "preset=smoke", "batch_size=16", DATA, "--output", str(tmp_path)]
    assert main(words) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["top1"] == pytest.approx(json.loads((tmp_path / "result.json").read_text())["scores"]["top1"])
    assert main(["evaluate", str(tmp_path), "eval_flip=true", "--device", "cpu"]) == 0
    recipe = dl.load_recipe(tmp_path / "recipe.yaml")
    data = dl.load_dataset(recipe.dataset, **recipe.dataset_args)
    flipped = dl.evaluate(dl.load_model(tmp_path / "model.safetensors"), data, **recipe.evaluation() | {"flip": True})
    assert json.loads(capsys.readouterr().out) == pytest.approx(flipped)


def test_evaluate_wants_a_finished_run(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(dl.load_recipe("dcal-fgvc", preset="smoke").to_yaml())
    for folder in (tmp_path, tmp_path / "none"):
        assert main(["evaluate", str(folder)]) == 2
        assert "holds no finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dcal-ried"], "did you mean 'dcal-reid'"),
        (["dcal-reid", "epoch=1"], "did you mean 'epochs'"),
        (["dcal-reid", "preset=toy", "model=dcal_vit_toy_patch9_64"], "did you mean 'vit_toy_patch8_64'"),
        (["dcal-reid", "preset=toy", "model_args.ratio=0"], r"ratio in (0, 1]"),
        (["dcal-reid", "preset=toy", "img_size=[64, 30]"], "divisible by the patch"),
        (["dcal-reid", "preset=cpu-quick", "--archive", "none.zip", "--root", "nowhere"], "none.zip"),
        (["dcal-reid", "preset=cpu-quick"], "DCAL_DATA"),
        (["dcal-reid", "--workers", "0", "epoch=1", "--root", "nowhere"], "did you mean 'epochs'"),
        (["dcal-reid", "preset=toy", "--weights", "none.safetensors"], "'none.safetensors' not found"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DCAL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and error.startswith("dcal_lite: ")
    assert list(tmp_path.iterdir()) == []


def test_what_no_command_knows_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "dcal-reid", "--root", "nowhere", "epochs=1", "--sead=3"])
    assert "unrecognized arguments: --sead=3\n" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dcal_lite.__main__.fit", interrupt)
    assert main(["train", "dcal-fgvc", "preset=smoke"]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err

import re
import shlex
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

import dcal_lite
from dcal_lite.recipe import Recipe, list_recipes, load_recipe, parse_overrides

ALL = [(name, preset) for name, presets in list_recipes().items() for preset in presets]


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_every_preset_resolves_and_survives_a_file(name, preset, tmp_path):
    recipe = load_recipe(name, preset=preset, seed=4)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again == recipe and again.digest == recipe.digest


def test_the_papers_numbers():
    """Zhu et al. 2022, section 4.1, as the fact sheet has them."""
    reid, fgvc = load_recipe("dcal-reid"), load_recipe("dcal-fgvc")
    assert (reid.img_size, reid.batch_size, reid.instances, reid.lr, reid.epochs) == ((256, 128), 64, 4, 0.008, 120)
    assert (reid.optimizer, reid.weight_decay, reid.model_args["ratio"]) == ("sgd", 1e-4, 0.3)
    assert reid.triplet == ("sa", "glca")
    assert (fgvc.resize, fgvc.img_size, fgvc.batch_size, fgvc.epochs) == ((550, 550), (448, 448), 16, 100)
    assert (fgvc.optimizer, fgvc.weight_decay, fgvc.model_args["ratio"]) == ("adamw", 0.05, 0.1)
    assert fgvc.lr == pytest.approx(5e-4 / 512 * fgvc.batch_size)


@pytest.mark.parametrize("name", list_recipes())
def test_every_setting_has_its_source(name):
    text = (Path(dcal_lite.__file__).parent / "recipes" / f"{name}.yaml").read_text()
    settings = re.search(r"^settings:\n(.*?)^presets:", text, re.M | re.S)[1]
    silent = [line for line in settings.splitlines() if re.search(r": \w", line) and "#" not in line]
    assert [line for line in silent if not line.strip().startswith("dataset:")] == []


def test_every_field_is_read_by_the_engine():
    library = Path(dcal_lite.__file__).parent
    text = "".join((library / f).read_text() for f in ("train.py", "optimisation.py", "recipe.py"))
    unread = [f.name for f in fields(Recipe) if not re.search(rf"(recipe|self)\.{f.name}\b", text)]
    assert unread == []


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"seed": 7},
        {"dataset": "veri776"},
        {"model_args.branches": ["sa"]},
        {"flip": 0},
        {"lr": 1e-5, "margin": 0.3, "resize": [300, 150]},
    ],
)
def test_the_command_reproduces_the_recipe(overrides):
    recipe = load_recipe("dcal-reid", preset="cpu-quick", **overrides)
    words = shlex.split(recipe.command())
    assert words[:4] == ["python", "-m", "dcal_lite", "train"]
    assert load_recipe(words[4], **parse_overrides(words[5:])) == recipe


def test_a_dataset_and_a_model_bring_settings_that_a_preset_or_the_caller_may_overrule():
    assert load_recipe("dcal-reid", dataset="veri776").img_size == (256, 256)
    assert load_recipe("dcal-reid", dataset="msmt17").img_size == (256, 128)
    assert load_recipe("dcal-reid", dataset="veri776", preset="cpu-quick").img_size == (128, 64)
    assert load_recipe("dcal-reid", dataset="veri776", img_size=(64, 64)).img_size == (64, 64)
    vit = "dcal_vit_base_patch16_224.augreg_in21k"
    assert load_recipe("dcal-fgvc", model=vit).mean == load_recipe("dcal-fgvc", model=vit).std == (0.5, 0.5, 0.5)


def test_digests_differ_with_any_setting():
    digests = [load_recipe("dcal-reid", **o).digest for o in ({}, {"seed": 1}, {"model_args.readout": "pool"})]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epoch": 3}, "unknown recipe key 'epoch': did you mean 'epochs'"),
        ({"epochs": 1.5}, "'epochs' takes int, got 1.5"),
        ({"epochs": True}, "'epochs' takes int, got True"),
        ({"triplet": True}, "'triplet' takes .*str.*, got True"),
        ({"triplet": [1]}, "'triplet' takes"),
        ({"triplet": ["sla"]}, "unknown branch 'sla': did you mean 'sa'"),
        ({"img_size": 256}, "'img_size' takes"),
        ({"img_size": [256]}, "'img_size' takes"),
        ({"epochs": 0}, "at least 1"),
        ({"optimizer": "admw"}, "did you mean 'adamw'"),
        ({"precision": "half"}, "unknown precision"),
        ({"preset": "cpu-quik"}, "did you mean 'cpu-quick'"),
        ({"epochs.x": 3}, "holds no dictionary"),
        ({"batch_size": 7}, "even batch_size expected, got 7"),
    ],
)
def test_bad_values(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("dcal-reid", **overrides)


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'dcal-reid'"):
        load_recipe("dcal-ried")
    path = tmp_path / "r.yaml"
    for text, message in [("[1, 2]", "holds no recipe"), ("a: [", "no YAML"), ("name: x", "lacks preset, model")]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_recipe(path)


def test_overrides_are_yaml():
    assert parse_overrides(["a=1", "b.c=[x, y]", "d=null", "e=1.0e-3", "f=1e-3", "g=e1"]) == {
        "a": 1, "b.c": ["x", "y"], "d": None, "e": 0.001, "f": 0.001, "g": "e1"}  # fmt: skip
    with pytest.raises(ValueError, match="key=value expected, got 'epochs'"):
        parse_overrides(["epochs"])


def test_a_digest_says_what_differs_from_the_defaults():
    recipe = load_recipe("dcal-fgvc")
    changed = [f for f in fields(Recipe) if getattr(recipe, f.name) != f.default and f.default_factory is MISSING]
    assert {"name", "model", "lr", "drop_path"} <= {f.name for f in changed}
    assert "margin" not in {f.name for f in changed}
    digests = {replace(recipe, margin=0.3).digest, replace(recipe, flip=0.4).digest, recipe.digest}
    assert len(digests) == 3
    assert replace(recipe, margin=None).digest == recipe.digest

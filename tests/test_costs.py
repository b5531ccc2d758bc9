"""Costs: counted operations and memory against formulas, hand counts and a measured forward pass."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import dcal_lite as dl
from dcal_lite import costs
from dcal_lite.costs import _count, estimate, utilisation

PLAIN = {"model_args.branches": ["sa"]}


def test_operations_of_a_transformer_equal_the_formula():
    recipe = dl.load_recipe("dcal-fgvc", preset="toy", **PLAIN)
    patches, width, layers, labels = 64, 96, 6, 120  # 8 x 8 patches of 8 x 8 pixels
    tokens = patches + 1
    block = 2 * tokens * width * 12 * width + 4 * tokens**2 * width  # qkv, projection, MLP; map and values
    forward = layers * block + 2 * width * labels
    embedding = 2 * patches * 3 * 8 * 8 * width  # the images need no gradient: once less
    flops, parameters, _ = _count(recipe, labels)
    assert flops == pytest.approx(3 * forward + 2 * embedding, rel=0.01)
    model = dl.create_model(recipe.model, num_classes=labels, img_size=recipe.img_size, **recipe.model_args)
    assert parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["dcal-reid", "rga-reid", "hacnn-reid"])
def test_memory_equals_what_a_forward_pass_leaves(name):
    recipe = dl.load_recipe(name, preset="toy")
    model = dl.create_model(recipe.model, num_classes=50, img_size=recipe.img_size, **recipe.model_args).train()
    images, labels = torch.randn(4, 3, *recipe.img_size), torch.zeros(4, dtype=torch.long)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        output = model(images, labels)
    held = sum(e.nbytes() for e in record.profiler.kineto_results.events() if e.name() == "[memory]")
    assert _count(recipe, 50)[2] == pytest.approx(held / 4, rel=0.2)
    assert output


def test_iterations_and_images_by_hand():
    reid, fgvc, rga = (estimate(dl.load_recipe(name, preset=preset, **more)) for name, preset, more in (
        ("dcal-reid", "paper", {}), ("dcal-fgvc", "toy", {"dataset_args": {"train": 960, "test": 240}}),
        ("rga-reid", "paper", {})))  # fmt: skip
    assert (reid.iterations, reid.images) == (120 * (12_936 // 64), 120 * (12_936 // 64) * 64)
    assert fgvc.iterations == 5 * (960 // 64)
    assert rga.iterations == 600 * (751 // 16)  # identities, four images of each
    assert reid.hours(1e12) == pytest.approx(120 * 202 * 64 * reid.flops / 1e12 / 3600)
    assert reid.least_hours("T4") == reid.hours(65e12)  # bf16
    assert replace(reid, precision="fp32").least_hours("T4") == reid.hours(8.1e12)


def test_a_readout_that_needs_the_rollout_is_counted_too():
    cls, pool = (estimate(dl.load_recipe("dcal-reid", preset="toy", **{"model_args.readout": readout}))
                 for readout in ("cls", "pool"))  # fmt: skip
    assert cls.flops < pool.flops < 1.2 * cls.flops


@pytest.mark.parametrize("partner", ["intra", "inter"])
def test_whoever_the_partners_are_costs_the_same(partner):
    usual, other = (estimate(dl.load_recipe("dcal-reid", preset="toy", **{"model_args.partner": name}))
                    for name in ("random", partner))  # fmt: skip
    assert usual == other


def test_parts_and_half_precision_need_less():
    recipe = dl.load_recipe("dcal-reid", preset="toy")
    whole, parts, half = (
        estimate(dl.load_recipe("dcal-reid", preset="toy", **more)).memory
        for more in ({}, {"accumulate": 2}, {"precision": "bf16"})
    )
    assert parts < whole and parts == half
    assert estimate(recipe).memory == whole


LARGEST = {
    "dcal-fgvc": ["dcal_vit_base_patch16_224.augreg_in21k", "dcal_vit_base_r50_s16_224.orig_in21k"],
    "dcal-reid": ["dcal_vit_base_patch16_224.augreg_in21k"],
    "rga-reid": ["rga_resnet50"],
    "hacnn-reid": ["hacnn"],
}


@pytest.mark.parametrize(("name", "model"), [(name, model) for name, models in LARGEST.items() for model in models])
def test_the_papers_largest_models_fit_a_t4(name, model):
    dataset = {"dcal-fgvc": "cub", "dcal-reid": "veri776"}.get(name, "market1501")  # the largest images
    assert estimate(dl.load_recipe(name, preset="t4", model=model, dataset=dataset)).memory < 15e9


def test_recomputed_blocks_keep_what_enters_their_parts():
    """That is four times the tokens a block: the inputs of two norms, and what these give to attention and MLP.

    Beside them, the image for the patches' convolution and the tokens for the last norm.
    """
    plain = dl.load_recipe("dcal-fgvc", preset="toy", **PLAIN)
    again = replace(plain, checkpoint_blocks=True)
    tokens, width, layers = 65, 96, 6
    image, kept = 3 * 64 * 64, (4 * layers + 1) * tokens * width
    assert _count(again, 120)[2] == pytest.approx(4 * (image + kept), rel=0.06)
    assert estimate(plain).flops < estimate(again).flops < 4 / 3 * estimate(plain).flops
    assert estimate(replace(again, precision="bf16")).memory == estimate(again).memory


def test_utilisation_of_known_cards_only(monkeypatch):
    recipe = dl.load_recipe("dcal-fgvc", preset="toy", **PLAIN)
    cuda = torch.device("cuda")
    cards = {"NVIDIA H200": 989e12, "Tesla T4": 65e12, "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA GeForce RTX 3090": None}
    for name, peak in cards.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        expected = peak and _count(recipe, 120)[0] * 1e6 / peak
        assert utilisation(replace(recipe, precision="bf16"), 120, 1e6, cuda) == expected
    assert utilisation(recipe, 120, 1e6, torch.device("cpu")) is None
    assert costs.PEAK["H100"] == costs.PEAK["H200"]  # the same chip, more memory

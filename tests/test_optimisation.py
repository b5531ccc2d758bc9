"""Schedules, parameter groups and losses against hand counts."""

import pytest
import torch

import dcal_lite as dl
from dcal_lite.losses import UncertaintyWeighting, batch_hard_triplet
from dcal_lite.optimisation import branch_losses, create_optimizer, learning_rate


def test_learning_rate_is_linear_then_a_cosine():
    recipe = dl.load_recipe("dcal-reid")
    assert learning_rate(recipe, 0) == pytest.approx(0.01)
    assert learning_rate(recipe, 2.5) == pytest.approx((0.01 + 1) / 2)
    assert learning_rate(recipe, 60) == pytest.approx((1 + 0.002) / 2)
    assert learning_rate(recipe, 120) == pytest.approx(0.002)


def test_learning_rate_is_halved_where_the_recipe_says():
    recipe = dl.load_recipe("rga-reid")
    assert learning_rate(recipe, 10) == pytest.approx(0.01 + 0.99 / 2)
    expected = [0.5 ** ((epoch >= 80) + sum(epoch >= e for e in range(120, 361, 40))) for epoch in range(20, 600)]
    assert [learning_rate(recipe, epoch) for epoch in range(20, 600)] == expected
    constant = dl.load_recipe("hacnn-reid")
    assert {learning_rate(constant, epoch) for epoch in (0, 75, 149.9)} == {1.0}


def test_every_parameter_is_optimised_once_and_decayed_as_the_recipe_says():
    vit, resnet = "backbone.blocks.0.mlp.fc1", "backbone.layer1.0.bn1"
    for name, layer in {"dcal-reid": vit, "dcal-fgvc": vit, "rga-reid": resnet, "hacnn-reid": "stem.1"}.items():
        recipe = dl.load_recipe(name, preset="toy")
        model = dl.create_model(recipe.model, num_classes=5, img_size=recipe.img_size, **recipe.model_args)
        weighting = UncertaintyWeighting(model.branches)
        groups = create_optimizer(recipe, model, weighting).param_groups
        found = {id(p): group for group in groups for p in group["params"]}
        named = dict(model.named_parameters())
        wanted = [p for p in (*named.values(), *weighting.parameters()) if p.requires_grad]
        assert len(wanted) == len(found) == sum(len(group["params"]) for group in groups)
        assert all(found[id(w)]["weight_decay"] == 0 for w in weighting.parameters())
        weight, bias = named[f"{layer}.weight"], named[f"{layer}.bias"]
        decayed = recipe.decay_vectors or weight.ndim > 1
        assert found[id(weight)]["weight_decay"] == (recipe.weight_decay if decayed else 0)
        assert found[id(bias)]["weight_decay"] == (recipe.weight_decay if recipe.decay_vectors else 0)
        assert found[id(bias)]["peak"] == recipe.bias_lr * recipe.lr


def test_branch_losses_use_each_images_own_label():
    recipe = dl.load_recipe("dcal-reid", label_smoothing=0.1)
    torch.manual_seed(0)
    logits, features, targets = torch.randn(6, 4), torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 2, 3])
    output = dl.Output({"sa": logits, "pwca": -logits}, {"sa": features, "pwca": 2 * features})
    losses = branch_losses(recipe, output, targets)
    for branch, sign in (("sa", 1), ("pwca", -1)):
        log = (sign * logits).log_softmax(1)
        smoothed = -(0.9 * log[range(6), targets] + 0.1 * log.mean(1)).mean()
        expected = smoothed + (batch_hard_triplet(features, targets) if branch == "sa" else 0)
        torch.testing.assert_close(losses[branch], expected)

"""Saliency maps, derived a second way: from what the models compute with."""

import pytest
import torch
import torch.nn.functional as F

import dcal_lite as dl
from dcal_lite.saliency import _cover

EXACT = {"dtype": torch.float64}


def small(name: str, **options):
    torch.manual_seed(0)
    model = dl.create_model(name, num_classes=4, img_size=(64, 32), **options).double().eval()
    return model, torch.randn(3, 3, 64, 32, **EXACT)


def test_rollout_is_the_first_row_of_the_product():
    model, images = small("dcal_vit_toy_patch8_64", branches=["sa"])
    maps = dl.saliency_maps(model, images)
    assert maps.keys() == {"rollout"}
    whole = dl.rollout(dl.attention_maps(model, images))[:, 0, 1:]
    torch.testing.assert_close(maps["rollout"], whole.view(3, 8, 4))


def test_selection_is_what_glca_asks_with():
    model, images = small("dcal_vit_toy_patch8_64", branches=["sa", "glca"], readout="pool", ratio=0.25)
    selection = dl.saliency_maps(model, images)["selection"]
    asked = []
    model.glca.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[1]))
    model(images)
    for chosen, map_ in zip(asked[0], selection.flatten(1), strict=True):
        assert sorted(chosen.tolist()) == (1 + map_.nonzero()[:, 0]).tolist()


@pytest.mark.parametrize("glca_at", ["after", "parallel"])
def test_glca_map_times_values_is_what_the_class_token_takes(glca_at):
    """Per head, the map times the values, projected, must be what the attention layer adds to the class token."""
    model, images = small("dcal_vit_toy_patch8_64", branches=["sa", "glca"], glca_at=glca_at)
    block = model.glca.blocks[0]
    block.attn.num_heads = 1  # so that the mean over heads is the map
    block.attn.head_dim = model.backbone.embed_dim
    row = dl.saliency_maps(model, images)["glca"].flatten(1)
    seen = []
    block.attn.proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 0]))
    context = []
    block.norm1.register_forward_hook(lambda _, __, output: context.append(output))
    model(images)
    tokens = max(context, key=lambda x: x.shape[1])
    values = block.attn.qkv(tokens)[..., -model.backbone.embed_dim :]
    taken = torch.einsum("nk, nkd -> nd", row, values[:, 1:]) + (1 - row.sum(dim=1, keepdim=True)) * values[:, 0]
    torch.testing.assert_close(taken, seen[0])


@pytest.mark.parametrize("variant", ["s", "sc", "cs", "s//c"])
def test_gates_are_what_multiplies_the_map(variant):
    model, images = small("rga_resnet_toy", variant=variant)
    first = model.attention[0]
    inputs = []
    first.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    maps = dl.saliency_maps(model, images)
    assert list(maps) == ["gate 1", "gate 2", "gate 3", "gate 4"]
    position, channel = maps["gate 1"][:, None], 1.0
    if "c" in first.gates:
        seen = inputs[0] * position if variant == "sc" else inputs[0]
        channel = first.gates["c"](seen.flatten(2).mT)[:, 0, :, None, None]
    torch.testing.assert_close(inputs[0] * position * channel, first(inputs[0]))


def test_without_gates_over_positions():
    model, images = small("rga_resnet_toy", variant="c")
    with pytest.raises(ValueError, match="gates over positions expected"):
        dl.saliency_maps(model, images)
    with pytest.raises(ValueError, match="got Linear"):
        dl.saliency_maps(torch.nn.Linear(1, 1), images)


def test_hacnn_maps():
    model, images = small("hacnn", widths=[32, 64, 96], features=32)
    inputs = []
    model.attentions[1].soft.register_forward_hook(lambda _, args, out: inputs.append((args[0], out)))
    maps = dl.saliency_maps(model.train(), images)
    assert model.training
    assert list(maps) == ["soft 1", "regions 1", "soft 2", "regions 2", "soft 3", "regions 3"]
    x, weights = inputs[0]
    torch.testing.assert_close(maps["soft 2"], weights.sum(dim=1) / x.shape[1])
    assert (maps["regions 1"] == 1).all()  # untrained regions tile the image


def test_regions_cover_what_their_crops_see():
    """A pixel is under a region where the region's crop, cut at the image's own scale, depends on it."""
    centres = torch.tensor([[[0.0, -0.75], [0.5, 0.0]]])
    cover = _cover(centres, (32, 16))
    canvas = torch.ones(1, 1, 32, 16, requires_grad=True)
    dl.hacnn.crop_regions(canvas, centres, (1.0, 0.5), (16, 16)).sum().backward()
    torch.testing.assert_close(F.relu(canvas.grad[0, 0]), cover[0])


def test_occlusion_finds_what_the_model_reads():
    """A model that reads two pixels: only their squares move the embedding (of length 1)."""

    class Reader(torch.nn.Module):
        def forward(self, images):
            return dl.Output({}, {"a": torch.stack([images[:, 0, 1, 2], 2 * images[:, 2, 5, 7]], dim=1)})

    images = torch.randn(4, 3, 8, 12, **EXACT)
    maps = dl.occlusion_map(Reader(), images, cell=4)
    a, b = images[:, 0, 1, 2].abs(), 2 * images[:, 2, 5, 7].abs()
    expected = torch.zeros(4, 2, 3, **EXACT)
    expected[:, 0, 0], expected[:, 1, 1] = (
        2 * torch.sin(angle / 2) for angle in (torch.atan2(a, b), torch.atan2(b, a))
    )
    torch.testing.assert_close(maps, expected)
    with pytest.raises(ValueError, match="divides"):
        dl.occlusion_map(Reader(), images, cell=5)

"""HA-CNN: what the paper says of its parts, and the public port's output from its own weights."""

import numpy as np
import pytest
import torch

import dcal_lite as dl
from dcal_lite.hacnn import HACNN, HardAttention, HarmoniousAttention, SoftAttention, crop_regions, from_torchreid
from tests.oracles import PortHACNN, bilinear_crop

SMALL = {"img_size": (64, 32), "widths": (16, 32, 48), "features": 24}


def small(**options) -> HACNN:
    torch.manual_seed(0)
    return HACNN(5, **(SMALL | options))


def randomise(model):
    """Running statistics of a trained model, so that BatchNorm matters in evaluation."""
    for name, buffer in model.named_buffers():
        if "running_var" in name:
            buffer.uniform_(0.01, 0.1)
        elif "running_mean" in name:
            buffer.uniform_(-0.1, 0.1)
    return model.double().eval()


def test_the_ports_weights_give_the_ports_output():
    torch.manual_seed(0)
    port = randomise(PortHACNN(7))
    ours = HACNN(7, port=True).double().eval()
    ours.load_state_dict(from_torchreid(port.state_dict()))
    images = torch.randn(2, 3, 160, 64, dtype=torch.float64)
    expected, got = port(images), ours(images)
    for branch in ("global", "local"):
        assert (expected[branch] > 0).double().mean() > 0.2
        torch.testing.assert_close(got.features[branch], expected[branch])
        torch.testing.assert_close(got.logits[branch], expected[f"{branch} logits"])
    normal = [expected[branch] / expected[branch].norm(dim=1, keepdim=True) for branch in ("global", "local")]
    torch.testing.assert_close(got.embedding, torch.cat(normal, dim=1))


# --- Regions ---


def test_a_region_at_the_centre_with_unit_scale_is_the_map():
    x = torch.randn(2, 3, 10, 6, dtype=torch.float64)
    crop = crop_regions(x, torch.zeros(2, 1, 2, dtype=torch.float64), (1.0, 1.0), (10, 6))
    torch.testing.assert_close(crop[:, 0], x)


def test_regions_are_bilinear_samples():
    rng = np.random.default_rng(0)
    x, centres = rng.normal(size=(2, 3, 9, 7)), rng.uniform(-1, 1, (2, 3, 2))
    crops = crop_regions(torch.from_numpy(x), torch.from_numpy(centres), (0.8, 0.3), (4, 5))
    expected = [[bilinear_crop(x[b], centres[b, t], (0.8, 0.3), (4, 5)) for t in range(3)] for b in range(2)]
    np.testing.assert_allclose(crops.numpy(), np.array(expected), atol=1e-12)


def test_regions_start_as_strips_that_tile_the_image():
    x = torch.randn(2, 16, 8, 4)
    paper, port = HardAttention(16)(x), HardAttention(16, port=True)(x)
    torch.testing.assert_close(paper, torch.tensor([[0, -0.75], [0, -0.25], [0, 0.25], [0, 0.75]]).expand(2, -1, -1))
    torch.testing.assert_close(port[0, :, 1], torch.tensor([-0.6351, -0.2449, 0.2449, 0.6351]), atol=1e-4, rtol=0)
    rows = torch.arange(16.0, dtype=torch.float64).view(1, 1, 16, 1).expand(2, -1, -1, 4)
    strips = crop_regions(rows, paper.double(), (1.0, 0.25), (4, 4))
    torch.testing.assert_close(strips[0, :, 0, :, 0].flatten(), torch.arange(16.0, dtype=torch.float64))


def test_gradients_move_the_regions():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 8, 6, dtype=torch.float64, requires_grad=True)
    centres = torch.tensor([[[0.11, -0.3], [-0.2, 0.37]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, c: crop_regions(x, c, (0.7, 0.4), (3, 4)), (x, centres))
    model = small().train()
    model(torch.randn(4, 3, 64, 32)).logits["local"].square().sum().backward()
    assert all(attention.hard.shift.bias.grad.abs().sum() > 0 for attention in model.attentions)


# --- Attention ---


@pytest.mark.parametrize(("spatial", "channel"), [(True, True), (True, False), (False, True)])
def test_soft_attention_is_the_product_of_its_parts(spatial, channel):
    torch.manual_seed(0)
    attention = randomise(SoftAttention(32, spatial=spatial, channel=channel))
    x = torch.randn(2, 32, 6, 4, dtype=torch.float64)
    product = (attention.spatial(x) if spatial else 1) * (attention.channel(x) if channel else 1) * torch.ones_like(x)
    conv, norm = attention.join
    by_hand = torch.einsum("dc,bchw->bdhw", conv.weight[..., 0, 0], product)
    spread = (norm.running_var + norm.eps).sqrt()[:, None, None]
    by_hand = (by_hand - norm.running_mean[:, None, None]) / spread * norm.weight[:, None, None]
    torch.testing.assert_close(attention(x), (by_hand + norm.bias[:, None, None]).sigmoid())


def test_the_papers_reading_can_lower_a_value_the_ports_cannot():
    torch.manual_seed(0)
    x = torch.randn(8, 32, 6, 4)
    assert SoftAttention(32, port=True)(x).min() >= 0.5
    assert SoftAttention(32)(x).min() < 0.4


def test_ablations_of_attention():
    x = torch.randn(2, 32, 6, 4)
    weights, centres = HarmoniousAttention(32, spatial=False, channel=False, regional=False)(x)
    assert torch.equal(weights, torch.ones_like(x))
    torch.testing.assert_close(centres[:, :, 1], torch.tensor([-0.75, -0.25, 0.25, 0.75]).expand(2, -1))
    assert not list(HarmoniousAttention(32, spatial=False, channel=False, regional=False).parameters())


# --- The whole model ---


def test_cail_adds_the_crops_of_later_levels():
    images = torch.randn(2, 3, 64, 32)
    with_cail, without = small().eval(), small(cail=False).eval()
    without.load_state_dict(with_cail.state_dict(), strict=False)  # it has regions on one level only
    assert not torch.allclose(with_cail(images).features["local"], without(images).features["local"])
    torch.testing.assert_close(with_cail(images).features["global"], without(images).features["global"])
    assert [attention.hard is not None for attention in without.attentions] == [True, False, False]


def test_branches_alone_are_the_branches_of_the_whole():
    images, whole = torch.randn(2, 3, 64, 32), small().eval()
    for branch in ("global", "local"):
        part = small(branches=[branch]).eval()
        part.load_state_dict({key: whole.state_dict()[key] for key in part.state_dict()})
        output = part(images)
        assert list(output.logits) == list(output.features) == [branch]
        torch.testing.assert_close(output.logits[branch], whole(images).logits[branch])


def test_each_region_has_its_own_batch_statistics():
    """In training, a region's features do not depend on what the other regions show."""
    model = small(regional=False).train()
    images = torch.randn(4, 3, 64, 32)
    stem = model.stem(images).detach()
    crops = model._crops(stem, model.attentions[0].centres.expand(4, -1, -1), model.crops[0])
    alone = model.locals[0](crops[:, 2])
    torch.testing.assert_close(model._local(0, stem, model.attentions[0].centres.expand(4, -1, -1), None)[2], alone)


def test_parameters():
    """Without classifiers: the port's 2.93 M (the paper prints 2.7 M); ours has no biases before BatchNorms."""

    def count(port):
        with torch.device("meta"):
            model = HACNN(751, port=port)
        return sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.heads.parameters())

    assert count(True) == 2_929_112 and round(count(True) / 1e6, 2) == 2.93
    with torch.device("meta"):
        biases = sum(m.bias.numel() for m in HACNN(751, port=True).modules() if isinstance(m, torch.nn.Conv2d))
    assert count(True) - count(False) == biases


@pytest.mark.parametrize("size", [(160, 64), (64, 32), (96, 48), (128, 128)])
def test_any_size_that_divides(size):
    model = small(img_size=size).eval()
    assert model(torch.randn(1, 3, *size)).embedding.shape == (1, 48)


def test_factory_and_bad_input():
    assert isinstance(dl.create_model("hacnn", num_classes=3), dl.HACNN)
    with pytest.raises(ValueError, match="an image size of at least 32, divisible by 16, expected, got \\(160, 60\\)"):
        dl.create_model("hacnn", img_size=(160, 60))
    with pytest.raises(ValueError, match="at least 32"):
        dl.create_model("hacnn", img_size=(16, 16))
    with pytest.raises(ValueError, match="images of 64 x 32 pixels expected, got 32 x 64"):
        small()(torch.randn(1, 3, 32, 64))
    with pytest.raises(ValueError, match="channels divisible by 16 expected, got 24"):
        small(widths=(16, 24, 32))
    with pytest.raises(ValueError, match="unknown branch 'locla': did you mean 'local'"):
        small(branches=["locla"])
    with pytest.raises(ValueError, match="at least one of the branches"):
        small(branches=[])
    with pytest.raises(ValueError, match="finite centres"):
        crop_regions(torch.ones(1, 1, 4, 4), torch.full((1, 1, 2), torch.nan), (1.0, 1.0), (2, 2))
    with pytest.raises(ValueError, match="drop_path=0 expected for hacnn"):
        dl.create_model("hacnn", drop_path=0.1)
    with pytest.raises(ValueError, match="hacnn starts from nothing"):
        dl.create_model("hacnn", pretrained=True)

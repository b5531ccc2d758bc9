"""RGA: the factorised form is the affinity form, in values, gradients and statistics."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import dcal_lite as dl
from book.tools.plain import RGA_STAGES, AffinityRGA
from dcal_lite.backbones import arrange_strides, create_resnet
from dcal_lite.rga import RGA, RelationGate, ResNetRGA, from_official

SMALL = (64, (16, 8))


def twins(channels, size):
    """The affinity form and ours with the same weights, all of them random, in float64."""
    torch.manual_seed(0)
    plain = AffinityRGA(channels, size[0] * size[1]).double()
    for value in [*plain.parameters(), *plain.buffers()]:
        if value.ndim == 1:
            value.data.uniform_(0.5, 1.5)
    ours = RGA(channels, size).double()
    ours.load_state_dict(from_official(plain.state_dict()))
    return plain, ours


@pytest.mark.parametrize(("channels", "size"), [SMALL, *RGA_STAGES])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_factorised_form_is_the_affinity_form(channels, size, training):
    plain, ours = twins(channels, size)
    plain.train(training)
    ours.train(training)
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    expected = plain(x)
    (expected_grad,) = torch.autograd.grad((expected * weight).sum(), x, retain_graph=True)
    (expected * weight).sum().backward(inputs=list(plain.parameters()))
    got = ours(x)
    (grad,) = torch.autograd.grad((got * weight).sum(), x, retain_graph=True)
    (got * weight).sum().backward(inputs=list(ours.parameters()))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-7, atol=1e-10)
    slopes = from_official(plain.state_dict() | {name: p.grad for name, p in plain.named_parameters()})
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, slopes[name], rtol=1e-6, atol=1e-9, msg=name)
    states = from_official(plain.state_dict())
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, states[name], rtol=1e-12, atol=1e-14, msg=name)


def test_swapping_theta_and_phi_swaps_the_halves():
    gate = RelationGate(16, 24).double().eval()
    x = torch.randn(2, 16, 24, dtype=torch.float64)
    expected = gate(x)
    for tensor in gate.project.state_dict().values():
        if tensor.ndim:
            theta, phi, psi = tensor.clone().chunk(3)
            tensor.copy_(torch.cat([phi, theta, psi]))
    assert not torch.allclose(gate(x), expected)
    gate.relate.weight.data = torch.cat(gate.relate.weight.chunk(2, dim=1)[::-1], dim=1)
    torch.testing.assert_close(gate(x), expected)


def test_no_tensor_of_all_pairs_exists():
    positions, seen = 2048, []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            seen.extend(r.shape for r in (result if isinstance(result, tuple | list) else [result])
                        if isinstance(r, torch.Tensor))  # fmt: skip
            return result

    module, x = RGA(16, (64, 32), "s"), torch.randn(2, 16, 64, 32, requires_grad=True)
    with Watch():
        module(x).sum().backward()
    assert seen
    activations = [list(shape) for shape in seen if len(shape) > 2]
    assert not [shape for shape in activations if shape.count(positions) > 1 or 2 * positions in shape]


@pytest.mark.parametrize("variant", ["s", "c"])
def test_official_modules_with_one_attention_load_too(variant):
    plain, _ = twins(*SMALL)
    name = {"s": "spatial", "c": "channel"}[variant]
    state = {key: value for key, value in plain.state_dict().items() if name in key and "num_batches" not in key}
    single = RGA(*SMALL, variant).double().eval()
    single.load_state_dict(from_official(state))
    x = torch.randn(2, SMALL[0], *SMALL[1], dtype=torch.float64)
    nodes = x.flatten(2)
    weight = plain.eval().weights(name, nodes if variant == "s" else nodes.mT)
    expected = nodes * (weight[:, None] if variant == "s" else weight[..., None])
    torch.testing.assert_close(single(x).flatten(2), expected)


def test_gates_start_open():
    """BatchNorm makes what the sigmoid reads a standard normal number, about, plus the shift."""
    torch.manual_seed(0)
    x = torch.rand(4, 64, 128)
    for bias in (0.0, 3.0):
        (gate,) = RGA(*SMALL, variant="s", gate_bias=bias).gates.values()
        expected = (torch.randn(100_000) + bias).sigmoid().mean()  # 0.5, 0.93
        torch.testing.assert_close(gate(x).mean(), expected, atol=0.02, rtol=0)


def test_orders():
    _, ours = twins(*SMALL)
    ours.eval()
    x = torch.randn(2, SMALL[0], *SMALL[1], dtype=torch.float64)

    def apply(variant, x):
        module = RGA(*SMALL, variant).double().eval()
        module.load_state_dict({k: v for k, v in ours.state_dict().items() if k.split(".")[1] in variant})
        return module(x)

    torch.testing.assert_close(apply("sc", x), apply("c", apply("s", x)))
    torch.testing.assert_close(apply("cs", x), apply("s", apply("c", x)))
    torch.testing.assert_close(apply("s//c", x), apply("s", x) * apply("c", x) / x)


def test_without_relations_a_node_knows_itself_only():
    torch.manual_seed(0)
    x = torch.randn(1, 512, 128)
    changed = torch.cat([x[..., :1] + 1, x[..., 1:]], dim=2)
    gate = RelationGate(512, 128, relations=False).eval()
    torch.testing.assert_close(gate(changed)[..., 1:], gate(x)[..., 1:])
    assert gate(changed)[0, 0, 0] != gate(x)[0, 0, 0]
    gate = RelationGate(512, 128, original=False).eval()
    assert (gate(changed) != gate(x)).sum() > 64


# --- Another size ---


def test_resizing_to_the_same_size_changes_nothing():
    _, module = twins(*SMALL)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.resize(SMALL[1])
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_resized_weights_see_a_flat_map_as_before():
    _, module = twins(*SMALL)
    module.eval()
    flat = torch.rand(1, 64, 1, 1, dtype=torch.float64)
    small = module(flat.expand(-1, -1, 16, 8))
    large = module.resize((24, 12))(flat.expand(-1, -1, 24, 12))
    torch.testing.assert_close(large[..., 0, 0], small[..., 0, 0])


def test_resized_model_takes_the_new_size():
    model = ResNetRGA(create_resnet("resnet_toy"), 5, img_size=(64, 32)).eval()
    with pytest.raises(ValueError, match=r"a feature map of 32 x 16 x 8 expected, got 32 x 32 x 16: .*resize"):
        model(torch.randn(1, 3, 128, 64))
    assert model.resize((128, 64))(torch.randn(1, 3, 128, 64)).embedding.shape == (1, 160)


# --- The whole model ---


@pytest.mark.parametrize(("variant", "millions"), [("s", 3.22), ("c", 3.09), ("sc", 6.31), ("s//c", 6.31)])
def test_parameters_over_resnet50_are_the_published_code_s(variant, millions):
    def count(variant):
        with torch.device("meta"):
            return sum(p.numel() for p in ResNetRGA(create_resnet("resnet50"), 751, variant=variant).parameters())

    assert count(variant) - count(None) == pytest.approx(millions * 1e6, abs=5e3)


def test_stages_have_the_papers_shapes():
    with torch.device("meta"):
        model = ResNetRGA(create_resnet("resnet50"), 751)
    assert [(module.channels, module.size) for module in model.attention] == RGA_STAGES


def test_torchvision_and_timm_agree():
    from torchvision.models import resnet18

    ours, theirs = create_resnet("resnet18").eval(), resnet18().eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    torch.manual_seed(0)
    model = ResNetRGA(ours, 5, img_size=(64, 32)).eval()
    other = ResNetRGA(theirs, 5, img_size=(64, 32)).eval()
    other.attention, other.heads = model.attention, model.heads
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(other(images).embedding, model(images).embedding)


def save(net, path, leave_out="fc."):
    save_file({key: value for key, value in net.state_dict().items() if not key.startswith(leave_out)}, path)


def test_backbone_weights_are_loaded_and_an_absent_last_stage_is_said(tmp_path):
    other = create_resnet("resnet_toy")
    save(other, tmp_path / "all.safetensors")
    net = create_resnet("resnet_toy", pretrained=tmp_path / "all.safetensors")
    for key, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    save(other, tmp_path / "part.safetensors", "layer4")
    with pytest.warns(UserWarning, match=r"'part.safetensors' has no layer4: they start from nothing"):
        net = create_resnet("resnet_toy", pretrained=tmp_path / "part.safetensors")
    assert torch.equal(net.layer3[0].conv1.weight, other.layer3[0].conv1.weight)
    assert not torch.equal(net.layer4[0].conv1.weight, other.layer4[0].conv1.weight)
    save(other, tmp_path / "holes.safetensors", "layer3.0.bn1")
    with pytest.raises(ValueError, match=r"'holes.safetensors' lacks 'layer3.0.bn1.bias'"):
        create_resnet("resnet_toy", pretrained=tmp_path / "holes.safetensors")
    with pytest.raises(ValueError, match=r"layer1.0.conv1.weight' of shape|lacks|extra"):
        create_resnet("resnet18", pretrained=tmp_path / "all.safetensors")


def test_a_whole_model_is_saved_and_loaded(tmp_path):
    arguments = {"name": "rga_resnet_toy", "num_classes": 3, "img_size": (64, 32), "variant": "cs"}
    model = dl.create_model(**arguments).eval()
    dl.save_model(model, tmp_path / "m.safetensors", arguments)
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(dl.load_model(tmp_path / "m.safetensors")(images).embedding, model(images).embedding)


def test_strides_of_caffe():
    net = arrange_strides(create_resnet("resnet50"), in_1x1=True)
    for stage in (net.layer2, net.layer3):
        assert (stage[0].conv1.stride, stage[0].conv2.stride) == ((2, 2), (1, 1))
    assert net.layer4[0].conv2.stride == (1, 1) and net.layer4[0].downsample[0].stride == (1, 1)
    with pytest.raises(ValueError, match="with bottlenecks"):
        arrange_strides(create_resnet("resnet_toy"), in_1x1=True)


def test_timms_weights_are_not_taken_for_caffes():
    with pytest.raises(ValueError, match=r"weights from Caffe expected .* pass a \.safetensors file \(--weights"):
        dl.create_model("rga_resnet50", num_classes=3, pretrained=True, stride_in_1x1=True)


def test_real_weights_fit(shared_data):
    path = shared_data / "weights" / "resnet50_caffe_conv1_to_layer3.safetensors"
    with pytest.warns(UserWarning, match="has no layer4"):
        model = dl.create_model("rga_resnet50", num_classes=3, img_size=(64, 32), pretrained=path, stride_in_1x1=True)
    assert model.eval()(torch.randn(1, 3, 64, 32)).embedding.isfinite().all()


def test_bad_input_is_named_at_the_door():
    with pytest.raises(ValueError, match="channels or positions divisible by 8 expected, got 12"):
        RGA(12, (8, 4))
    with pytest.raises(ValueError, match="divisible by 8 expected, got 9"):
        RGA(16, (3, 3))
    with pytest.raises(ValueError, match="unknown RGA variant 'cc'"):
        RGA(16, (8, 4), "cc")
    with pytest.raises(ValueError, match=r"16 x 8 x 4 expected, got 24 x 8 x 4"):
        RGA(16, (8, 4))(torch.randn(1, 24, 8, 4))
    with pytest.raises(ValueError, match="relations=True or original=True"):
        RGA(16, (8, 4), relations=False, original=False)
    with pytest.raises(ValueError, match="a ResNet of timm or torchvision expected, got Linear"):
        ResNetRGA(nn.Linear(1, 1), 5)

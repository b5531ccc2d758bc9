import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

import dcal_lite as dl
from dcal_lite.backbones import (
    attention_for,
    check_backbone,
    create_backbone,
    cross_attention,
    embed,
    load_backbone_weights,
    record_queries_keys,
    run_block,
)
from dcal_lite.heads import BNNeckHead

TINY = {"img_size": (32, 16), "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 2, "num_classes": 0}


def tiny(seed=0, **options) -> VisionTransformer:
    """A three-block ViT in float64, positions and biases random so that nothing cancels by symmetry."""
    torch.manual_seed(seed)
    vit = VisionTransformer(**{**TINY, **options})
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return vit.double().eval()


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"init_values": 0.1}, {"pre_norm": True}])
@pytest.mark.parametrize("fused", [True, False])
def test_tokens_equal_timms(images, options, fused):
    vit = tiny(**options)
    for block in vit.blocks:
        block.attn.fused_attn = fused
    tokens = embed(vit, images)
    for block in vit.blocks:
        tokens = run_block(block, tokens)
    torch.testing.assert_close(vit.norm(tokens), vit.forward_features(images))


def test_attention_written_out_is_the_same_function(images):
    vit = tiny().train()
    images = images.requires_grad_()
    fused = vit(images)
    fused_gradient = torch.autograd.grad(fused.square().sum(), images)
    with attention_for(vit, "fp16"):
        assert all(block.attn.fused_attn for block in vit.blocks)
    with attention_for(vit, "bf16"):
        assert not any(block.attn.fused_attn for block in vit.blocks)
        plain = vit(images)
    torch.testing.assert_close(plain, fused)
    torch.testing.assert_close(torch.autograd.grad(plain.square().sum(), images), fused_gradient)
    assert all(block.attn.fused_attn for block in vit.blocks)


def test_tokens_equal_timms_at_person_size():
    vit = create_backbone("deit_tiny_patch16_224", img_size=(256, 128)).eval()
    images = torch.randn(2, 3, 256, 128)
    tokens = embed(vit, images)
    assert tokens.shape == (2, 1 + 16 * 8, 192)
    for block in vit.blocks:
        tokens = run_block(block, tokens)
    torch.testing.assert_close(vit.norm(tokens), vit.forward_features(images))


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"qkv_bias": False}])
def test_cross_attention_on_itself_is_the_layer(options):
    layer = tiny(**options).blocks[1].attn
    tokens = torch.randn(2, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(cross_attention(layer, tokens, tokens), layer(tokens))
    few = cross_attention(layer, tokens[:, [4, 2]], tokens)
    torch.testing.assert_close(few, layer(tokens)[:, [4, 2]])


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}])
def test_maps_equal_those_on_timms_unfused_path(images, options):
    vit, seen = tiny(**options), []
    maps = dl.attention_maps(vit, images)
    for block in vit.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    vit.forward_features(images)
    torch.testing.assert_close(maps, torch.stack(seen))
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1], dtype=torch.float64))


def test_maps_leave_mode_and_hooks_as_they_were(images):
    vit = tiny().train()
    dl.attention_maps(vit, images)
    assert vit.training and not any(block.attn.qkv._forward_hooks for block in vit.blocks)
    assert all(block.attn.fused_attn for block in vit.blocks)


def test_maps_of_a_library_model():
    model = dl.create_model("dcal_vit_toy_patch8_64", num_classes=3, img_size=(64, 32))
    images = torch.randn(2, 3, 64, 32)
    maps = dl.attention_maps(model, images)
    assert maps.shape == (6, 2, 3, 33, 33)
    torch.testing.assert_close(maps, dl.attention_maps(model.backbone, images))


def test_maps_of_a_cnn_are_refused():
    with pytest.raises(ValueError, match="vision transformer with blocks"):
        dl.attention_maps(timm.create_model("resnet18"), torch.randn(1, 3, 64, 64))


def test_recorded_queries_are_detached(images):
    vit = tiny()
    with record_queries_keys(vit) as record:
        vit.forward_features(images)
    assert len(record) == 3 and not any(t.requires_grad for pair in record for t in pair)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: timm.create_model("resnet18"), "got ResNet"),
        (lambda: tiny(class_token=False, global_pool="avg"), "exactly one class token"),
        (lambda: tiny(reg_tokens=4), "5 prefix tokens"),
        (lambda: timm.create_model("deit_tiny_distilled_patch16_224"), "2 prefix tokens"),
        (lambda: tiny(pos_embed="none"), "absolute position"),
        (lambda: tiny(block_fn=ParallelScalingBlock), "plain pre-norm"),
        (lambda: tiny(img_size=(36, 16)), r"divisible by the patch \(8, 8\) expected, got \(36, 16\); try \(32, 16\)"),
    ],
)
def test_unsuitable_backbones_say_why(model, reason):
    with pytest.raises(ValueError, match=reason):
        check_backbone(model())


def test_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'deit_tiny_patch16_224'"):
        create_backbone("deit_tinny_patch16_224")
    with pytest.raises(ValueError, match="no published weights"):
        create_backbone("vit_toy_patch8_64", pretrained=True)


def test_weights_load_and_positions_follow_the_grid(tmp_path):
    source = timm.create_model("vit_toy_patch8_64", num_classes=7)
    save_file({key: value.half() for key, value in source.state_dict().items()}, tmp_path / "w.safetensors")
    same = create_backbone("vit_toy_patch8_64", pretrained=tmp_path / "w.safetensors")
    torch.testing.assert_close(same.blocks[2].mlp.fc1.weight, source.blocks[2].mlp.fc1.weight.half().float())
    tall = create_backbone("vit_toy_patch8_64", img_size=(64, 32), pretrained=tmp_path / "w.safetensors")
    assert tall.pos_embed.shape == (1, 1 + 8 * 4, 96)
    torch.testing.assert_close(tall.pos_embed[:, 0], source.pos_embed[:, 0].half().float())


def test_bad_weight_files(tmp_path):
    vit, path = tiny(), tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match="not found"):
        load_backbone_weights(vit, path)
    path.write_bytes(b"\x10\x00\x00")
    with pytest.raises(ValueError, match=r"no complete \.safetensors"):
        load_backbone_weights(vit, path)
    save_file({"cls_token": torch.zeros(1, 1, 12)}, path)
    with pytest.raises(ValueError, match=r"lacks 'blocks\.0"):
        load_backbone_weights(vit, path)
    save_file(tiny(embed_dim=16).state_dict(), path)
    with pytest.raises(ValueError, match=r"of shape .*12.* expected, got .*16"):
        load_backbone_weights(vit, path)


def test_real_deit_weights_load(shared_data):
    path = shared_data / "weights" / "deit_tiny_patch16_224.fp16.safetensors"
    vit = create_backbone("deit_tiny_patch16_224", img_size=(256, 128), pretrained=path)
    assert vit.pos_embed.std() > 0.1 and torch.isfinite(vit.forward_features(torch.randn(1, 3, 256, 128))).all()


def test_outputs_of_parts_come_in_the_order_they_run():
    model = dl.create_model("rga_resnet_toy", num_classes=3, img_size=(64, 32)).train()
    images = torch.randn(2, 3, 64, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weights = dl.outputs_of(model, dl.RelationGate, images)
    assert [w.shape[2] for w in weights] == [128, 32, 32, 64, 8, 96, 8, 160]  # positions, channels, stage by stage
    assert all(((w > 0) & (w < 1)).all() for w in weights)
    assert model.training and not any(part._forward_hooks for part in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    feature = model.eval()(images).features["global"]
    (last,) = dl.outputs_of(model, BNNeckHead, images)
    torch.testing.assert_close(last, model.heads["global"](feature))
    with pytest.raises(ValueError, match="a model with HarmoniousAttention expected, got ResNetRGA"):
        dl.outputs_of(model, dl.HarmoniousAttention, images)

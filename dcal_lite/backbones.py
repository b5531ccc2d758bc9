"""Backbones from timm, opened up: tokens, blocks, queries and keys; stages. The only file that knows timm's insides.

Letters: L layers, B batch, H heads, N tokens (class token first), D width.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dcal_lite.attention import attend, attention_map, merge_heads, split_heads
from dcal_lite.errors import unknown

TIMM_ARGUMENTS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # timm gives them to every entry point


@timm.models.register_model
def vit_toy_patch8_64(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """ViT for the toy worlds: 96 wide, 6 blocks, 3 heads, patches of 8 pixels, no published weights."""
    if pretrained:
        raise ValueError("vit_toy_patch8_64 has no published weights; pass pretrained=False or a .safetensors file")
    settings = {"img_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3}
    own = {key: value for key, value in kwargs.items() if key not in TIMM_ARGUMENTS}
    return VisionTransformer(**{**settings, **own})


def create_backbone(
    name: str,
    *,
    img_size: int | tuple[int, int] | None = None,
    pretrained: bool | str | Path = False,
    drop_path: float = 0.0,
) -> VisionTransformer:
    """Create a timm vision transformer without its classifier, for any image size that its patches divide.

    Args:
        name: timm's name of a `VisionTransformer` with one class token and absolute positions.
        img_size: (height, width) in pixels; None keeps the model's own.
        pretrained: True asks timm to download; a path loads a .safetensors file with timm's key names.
            Position embeddings are resampled to the new grid.
        drop_path: stochastic depth of the last block, in [0, 1); earlier blocks have linearly less.

    Raises:
        ValueError: no vision transformer, other prefix tokens, a size that patches don't divide, unfit weights, or
            no network for a download.
    """
    options = {} if img_size is None else {"img_size": img_size}
    known = [*timm.list_models(module="vision_transformer"), *timm.list_models(module="vision_transformer_hybrid"),
             *timm.list_models(module="deit"), "vit_toy_patch8_64"]  # fmt: skip
    if name.split(".")[0] not in known:
        raise unknown("vision transformer of timm", name, known)
    options |= {"global_pool": "token", "drop_path_rate": drop_path}
    vit = _from_timm(name, pretrained is True, options)
    check_backbone(vit)
    if not isinstance(pretrained, bool):
        load_backbone_weights(vit, pretrained)
    return vit


def _from_timm(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """A model of timm's without its classifier; weights that cannot be downloaded are a ValueError."""
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except OSError as error:  # what the hub raises without a network and without the file in its cache
        raise ValueError(f"cannot download the weights of {name!r}: connect to a network, or pass "
                         "pretrained='file.safetensors'") from error  # fmt: skip


def check_backbone(vit: nn.Module) -> None:
    """Raise ValueError, and say why, unless `vit` is a transformer whose blocks the three papers' code can run."""
    kind = type(vit).__name__
    if not isinstance(vit, VisionTransformer):
        raise ValueError(f"a timm VisionTransformer expected, got {kind}; DCAL needs one sequence with a class token")
    if vit.cls_token is None or vit.num_prefix_tokens != 1:
        raise ValueError(f"exactly one class token expected, {kind} has {vit.num_prefix_tokens} prefix tokens; "
                         "choose a model without register or distillation tokens")  # fmt: skip
    if vit.pos_embed is None:
        raise ValueError(f"absolute position embeddings expected, {kind} has none; rotary models are not supported")
    plain = all(type(block) is Block and _is_plain(block.attn) for block in vit.blocks)
    if not plain:
        raise ValueError("timm's plain pre-norm Block with Attention expected; parallel, post-norm, gated or "
                         "differential blocks are not supported")  # fmt: skip
    size, stride = vit.patch_embed.img_size, vit.patch_embed.feat_ratio(as_scalar=False)
    if any(s % p for s, p in zip(size, stride, strict=True)):
        raise ValueError(f"an image size divisible by the patch {tuple(stride)} expected, got {tuple(size)}; "
                         f"try {tuple(s // p * p for s, p in zip(size, stride, strict=True))}")  # fmt: skip


def _is_plain(layer: nn.Module) -> bool:
    plain = isinstance(getattr(layer, "norm", nn.Identity()), nn.Identity) and getattr(layer, "gate", None) is None
    return plain and hasattr(layer, "qkv") and hasattr(layer, "q_norm")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a .safetensors file as float32; a missing or broken file is a ValueError that names it."""
    if not Path(path).is_file():
        raise ValueError(f"weight file {Path(path).name!r} not found; give the path of a .safetensors file")
    try:
        return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{Path(path).name!r} is no complete .safetensors file ({error}); fetch it again") from None


def load_backbone_weights(vit: VisionTransformer, path: str | Path) -> None:
    """Load a .safetensors file with timm's key names into `vit`; a classifier in the file is ignored.

    Raises:
        ValueError: no such file, or its tensors are those of another architecture (the first misfit is named).
    """
    weights = {key: value for key, value in read_weights(path).items() if not key.startswith(("head.", "head_dist."))}
    own = vit.state_dict()
    missing = sorted(own.keys() - weights.keys())
    if missing:
        raise ValueError(f"{Path(path).name!r} lacks {missing[0]!r} ({len(missing)} tensors missing); "
                         "it belongs to another model")  # fmt: skip
    weights = checkpoint_filter_fn(weights, vit)  # resamples the position embedding to the grid
    load_exactly(vit, {key: weights[key] for key in own}, path)


def load_exactly(module: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load `weights`, which came from the file `path`; the first key or shape that does not fit is a ValueError."""
    own, name = module.state_dict(), Path(path).name
    for key in sorted(own.keys() ^ weights.keys()):
        raise ValueError(f"{name!r} {'lacks' if key in own else 'has an extra'} {key!r}; it belongs to another model")
    for key in own:
        if own[key].shape != weights[key].shape:
            raise ValueError(f"{name!r}: {key!r} of shape {tuple(own[key].shape)} expected, got "
                             f"{tuple(weights[key].shape)}; the file belongs to another model")  # fmt: skip
    module.load_state_dict(weights)


# ------------------------------------------------------------------------------------------- running it by hand


def embed(vit: VisionTransformer, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B N D"]:
    """Turn images into tokens: patches projected, class token in front, positions added."""
    return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))


def run_block(
    block: Block,
    tokens: Float[Tensor, "B N D"],
    attention: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "B N D"]:
    """Run one pre-norm encoder block, with its own self-attention or with `attention` in its place.

    Args:
        block: timm's block; its norms, residuals, stochastic depth and MLP are used in every case.
        tokens: input of the block.
        attention: maps the normalised tokens (B, N, D) to the attention's output (B, N, D).
    """
    attention = attention or block.attn
    tokens = tokens + block.drop_path1(block.ls1(attention(block.norm1(tokens))))
    return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))


def cross_attention(
    layer: nn.Module, queries: Float[Tensor, "B M D"], context: Float[Tensor, "B N D"]
) -> Float[Tensor, "B M D"]:
    """Apply timm's attention layer with queries from one set of tokens, keys and values from another.

    With `context = queries` this is the layer itself. Fused: no map is stored.
    """
    weight, bias = layer.qkv.weight, layer.qkv.bias
    width = len(weight) // 3
    q_bias, kv_bias = (None, None) if bias is None else (bias[:width], bias[width:])
    key, value = F.linear(context, weight[width:], kv_bias).chunk(2, dim=-1)
    query, key, value = (
        split_heads(x, layer.num_heads) for x in (F.linear(queries, weight[:width], q_bias), key, value)
    )
    dropout = layer.attn_drop.p if layer.training else 0.0
    mixed = attend(layer.q_norm(query), layer.k_norm(key), value, dropout=dropout)
    return layer.proj_drop(layer.proj(merge_heads(mixed)))


@contextmanager
def attention_for(model: nn.Module, precision: str) -> Iterator[None]:
    """Let timm's attention layers compute, inside the `with`, in the way that is fast in "fp32", "bf16" or "fp16".

    That is fused, but for bfloat16 on a CPU: there the fused kernel is slow, above all backwards (`book.tools.bench
    training`), and softmax(Q K^T) V in plain products, which store the map, takes its place.
    """
    plain = precision == "bf16" and next(model.parameters()).device.type == "cpu"
    layers = [layer for layer in model.modules() if plain and getattr(layer, "fused_attn", False)]
    for layer in layers:
        layer.fused_attn = False
    try:
        yield
    finally:
        for layer in layers:
            layer.fused_attn = True


@contextmanager
def record_queries_keys(vit: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect (query, key), each (B, H, N, d) and detached, of every block that runs in the `with`.

    Fused attention stays on: the map is not seen on its way but computed from what made it.
    (A hook on `attn_drop`, the usual recipe, silently collects nothing when attention is fused.)
    """
    record: list[tuple[Tensor, Tensor]] = []

    def keep(layer: nn.Module, _: Any, __: Any, output: Tensor) -> None:
        into_heads = "B N (three H d) -> three B H N d"
        query, key, _ = rearrange(output.detach(), into_heads, three=3, H=layer.num_heads)
        record.append((layer.q_norm(query).detach(), layer.k_norm(key).detach()))

    layers = [block.attn for block in vit.blocks]
    hooks = [layer.qkv.register_forward_hook(partial(keep, layer)) for layer in layers]
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the `with`, and back into the mode it had."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep only what enters a transformer's attention layers and MLPs for the backward pass, which does the rest again.

    The gradients are the same, for up to a third more computation and a fraction of the memory. In place.

    Raises:
        ValueError: there are no such blocks. (A CNN's BatchNorm would count every batch twice.)
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no transformer blocks: set checkpoint_blocks=false")
    for part in (part for block in blocks for part in (block.attn, block.mlp)):  # which PWCA runs by themselves
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)


@torch.no_grad()
def outputs_of(model: nn.Module, kind: type[nn.Module], images: Float[Tensor, "B 3 h w"]) -> list[Any]:
    """Return what every part of one kind computes, in the order in which the parts run, in evaluation mode.

    Args:
        model: any model of this library.
        kind: a class of modules, e.g. `dl.HarmoniousAttention` or `dl.RelationGate`.
        images: normalised images of the model's size.

    Raises:
        ValueError: the model has no such part.
    """
    parts = [part for part in model.modules() if isinstance(part, kind)]
    if not parts:
        raise ValueError(f"a model with {kind.__name__} expected, got {type(model).__name__}")
    with evaluating(model), record_outputs(parts) as outputs:
        model(images)
    return [output for _, output in outputs]


@contextmanager
def record_outputs(parts: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, Any]]]:
    """Collect what some parts of a model compute, each output with its part, in the order in which they run."""
    outputs: list[tuple[nn.Module, Any]] = []
    hooks = [part.register_forward_hook(lambda part, _, output: outputs.append((part, output))) for part in parts]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def attention_maps(model: nn.Module, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "L B H N N"]:
    """Return the self-attention map of every layer and head, in evaluation mode, fused attention or not.

    Args:
        model: a timm VisionTransformer, or a model of this library that holds one as `.backbone`.
        images: normalised images of the model's size.

    Returns:
        Maps, first layer first; N counts every token, the class token included. Rows sum to 1.

    Raises:
        ValueError: the model has no blocks with a fused query-key-value projection.
    """
    vit = getattr(model, "backbone", model)
    if not all(hasattr(getattr(block, "attn", None), "qkv") for block in getattr(vit, "blocks", [None])):
        raise ValueError(f"a vision transformer with blocks[i].attn.qkv expected, got {type(vit).__name__}")
    with evaluating(vit), record_queries_keys(vit) as record:
        vit.forward_features(images)
    return torch.stack([attention_map(query, key) for query, key in record])


# ------------------------------------------------------------------------------------------------------- ResNets


@timm.models.register_model
def resnet_toy(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet for the toy worlds: four stages of one basic block, 32 to 160 channels, no published weights."""
    if pretrained:
        raise ValueError("resnet_toy has no published weights; pass pretrained=False or a .safetensors file")
    own = {key: value for key, value in kwargs.items() if key not in TIMM_ARGUMENTS}
    return ResNet(BasicBlock, layers=(1, 1, 1, 1), channels=(32, 64, 96, 160), **own)


def create_resnet(name: str, *, pretrained: bool | str | Path = False) -> ResNet:
    """Create a timm ResNet without its classifier.

    Args:
        name: timm's name.
        pretrained: True asks timm to download; a path loads a .safetensors file, see `load_resnet_weights`.

    Raises:
        ValueError: timm has no ResNet of this name, unfit weights, or no network for a download.
    """
    known = [*timm.list_models(module="resnet"), "resnet_toy"]
    if name.split(".")[0] not in known:
        raise unknown("ResNet of timm", name, known)
    net = _from_timm(name, pretrained is True, {})
    if not isinstance(pretrained, bool):
        load_resnet_weights(net, pretrained)
    return net


def load_resnet_weights(net: ResNet, path: str | Path) -> None:
    """Load a .safetensors file with torchvision's key names (timm's are the same); a classifier in it is ignored.

    The file may lack whole last stages: they stay as they were, and a warning says so.

    Raises:
        ValueError: no such file, or its tensors are those of another architecture (the first misfit is named).
    """
    weights = {key: value for key, value in read_weights(path).items() if not key.startswith("fc.")}
    absent = [stage for stage in ("layer2", "layer3", "layer4") if not any(key.startswith(stage) for key in weights)]
    if absent:
        warnings.warn(f"{Path(path).name!r} has no {', '.join(absent)}: they start from nothing", stacklevel=2)
    kept = {key: value for key, value in net.state_dict().items() if key.startswith(tuple(absent))} if absent else {}
    load_exactly(net, weights | kept, path)


def arrange_strides(net: nn.Module, *, in_1x1: bool = False) -> nn.Module:
    """Set the stride of a ResNet's last stage to 1, in place: maps twice as fine, with the same weights.

    Args:
        net: of timm or torchvision.
        in_1x1: let the first convolution of a bottleneck stride, as in the paper's ResNet and in Caffe's weights,
            not the second, as in torchvision's.

    Raises:
        ValueError: no ResNet, or none with bottlenecks for `in_1x1`.
    """
    if not all(hasattr(net, name) for name in ("conv1", "bn1", "maxpool", "layer1", "layer4")):
        raise ValueError(f"a ResNet of timm or torchvision expected, got {type(net).__name__}")
    for layer in net.layer4[0].modules():
        if getattr(layer, "stride", None) in (2, (2, 2)):
            layer.stride = (1, 1)
    if in_1x1:
        if not hasattr(net.layer2[0], "conv3"):
            raise ValueError("a ResNet with bottlenecks (ResNet-50 or deeper) expected for stride_in_1x1=True")
        for stage in (net.layer2, net.layer3):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return net


def resnet_stem(net: nn.Module, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B C H W"]:
    """What a ResNet does before its first stage."""
    activation = net.act1 if hasattr(net, "act1") else net.relu  # timm's name, torchvision's
    return net.maxpool(activation(net.bn1(net.conv1(images))))


def resnet_stages(net: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """The four stages of a ResNet."""
    return net.layer1, net.layer2, net.layer3, net.layer4


@torch.no_grad()
def stage_shapes(net: nn.Module, img_size: tuple[int, int]) -> list[tuple[int, tuple[int, int]]]:
    """Channels and (height, width) of each stage's output for images of `img_size`, found by running a blank one."""
    shapes = []
    with evaluating(net):
        x = resnet_stem(net, torch.zeros(1, 3, *img_size, device=net.conv1.weight.device))
        for stage in resnet_stages(net):
            x = stage(x)
            shapes.append((x.shape[1], tuple(x.shape[2:])))
    return shapes

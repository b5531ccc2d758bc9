"""Factories: a name and a few numbers in, a model out. The names are registered with timm too.

`dcal_<vit>` is DCAL around timm's `<vit>`, for any vision transformer with a class token and absolute positions;
`rga_<resnet>` is RGA in timm's `<resnet>`; `hacnn` is HA-CNN.
"""

import inspect
import json
from collections.abc import Callable
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Any

import timm
from safetensors import safe_open
from torch import nn

from dcal_lite.backbones import TIMM_ARGUMENTS, create_backbone, create_resnet, load_exactly, read_weights
from dcal_lite.checkpoint import write_weights
from dcal_lite.dcal import DCAL
from dcal_lite.errors import check_choice, unknown
from dcal_lite.hacnn import HACNN
from dcal_lite.rga import ResNetRGA

NAMES = (
    "dcal_deit_tiny_patch16_224",
    "dcal_deit_small_patch16_224",
    "dcal_deit_base_patch16_224",
    "dcal_vit_base_patch16_224",
    "dcal_vit_base_r50_s16_224",
    "dcal_vit_toy_patch8_64",
    "hacnn",
    "rga_resnet50",
    "rga_resnet_toy",
)


def list_models(filter: str = "*") -> list[str]:
    """List the models' names that match a shell pattern, e.g. "dcal_*"."""
    return sorted(name for name in NAMES if fnmatch(name, filter))


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    img_size: int | tuple[int, int] | None = None,
    pretrained: bool | str | Path = False,
    drop_path: float = 0.0,
    **options: Any,
) -> nn.Module:
    """Create a model by name.

    Args:
        name: one of `list_models()`, or `dcal_` or `rga_` before the name of another suitable ViT or ResNet of timm.
        num_classes: classes, or identities in training.
        img_size: (height, width) in pixels; None takes the model's own.
        pretrained: True downloads the backbone's ImageNet weights through timm (HA-CNN has none). A path loads a
            .safetensors file: either a backbone's (timm's key names) or a whole model's, as `save_model` writes it.
        drop_path: stochastic depth of a transformer's last block, in [0, 1).
        options: arguments of the model's class: `dl.DCAL`, `dl.ResNetRGA` or `dl.HACNN`.

    Raises:
        ValueError: an unknown name or option (with the nearest known one), an unfit image size or weight file.
    """
    kind = name.partition("_")[0]
    if kind not in _MAKERS or (kind == "hacnn" and name != kind):
        raise unknown("model", name, list_models())
    model_class, make = _MAKERS[kind]
    known = list(inspect.signature(model_class).parameters.keys() - {"backbone", "num_classes", "img_size"})
    for key in options:
        check_choice("model option", key, known)
    if drop_path and kind != "dcal":
        raise ValueError(f"drop_path=0 expected for {name}, got {drop_path}: stochastic depth is for transformers")
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    whole = not isinstance(pretrained, bool) and is_whole(pretrained)
    model = make(name, num_classes, size, False if whole else pretrained, drop_path, options)
    return load_weights(model, pretrained) if whole else model


def _make_dcal(name, num_classes, size, pretrained, drop_path, options) -> DCAL:
    backbone = name.removeprefix("dcal_")
    vit = create_backbone(backbone, img_size=size, pretrained=pretrained, drop_path=drop_path)
    return DCAL(vit, num_classes, **options)


def _make_rga(name, num_classes, size, pretrained, drop_path, options) -> ResNetRGA:
    if pretrained is True and options.get("stride_in_1x1"):
        raise ValueError("weights from Caffe expected for stride_in_1x1=True, and timm has others: pass a .safetensors "
                         "file (--weights, or pretrained=)")  # fmt: skip
    size = {} if size is None else {"img_size": size}
    return ResNetRGA(create_resnet(name.removeprefix("rga_"), pretrained=pretrained), num_classes, **size, **options)


def _make_hacnn(name, num_classes, size, pretrained, drop_path, options) -> HACNN:
    if pretrained is not False:
        raise ValueError("hacnn starts from nothing: pretrained=False or a whole model's .safetensors file expected")
    return HACNN(num_classes, **({} if size is None else {"img_size": size}), **options)


_MAKERS = {"dcal": (DCAL, _make_dcal), "rga": (ResNetRGA, _make_rga), "hacnn": (HACNN, _make_hacnn)}


def is_whole(path: str | Path) -> bool:
    """Tell whether a weight file holds a whole model of this library rather than a backbone."""
    return any(key.startswith("heads.") for key in read_weights(path))


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a whole model's weight file into `model` and return it; the first misfit is named in a ValueError."""
    load_exactly(model, read_weights(path), path)
    return model


def save_model(model: nn.Module, path: str | Path, arguments: dict[str, Any], *, card: dict[str, Any] | None = None):
    """Write a model's weights with the arguments that create it, so that `load_model` needs nothing else.

    Args:
        model: what `create_model(**arguments)` returned, perhaps trained.
        path: a .safetensors file; appears whole or not at all.
        arguments: of `create_model`, `name` included, weights excluded.
        card: how the weights were made and what they score, for `model_card`.
    """
    write_weights(path, model.state_dict(), {"arguments": json.dumps(arguments), "card": json.dumps(card or {})})


def load_model(name_or_path: str | Path) -> nn.Module:
    """Load a model from the zoo by name, or from a file that `save_model` wrote; returned in evaluation mode."""
    path = _find(name_or_path)
    arguments = _metadata(path, "arguments")
    if arguments.get("img_size"):
        arguments["img_size"] = tuple(arguments["img_size"])
    return load_weights(create_model(**arguments), path).eval()


def model_card(name_or_path: str | Path) -> dict[str, Any]:
    """Return how a model of the zoo, or of a file, was made: recipe, seed, command, and its scores in [0, 1]."""
    return _metadata(_find(name_or_path), "card")


def list_zoo() -> list[str]:
    """List the trained toy models that the package brings."""
    return sorted(_zoo())


def _zoo() -> dict[str, Path]:
    return {path.stem: path for path in Path(str(files("dcal_lite.zoo"))).glob("*.safetensors")}


def _find(name_or_path: str | Path) -> Path:
    path = _zoo().get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise unknown("zoo model or weight file", str(name_or_path), _zoo())
    return path


def _metadata(path: Path, key: str) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if key not in metadata:
        raise ValueError(f"{path.name!r} does not say what model it is; use create_model(name, pretrained=path)")
    return json.loads(metadata[key])


def _register(name: str) -> None:
    """Make `timm.create_model(name, ...)` work; timm finds entry points by function name and module."""

    def entrypoint(pretrained: bool = False, **options):
        own = {key: value for key, value in options.items() if key not in TIMM_ARGUMENTS}
        return create_model(name, pretrained=pretrained, **own)

    entrypoint.__name__ = name
    register: Callable = timm.models.register_model
    register(entrypoint)


for _name in NAMES:
    _register(_name)

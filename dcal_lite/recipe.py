"""Recipes: every number that a run depends on, in one frozen object that is saved with the result.

`recipes/NAME.yaml` holds a paper's settings, each with its source, what some datasets and models change in them, and
presets. A recipe is resolved in steps, later ones win: the settings, the dataset's and the model's changes, the
preset, the caller's overrides. Unknown keys fail.
"""

import hashlib
import re
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml

from dcal_lite.errors import check_choice, unknown
from dcal_lite.precision import PRECISIONS

BRANCHES = ("sa", "glca", "pwca", "global", "local")  # of all models
LAYERS = ("dataset", "model")  # keys whose values may bring settings of their own


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, too (PyYAML alone wants 1.0e-4)."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), "-+0123456789")


@dataclass(frozen=True)
class Recipe:
    """One training run. Sizes are (height, width) in pixels; an epoch walks (nearly) all training images once."""

    name: str  # of the recipe file
    preset: str  # of the preset applied
    model: str  # name for `create_model`
    dataset: str  # name for `load_dataset`
    img_size: tuple[int, int]  # what the model sees
    epochs: int
    batch_size: int
    lr: float  # peak learning rate
    model_args: dict[str, Any] = field(default_factory=dict)  # arguments of the model's class
    dataset_args: dict[str, Any] = field(default_factory=dict)  # arguments of the dataset's reader
    pretrained: bool = False  # start from the backbone's ImageNet weights
    drop_path: float = 0.0  # stochastic depth of the last block
    instances: int = 0  # K images an identity in a batch; 0 shuffles images freely
    identities_epoch: bool = False  # an epoch takes K images of every identity, not (nearly) all images
    resize: tuple[int, int] | None = None  # size before cropping; None: img_size
    flip: float = 0.5  # probability
    pad: int = 0  # pixels on each side before the random crop
    enlarge: float = 0.0  # probability of enlarging by 1/8 before the random crop
    erase: float = 0.0  # probability of random erasing
    erase_noise: bool = True  # erase by Gaussian noise, or by the mean
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    optimizer: str = "sgd"  # "sgd" (momentum 0.9), "adam" or "adamw"
    weight_decay: float = 1e-4
    decay_vectors: bool = True  # weight decay for biases and norms too
    bias_lr: float = 1.0  # factor on the learning rate of biases
    warmup_epochs: float = 0.0  # linear, from warmup_lr * lr
    warmup_lr: float = 0.01
    final_lr: float = 0.0  # the cosine ends at final_lr * lr
    halve_at: tuple[int, ...] = ()  # epochs at which the learning rate is halved, instead of the cosine
    label_smoothing: float = 0.0
    triplet: tuple[str, ...] = ()  # branches that get the batch-hard triplet loss too, weight 1; others are ignored
    margin: float | None = None  # of the triplet loss; None: soft margin
    weighting: str = "uncertainty"  # of several branches' losses: "uncertainty" (learned) or "sum"
    precision: str = "fp32"  # "fp32", "bf16", "fp16" (with loss scaling) or "auto": see `choose_precision`
    accumulate: int = 1  # parts that a batch is computed in, one after the other
    checkpoint_blocks: bool = False  # keep less for the backward pass of transformers, and compute it twice
    eval_every: int = 0  # epochs between evaluations; 0: at the end only
    eval_batch_size: int = 128
    eval_flip: bool = False  # mean of the embeddings of an image and its mirror image
    distance: str = "euclidean"  # or "cosine", of embeddings
    rerank: bool = False  # by k-reciprocal neighbours
    seed: int = 0

    def __post_init__(self):
        check_choice("optimizer", self.optimizer, ("sgd", "adam", "adamw"))
        check_choice("distance", self.distance, ("euclidean", "cosine"))
        check_choice("weighting", self.weighting, ("uncertainty", "sum"))
        check_choice("precision", self.precision, PRECISIONS)
        for branch in self.triplet:
            check_choice("branch", branch, BRANCHES)
        if min(self.epochs, self.batch_size, self.eval_batch_size, self.accumulate) < 1:
            raise ValueError("epochs, batch_size, eval_batch_size and accumulate of at least 1 expected")
        if self.batch_size % self.pairs:
            raise ValueError(f"an even batch_size expected, got {self.batch_size}: PWCA needs pairs")

    @property
    def pairs(self) -> int:
        """Images that a batch must hold together: 2 where PWCA may pair them, else 1."""
        return 2 if "pwca" in self.model_args.get("branches", ("pwca",)) else 1

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, readable by `load_recipe`."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False)

    @property
    def digest(self) -> str:
        """Hash of everything that the run depends on, 12 hexadecimal digits; equal recipes have equal digests.

        Settings at their defaults are left out, so that a digest outlives new settings.
        """
        changed = {item.name: getattr(self, item.name) for item in fields(self) if not _is_default(self, item)}
        return hashlib.sha256(yaml.safe_dump(_plain(changed)).encode()).hexdigest()[:12]

    def inference(self) -> dict[str, Any]:
        """The arguments of `embeddings` and `predictions` that this recipe asks for."""
        return {"resize": self.resize, "mean": self.mean, "std": self.std, "batch_size": self.eval_batch_size,
                "precision": self.precision, "flip": self.eval_flip}  # fmt: skip

    def evaluation(self) -> dict[str, Any]:
        """The arguments of `evaluate` that this recipe asks for."""
        return self.inference() | {"distance": self.distance, "rerank": self.rerank}

    def command(self) -> str:
        """The command line that runs this recipe (the data's and the weights' places excluded)."""
        own = load_recipe(self.name, preset=self.preset)
        chosen = {kind: getattr(self, kind) for kind in LAYERS if getattr(self, kind) != getattr(own, kind)}
        changes = chosen | _changes(load_recipe(self.name, preset=self.preset, **chosen), self)
        words = [f"{key}={as_word(value)}" for key, value in changes.items()]
        return " ".join(["python -m dcal_lite train", self.name, f"preset={self.preset}", *words])


def list_recipes() -> dict[str, list[str]]:
    """Return the presets of every recipe that the package brings."""
    paths = sorted(Path(str(_folder())).glob("*.yaml"))
    return {path.stem: sorted(_read(path)["presets"]) for path in paths}


def load_recipe(name_or_path: str | Path, *, preset: str | None = None, **overrides: Any) -> Recipe:
    """Resolve a recipe.

    Args:
        name_or_path: a name of `list_recipes()`, or a YAML file: a recipe file or a run's resolved `recipe.yaml`.
        preset: a preset of the recipe; None takes "paper".
        overrides: values by key; a key inside a dictionary has a dot, as in {"model_args.readout": "pool"}.

    Raises:
        ValueError: unknown recipe, preset or key (with the nearest known one), or a value of another type.
    """
    content = _read(_find(name_or_path))
    if "settings" not in content:  # a resolved recipe
        return _override(_build(content), overrides)
    presets = content["presets"]
    preset = preset or "paper"
    check_choice(f"preset of {content['name']}", preset, presets)
    settings = {"name": content["name"], "preset": preset, **content["settings"]}
    chosen = settings | presets[preset] | overrides
    layers = [content.get(f"{kind}s", {}).get(chosen[kind], {}) for kind in LAYERS]
    return _override(_build(settings, *layers, presets[preset]), overrides)


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """Turn ["epochs=3", "model_args.branches=[sa]"] into a dictionary; values are YAML."""
    for word in words:
        if "=" not in word:
            raise ValueError(f"an override of the form key=value expected, got {word!r}")
    return {key: yaml.load(value, _Loader) for key, _, value in (word.partition("=") for word in words)}


# --------------------------------------------------------------------------------------------------- reading, checks


def _folder():
    return files("dcal_lite.recipes")


def _find(name_or_path: str | Path):
    packaged = _folder() / f"{name_or_path}.yaml"
    if packaged.is_file():
        return packaged
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    raise unknown("recipe", str(name_or_path), list_recipes())


def _read(path) -> dict[str, Any]:
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is no YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no recipe: a mapping of keys to values expected")
    return content


@cache
def _parse(text: str) -> Any:
    """What a YAML text says; shared, and not to be changed. (A ledger resolves a hundred recipes of four files.)"""
    return yaml.load(text, _Loader)


def _build(*layers: dict[str, Any]) -> Recipe:
    """Make a recipe of settings; a later layer's keys win, dictionaries are merged, types are checked."""
    settings: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            _check_key(key)
            old = settings.get(key)
            settings[key] = {**old, **_freeze(value)} if isinstance(old, dict) and value else _freeze(value)
    missing = [item.name for item in fields(Recipe) if item.name not in settings and _is_required(item)]
    if missing:
        raise ValueError(f"the recipe lacks {', '.join(missing)}")
    given = [item for item in fields(Recipe) if item.name in settings]
    return Recipe(**{item.name: _checked(item, settings[item.name]) for item in given})


def _override(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    settings = {item.name: getattr(recipe, item.name) for item in fields(Recipe)}
    for dotted, value in overrides.items():
        key, _, inner = dotted.partition(".")
        _check_key(key)
        if inner and not isinstance(settings[key], dict):
            raise ValueError(f"recipe key {key!r} holds no dictionary, so {dotted!r} is no key")
        settings[key] = {**settings[key], inner: value} if inner else value
    return _build(settings)


def _checked(item: Field, value: Any) -> Any:
    if not _fits(value, item.type):
        kind = item.type.__name__ if isinstance(item.type, type) and not get_args(item.type) else item.type
        raise ValueError(f"recipe key {item.name!r} takes {kind}, got {value!r}")
    return float(value) if isinstance(value, int) and item.type is float else value


def _check_key(key: str) -> None:
    known = [item.name for item in fields(Recipe)]
    if key not in known:
        raise unknown("recipe key", key, known)


def _is_default(recipe: Recipe, item: Field) -> bool:
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return getattr(recipe, item.name) == default


def _is_required(item: Field) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _freeze(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    return {key: _freeze(item) for key, item in value.items()} if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether a value is of a field's type; true is no number, and 1 is a float where one is wanted."""
    if get_args(kind) and getattr(kind, "__origin__", None) is tuple:
        kinds = get_args(kind)
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(value) if isinstance(value, tuple) else ()
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if getattr(kind, "__origin__", None) is dict:
        return isinstance(value, dict)
    if get_args(kind):
        return any(_fits(value, option) for option in get_args(kind))
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _changes(start: Recipe, end: Recipe) -> dict[str, Any]:
    """The overrides that lead from one recipe to another."""
    changes: dict[str, Any] = {}
    for item in fields(Recipe):
        old, new = getattr(start, item.name), getattr(end, item.name)
        if old != new and isinstance(new, dict) and old.keys() <= new.keys():
            changes |= {f"{item.name}.{key}": new[key] for key in new if old.get(key) != new[key]}
        elif old != new:
            changes[item.name] = new
    return changes


def as_word(value: Any) -> str:
    """A setting's value as one word of a shell's command line, which `parse_overrides` reads."""
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return f"'{text}'" if set(text) & set(" {}[]*&") else text

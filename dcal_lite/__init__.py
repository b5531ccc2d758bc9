"""DCAL, RGA and HA-CNN: attention mechanisms for re-identification and fine-grained recognition."""

import importlib

from dcal_lite.attention_rollout import cls_rollout, mix_residual, rollout
from dcal_lite.backbones import attention_maps, outputs_of
from dcal_lite.data import list_datasets, load_dataset
from dcal_lite.dcal import DCAL, GLCA, pair_order, pair_view, top_patches, unpair_view
from dcal_lite.evaluation import embeddings, evaluate, predictions, rank_split
from dcal_lite.hacnn import HACNN, HarmoniousAttention
from dcal_lite.heads import Output
from dcal_lite.ledger import Claim, Experiment, load_claims, reproduce
from dcal_lite.losses import UncertaintyWeighting, batch_hard_triplet
from dcal_lite.metrics import (
    RankMetrics,
    calibration_error,
    class_accuracy,
    confusion,
    lookalike_error,
    most_confused,
    rank_metrics,
    rank_metrics_from_distances,
    top1,
)
from dcal_lite.models import create_model, list_models, list_zoo, load_model, model_card, save_model
from dcal_lite.recipe import Recipe, list_recipes, load_recipe, parse_overrides
from dcal_lite.reranking import rerank
from dcal_lite.results import compare, interval, load_results
from dcal_lite.rga import RGA, RelationGate, ResNetRGA
from dcal_lite.saliency import occlusion_map, saliency_maps
from dcal_lite.train import Run, fit

__version__ = "0.1.0"


def __getattr__(name: str):
    """Import what draws when it is first used: training needs neither matplotlib nor seaborn, and they take seconds."""
    if name in ("plot", "explorers"):
        return importlib.import_module(f"dcal_lite.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import dcal_lite as dl
from dcal_lite import metrics
from dcal_lite.data import batches
from dcal_lite.data.records import Dataset, Record, Split
from dcal_lite.evaluation import rank_split
from dcal_lite.heads import Output
from dcal_lite.sharding import is_sharded


class Colour(nn.Module):
    """A model whose feature is the image's mean colour and whose logits are that feature: predictable by hand."""

    img_size = (4, 4)

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        feature = images.mean(dim=(2, 3))
        return Output({"sa": feature}, {"sa": feature})


def solid(colours, labels, cameras, *others):
    table = {str(i): np.broadcast_to(np.uint8(c), (4, 4, 3)) for i, c in enumerate(colours)}
    names = map(str, range(len(labels)))
    records = tuple(Record(*record) for record in zip(names, labels, cameras, *others, strict=True))
    return Split(records, lambda record: table[record.source])


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_only_a_ranking_can_be_re_ranked(tmp_path):
    with pytest.raises(ValueError, match="rerank=False expected"):
        dl.evaluate(small_model(), dl.load_dataset("plumage", train=8, test=8), rerank=True)
    with pytest.raises(ValueError, match="rerank=False expected"):  # before training, not after it
        dl.fit(dl.load_recipe("dcal-fgvc", preset="toy", rerank=True), output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fine_grained_top1_by_hand():
    train = solid([RED, GREEN, BLUE], [10, 20, 30], [0] * 3)
    test = solid([RED, GREEN, BLUE, BLUE], [10, 20, 30, 10], [0] * 4)
    scores = dl.evaluate(Colour(), Dataset("x", "fgvc", {"train": train, "test": test}), mean=(0, 0, 0), std=(1, 1, 1))
    # Every colour is 1 among two 0, so every confidence is e / (e + 2); class 10 is right for one image of two.
    confidence = np.e / (np.e + 2)
    expected = {"top1": 0.75, "class_mean": (1 / 2 + 1 + 1) / 3, "ece": 0.75 - confidence}
    assert scores == pytest.approx(expected, abs=1e-6)


def test_reid_by_hand():
    query = solid([RED, GREEN], [1, 2], [1, 1])
    gallery = solid([(255, 40, 0), (200, 20, 20), BLUE, GREEN], [1, 1, 2, 0], [1, 2, 2, 2])
    dataset = Dataset("x", "reid", {"train": query, "query": query, "gallery": gallery})
    scores = dl.evaluate(Colour(), dataset, batch_size=1)
    # Query 1: its same-camera twin is left out, the other comes first: AP 1. Query 2: the green distractor, both
    # reddish ones (each with some green in it), then blue, its only match, at rank 4: AP 1/4.
    assert scores["rank1"] == 0.5 and scores["rank5"] == 1.0
    assert scores["mAP"] == pytest.approx((1 + 1 / 4) / 2) and scores["mINP"] == pytest.approx((1 + 1 / 4) / 2)


def test_cloth_changing_and_tracks_by_hand():
    query = solid([RED, GREEN], [1, 2], [1, 1], [7, 7])
    gallery = solid([(250, 0, 0), (200, 20, 20), BLUE, GREEN], [1, 1, 2, 3], [2, 2, 2, 2], [7, 8, -1, 7])
    dataset = Dataset("x", "reid", {"query": query, "gallery": gallery})
    scores = dl.evaluate(Colour(), dataset)
    # Query 1: the nearest is left out (its clothes), the other comes first: AP 1. Query 2: green is somebody else, the
    # reddish ones follow, then blue at 4: AP 1/4.
    assert scores["mAP"] == pytest.approx((1 + 1 / 4) / 2)
    tracks = solid([BLUE, (200, 20, 20), RED, GREEN], [1, 2, 1, 3], [2, 2, 2, 2], [-1] * 4, [4, -1, 4, 5])
    scores = dl.evaluate(Colour(), Dataset("x", "reid", {"query": query, "gallery": tracks}))
    # Query 1: its track is as near as the red image: AP 1. Query 2: green, then the reddish match: AP 1/2.
    assert scores["mAP"] == pytest.approx((1 + 1 / 2) / 2) and scores["rank1"] == 0.5


def test_multi_query_by_hand():
    query = solid([RED, GREEN, GREEN, BLUE, GREEN, BLUE], [1, 1, 1, 2, 2, 2], [1] * 6, [-1] * 6, [4, 4, 4, 7, 7, 7])
    gallery = solid([RED, GREEN, BLUE], [2, 1, 2], [2, 2, 2])
    dataset = Dataset("x", "reid", {"query": query, "gallery": gallery})
    ranks = rank_split(Colour(), dataset, batch_size=4)
    # Query 1 is a red image and two green ones, nearest to green: AP 1 (the red one alone would find red first).
    # Query 2 is two blue images and a green one: blue, green, red, AP (1 + 2/3) / 2.
    np.testing.assert_allclose(ranks.average_precision, [1, (1 + 2 / 3) / 2])
    single = Dataset("x", "reid", {"query": query.subset([0, 3]), "gallery": gallery})
    np.testing.assert_allclose(rank_split(Colour(), single).average_precision, [1 / 2, 1])


def test_scores_do_not_depend_on_the_batch_and_the_mode_returns():
    dataset = dl.load_dataset("plumage", train=16, test=24)
    model = dl.create_model("dcal_vit_toy_patch8_64", num_classes=len(dataset["train"].classes)).train()
    outputs = [dl.predictions(model, dataset["test"], batch_size=size) for size in (5, 24)]
    torch.testing.assert_close(*outputs)
    assert model.training
    assert dl.embeddings(model, dataset["test"], batch_size=7).shape == (24, 2 * 96)


def test_a_model_that_draws_scores_the_same_each_time_and_leaves_the_generator_alone():
    torch.manual_seed(0)
    model = dl.create_model("dcal_vit_toy_patch8_64", num_classes=4, branches=("sa", "glca"), readout="pool",
                            selection="random", inference=("glca",))  # fmt: skip
    split = dl.load_dataset("plumage", train=8, test=8)["test"]
    torch.manual_seed(1)
    first, state = dl.predictions(model, split), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(dl.predictions(model, split), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_that_do_not_fit_are_read_by_workers(monkeypatch):
    split = dl.load_dataset("plumage", train=16, test=24)["test"]
    model = dl.create_model("dcal_vit_toy_patch8_64", num_classes=5)
    kept = dl.embeddings(model, split, batch_size=7)
    monkeypatch.setattr(batches, "free_memory", lambda device: 0)
    assert torch.equal(dl.embeddings(model, split, batch_size=7), kept)


def test_centre_crop_after_resize():
    stripes = np.zeros((8, 8, 3), dtype=np.uint8)
    stripes[2:6, 2:6] = RED
    split = Split((Record("0", 0),), lambda _: stripes)
    features = dl.embeddings(Colour(), split, resize=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    torch.testing.assert_close(features, torch.tensor([[1.0, 0, 0]]))


def test_flip_is_the_mean_over_both_sides():
    class Half(Colour):  # sees the left half only
        def forward(self, images):
            return super().forward(images[..., :2])

    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:, :2], image[:, 2:] = RED, BLUE
    split, numbers = Split((Record("0", 0),), lambda _: image), {"mean": (0, 0, 0), "std": (1, 1, 1)}
    assert dl.embeddings(Half(), split, **numbers).tolist() == [[1, 0, 0]]
    r = 0.5 / 2**0.5 * 2**0.5  # the embedding of each side has length 1
    np.testing.assert_allclose(dl.embeddings(Half(), split, flip=True, **numbers), [[r, 0, r]], rtol=1e-6)
    sides = [torch.tensor([[1.0, 0, 0]]).softmax(1), torch.tensor([[0.0, 0, 1]]).softmax(1)]
    torch.testing.assert_close(dl.predictions(Half(), split, flip=True, **numbers), sum(sides) / 2)


def test_distance_and_re_ranking_are_those_of_the_embeddings():
    dataset, model = small_promenade(), small_model()
    query, gallery = dataset["query"], dataset["gallery"]
    features = [dl.embeddings(model, split, flip=True) for split in (query, gallery)]
    labels = query.labels, gallery.labels, query.cameras, gallery.cameras
    expected = {
        "cosine": dl.rank_metrics(*features, *labels, distance="cosine"),
        "rerank": dl.rank_metrics_from_distances(dl.rerank(*features), *labels),
        "both": dl.rank_metrics_from_distances(dl.rerank(*features, distance="cosine"), *labels),
    }
    options = {"cosine": {"distance": "cosine"}, "rerank": {"rerank": True}}
    for name, ranks in expected.items():
        chosen = options.get(name, options["cosine"] | options["rerank"])
        assert dl.evaluate(model, dataset, flip=True, **chosen)["mAP"] == ranks.mAP
    assert len({ranks.mAP for ranks in expected.values()}) > 1


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="evaluation needs at least one image"):
        dl.embeddings(Colour(), Split((), lambda _: None))


# --- Several processes ---


def drawn(name, **arguments):
    """A toy dataset whose images are drawn once."""
    dataset = dl.load_dataset(name, **arguments)
    splits = {key: Split(split.records, cache(split.read), threads=1) for key, split in dataset.splits.items()}
    return Dataset(name, dataset.task, splits)


def small_promenade():
    return drawn("promenade", size=(64, 32), train=2, test=8, strangers=3)


def small_model(classes=4, size=(64, 32)):
    torch.manual_seed(0)
    return dl.create_model("dcal_vit_toy_patch8_64", num_classes=classes, img_size=size)


def all_scores():
    """Every score of small data, in batches and blocks so small that there are several, and the images it took."""
    metrics._QUERIES, dataset, model = 5, small_promenade(), small_model()
    birds, bird_model = drawn("plumage", train=24, test=30), small_model(classes=24, size=(64, 64))
    options, seen = {"sharded": is_sharded(), "batch_size": 7}, []
    for counted in (model, bird_model):
        counted.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    ranks = rank_split(model, dataset, **options)
    several = [{}, {"flip": True, "distance": "cosine"}, {"rerank": True}]
    result = {
        "scores": [dl.evaluate(model, dataset, batch_size=7, **choice) for choice in several],
        "birds": [dl.evaluate(bird_model, birds, batch_size=size) for size in (7, 20)],  # 20: a process has no batch
        "each": (ranks.average_precision.tolist(), ranks.first_match.tolist()),
        "features": dl.embeddings(model, dataset["gallery"], **options).tolist(),
    }
    return result, sum(seen)


def in_processes(rank, folder):
    """What a process writes that is one of three, then, but for the last one, one of two."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # as many as in the process that compares
    for size in (3, 2):
        if rank < size:
            dist.init_process_group("gloo", f"file://{folder}/group{size}", rank=rank, world_size=size)
            Path(folder, f"{size}-{rank}.json").write_text(json.dumps(all_scores()), encoding="utf-8")
            dist.destroy_process_group()


@pytest.mark.posix
def test_sharded_scores_equal_the_unsharded(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "_QUERIES", metrics._QUERIES)  # is put back
    alone, images = all_scores()
    torch.multiprocessing.spawn(in_processes, (str(tmp_path),), nprocs=3)
    for size in (3, 2):
        results, seen = zip(
            *(json.loads((tmp_path / f"{size}-{i}.json").read_text()) for i in range(size)), strict=True
        )
        assert all(result == json.loads(json.dumps(alone)) for result in results)
        assert sum(seen) == images and max(seen) < 0.6 * images  # each did its share


@pytest.mark.gpu
def test_same_embeddings_and_scores_on_the_gpu():
    dataset, model = small_promenade(), small_model()
    expected = dl.embeddings(model, dataset["query"], flip=True)
    scores = dl.evaluate(model, dataset, rerank=True)
    torch.testing.assert_close(dl.embeddings(model.cuda(), dataset["query"], flip=True), expected, rtol=0, atol=1e-4)
    assert dl.evaluate(model, dataset, rerank=True)["mAP"] == pytest.approx(scores["mAP"], abs=0.01)

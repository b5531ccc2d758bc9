import numpy as np
import pytest
import torch
from torch import nn

import dcal_lite as dl
from dcal_lite.data.records import Dataset, Record, Split
from dcal_lite.evaluation import rank_split
from dcal_lite.heads import Output


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


def test_fine_grained_top1_by_hand():
    train = solid([RED, GREEN, BLUE], [10, 20, 30], [0] * 3)
    test = solid([RED, GREEN, BLUE, BLUE], [10, 20, 30, 10], [0] * 4)
    assert dl.evaluate(Colour(), Dataset("x", "fgvc", {"train": train, "test": test})) == {"top1": 0.75}


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


def test_centre_crop_after_resize():
    stripes = np.zeros((8, 8, 3), dtype=np.uint8)
    stripes[2:6, 2:6] = RED
    split = Split((Record("0", 0),), lambda _: stripes)
    features = dl.embeddings(Colour(), split, resize=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    torch.testing.assert_close(features, torch.tensor([[1.0, 0, 0]]))

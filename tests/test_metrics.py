"""Scores by counting against lists that are sorted and walked, examples by hand, and scikit-learn."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix

from dcal_lite import metrics
from dcal_lite.data.plumage import SPECIES
from dcal_lite.metrics import (
    calibration_error,
    class_accuracy,
    confusion,
    lookalike_error,
    most_confused,
    rank_metrics,
    rank_metrics_from_distances,
    top1,
)
from tests.oracles import ranking_scores


def world(rng, queries=23, gallery=61, identities=6, cameras=3):
    """Identities and cameras of a small world with junk (-1) and distractors (0)."""
    query_ids, gallery_ids = rng.integers(1, identities, queries), rng.integers(-1, identities, gallery)
    return query_ids, gallery_ids, rng.integers(0, cameras, queries), rng.integers(0, cameras, gallery)


def assert_equals_oracle(result, oracle):
    np.testing.assert_allclose(result.cmc, oracle["cmc"].mean(axis=0)[: len(result.cmc)], rtol=0, atol=1e-15)
    np.testing.assert_allclose(result.average_precision, oracle["ap"], rtol=1e-14)
    np.testing.assert_array_equal(result.first_match, oracle["cmc"].argmax(axis=1))
    assert result.mAP == pytest.approx(oracle["ap"].mean(), abs=1e-14)
    assert result.mAP_trapezoid == pytest.approx(oracle["trapezoid"].mean(), abs=1e-14)
    assert result.mINP == pytest.approx(oracle["inp"].mean(), abs=1e-14)
    assert result.valid_queries == len(oracle["ap"])


def same(a, b):
    """Whether two results are equal to the last bit."""
    scalars = (a.mAP, a.mAP_trapezoid, a.mINP) == (b.mAP, b.mAP_trapezoid, b.mINP)
    return scalars and np.array_equal(a.cmc, b.cmc) and np.array_equal(a.average_precision, b.average_precision)


def test_three_queries_five_items_by_hand():
    # gallery          a    b    c    d    e
    gallery_ids = np.array([1, 1, 2, -1, 0])
    gallery_cams = np.array([0, 1, 1, 1, 1])
    distances = torch.tensor([
        [0.1, 0.4, 0.3, 0.2, 0.5],  # identity 1, camera 0: a is left out (same camera), d is junk: c b e, one hit at 2
        [0.2, 0.5, 0.1, 0.3, 0.4],  # identity 1, camera 2: d is junk: c a e b, hits at 2 and 4
        [0.5, 0.4, 0.3, 0.2, 0.1],  # identity 2, camera 1: c is left out, no true match is left: no valid query
    ])  # fmt: skip
    result = rank_metrics_from_distances(distances, np.array([1, 1, 2]), gallery_ids, np.array([0, 2, 1]), gallery_cams)
    assert result.valid_queries == 2
    np.testing.assert_array_equal(result.cmc, [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(result.average_precision, [1 / 2, (1 / 2 + 2 / 4) / 2])
    assert result.mAP == 1 / 2
    # just before the hits the precision is 0/1, then 0/1 and 1/3
    assert result.mAP_trapezoid == pytest.approx(((0 + 1 / 2) / 2 + ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2) / 2)
    assert result.mINP == (1 / 2 + 2 / 4) / 2


def test_the_cloth_changing_rule_by_hand():
    # gallery            a  b  c  d  e  f
    gallery_ids = np.array([1, 1, 1, 2, 1, 2])
    gallery_cams = np.array([0, 1, 1, 1, 1, 0])
    gallery_clothes = np.array([1, 0, 1, 0, -1, 1])
    distances = torch.tensor([
        [0.1, 0.2, 0.5, 0.3, 0.6, 0.4],  # 1, camera 0, outfit 0: a (camera), b (outfit) left out: d f c e, hits at 3, 4
        [0.6, 0.5, 0.4, 0.3, 0.2, 0.1],  # 1, camera 2, not known: f e d c b a, hits at 2, 4, 5, 6
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # 2, camera 0, outfit 0: f (camera), d (outfit) left out: no valid query
    ])  # fmt: skip
    labels = np.array([1, 1, 2]), gallery_ids, np.array([0, 2, 0]), gallery_cams
    clothes = np.array([0, -1, 0]), gallery_clothes
    result = rank_metrics_from_distances(distances, *labels, clothes=clothes)
    assert result.valid_queries == 2
    expected = [(1 / 3 + 2 / 4) / 2, (1 / 2 + 2 / 4 + 3 / 5 + 4 / 6) / 4]
    np.testing.assert_allclose(result.average_precision, expected, rtol=1e-15)
    np.testing.assert_array_equal(result.cmc, [0, 1 / 2, 1, 1, 1, 1])
    general = rank_metrics_from_distances(distances, *labels)
    assert (
        general.valid_queries == 3 and general.average_precision[0] == (1 / 1 + 2 / 4 + 3 / 5) / 3
    )  # b c e of b d f c e


def test_tracks_by_hand():
    # gallery              a  b  c  d  e  f
    tracks = np.array([5, 9, 5, -1, 9, 2])
    gallery_ids = np.array([1, 2, 1, 1, 2, 1])
    gallery_cams = np.array([0, 1, 0, 1, 1, 2])
    distances = torch.tensor([
        [0.9, 0.2, 0.1, 0.3, 0.8, 0.4],  # 1, camera 1: track (a c) 0.1, (b e) 0.2, d is left out, f 0.4: hits at 1, 3
        [0.7, 0.9, 0.5, 0.6, 0.3, 0.3],  # 2, camera 0: (b e) 0.3, f 0.3 comes after it: a hit at 1
    ])  # fmt: skip
    result = rank_metrics_from_distances(
        distances, np.array([1, 2]), gallery_ids, np.array([1, 0]), gallery_cams, tracks=tracks
    )
    np.testing.assert_allclose(result.average_precision, [(1 + 2 / 3) / 2, 1], rtol=1e-15)
    np.testing.assert_array_equal(result.cmc, [1, 1, 1, 1])  # there are four tracks


def nearest_of_tracks(distances, tracks, columns):
    """Distances and labels of tracks, by loops; a track stands where its first image stood."""
    seen = []
    for i, track in enumerate(tracks):
        if track < 0 or track not in tracks[:i]:
            seen.append([j for j in range(len(tracks)) if j == i or (track >= 0 and tracks[j] == track)])
    nearest = np.array([[min(row[j] for j in items) for items in seen] for row in distances])
    return nearest, [np.array([column[items[0]] for items in seen]) for column in columns]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 14))
def test_clothes_and_tracks_equal_the_sorted_list(seed, queries, gallery):
    rng = np.random.default_rng(seed)
    query_ids, gallery_ids, query_cams, gallery_cams = world(rng, queries, gallery, identities=3)
    tracks = rng.integers(-1, 8, gallery)
    known = {track: i for i, track in reversed(list(enumerate(tracks)))}
    first = np.array([i if track < 0 else known[track] for i, track in enumerate(tracks)], dtype=int)
    gallery_ids, gallery_cams = gallery_ids[first], gallery_cams[first]
    clothes = rng.integers(-1, 3, queries), rng.integers(-1, 3, gallery)[first]
    distances = rng.integers(0, 9, (queries, gallery)).astype(np.float64)
    nearest, (ids, cams, worn) = nearest_of_tracks(distances, tracks, (gallery_ids, gallery_cams, clothes[1]))
    # For the oracle, an item left out for its clothes becomes one of the query's camera, query by query.
    results = []
    for q in range(queries):
        same = (worn == clothes[0][q]) & (worn >= 0)
        oracle = ranking_scores(nearest[[q]], query_ids[[q]], ids, query_cams[[q]], np.where(same, query_cams[q], cams))
        results += oracle["ap"].tolist()
    arguments = torch.from_numpy(distances), query_ids, gallery_ids, query_cams, gallery_cams
    if results:
        result = rank_metrics_from_distances(*arguments, clothes=clothes, tracks=tracks)
        np.testing.assert_allclose(result.average_precision, results, rtol=1e-14)
    else:
        with pytest.raises(ValueError, match="no query has a true match"):
            rank_metrics_from_distances(*arguments, clothes=clothes, tracks=tracks)


def test_tracks_and_clothes_must_fit(rng):
    labels = world(rng)
    distances = torch.from_numpy(rng.random((23, 61)))
    everywhere = np.full(61, 3)
    with pytest.raises(ValueError, match="images of a track must share identity, camera and clothes"):
        rank_metrics_from_distances(distances, *labels, tracks=everywhere)
    with pytest.raises(ValueError, match="tracks must have one entry for each of 61 images"):
        rank_metrics_from_distances(distances, *labels, tracks=everywhere[1:])
    with pytest.raises(ValueError, match="clothes of the gallery must have one entry for each of 61 images"):
        rank_metrics_from_distances(distances, *labels, clothes=(labels[0], everywhere[1:]))
    alone = rank_metrics_from_distances(
        distances, *labels, tracks=np.full(61, -1), clothes=(labels[0] * 0 - 1, everywhere)
    )
    assert same(alone, rank_metrics_from_distances(distances, *labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_equals_the_sorted_list(rng, dtype):
    labels = world(rng)
    distances = torch.from_numpy(rng.random((23, 61))).to(dtype)
    assert_equals_oracle(rank_metrics_from_distances(distances, *labels), ranking_scores(distances.numpy(), *labels))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 12), st.integers(1, 4))
def test_equals_the_sorted_list_with_ties(seed, queries, gallery, levels):
    rng = np.random.default_rng(seed)
    labels = world(rng, queries, gallery, identities=4)
    distances = rng.integers(0, levels, (queries, gallery)).astype(np.float64)
    oracle = ranking_scores(distances, *labels)
    if len(oracle["ap"]):
        assert_equals_oracle(rank_metrics_from_distances(torch.from_numpy(distances), *labels), oracle)
    else:
        with pytest.raises(ValueError, match="no query has a true match"):
            rank_metrics_from_distances(torch.from_numpy(distances), *labels)


def test_no_byte_overflows():
    # All items are nearer than the only match: every flag that is added up is set.
    distances = torch.zeros(1, 8 * 255 * 2 + 1)
    size = distances.shape[1]
    distances[0, 7] = 1
    gallery_ids = (np.arange(size) == 7).astype(int)
    result = rank_metrics_from_distances(distances, np.array([1]), gallery_ids, np.array([0]), np.ones(size, dtype=int))
    assert result.first_match.tolist() == [size - 1]


@pytest.mark.parametrize(("distance", "metric"), [("euclidean", "sqeuclidean"), ("cosine", "cosine")])
def test_features_equal_their_distances(rng, distance, metric):
    labels = world(rng)
    query, gallery = rng.standard_normal((23, 7)), 3 * rng.standard_normal((61, 7)) + 1
    if metric == "cosine":
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery)]
        distances = 1 - unit[0] @ unit[1].T
    else:
        distances = np.square(query[:, None] - gallery).sum(axis=2)
    result = rank_metrics(torch.from_numpy(query), torch.from_numpy(gallery), *labels, distance=distance)
    assert_equals_oracle(result, ranking_scores(distances, *labels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_chunks_do_not_matter(rng, monkeypatch, dtype):
    # Small integers make every distance exact, and many of them equal.
    labels = world(rng, queries=37, gallery=101)
    query, gallery = (torch.from_numpy(rng.integers(-2, 3, (n, 4))).to(dtype) for n in (37, 101))
    reference = rank_metrics(query, gallery, *labels)
    assert_equals_oracle(reference, ranking_scores(torch.cdist(query.double(), gallery.double()).numpy(), *labels))
    for sizes in [(1, 1, 1, 1), (5, 7, 3, 2), (36, 100, 16, 3), (64, 128, 255, 100)]:
        for name, value in zip(("_QUERIES", "_TILE", "_WORDS", "_MATCHES"), sizes, strict=True):
            monkeypatch.setattr(metrics, name, value)
        assert same(rank_metrics(query, gallery, *labels), reference)


def test_average_precision_equals_scikit_learn(rng):
    query_ids, gallery_ids, query_cams, gallery_cams = world(rng)
    distances = rng.random((23, 61))
    result = rank_metrics_from_distances(torch.from_numpy(distances), query_ids, gallery_ids, query_cams, gallery_cams)
    keep = (gallery_ids != -1) & ~((gallery_ids == query_ids[:, None]) & (gallery_cams == query_cams[:, None]))
    outside = [
        average_precision_score(gallery_ids[k] == i, -d[k])
        for i, d, k in zip(query_ids, distances, keep, strict=True)
        if (gallery_ids[k] == i).any()
    ]
    np.testing.assert_allclose(result.average_precision, outside, rtol=1e-12)


def test_labels_may_be_tensors_and_the_inputs_stay_as_they_are(rng):
    labels = world(rng)
    distances = torch.from_numpy(rng.random((23, 61)))
    before = distances.clone()
    as_tensors = rank_metrics_from_distances(distances, *map(torch.from_numpy, labels))
    assert same(as_tensors, rank_metrics_from_distances(distances, *labels))
    assert torch.equal(distances, before)


def test_features_may_need_gradients(rng):
    labels = world(rng)
    query, gallery = torch.rand(23, 4, requires_grad=True), torch.rand(61, 4, requires_grad=True)
    assert same(rank_metrics(query, gallery, *labels), rank_metrics(query.detach(), gallery.detach(), *labels))


def test_max_rank_cuts_the_curve(rng):
    labels = world(rng)
    distances = torch.from_numpy(rng.random((23, 61)))
    curve = rank_metrics_from_distances(distances, *labels, max_rank=100).cmc
    assert len(curve) == 61
    np.testing.assert_array_equal(rank_metrics_from_distances(distances, *labels, max_rank=4).cmc, curve[:4])


def test_bad_input(rng):
    labels = world(rng)
    query, gallery = torch.rand(23, 4), torch.rand(61, 4)
    with pytest.raises(ValueError, match="unknown distance 'manhattan'"):
        rank_metrics(query, gallery, *labels, distance="manhattan")
    with pytest.raises(ValueError, match=r"gallery_ids must have one entry for each of 61 images, got shape \(60,\)"):
        rank_metrics(query, gallery, labels[0], labels[1][:-1], *labels[2:])
    with pytest.raises(ValueError, match="query features are 4 wide and gallery features 3"):
        inspect.unwrap(rank_metrics)(query, gallery[:, :3], *labels)  # the type checker of the tests would come first
    with pytest.raises(ValueError, match="gallery features hold NaN"):
        rank_metrics(query, gallery.where(gallery < 0.9, torch.nan), *labels)
    with pytest.raises(ValueError, match="a distance of query 3 is NaN or infinite"):
        rank_metrics(query.index_fill(0, torch.tensor([3]), 1e38), gallery, *labels)
    for value in (torch.nan, torch.inf, -torch.inf):
        distances = torch.zeros(23, 61).index_fill(0, torch.tensor([3]), value)
        with pytest.raises(ValueError, match="a distance of query 3 is NaN or infinite"):
            rank_metrics_from_distances(distances, *labels)
    with pytest.raises(ValueError, match="no query has a true match"):
        rank_metrics(query[:0], gallery, labels[0][:0], labels[1], labels[2][:0], labels[3])
    with pytest.raises(ValueError, match="no query has a true match"):
        rank_metrics(query, gallery[:0], labels[0], labels[1][:0], labels[2], labels[3][:0])


@pytest.mark.gpu
def test_same_scores_on_the_gpu(rng):
    labels = world(rng, queries=300, gallery=5000)
    query, gallery = (torch.from_numpy(rng.integers(-2, 3, (n, 4))).float() for n in (300, 5000))
    assert same(rank_metrics(query.cuda(), gallery.cuda(), *labels), rank_metrics(query, gallery, *labels))


def test_top1_counts_the_largest_scores():
    prediction = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.0, 0.1, 0.9]])
    assert top1(prediction, torch.tensor([1, 1, 0, 2])) == 0.75  # of two equal scores the first counts
    assert top1(prediction, torch.tensor([1, 1, 1, 2])) == 0.5


def test_top1_refuses_nothing_and_nan():
    with pytest.raises(ValueError, match="at least one image"):
        top1(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="NaN predictions"):
        top1(torch.tensor([[0.1, torch.nan]]), torch.tensor([0]))


def taken_for(pairs, classes):
    """Predictions and targets of images, each a pair (true class, predicted class)."""
    targets, predicted = torch.tensor(pairs).unbind(1)
    return torch.eye(classes)[predicted], targets


def test_confusion_by_hand():
    # class 0: 4 images, two taken for 1, one for 3; class 1: 2, one taken for 0; class 2: none; class 3: 4, one for 0
    pairs = [(0, 0), (0, 1), (0, 1), (0, 3), (1, 1), (1, 0), (3, 3), (3, 3), (3, 3), (3, 0)]
    counts = confusion(*taken_for(pairs, 4))
    assert counts.tolist() == [[1, 2, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 3]]
    np.testing.assert_array_equal(class_accuracy(counts), [1 / 4, 1 / 2, np.nan, 3 / 4])
    assert most_confused(counts) == [(0, 1, 3 / 6), (0, 3, 2 / 8)]
    assert most_confused(counts, limit=1) == [(0, 1, 3 / 6)]
    assert lookalike_error(counts, ["tit", "tit", "finch", "finch"]) == pytest.approx(3 / 10)
    assert lookalike_error(counts, [0, 1, 1, 0]) == pytest.approx(2 / 10)
    with pytest.raises(ValueError, match="a group for each of 4 classes expected, got 3"):
        lookalike_error(counts, [0, 1, 1])


def test_confusion_equals_scikit_learn(rng):
    targets, prediction = rng.integers(0, 7, 200), rng.random((200, 7))
    counts = confusion(torch.from_numpy(prediction), torch.from_numpy(targets))
    predicted = prediction.argmax(axis=1)
    np.testing.assert_array_equal(counts, confusion_matrix(targets, predicted))
    assert class_accuracy(counts).nanmean().item() == pytest.approx(balanced_accuracy_score(targets, predicted))


def test_plumage_species_of_one_family_are_look_alikes(rng):
    families = [species.family.name for species in SPECIES]
    pairs = rng.integers(0, len(SPECIES), (500, 2))
    counts = confusion(*taken_for(pairs, len(SPECIES)))
    expected = sum(a != b and families[a] == families[b] for a, b in pairs) / 500
    assert expected > 0
    assert lookalike_error(counts, families) == pytest.approx(expected)


def test_calibration_by_hand():
    # two bins: 0.5 is the last of the first, where no image is right; of the second one of two is right
    prediction = torch.tensor([[0.5, 0.5], [0.3, 0.7], [0.9, 0.1]], dtype=torch.float64)
    targets = torch.tensor([1, 1, 1])
    by_hand = 1 / 3 * abs(0 - 0.5) + 2 / 3 * abs(1 / 2 - (0.7 + 0.9) / 2)
    assert calibration_error(prediction, targets, bins=2) == pytest.approx(by_hand, abs=1e-15)
    assert calibration_error(torch.eye(3), torch.arange(3)) == 0
    assert calibration_error(torch.eye(3), (torch.arange(3) + 1) % 3) == 1


def test_calibration_equals_the_definition_by_loops(rng):
    prediction = rng.dirichlet(np.full(5, 0.4), 300)
    prediction[:40] = np.round(prediction[:40] * 15) / 15  # on the edges of bins
    targets = rng.integers(0, 5, 300)
    gaps = []
    for m in range(1, 16):
        inside = [(p.max(), p.argmax() == t) for p, t in zip(prediction, targets, strict=True)
                  if (m - 1) / 15 < p.max() <= m / 15]  # fmt: skip
        if inside:
            confidence, right = np.mean(inside, axis=0)
            gaps.append(len(inside) / 300 * abs(right - confidence))
    result = calibration_error(torch.from_numpy(prediction), torch.from_numpy(targets))
    assert result == pytest.approx(sum(gaps), abs=1e-14)


def test_calibration_refuses_what_is_no_probability():
    for wrong in (torch.tensor([[3.0, -2.0]]), torch.tensor([[0.5, 1.5]])):
        with pytest.raises(ValueError, match=r"calibration_error needs probabilities in \[0, 1\]: apply softmax"):
            calibration_error(wrong, torch.tensor([0]))


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_precision_swaps_only_what_its_bound_allows(rng, dtype, unit):
    labels = world(rng, queries=150, gallery=600, identities=40)
    people = rng.standard_normal((40, 256))
    features = [people[ids] + 2.5 * rng.standard_normal((len(ids), 256)) for ids in labels[:2]]
    query, gallery = (torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in features)
    result = rank_metrics(query.to(dtype), gallery.to(dtype), *labels)
    # Every item moves by no more than its bound, 2 u: the scores lie between those of the worlds in which all true
    # matches are two bounds nearer and two farther.
    distances, match = torch.cdist(query, gallery), torch.from_numpy(labels[0][:, None] == labels[1])
    best, worst = (rank_metrics_from_distances(distances + x * match, *labels) for x in (-4 * unit, 4 * unit))
    assert (worst.average_precision <= result.average_precision).all()
    assert (result.average_precision <= best.average_precision).all()
    exact = rank_metrics(query, gallery, *labels)
    assert 0 < abs(result.mAP - exact.mAP) < unit
    assert 0.2 < exact.mAP < 0.9  # neither easy nor chance

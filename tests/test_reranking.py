"""Sparse re-ranking against the dense definition, an example by hand, and what it must do to a ranking."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

import dcal_lite as dl
from book.tools.plain import reranked_distances
from dcal_lite import reranking
from dcal_lite.metrics import rank_metrics, rank_metrics_from_distances


def clusters(rng, queries=40, gallery=160, width=8, people=20, noise=1.5):
    """Features around a centre for each person, and who each is."""
    ids = rng.integers(1, people + 1, queries + gallery)
    features = rng.standard_normal((people + 1, width))[ids] + noise * rng.standard_normal((len(ids), width))
    return *torch.from_numpy(features).split([queries, gallery]), ids[:queries], ids[queries:]


def oracle(query, gallery, k1=20, k2=6, lambda_value=0.3):
    features = torch.cat([query, gallery]).double().numpy()
    return reranked_distances(cdist(features, features, "sqeuclidean"), len(query), k1, k2, lambda_value)


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(20, 6, 0.3), (5, 1, 0.0), (7, 8, 1.0), (1, 2, 0.5)])
def test_equals_the_dense_definition(rng, monkeypatch, k1, k2, lambda_value):
    query, gallery, *_ = clusters(rng)
    for rows, pairs in ((256, 16_384), (7, 11)):
        monkeypatch.setattr(reranking, "_ROWS", rows)
        monkeypatch.setattr(reranking, "_PAIRS", pairs)
        result = dl.rerank(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
        expected = oracle(query, gallery, k1, k2, lambda_value)
        np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 30), st.integers(1, 8), st.integers(1, 3))
def test_ties_and_copies_equal_the_dense_definition(seed, queries, gallery, k1, levels):
    rng = np.random.default_rng(seed)
    query, gallery = (torch.from_numpy(rng.integers(0, levels + 1, (n, 3))).float() for n in (queries, gallery))
    query[0, 0] = -1  # not all images are the same
    k2 = int(rng.integers(1, k1 + 2))
    result = dl.rerank(query, gallery, k1=k1, k2=k2)
    np.testing.assert_allclose(result.numpy(), oracle(query, gallery, k1, k2), rtol=0, atol=1e-6)


def test_float32_and_half_precision_equal_the_dense_definition(rng):
    query, gallery, *_ = (x if i > 1 else x.bfloat16() for i, x in enumerate(clusters(rng)))
    expected = oracle(query, gallery)
    for cast in (torch.Tensor.float, lambda x: x):
        result = dl.rerank(cast(query), cast(gallery))
        assert result.dtype == torch.float32
        np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-6)


def test_one_query_three_images_by_hand():
    # On a line: the query at 0, images at 1, 2 and 10. Nearest (k1 = 1), each with itself first:
    # 0 -> 1, 1 -> 0 (the tie with 2 goes to the smaller index), 2 -> 1, 10 -> 2. Reciprocal: 0 and 1 only.
    line = torch.tensor([[0.0], [1.0], [2.0], [10.0]], dtype=torch.float64)
    # round(1/2) = 0: half-size sets are the images themselves. Weights of 0: 1 and exp(-1/100), of 1: exp(-1/81) and 1.
    a, b = np.exp(-1 / 100), np.exp(-1 / 81)
    shared = min(1 / (1 + a), b / (1 + b)) + min(a / (1 + a), 1 / (1 + b))
    expected = [1 - shared / (2 - shared), 1, 1]
    jaccard = dl.rerank(line[:1], line[1:], k1=1, k2=1, lambda_value=0)
    np.testing.assert_allclose(jaccard.numpy(), [expected], rtol=1e-14)
    final = dl.rerank(line[:1], line[1:], k1=1, k2=1)
    np.testing.assert_allclose(final.numpy(), [0.7 * np.array(expected) + [0.003, 0.012, 0.3]], rtol=1e-14)


def test_cosine_is_the_distance_of_directions(rng):
    query, gallery, *_ = clusters(rng)
    result = dl.rerank(query, gallery, distance="cosine")
    unit = [x / x.norm(dim=1, keepdim=True) for x in (query, gallery)]
    np.testing.assert_allclose(result.numpy(), oracle(*unit), rtol=0, atol=1e-12)
    torch.testing.assert_close(result, dl.rerank(3 * query, gallery / 7, distance="cosine"))


def test_all_weight_on_the_distance_keeps_the_ranking_and_neighbours_improve_it(rng):
    query, gallery, query_ids, gallery_ids = clusters(rng)
    labels = query_ids, gallery_ids, np.zeros(40, dtype=int), np.ones(160, dtype=int)
    before = rank_metrics(query, gallery, *labels)
    same = rank_metrics_from_distances(dl.rerank(query, gallery, lambda_value=1.0), *labels)
    # two ways to the distances: images at nearly the same one may change places
    np.testing.assert_allclose(same.average_precision, before.average_precision, atol=0.02)
    after = rank_metrics_from_distances(dl.rerank(query, gallery, k1=8, k2=3), *labels)
    assert after.mAP > before.mAP + 0.02


def test_images_that_are_all_the_same():
    same = torch.ones(30, 4)
    result = dl.rerank(same[:5], same[5:], k1=3, k2=2)
    assert result.isfinite().all() and (result >= 0).all() and (result <= 1).all()


def test_bad_input():
    query, gallery = torch.rand(3, 4), torch.rand(5, 4)
    for wrong in ({"k1": 0}, {"k2": 0}, {"k1": 4, "k2": 6}, {"lambda_value": 1.5}):
        with pytest.raises(ValueError, match=r"k1 >= 1, 1 <= k2 <= k1 \+ 1 and lambda_value in \[0, 1\] expected, got"):
            dl.rerank(query, gallery, **wrong)
    with pytest.raises(ValueError, match="needs queries and a gallery, got 3 and 0 images"):
        dl.rerank(query, gallery[:0])
    with pytest.raises(ValueError, match="unknown distance 'manhattan'"):
        dl.rerank(query, gallery, distance="manhattan")
    with pytest.raises(ValueError, match="the query features hold NaN"):
        dl.rerank(query.where(query < 0, torch.nan), gallery)
    with pytest.raises(ValueError, match="query features are 4 wide and gallery features 3"):
        inspect.unwrap(dl.rerank)(query, gallery[:, :3])  # the type checker of the tests would come first


@pytest.mark.gpu
def test_same_distances_on_the_gpu(rng):
    query, gallery = (torch.from_numpy(rng.integers(-2, 3, (n, 4))).float() for n in (60, 700))
    torch.testing.assert_close(dl.rerank(query.cuda(), gallery.cuda()), dl.rerank(query, gallery))

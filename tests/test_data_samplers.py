"""Batches of indices: what an epoch holds, and that it depends on (seed, epoch) alone."""

from collections import Counter

import numpy as np
import pytest

from dcal_lite.data.samplers import identity_batches, shuffled_batches


@pytest.fixture
def targets(rng):
    """40 identities with 1 to 20 images, in random order."""
    return rng.permutation(np.repeat(np.arange(40), rng.integers(1, 21, 40)))


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("count", "size"), [(17, 5), (20, 5), (5, 5), (3, 1)])
def test_every_image_once_but_for_the_last(count, size):
    batches = shuffled_batches(count, size, seed=0, epoch=0)
    seen = np.concatenate(batches)
    assert [len(batch) for batch in batches] == [size] * (count // size)
    assert len(set(seen.tolist())) == len(seen)
    assert set(seen.tolist()) <= set(range(count))


def test_all_images_are_left_out_at_times():
    left_out = Counter()
    for epoch in range(200):
        left_out.update(set(range(7)) - set(np.concatenate(shuffled_batches(7, 3, seed=0, epoch=epoch)).tolist()))
    assert sum(left_out.values()) == 200
    assert min(left_out[i] for i in range(7)) > 10


def test_batches_hold_instances_of_different_identities(targets):
    batches = identity_batches(targets, 32, 4, seed=0, epoch=0)
    for batch in batches:
        groups = targets[batch].reshape(8, 4)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == 8


def test_an_epoch_walks_the_groups_of_every_identity(targets):
    instances, per_batch = 4, 8
    batches = identity_batches(targets, instances * per_batch, instances, seed=0, epoch=0)
    used = Counter(np.concatenate(batches).tolist())
    groups = Counter(targets[np.concatenate(batches)[::instances]].tolist())
    unfinished = 0
    for identity in range(40):
        images = np.flatnonzero(targets == identity).tolist()
        seen = [used[i] for i in images]
        possible = max(1, len(images) // instances)
        assert groups[identity] <= possible
        unfinished += groups[identity] < possible
        if len(images) >= instances:
            assert max(seen) <= 1
        elif groups[identity]:
            assert max(seen) - min(seen) <= 1  # a small identity repeats its images evenly
            assert sum(seen) == instances
    assert unfinished < per_batch  # the epoch goes on as long as a batch can be filled


def test_small_identities_are_filled():
    batches = identity_batches(np.array([5, 9, 5, 9, 9]), 8, 4, seed=0, epoch=0)
    assert len(batches) == 1
    counts = Counter(batches[0].tolist())
    assert counts[0] == counts[2] == 2
    assert sorted(counts[i] for i in (1, 3, 4)) == [1, 1, 2]


@pytest.mark.parametrize("sampler", ["shuffled", "identity"])
def test_seed_and_epoch_decide(targets, sampler):
    def batches(seed, epoch):
        if sampler == "shuffled":
            return shuffled_batches(100, 8, seed=seed, epoch=epoch)
        return identity_batches(targets, 32, 4, seed=seed, epoch=epoch)

    state = np.random.get_state()[1].copy()  # noqa: NPY002  the global generator must not be touched
    assert same(batches(0, 3), batches(0, 3))
    assert not same(batches(0, 3), batches(0, 4))
    assert not same(batches(0, 3), batches(1, 3))
    assert not same(batches(0, 1), batches(1, 0))
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_the_order_of_images_within_groups_changes(targets):
    first, second = (np.concatenate(identity_batches(targets, 32, 4, seed=0, epoch=e)) for e in (0, 1))
    pairs = {frozenset(group) for group in first.reshape(-1, 4).tolist()}
    assert sum(frozenset(group) in pairs for group in second.reshape(-1, 4).tolist()) < len(pairs) / 2


def test_bad_input(targets):
    with pytest.raises(ValueError, match=r"batch_size must be in 1..7, the number of images, got 8"):
        shuffled_batches(7, 8, seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"batch_size must be in 1..7"):
        shuffled_batches(7, 0, seed=0, epoch=0)
    with pytest.raises(ValueError, match="multiple of instances, got 30 and 4"):
        identity_batches(targets, 30, 4, seed=0, epoch=0)
    with pytest.raises(ValueError, match="needs 41 identities, but there are 40"):
        identity_batches(targets, 164, 4, seed=0, epoch=0)


def test_an_identities_epoch_takes_every_identity_once():
    targets = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 30, 40))
    batches = identity_batches(targets, 32, 4, seed=0, epoch=0, once=True)
    seen = np.concatenate([targets[batch].reshape(-1, 4) for batch in batches])
    assert len(batches) == 5 and (seen == seen[:, :1]).all()
    assert sorted(seen[:, 0]) == list(range(40))

"""Which images go into which batch: pure functions of (seed, epoch), so that a run can be resumed anywhere.

An epoch is a list of index arrays. All batches are complete, so with an even batch size PWCA can always pair them.

What an *epoch* is depends on the sampler, and published recipes disagree. Here, as in TransReID, it walks nearly all
images (an images-epoch): about 180 batches of 16 x 4 on Market-1501. In open-reid, and so in RGA's code, it takes
each identity once (an identities-epoch): 46 such batches. Never carry a number of epochs from one to the other.
"""

import numpy as np
from jaxtyping import Int64


def shuffled_batches(count: int, batch_size: int, *, seed: int, epoch: int) -> list[Int64[np.ndarray, "B"]]:
    """Every image once, in random order; the last images that do not fill a batch are left out.

    Args:
        count: number of images.
        batch_size: images in a batch.
        seed: of the run, not negative.
        epoch: from 0.

    Raises:
        ValueError: there are fewer images than a batch needs.
    """
    if not 1 <= batch_size <= count:
        raise ValueError(f"batch_size must be in 1..{count}, the number of images, got {batch_size}: lower batch_size")
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return np.split(order[: count - count % batch_size], count // batch_size)


def identity_batches(
    targets: Int64[np.ndarray, "n"], batch_size: int, instances: int, *, seed: int, epoch: int, once: bool = False
) -> list[Int64[np.ndarray, "B"]]:
    """Batches of `batch_size / instances` identities with `instances` images each, side by side.

    Each identity's images are shuffled and cut into groups of `instances`; an incomplete last group is left out, but
    an identity with fewer images repeats some of them to fill its only group. A batch takes one group from each of
    randomly chosen identities that have one left. The epoch ends when too few identities are left for a batch, so its
    length varies a little from epoch to epoch.

    Args:
        targets: identity of every image.
        batch_size: images in a batch.
        instances: images of each identity in a batch (K).
        seed: of the run, not negative.
        epoch: from 0.
        once: take one group of every identity only, as open-reid does (an identities-epoch).

    Raises:
        ValueError: `batch_size` is not a multiple of `instances`, or there are too few identities.

    Source:
        RandomIdentitySampler of TransReID (He et al. 2021).
    """
    identities, places = np.unique(targets, return_inverse=True)
    if batch_size < 1 or instances < 1 or batch_size % instances:
        raise ValueError(f"batch_size must be a multiple of instances, got {batch_size} and {instances}")
    per_batch = batch_size // instances
    if len(identities) < per_batch:
        raise ValueError(
            f"a batch of {batch_size} images, {instances} each, needs {per_batch} identities, "
            f"but there are {len(identities)}: lower batch_size or raise instances"
        )
    rng = np.random.default_rng((seed, epoch))
    groups = [_groups(np.flatnonzero(places == i), instances, rng) for i in range(len(identities))]
    if once:
        groups = [group[:1] for group in groups]
    left = np.array([len(group) for group in groups])
    batches = []
    while np.count_nonzero(left) >= per_batch:
        chosen = rng.choice(np.flatnonzero(left), per_batch, replace=False)
        left[chosen] -= 1
        batches.append(np.concatenate([groups[i][left[i]] for i in chosen]))
    return batches


def _groups(images: np.ndarray, instances: int, rng: np.random.Generator) -> np.ndarray:
    """One identity's images, shuffled, as rows of `instances`."""
    shuffled = rng.permutation(images)
    if len(shuffled) < instances:
        return np.resize(shuffled, (1, instances))
    return shuffled[: len(shuffled) - len(shuffled) % instances].reshape(-1, instances)

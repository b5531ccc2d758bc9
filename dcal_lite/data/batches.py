"""The images of a split, batch by batch: from the device's memory, or read anew by worker processes."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import psutil
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dcal_lite.data.records import Split

_SHARE = 0.5  # of the memory that is free: so much the images may take; the rest is the model's


class Batches:
    """Gives batches of decoded images on a device, always the same ones.

    Args:
        split: whose images.
        size: height and width that they are resized to.
        device: where the batches are wanted.
        workers: processes that read the images of each batch when it is due. 0: all images are decoded once and kept on
            the device. None: that, if they take less than half of the memory that is free there; else as many workers
            as the machine has cores, up to eight.
        progress: show a bar while decoding.
    """

    def __init__(
        self,
        split: Split,
        size: tuple[int, int],
        device: torch.device,
        *,
        workers: int | None = None,
        progress: bool = False,
    ):
        self.split, self.size, self.device = split, size, device
        needed = len(split) * 3 * size[0] * size[1]
        fits = needed < _SHARE * free_memory(device)
        self.workers = (0 if fits else min(8, os.cpu_count() or 1)) if workers is None else workers
        self.kept = None if self.workers else split.images(size, progress=progress).to(device)

    def __call__(self, batches: Sequence[np.ndarray]) -> Iterator[UInt8[Tensor, "B 3 H W"]]:
        """The images at the indices of each batch, in order."""
        if self.kept is not None:
            for batch in batches:  # index_select copies whole images, [batch] does it several times slower
                yield self.kept.index_select(0, torch.as_tensor(batch, device=self.device))
            return
        pinned = self.device.type == "cuda"
        places = [batch.tolist() for batch in batches]
        loader = DataLoader(_Files(self), batch_sampler=places, num_workers=self.workers, pin_memory=pinned)
        for batch in loader:
            yield batch.to(self.device, non_blocking=pinned)


class _Files(Dataset):
    """Images as a dataset of PyTorch."""

    def __init__(self, batches: Batches):
        self.split, self.size = batches.split, batches.size

    def __getitem__(self, index: int) -> Tensor:
        return self.split.image(index, self.size)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available

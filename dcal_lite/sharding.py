"""Work shared among the processes of torch.distributed; with no process group, all of it is this process's.

Shares are runs of whole pieces (batches of images, blocks of queries). The pieces are those of one process alone, so
every number is made by the same operations on the same shapes, and joined in the same order.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def is_sharded() -> bool:
    """Whether this process is one of a group, which `torch.distributed` or accelerate has started."""
    return dist.is_available() and dist.is_initialized()


def share(pieces: Sequence[T]) -> Sequence[T]:
    """This process's run of the pieces: of equal lengths up to one, in the order of ranks."""
    if not is_sharded():
        return pieces
    rank, processes = dist.get_rank(), dist.get_world_size()
    return pieces[len(pieces) * rank // processes : len(pieces) * (rank + 1) // processes]


def gather(parts: list[T]) -> list[T]:
    """The lists of all processes, end to end in the order of ranks; every process must call it.

    With the backend NCCL each process must have set its own GPU (`torch.cuda.set_device`), as accelerate does.
    """
    if not is_sharded():
        return parts
    lists: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, parts)
    return [part for parts in lists for part in parts]

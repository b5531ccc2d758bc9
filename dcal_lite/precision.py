"""Number formats: which of them a device has instructions for, which are fast, and what "auto" means."""

import platform
import time
from functools import cache

import torch

from dcal_lite.errors import check_choice

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_instructions(precision: str, device: torch.device) -> bool:
    """Whether a device has instructions for "bf16" or "fp16".

    A processor without them computes in these formats all the same, many times slower than in float32.
    """
    if device.type == "cuda":
        return precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    try:  # oneDNN knows the processor, and obeys ONEDNN_MAX_CPU_ISA
        known = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")()
    except (AttributeError, RuntimeError):  # PyTorch was built without oneDNN
        return False
    # Its yes to bfloat16 includes processors of the x86 family with AVX-512 that only emulate it.
    emulates = precision == "bf16" and platform.machine().lower() in ("x86_64", "amd64")
    return known and (torch.cpu._is_avx512_bf16_supported() if emulates else True)


@cache
def bf16_gain() -> float:
    """How many times faster this processor multiplies matrices in bfloat16 than in float32.

    It is measured once, in about 50 ms. Instructions alone do not decide: an AMD EPYC with them gains
    (`book/results/bench`), and an Intel Xeon with them, but without AMX, takes twice as long.
    """
    matrices = [torch.ones(512, 512, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    seconds: list[list[float]] = [[], []]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other where other programs run
    for _ in range(6):  # in turns, and the best counts
        for matrix, times in zip(matrices, seconds, strict=True):
            start = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    single, half = map(min, seconds)
    return single / half


def choose_precision(precision: str, device: torch.device) -> str:
    """The format that a device computes in: "fp32", "bf16" or "fp16".

    Args:
        precision: one of these, or "auto": bf16 where the device has instructions for it that
            make it clearly faster (`bf16_gain`), else fp16 on a GPU of CUDA, fp32 elsewhere.
        device: where the model is.

    Raises:
        ValueError: the processor or CUDA's GPU has no instructions for the format.
    """
    check_choice("precision", precision, PRECISIONS)
    gpu, known = device.type == "cuda", device.type in ("cuda", "cpu")
    other = "fp16" if gpu else "fp32"
    if precision == "auto":
        fast = has_instructions("bf16", device) and (gpu or bf16_gain() > 1.2)
        return "bf16" if fast else other
    if precision == "fp32" or not known or has_instructions(precision, device):
        return precision
    name = torch.cuda.get_device_name(device) if gpu else f"this machine's {device.type.upper()}"
    raise ValueError(
        f"{name} has no instructions for {precision}, in which it would be many times slower than "
        f"in {other}: set precision={other} or precision=auto"
    )

"""Number formats: which of them a device has instructions for, and what "auto" means on it."""

import platform

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


def choose_precision(precision: str, device: torch.device) -> str:
    """The format that a device computes in: "fp32", "bf16" or "fp16".

    Args:
        precision: one of these, or "auto": bf16 where the device has instructions for it, else fp16 on a GPU of CUDA
            and fp32 anywhere else.
        device: where the model is.

    Raises:
        ValueError: the device has no instructions for the format.
    """
    check_choice("precision", precision, PRECISIONS)
    other = "fp16" if device.type == "cuda" else "fp32"
    if precision == "auto":
        return "bf16" if has_instructions("bf16", device) else other
    if precision == "fp32" or has_instructions(precision, device):
        return precision
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"this machine's {device.type.upper()}"
    raise ValueError(f"{name} has no instructions for {precision}, in which it would be many times slower than in "
                     f"{other}: set precision={other} or precision=auto")  # fmt: skip

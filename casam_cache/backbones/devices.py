"""Which device and numeric precision to use, and how to say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casam_cache.errors import OptionError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "bf16")


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU; anything else is a torch device name.

    Raises:
        OptionError: for an unknown name or a device this machine does not have.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(
            f"device '{name}' cannot be used: {reason}", "casam doctor shows what there is"
        ) from None
    return device


def choose_devices(name: str = "auto") -> list[torch.device]:
    """One device as `choose_device`, several as `cuda:0,cuda:1`, or all GPUs as `cuda:all`.

    Raises:
        OptionError: for an unknown name, a device this machine does not have, one named twice, or unlike ones.
    """
    import torch

    if name == "cuda:all":
        count = torch.cuda.device_count()
        names = [f"cuda:{index}" for index in range(count)] or ["cuda"]
    else:
        names = [part.strip() for part in name.split(",")]
    devices = [choose_device(part) for part in names]
    if len(devices) == 1:
        return devices
    if len({_number(device) for device in devices}) < len(devices):
        raise OptionError(f"device '{name}' names one device twice", "give each once, as in cuda:0,cuda:1")
    if (
        len({describe_device(device).partition(" ")[2] for device in devices}) > 1
        or devices[0].type != "cuda"
    ):
        raise OptionError(
            f"device '{name}': only GPUs of one kind can share the work, or bits would depend on which did what",
            "give one device, or several alike, as in cuda:0,cuda:1",
        )
    return devices


def _number(device: torch.device) -> tuple[str, int]:
    import torch

    if device.index is not None or device.type != "cuda":
        return device.type, device.index or 0
    return device.type, torch.cuda.current_device()


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 on CUDA (LayerNorm stays fp32) and fp32 elsewhere.

    Raises:
        OptionError: for a precision that does not exist.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if name not in PRECISIONS:
        raise OptionError(f"unknown precision '{name}'", f"available: auto, {', '.join(PRECISIONS)}")
    return name


def describe_device(device: torch.device) -> str:
    """The device with its hardware's name, e.g. `cuda (NVIDIA H200)` or `cpu (2 threads)`."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)

"""What failed, on which item, and what to do about it.

Every error a user can cause is a `CasamError`: the command line prints its message and hint as they are and exits
with 1. Anything else that escapes is a defect of this project and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CasamError(Exception):
    """One clear message for a person.

    Args:
        message: what is wrong, naming the file, item or option.
        hint: what to do, preferably a command that can be pasted; empty when the message says it all.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class DatasetError(CasamError):
    """A dataset folder cannot be used as it is."""


class ImageError(CasamError):
    """One image or mask file cannot be used; the rest of the dataset can."""


class CheckpointError(CasamError):
    """A checkpoint is missing, truncated, unsafe or of another architecture."""


class StoreError(CasamError):
    """A store is missing, damaged, or written by another version."""


class HeldError(CasamError):
    """Another process works on the same thing now; the message names it."""


class IdentityMismatchError(StoreError):
    """A store holds features of another backbone, preprocessing or precision than the one asked for."""


class OptionError(CasamError):
    """An option, task, method or name that does not exist or has a wrong value."""


class DivergedError(CasamError):
    """A fit whose loss is no longer finite: what is wrong are its options."""


def unknown_name(kind: str, name: str, available: list[str]) -> OptionError:
    known = ", ".join(sorted(available)) or "none"
    return OptionError(f"unknown {kind} '{name}'", f"available: {known}")


@contextmanager
def memory_for(what: str, kind: type[CasamError] = CasamError) -> Iterator[None]:
    """Memory that runs out inside is an error of this kind about `what`, a file or an image, and no traceback."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "end other programs, or cut the image and its masks into tiles"
        raise kind(f"{what}: not enough memory", hint) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the host or of a GPU, whichever library says so."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )

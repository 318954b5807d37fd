"""Memory that torch frees stays with the process, which asks for the same megabytes again at the next step.

glibc gives blocks of more than 32 MiB, and the free end of its heap, back to the system at once; each time they come
back, the system clears their pages anew. Training on a CPU frees and asks many times a step
(benchmarks/freed_memory.py).
"""

from __future__ import annotations

import ctypes
import os

# Numbers of mallopt(3), the names of the same settings in the environment, and bytes.
SETTINGS = (
    (-3, "MALLOC_MMAP_THRESHOLD_", 2**30),  # smaller blocks come from the heap
    (-1, "MALLOC_TRIM_THRESHOLD_", 2**31 - 1),  # so much may lie free at its end
    (-2, "MALLOC_TOP_PAD_", 2**26),  # and so much more it grows at a time
)
OTHERS = ("GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Sets this in this process and, by the environment, in those that it starts; True where it was done.

    Nothing is done where the environment chooses an allocator or its settings, or the C library is another one. What
    is computed is the same, bit for bit; the process keeps its largest memory until it ends.
    """
    if any(name.startswith("MALLOC_") or name in OTHERS for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        if not hasattr(library, "gnu_get_libc_version"):
            return False
    except (OSError, TypeError):  # Windows
        return False
    for number, name, size in SETTINGS:
        library.mallopt(number, size)
        os.environ[name] = str(size)
    return True

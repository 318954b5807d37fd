"""The tensors of a pickle that holds Python objects too, without running anything that the pickle names.

Trainers save more than weights: optimizers, data loaders, NumPy scalars. torch's `weights_only` then refuses the whole
file. Here every class and function that a pickle names becomes a placeholder that does nothing, except the few that
rebuild tensors from bytes. So the weights can be read, and what lay beside them is lost, not loaded.
"""

from __future__ import annotations

import pickle
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

_REBUILD: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
}
_PLAIN = ("__builtin__", "builtins", "_codecs", "copyreg", "copy_reg", "collections")
"""Modules whose names tell a person nothing of what lay there."""


class Inert:
    """Stands for an object that was not loaded; takes whatever a pickle does to it and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Inert:
        return Inert()

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass

    def add(self, _: Any) -> None:
        pass


def read_beside_objects(path: Path) -> tuple[Any, list[str]]:
    """What a zip archive of torch.save holds, with an `Inert` for each object; and the names of their classes.

    Args:
        path: of the archive; TorchScript programs are not read.

    Raises:
        pickle.UnpicklingError: a TorchScript program.
        Exception: whatever half a pickle, or one made to do harm, fails with.
    """
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise pickle.UnpicklingError("a TorchScript program")
    found: dict[str, type[Inert]] = {}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in _REBUILD:
                return _REBUILD[module, name]
            if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
                return getattr(torch, name)
            full = f"{module}.{name}"
            if full not in found:
                found[full] = type(name.replace(".", "_"), (Inert,), {"__module__": module})
            return found[full]

    reader = types.ModuleType("inert")
    reader.Unpickler = Unpickler  # type: ignore[attr-defined]
    # torch asks a path's ending for the format, and the file itself has said it already.
    by_path = path.suffix != ".safetensors"
    with path.open("rb") as file:
        content = torch.load(
            path if by_path else file,
            map_location="cpu",
            pickle_module=reader,
            weights_only=False,
            mmap=by_path,
        )
    telling = [name for name in found if name.partition(".")[0] not in _PLAIN]
    return content, sorted(telling or found)

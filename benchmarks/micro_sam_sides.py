"""The two sides of `micro_sam_peer`: one process a call, each with the packages of its own environment.

    PYTHON benchmarks/micro_sam_sides.py ours|micro_sam encode|prompt FOLDER --checkpoint FILE --model vit_b

FOLDER holds what both read: `data/images/*.png` and `boxes.json` (id: x0, y0, x1, y1). Each side writes
beside them under its own name, and the last line it prints is JSON. With `--kill-at N` it ends by SIGKILL as soon as it
would say that N images are done, and prints how many. Nothing of the other side is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

PROMPTS = 3  # a side's image is set once a turn, and prompted so often


class MicroSam:
    """micro-sam by its own functions: a zarr file an image."""

    packages = ("micro_sam", "segment_anything", "torch", "zarr")

    def __init__(self, options: argparse.Namespace) -> None:
        import micro_sam.prompt_based_segmentation
        import micro_sam.util  # noqa: F401 - before the clock starts

        self._options, self._folder = options, options.folder / "micro_sam"
        self._folder.mkdir(exist_ok=True)

    def _load(self) -> Any:
        from micro_sam.util import get_sam_model

        options = self._options
        return get_sam_model(options.model, device=options.device, checkpoint_path=options.checkpoint)

    def _embeddings(self, sam: Any, path: Path) -> Any:
        import imageio.v3 as imageio
        from micro_sam.util import precompute_image_embeddings

        saved = self._folder / f"{path.stem}.zarr"
        return precompute_image_embeddings(sam, imageio.imread(path), saved, ndim=2, verbose=False)

    def encode(self) -> int:
        """Images that went through the encoder; what is there is opened instead."""
        sam = self._load()
        honest, ran = sam.set_image, []

        def counted(*arguments: Any, **named: Any) -> None:
            ran.append(1)
            honest(*arguments, **named)

        sam.set_image = counted
        for done, path in enumerate(images(self._options.folder), start=1):
            self._embeddings(sam, path)
            self._options.reached(done)
        return len(ran)

    def prompt(self) -> Iterator[tuple[str, Callable[[], np.ndarray], Callable[[np.ndarray], np.ndarray]]]:
        """For each image its id, what sets it and gives its embedding, and what gives a box's low-res logits."""
        from micro_sam.prompt_based_segmentation import segment_from_box
        from micro_sam.util import set_precomputed

        sam = self._load()

        def ask(box: np.ndarray) -> np.ndarray:
            found: np.ndarray = segment_from_box(sam, box[[1, 0, 3, 2]], return_all=True)[2]
            return found

        for path in images(self._options.folder):

            def put(path: Path = path) -> np.ndarray:
                embeddings = self._embeddings(sam, path)
                set_precomputed(sam, embeddings)
                return np.asarray(embeddings["features"])[0]

            yield path.stem, put, ask


class Ours:
    """`encode_dataset` into a store, with its defaults but for the precision, and `Predictor` on it."""

    packages = ("casam_cache", "torch", "zarr")

    def __init__(self, options: argparse.Namespace) -> None:
        import casam_cache.bench.predict
        import casam_cache.encode.task  # noqa: F401 - before the clock starts

        self._options, self._stores = options, options.folder / "ours"

    def encode(self) -> int:
        """Images that went through the encoder."""
        from casam_cache import EncodeOptions, encode_dataset

        options = self._options
        asked = EncodeOptions(
            model=options.model, checkpoint=options.checkpoint, name="timed", device=options.device,
            precision="fp32", preprocess="sam",
        )  # fmt: skip

        def shown(task: str, done: int, total: int, note: str, rate: float | None) -> None:
            options.reached(done)

        (report,) = encode_dataset(options.folder / "data", self._stores, asked, progress=shown)
        return report.encoded

    def prompt(self) -> Iterator[tuple[str, Callable[[], np.ndarray], Callable[[np.ndarray], np.ndarray]]]:
        """As `MicroSam.prompt`."""
        from casam_cache import EmbeddingStore
        from casam_cache.bench.predict import Predictor

        store = EmbeddingStore.open(self._stores / "data" / "timed.zarr")
        predictor = Predictor(
            store=store.path, checkpoint=self._options.checkpoint, device=self._options.device
        )

        def ask(box: np.ndarray) -> np.ndarray:
            return np.asarray(predictor.predict(boxes=box, multimask=False).low_res[0])

        for path in images(self._options.folder):

            def put(name: str = path.stem) -> np.ndarray:
                predictor.set_item(store, name)
                return store.read(store.index(name))

            yield path.stem, put, ask


SIDES: dict[str, Any] = {"ours": Ours, "micro_sam": MicroSam}


def reached(kill_at: int | None, done: int) -> None:
    """Called with the images that a side says are done."""
    if kill_at is not None and done >= kill_at:
        print(done, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def images(folder: Path) -> list[Path]:
    """The images that both sides read, in order."""
    return sorted((folder / "data" / "images").glob("*.png"))


def prompted(side: Any, folder: Path, out: Path) -> dict[str, Any]:
    """Seconds of the first prompt on each image and of each further one; embeddings and logits go to `out`.

    What reads the embedding for the comparison is on the clock of the first prompt on neither side: `put` runs once
    before.
    """
    boxes = json.loads((folder / "boxes.json").read_text())
    first, after, kept = [], [], {}
    for name, put, ask in side.prompt():
        box = np.array(boxes[name])
        kept[f"embedding/{name}"], kept[f"logits/{name}"] = put(), ask(box)
        for _ in range(PROMPTS):
            start = time.perf_counter()
            put()
            ask(box)
            middle = time.perf_counter()
            ask(box + 1)
            first.append(middle - start)
            after.append(time.perf_counter() - middle)
    np.savez(out, **kept)
    return {"first": float(np.median(first)), "next": float(np.median(after))}


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of what a side imported; a package without a version is left out."""
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in packages}
    return {name: str(version) for name, version in found.items() if version}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("action", choices=["encode", "prompt"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--model", default="vit_b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kill-at", type=int)
    options = parser.parse_args()
    options.reached = partial(reached, options.kill_at)
    import torch

    torch.set_num_threads(options.threads)
    side = SIDES[options.side](options)
    start, used = time.perf_counter(), time.process_time()
    if options.action == "encode":
        told: dict[str, Any] = {"encoded": side.encode()}
    else:
        told = prompted(side, options.folder, options.folder / f"{options.side}.npz")
    told |= {"seconds": time.perf_counter() - start, "processor": time.process_time() - used}
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    told |= {"peak_mib": max(peaks) / 1024, "versions": versions(side.packages)}
    if options.device.startswith("cuda"):
        told["gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(told))


if __name__ == "__main__":
    main()

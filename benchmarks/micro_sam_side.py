"""micro-sam's side of `micro_sam_peer.py`, run by the Python of an environment that has micro-sam and none of ours.

    PYTHON micro_sam_side.py encode FOLDER CHECKPOINT THREADS    # every image of FOLDER/images, a JSON line each
    PYTHON micro_sam_side.py prompt FOLDER CHECKPOINT THREADS    # boxes of FOLDER/boxes.json on what was precomputed

`encode` is what micro-sam's own command line does for a folder: one embedding file an image, one image after the other,
and what is there already is opened, not computed.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from micro_sam.prompt_based_segmentation import segment_from_box
from micro_sam.util import get_sam_model, precompute_image_embeddings, set_precomputed
from PIL import Image


def main() -> None:
    what, folder, checkpoint, threads = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(threads)
    predictor = get_sam_model("vit_b", device="cpu", checkpoint_path=checkpoint)
    say(loaded=True)

    def embeddings(path: Path) -> Any:
        pixels = np.asarray(Image.open(path))
        file = folder / "theirs" / f"{path.stem}.zarr"
        return precompute_image_embeddings(predictor, pixels, save_path=file, ndim=2, verbose=False)

    images = sorted((folder / "images").glob("*.png"))
    (folder / "theirs").mkdir(exist_ok=True)
    if what == "encode":
        for path in images:
            started = time.perf_counter()
            embeddings(path)
            say(image=path.stem, seconds=time.perf_counter() - started)
    else:
        boxes = json.loads((folder / "boxes.json").read_text())
        for path in images:
            left, top, right, bottom = boxes[path.stem]
            box = np.array([top, left, bottom, right])
            started = time.perf_counter()
            set_precomputed(predictor, embeddings(path))
            mask = segment_from_box(predictor, box)
            first = time.perf_counter() - started
            segment_from_box(predictor, box / 2)
            np.save(folder / f"theirs_{path.stem}.npy", mask[0].astype(bool))
            say(image=path.stem, first=first, next=time.perf_counter() - started - first)
    say(peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()

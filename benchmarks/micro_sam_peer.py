"""micro-sam's precomputation beside ours: time, what a kill costs, prompts, memory, bytes; same images and weights.

    python3 -m venv ~/msam && ~/msam/bin/pip install micro-sam==1.8.14       # 7 GB, an environment of its own
    python benchmarks/micro_sam_peer.py --peer-python ~/msam/bin/python --images 6

Random ViT-B weights are written as a checkpoint that both load, and images are drawn whose channels reach from 0 to
255, so that micro-sam's stretching of each channel changes nothing. Each side runs in processes of its own, one image a
forward pass, with the same number of threads:

- *encode*: seconds an image, loading left out; micro-sam's embeddings in float32, ours as `casam encode` keeps them;
- *killed*: the process is killed while it is at an image in the middle; the same command again, and how many images it
  computed; what is left is compared with that of a run in one go;
- *again*: the same command once more, when all is there;
- *prompt*: the first box on an image that was encoded before and the next one, in another process.

There are no figures where the embeddings of any image differ by more than a hundredth of the largest value.

Writes benchmarks/results/micro_sam_peer_cpu.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, measured_with, merge_rows, provenance
from PIL import Image

CLOSE = 0.01  # of the largest value of an embedding
SIDE = Path(__file__).parent / "micro_sam_side.py"
FEATURES = re.compile(r"/(embedding|features)/")  # not the decoder, which a store keeps once
SIZES = ((512, 512), (640, 480), (1024, 768))  # pixels, in turn
OURS = "import sys; sys.path.insert(0, {folder!r}); from micro_sam_peer import ours; ours()"


def draw(folder: Path, count: int) -> None:
    """Images of one bright disc each with its mask and box; each channel reaches from 0 to 255."""
    draws = np.random.default_rng(0)
    boxes = {}
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for index in range(count):
        width, height = SIZES[index % len(SIZES)]
        y, x = np.mgrid[:height, :width]
        radius = int(draws.integers(height // 10, height // 5))
        left, top = (int(draws.integers(radius, side - radius)) for side in (width, height))
        disc = (y - top) ** 2 + (x - left) ** 2 < radius**2
        pixels = draws.integers(0, 90, (height, width, 3)) + 120 * disc[..., None]
        pixels[0, 0], pixels[0, 1] = 0, 255
        name = f"image{index:02d}"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "masks" / f"{name}.png")
        boxes[name] = [left - radius, top - radius, left + radius, top + radius]
    (folder / "boxes.json").write_text(json.dumps(boxes))


def ours() -> None:
    """Our side, in a process of its own; arguments as of `micro_sam_side.py`."""
    from casam_cache.bench.predict import Predictor
    from casam_cache.encode.dataset import encode_dataset
    from casam_cache.encode.options import EncodeOptions
    from casam_cache.store import EmbeddingStore

    what, folder, checkpoint, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(threads)
    stores = folder / "ours"
    if what == "encode":
        options = EncodeOptions(
            model="vit_b",
            checkpoint=checkpoint,
            name="seeded",
            device="cpu",
            batch_size=1,
        )
        _say(loaded=True)  # the weights are loaded later, and that time is left out below
        before = time.perf_counter()
        (report,) = encode_dataset(folder, stores, options, progress=lambda _, done, *__: _say(done=done))
        spent = sum(report.seconds.values())  # waiting for decoded images, encoding, waiting for the disk
        _say(whole=time.perf_counter() - before, encoded=report.encoded, spent=spent)
    else:
        (path,) = stores.glob("*/seeded.zarr")
        store, side = EmbeddingStore.open(path), Predictor(store=path, device="cpu")
        _say(loaded=True)
        for name, box in json.loads((folder / "boxes.json").read_text()).items():
            started = time.perf_counter()
            side.set_item(store, name)
            mask = side.predict(boxes=np.array(box, np.float32), multimask=False).masks[0]
            first = time.perf_counter() - started
            side.predict(boxes=np.array(box, np.float32) / 2, multimask=False)
            np.save(folder / f"ours_{name}.npy", np.asarray(mask, bool))
            _say(image=name, first=first, next=time.perf_counter() - started - first)
    import resource

    _say(peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


class Side:
    """One of both, its commands and what it keeps.

    Args:
        name: `ours` or `theirs`, also the folder of what it keeps.
        command: the program, before its arguments.
        folder: of images, masks and boxes.
        checkpoint: the weights.
        threads: of torch.
    """

    def __init__(self, name: str, command: list[str], folder: Path, checkpoint: Path, threads: int) -> None:
        self.name, self.kept = name, folder / name
        self._command, self._arguments = command, [str(folder), str(checkpoint), str(threads)]
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}

    def run(self, what: str, kill_after: int = 0, later: float = 0.0) -> list[dict[str, Any]]:
        """The lines of a run; with `kill_after` it is killed that many seconds after so many images were done."""
        process = subprocess.Popen(
            [*self._command, what, *self._arguments], env=self._environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines: list[dict[str, Any]] = []
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            lines.append(json.loads(line))
            if kill_after and _images(lines) >= kill_after:
                time.sleep(later)
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        if process.wait() and not kill_after:
            sys.exit(f"{self.name}: {what} failed")
        return lines


def _images(lines: list[dict[str, Any]]) -> int:
    """How many are done."""
    return max([each["done"] for each in lines if "done" in each] + [sum("image" in each for each in lines)])


def _seconds(lines: list[dict[str, Any]], count: int) -> float:
    """Of an image, loading left out: theirs are the median, ours the mean of a run."""
    each = [line["seconds"] for line in lines if "seconds" in line]
    return (
        statistics.median(each) if each else next(line["spent"] for line in lines if "spent" in line) / count
    )


def _computed(lines: list[dict[str, Any]], usual: float) -> int:
    """Images that a run computed: what takes less than a third of the usual time was there."""
    told = [line["encoded"] for line in lines if "encoded" in line]
    return told[0] if told else sum(line["seconds"] > usual / 3 for line in lines if "seconds" in line)


def _tree(folder: Path) -> dict[str, bytes]:
    """What is kept, without what only saves time."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.startswith(".")
    }


def measure_side(side: Side, count: int) -> dict[str, Any]:
    """Encoded, encoded again, killed and encoded again, prompted."""
    whole = side.run("encode")
    usual = _seconds(whole, count)
    features = [path for path in side.kept.rglob("*") if path.is_file() and FEATURES.search(str(path))]
    size = sum(path.stat().st_size for path in features)
    again = side.run("encode")
    first = _tree(side.kept)
    shutil.rmtree(side.kept)
    side.run("encode", kill_after=count // 2, later=usual / 2)
    rest = side.run("encode")
    prompts = side.run("prompt")
    asked = [line for line in prompts if "first" in line]
    return {
        "encode_s": usual,
        "encode_mib": next(line["peak_mib"] for line in whole if "peak_mib" in line),
        "bytes": size / count,
        "again_s": next((line["whole"] for line in again if "whole" in line), None)
        or sum(line["seconds"] for line in again if "seconds" in line),
        "again_computed": _computed(again, usual),
        "computed_after_kill": _computed(rest, usual),
        "same_after_kill": _tree(side.kept) == first,
        "first_s": statistics.median(line["first"] for line in asked),
        "next_s": statistics.median(line["next"] for line in asked),
        "prompt_mib": next(line["peak_mib"] for line in prompts if "peak_mib" in line),
    }  # fmt: skip


def difference(folder: Path) -> float:
    """The largest between both sides' embeddings, as a share of the largest value."""
    import zarr

    from casam_cache.store import EmbeddingStore

    (path,) = (folder / "ours").glob("*/seeded.zarr")
    store, worst = EmbeddingStore.open(path), 0.0
    for index, name in enumerate(store.ids):
        theirs = np.asarray(zarr.open(folder / "theirs" / f"{name}.zarr", mode="r")["features"]).squeeze()
        worst = max(worst, float(np.abs(store.read(index) - theirs).max() / np.abs(theirs).max()))
    return worst


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One row of the results."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, checkpoint = Path(scratch) / "discs", Path(scratch) / "seeded.pth"
        draw(folder, options.images)
        _write_weights(checkpoint)
        command = [sys.executable, "-c", OURS.format(folder=str(Path(__file__).parent))]
        both = [Side("ours", command, folder, checkpoint, options.threads)]
        if options.peer_python:
            both.append(Side("theirs", [options.peer_python, str(SIDE)], folder, checkpoint, options.threads))
        found = {side.name: measure_side(side, options.images) for side in both}
        differs = difference(folder) if options.peer_python else None
    if differs is not None and not differs <= CLOSE:
        sys.exit(f"the sides' embeddings differ by {differs:.1e}: no figures")
    return {
        "images": options.images, "threads": options.threads, "sides": found, "difference": differs,
        "micro_sam": options.peer_python and _peer_version(options.peer_python), **provenance(torch.device("cpu")),
    }  # fmt: skip


def _write_weights(checkpoint: Path) -> None:
    """Random weights of a ViT-B, as the official checkpoints name them."""
    from casam_cache.backbones.architecture import ARCHITECTURES
    from casam_cache.backbones.sam import backbone_state, seeded_backbone

    torch.save(backbone_state(seeded_backbone(ARCHITECTURES["vit_b"], seed=0, name="vit_b")), checkpoint)


def _peer_version(python: str) -> str:
    asked = "from importlib.metadata import version as v; print(v('micro-sam'), v('torch'))"
    return subprocess.run([python, "-c", asked], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table."""
    lines = ["# micro-sam's precomputation and ours", ""]
    for row in rows:
        names = {"ours": "casam-cache", "theirs": "micro-sam"}
        lines += [
            f"## ViT-B on the CPU, {row['threads']} threads, {row['images']} images", "",
            "| | encode, s an image | peak MiB | MiB an image | again, s | computed after a kill | files as in one go "
            "| first prompt, s | next, s | peak MiB, prompts |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for side, each in row["sides"].items():
            lines.append(
                f"| {names[side]} | {each['encode_s']:.2f} | {each['encode_mib']:.0f} | {each['bytes'] / 2**20:.2f} | "
                f"{each['again_s']:.3f} | {each['computed_after_kill']} of {row['images']} | "
                f"{'yes' if each['same_after_kill'] else 'no'} | {each['first_s']:.3f} | {each['next_s']:.3f} | "
                f"{each['prompt_mib']:.0f} |"
            )
        if "theirs" in row["sides"]:
            ours, theirs = row["sides"]["ours"], row["sides"]["theirs"]
            ratios = {name: theirs[name] / ours[name] for name in ("encode_s", "bytes", "first_s", "next_s")}
            told = ", ".join(f"{name.removesuffix('_s')} {ratio:.2f}" for name, ratio in ratios.items())
            lines += [
                "",
                f"micro-sam's over ours: {told}. Embeddings differ by {row['difference']:.0e} of the largest.",
            ]
        lines += [
            "", f"Random weights; micro-sam, torch: {row['micro_sam'] or 'not installed'}; {measured_with(row)}", "",
        ]  # fmt: skip
    return [
        *lines,
        "One image a forward pass on both sides, loading left out of seconds; ours are waiting for a decoded image, "
        "encoding and waiting for the disk. Each process is killed in the middle of an image, after half of them; "
        "computed after a kill are images of all. Again: all are there.",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer-python", help="of an environment with micro-sam; without it ours alone is measured"
    )
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = measure(options)
    found["command"] = found["command"].replace(str(options.peer_python), "PYTHON")
    path = options.out / "micro_sam_peer_cpu.json"
    page = markdown(merge_rows(path, found, ("images", "threads")))
    path.with_suffix(".md").write_text("\n".join(page) + "\n")
    print("\n".join(page))


if __name__ == "__main__":
    main()

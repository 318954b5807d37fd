"""STS-2D-Tooth: adults in `A-PXI/`, children in `C-PXI/`, each with `Labeled/` and `Unlabeled/`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from casam_cache.datasets.base import FilesDone
from casam_cache.datasets.places import Place, image_files
from casam_cache.datasets.published.paired import PairedReader, named
from casam_cache.datasets.sample import Dataset, DatasetOptions


class Sts(PairedReader):
    """Reads what is labelled, and the rest where images without masks are asked for."""

    name = "sts-2d"

    def places(self, path: Path, options: DatasetOptions) -> list[Place]:
        found = []
        for part in ("A-PXI", "C-PXI"):
            labelled = named(path / part, "labeled", "labelled")
            images = named(path / part / (labelled or ""), "image", "images")
            masks = named(path / part / (labelled or ""), "mask", "masks")
            if labelled and images and masks:
                front = f"{part}/{labelled}/"
                found.append(Place(f"{front}{images}/", f"{front}{masks}/", f"{part}/"))
        if found and options.unlabelled:
            found += [Place(f"{rest}/", f"{rest}/no masks/", f"{rest}/") for rest in _unlabelled(path)]
        return found

    def read(
        self, path: Path, task: str, options: DatasetOptions, progress: FilesDone | None = None
    ) -> Dataset:
        dataset = super().read(path, task, options, progress)
        left = sum(1 for rest in _unlabelled(path) for _ in image_files(path / rest))
        if options.unlabelled or not left:
            return dataset
        note = f"{left:,} images in Unlabeled/ are not read; --unlabelled reads them too"
        return replace(dataset, notes=(*dataset.notes, note))


def _unlabelled(path: Path) -> list[str]:
    found = [(part, named(path / part, "unlabeled", "unlabelled")) for part in ("A-PXI", "C-PXI")]
    return [f"{part}/{rest}" for part, rest in found if rest]

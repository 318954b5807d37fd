"""What `casam predict` does: which images with which prompts, and the files that come of each.

NAME.png            the mask (0 and 255) of one object that was asked for by options; else a label map: 0 background,
                    object numbers, 8 bit up to 255 and 16 bit above
NAME_3.png          with `each`, instead: the mask of object 3
NAME_overlay.png    objects and prompts over the image
NAME.json           scores, areas, prompts, the head and how it was chosen
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from casam_cache.bench.objects import Objects, check_prompts, segment
from casam_cache.bench.predict import Predictor
from casam_cache.bench.prompt_file import ObjectPrompt
from casam_cache.bench.tasks import find_store
from casam_cache.datasets.base import check_inside
from casam_cache.datasets.images import image_suffixes, load_image
from casam_cache.datasets.listing import walk
from casam_cache.errors import CasamError, ImageError, OptionError, StoreError
from casam_cache.fingerprint import finite_json
from casam_cache.report.pictures import draw_objects, png
from casam_cache.store import EmbeddingStore, find_stores
from casam_cache.store.files import disk_errors, write_all


@dataclass(frozen=True)
class Job:
    """One image with its prompts and the files that come of it.

    Attributes:
        name: of the image, for people.
        prompts: one an object.
        out: NAME.png.
        image: its file; for an item of a store what to draw on, or None.
        item: its id in the store, or None.
        label_map: whether NAME.png holds object numbers, not 0 and 255.
        each: a file an object instead.
    """

    name: str
    prompts: Sequence[ObjectPrompt]
    out: Path
    image: Path | None
    item: str | None = None
    label_map: bool = True
    each: bool = False

    @property
    def overlay(self) -> Path | None:
        return None if self.image is None else self.out.with_name(f"{self.out.stem}_overlay.png")

    @property
    def scores(self) -> Path:
        return self.out.with_suffix(".json")

    def mask_of(self, prompt: ObjectPrompt) -> Path:
        return self.out.with_name(f"{self.out.stem}_{prompt.number}.png") if self.each else self.out

    @property
    def files(self) -> list[Path]:
        """Every file that it writes."""
        masks = dict.fromkeys(self.mask_of(prompt) for prompt in self.prompts)
        return [*masks, *([self.overlay] if self.overlay else []), self.scores]


@dataclass(frozen=True)
class Plan:
    """What to predict.

    Attributes:
        jobs: an image each.
        failed: images that cannot be predicted, by name: why.
        notes: lines about what was asked for or is there, and is left out.
        many: whether it is about many images, so that one that fails does not stop the rest.
    """

    jobs: list[Job]
    failed: dict[str, CasamError] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    many: bool = True


def plan_image(
    image: Path, prompts: dict[str, list[ObjectPrompt]], out: Path, *, from_file: bool, each: bool
) -> Plan:
    """One image file.

    Args:
        image: the file.
        prompts: by name of the image; those of the empty name, or of this image's.
        out: the file to write.
        from_file: the prompts are from a file, so that their objects have numbers.
        each: a file an object.

    Raises:
        OptionError: no prompt is about it, or its prompts stand under several names.
    """
    chosen, notes = prompts_of(image.name, {"", image.name, str(image), image.stem}, prompts)
    _refuse_slices(chosen, str(image))
    label_map = from_file or len(chosen) > 1
    return Plan([Job(str(image), chosen, out, image, None, label_map, each)], notes=notes, many=False)


def plan_folder(folder: Path, prompts: dict[str, list[ObjectPrompt]], out: Path, *, each: bool) -> Plan:
    """The images of a folder that prompts name, by their path in it, with or without the suffix.

    Raises:
        OptionError: two images would be written to the same file, or a prompt names no image.
    """
    files = [name for name, _ in walk(folder) if Path(name).suffix.lower() in image_suffixes()]
    stems: dict[str, list[str]] = {}
    for name in files:
        stems.setdefault(str(Path(name).with_suffix("")), []).append(name)
    known = {name: [name] for name in files}
    plan = Plan([])
    taken: dict[str, str] = {}
    for name, own in prompts.items():
        if not name:
            raise OptionError(f"{own[0].name} names no image", "give each row the image's path in the folder")
        found = known.get(name) or stems.get(name, [])
        if len(found) != 1:
            what = f"may be any of {', '.join(found)}" if found else "there is no such image"
            plan.failed[name] = OptionError(f"{folder / name}: {what}", f"prompted by {own[0].name}")
            continue
        _refuse_slices(own, found[0])
        target = str(Path(found[0]).with_suffix(""))
        if target in taken:
            raise OptionError(
                f"{found[0]} and {taken[target]} would both be written to {target}.png",
                "name an image in one way, and images of one name with other suffixes in two runs",
            )
        taken[target] = found[0]
        plan.jobs.append(Job(found[0], own, _inside(out, target), folder / found[0], each=each))
    left = len(files) - len(taken)
    if left:
        plan.notes.append(f"{left} images of {folder} have no prompt and are left out")
    return plan


def plan_items(
    store: EmbeddingStore,
    item: str | None,
    prompts: dict[str, list[ObjectPrompt]],
    out: Path,
    *,
    image: Path | None = None,
    from_file: bool,
    each: bool,
) -> Plan:
    """One item of a store, or all that prompts name.

    Args:
        store: where they are.
        item: the id of the only one, or None.
        prompts: by id; for one item those of the empty name too.
        out: the file to write for one item, else the folder.
        image: the file of the only item, to draw on.
        from_file: as in `plan_image`.
        each: a file an object.

    Raises:
        OptionError: no prompt is about the item, or one names none.
        StoreError: there is no such item.
    """
    if item is not None:
        store.index(item)
        chosen, notes = prompts_of(item, {"", item}, prompts)
        if image is None:
            notes.append("a store holds no pixels: no overlay is drawn; name the image too to get one")
        _refuse_slices(chosen, item)
        label_map = from_file or len(chosen) > 1
        return Plan([Job(item, chosen, out, image, item, label_map, each)], notes=notes, many=False)
    plan = Plan([], notes=["a store holds no pixels: no overlays are drawn"])
    for name, own in prompts.items():
        if not name:
            raise OptionError(
                f"{own[0].name} names no item", "give each row the id of an item of the store, or give --id"
            )
        _refuse_slices(own, name)
        try:
            store.index(name)
        except StoreError as error:
            plan.failed[name] = error
            continue
        plan.jobs.append(Job(name, own, _inside(out, name), None, name, each=each))
    return plan


def one_store(path: Path, task: str | None, model: str | None) -> Path:
    """The store that --store names: DIR/TASK/BACKBONE.zarr itself, or that of a task in a folder of stores.

    Raises:
        OptionError: the task must be named, or there is none of that name.
        StoreError: there is no store.
    """
    if path.suffix == ".zarr":
        return path
    tasks = sorted({found.parent.name for found in find_stores(path)})
    if task is None and len(tasks) > 1:
        raise OptionError(
            f"{path} holds stores of several tasks", f"choose one with --task: {', '.join(tasks)}"
        )
    return find_store(path, task, model)


def check_files(jobs: Sequence[Job], overwrite: bool) -> None:
    """Before anything is computed: no file is there yet, or may be replaced.

    Raises:
        OptionError: one is there.
    """
    check_overwriting((path for job in jobs for path in job.files), overwrite)


def check_overwriting(files: Iterable[Path], overwrite: bool) -> None:
    """As `check_files`, for files."""
    for path in files:
        if path.exists() and not overwrite:
            raise OptionError(f"{path} exists", "choose another --out, or give --overwrite")


def run_plan(
    plan: Plan, predictor: Predictor, store: EmbeddingStore | None = None
) -> Iterator[tuple[Job, dict[str, Any] | CasamError]]:
    """Predicts and writes one image after the other: what was written, or why one of many was not.

    Args:
        plan: of `plan_image`, `plan_folder` or `plan_items`.
        predictor: its head and backbone.
        store: of the items.

    Raises:
        CasamError: what stops everything: no encoder, a full disk, or the failure of an image that is alone.
    """
    if store is not None:
        predictor.check_store(store)
    for job in plan.jobs:
        try:
            files, report = _predict(job, predictor, store)
        except (ImageError, OptionError, StoreError) as error:
            if not plan.many:
                raise
            yield job, error
            continue
        with disk_errors(job.out.parent, "cannot create the folder"):
            job.out.parent.mkdir(parents=True, exist_ok=True)
        write_all([(path, [content]) for path, content in files])
        yield job, report


def _predict(
    job: Job, predictor: Predictor, store: EmbeddingStore | None
) -> tuple[list[tuple[Path, bytes]], dict[str, Any]]:
    """The files of an image, and what is said of it."""
    image: np.ndarray | None = None
    if store is not None and job.item is not None:
        predictor.set_item(store, job.item)
        if job.image is not None:
            image = load_image(job.image, predictor.intensity)
            if image.shape[:2] != predictor.size:
                (height, width), own = predictor.size, f"{image.shape[1]} x {image.shape[0]}"
                raise OptionError(
                    f"{job.image} has {own} pixels, the item {job.item} {width} x {height}",
                    "name the image that the item was encoded from",
                )
    else:
        assert job.image is not None
        image = load_image(job.image, predictor.intensity)
        check_prompts(job.prompts, *image.shape[:2])  # before the encoder takes its time
        predictor.set_image(image)
    bitmaps: dict[int, bytes] = {}

    def keep(prompt: ObjectPrompt, mask: np.ndarray) -> None:
        bitmaps[prompt.number] = png(Image.fromarray(mask.astype(np.uint8) * 255))

    objects = segment(predictor, job.prompts, keep if job.each else None)
    if job.each:
        files = [(job.mask_of(prompt), bitmaps[prompt.number]) for prompt in job.prompts]
    else:
        files = [(job.out, png(_bitmap(objects.labels, job.label_map)))]
    report = _report(job, objects)
    if image is not None and job.overlay is not None:
        files.append((job.overlay, png(draw_objects(image, objects.labels, job.prompts))))
    files.append((job.scores, (json.dumps(finite_json(report), indent=1) + "\n").encode()))
    return files, report


def _bitmap(labels: np.ndarray, label_map: bool) -> Image.Image:
    if not label_map:
        return Image.fromarray((labels > 0).astype(np.uint8) * 255)
    return Image.fromarray(labels if labels.max(initial=0) > 255 else labels.astype(np.uint8))


def _report(job: Job, objects: Objects) -> dict[str, Any]:
    height, width = objects.labels.shape
    report: dict[str, Any] = {
        "image": job.name,
        "mask": None if job.each else str(job.out),
        "overlay": None if job.overlay is None else str(job.overlay),
        "head": objects.head,
        "task": objects.task,
        "predicted_iou": float(np.mean(objects.scores)),
        "area": int(np.count_nonzero(objects.labels)),
        "height": height,
        "width": width,
        "objects": [
            {
                "object": prompt.number,
                "score": score,
                "area": area,
                **({"mask": str(job.mask_of(prompt))} if job.each else {}),
                **prompt.to_json(),
            }
            for prompt, score, area in zip(job.prompts, objects.scores, objects.areas, strict=True)
        ],
    }
    decision = objects.decision
    if decision is not None:
        names = ("task", "nearest", "score", "threshold", "fallback", "scores")
        report["routing"] = {name: getattr(decision, name) for name in names}
    return report


def prompts_of(
    name: str, names: set[str], prompts: dict[str, list[ObjectPrompt]]
) -> tuple[list[ObjectPrompt], list[str]]:
    """The prompts of one image or volume by any of its names, and lines about the others.

    Raises:
        OptionError: no prompt is about it, or they stand under several of its names.
    """
    found = [key for key in prompts if key in names]
    if not found:
        raise OptionError(f"no prompt is about {name}", f"the prompts name {', '.join(list(prompts)[:5])}")
    if len(found) > 1:
        raise OptionError(f"prompts of {name} stand under several names: {', '.join(map(repr, found))}")
    others = len(prompts) - 1
    return prompts[found[0]], [f"prompts of {others} other images are left out"] if others else []


def _refuse_slices(prompts: Sequence[ObjectPrompt], name: str) -> None:
    for prompt in prompts:
        if prompt.slices is not None:
            raise OptionError(
                f"{prompt.name_of('box')} is about slices, and {name} is an image",
                "a box of an image is x0,y0,x1,y1; slices are of volumes",
            )


def _inside(out: Path, name: str) -> Path:
    check_inside(name)
    return out / f"{name}.png"

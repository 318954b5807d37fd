"""How good a head, or the frozen SAM, is on one split, mask by mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from casam_cache.bench.tasks import Place, SplitRef
from casam_cache.engine.runs import Runs
from casam_cache.engine.stage import Stage, Work
from casam_cache.heads.files import build_head
from casam_cache.metrics.registry import METRICS, make_metrics
from casam_cache.registry import revision_of
from casam_cache.training.clicks import ClickOutcomes, read_clicks, write_clicks
from casam_cache.training.evaluate import evaluate
from casam_cache.training.evaluation_prompts import ORACLE_BOX, parse_prompt
from casam_cache.training.items import Item, ItemMask
from casam_cache.training.outcomes import Outcomes, read_outcomes, write_outcomes
from casam_cache.training.volumes import volumes_of
from casam_cache.training.whole_images import read_whole_images, whole_images_of, write_whole_images

if TYPE_CHECKING:
    from casam_cache.bench.stages.head import HeadStage

MetricRefs = tuple[tuple[str, int | str], ...]  # name and revision of each metric


def metric_refs(names: Iterable[str] = ()) -> MetricRefs:
    """The standard metrics and further ones by name or FILE.py:CLASS, as a stage's key names them.

    Raises:
        OptionError: there is no such metric.
    """
    return tuple((name, revision_of(type(metric))) for name, metric in make_metrics(names).items())


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluate(Stage):
    """Per-mask outcomes on one split; of slices of volumes, the masks too; of tiles, those of whole images too.

    Attributes:
        items: the split.
        head: whose; None is the frozen SAM.
        member: which of several heads.
        prompt: what masks are prompted with, `EvaluationPrompt.name`.
        metrics: what is scored.
    """

    kind: ClassVar[str] = "evaluate"

    items: SplitRef
    head: HeadStage | None
    member: str = ""
    prompt: str = ORACLE_BOX
    metrics: MetricRefs = field(default_factory=metric_refs)

    @property
    def label(self) -> str:
        told = "" if self.prompt == ORACLE_BOX else f" from {self.prompt}"
        return f"{self.head.label if self.head else 'frozen SAM'} scored on {self.items.task}{told}"

    @property
    def pace(self) -> str:
        return self.head.method.name if self.head else "frozen"

    def compute(self, work: Work) -> dict[str, Any]:
        place: Place = work.place
        if self.head is None:
            backbone = place.backbone(self.items.task)
            head = build_head("identity", None, backbone, seed=0)
        else:
            backbone = self.head.backbone(place, self.items.task)
            head = self.head.head(work.runs, backbone, self.member)
        names = [name for name, _ in self.metrics]
        work.use(type(head), *(METRICS.get(name) for name in names))
        progress = work.progress
        done = None if progress is None else (lambda images, total: progress((images, total)))
        items = place.items(self.items)
        prompt = parse_prompt(self.prompt)
        clicks = ClickOutcomes() if prompt.clicks else None
        volumes, whole = volumes_of(items), whole_images_of(items)
        keep = [each.add for each in (volumes, whole) if each is not None]

        def on_mask(item: Item, mask: ItemMask, bitmap: np.ndarray) -> None:
            for add in keep:
                add(item, mask, bitmap)

        outcomes = evaluate(
            head, backbone, items, prompt=prompt, metrics=names, progress=done, clicks=clicks,
            on_mask=on_mask if keep else None,
        )  # fmt: skip
        write_outcomes(work.result, outcomes)
        if volumes is not None:
            volumes.write(work.result)
        if whole is not None:
            write_whole_images(work.result, whole.outcomes())
        if clicks is not None:
            write_clicks(work.result, clicks)
        return {}

    def read(self, runs: Runs) -> Outcomes:
        return read_outcomes(runs.open(self))

    def read_whole_images(self, runs: Runs) -> Outcomes:
        """Of each object of the whole images, where items are tiles of them."""
        return read_whole_images(runs.open(self))

    def read_clicks(self, runs: Runs) -> ClickOutcomes:
        """The IoU after each click, where the prompt is clicks."""
        return read_clicks(runs.open(self))

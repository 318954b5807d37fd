"""What one method answers on the masks of one split, beside the frozen SAM: of a fit, or of a bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from casam_cache.bench.tasks import SplitRef
from casam_cache.engine.runs import read_record
from casam_cache.errors import CasamError
from casam_cache.report.answers import Answered, BenchAnswers
from casam_cache.store import store_path
from casam_cache.training.outcomes import DESCRIBING, Outcomes, read_outcomes


@dataclass(frozen=True)
class Scored:
    """Outcomes of a method and of the frozen SAM, and the heads that they can be predicted again with.

    Attributes:
        label: of the method.
        items: what was scored.
        prompt: `EvaluationPrompt.name`.
        fitted, frozen: the method's outcomes and the frozen SAM's, the same masks in the same order.
        store: where the store was then.
        heads: folder of the head that answers an image, by image; None: the frozen SAM.
        bench: title of the bench; empty of a fit.
    """

    label: str
    items: SplitRef
    prompt: str
    fitted: Outcomes
    frozen: Outcomes
    store: Path
    heads: Mapping[str, Path | None] = field(repr=False)
    bench: str = ""

    @property
    def task(self) -> str:
        return self.items.task


def scored_in_bench(root: Path, title: str, answers: BenchAnswers) -> list[Scored]:
    """Every configuration of a bench on every tested set, sets together.

    Args:
        root: the runs folder.
        title: of the bench.
        answers: as `read_answers` gives them.

    Raises:
        CasamError: a scoring is gone or damaged.
    """
    read: dict[str, Outcomes] = {}

    def outcomes(name: str) -> Outcomes:
        if name not in read:
            read_record(root / name)  # compares the file with what it was
            read[name] = read_outcomes(root / name)
        return read[name]

    found = []
    for each in sorted(answers.sets, key=lambda each: each.set):
        fitted = _chosen(each, {one.scoring: outcomes(one.scoring) for one in each.answers})
        heads = {image: root / one.head if one.head else None for one in each.answers for image in one.images}
        store = store_path(answers.stores, each.set, answers.model)
        items = SplitRef(each.set, each.split, each.content)
        found.append(
            Scored(each.label, items, each.prompt, fitted, outcomes(each.frozen), store, heads, title)
        )
    return found


def _chosen(answered: Answered, outcomes: Mapping[str, Outcomes]) -> Outcomes:
    """Mask by mask the outcome of the scoring that answers its image.

    Raises:
        CasamError: the scorings are of other masks, or none answers an image.
    """
    by_image = {image: outcomes[one.scoring] for one in answered.answers for image in one.images}
    first = next(iter(outcomes.values()))
    if any(each.item != first.item for each in outcomes.values()) or not set(first.item) <= by_image.keys():
        raise CasamError(f"its scorings of {answered.set} are of other masks than its answers")
    sides = [by_image[item] for item in first.item]
    columns = {name: [getattr(side, name)[row] for row, side in enumerate(sides)] for name in DESCRIBING}
    scores = {name: [side.scores[name][row] for row, side in enumerate(sides)] for name in first.scores}
    return Outcomes(**columns, scores=scores)

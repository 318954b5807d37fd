"""Which scoring answers each test image of a bench after its last task, written beside its results for reports."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from casam_cache.bench.families import Entry
from casam_cache.bench.results import FOLDER, Results
from casam_cache.bench.stages.evaluate import Evaluate
from casam_cache.bench.tables import Tables
from casam_cache.bench.tasks import Place
from casam_cache.engine.runs import Runs
from casam_cache.fingerprint import digest
from casam_cache.store.files import write_file

FILE = "answers.json"  # beside results.json
MOST = 20  # configurations


@dataclass(frozen=True)
class Answer:
    """One scoring that answers some images.

    Attributes:
        scoring: KIND/KEY of the stage with their outcomes.
        head: KIND/KEY of the head, with the name of the member where it holds several; empty: the frozen SAM.
        images: ids.
    """

    scoring: str
    head: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """What one configuration answers on one tested set, over the first order and seed.

    Attributes:
        label: of the configuration.
        set, split, content: what was scored, as `SplitRef`.
        prompt: `EvaluationPrompt.name`.
        frozen: KIND/KEY of the frozen SAM's scoring.
        answers: every image of the set once.
    """

    label: str
    set: str
    split: str
    content: str
    prompt: str
    frozen: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class BenchAnswers:
    """Of a bench.

    Attributes:
        stores: the folder of its stores.
        model: the backbone's name.
        left_out: configurations beyond the first `MOST`.
        sets: a configuration and tested set each.
    """

    stores: Path
    model: str
    left_out: int
    sets: tuple[Answered, ...]


def write_answers(results: Results, place: Place, runs: Runs) -> BenchAnswers:
    """Writes `FILE` beside the results; returns what is in it.

    Raises:
        CasamError: a stage is damaged, or the disk is full or read-only.
    """
    tables, entries = Tables(runs), dict[str, Entry]()
    for entry in results.entries:
        if entry.config.method.name != "frozen":
            entries.setdefault(entry.config.label, entry)
    shown = list(entries.values())[:MOST]
    found = [answered for entry in shown for answered in _answered(entry, tables)]
    made = BenchAnswers(Path(place.stores).resolve(), place.model, len(entries) - len(shown), tuple(found))
    told: dict[str, Any] = {**asdict(made), "stores": str(made.stores)}
    data = json.loads(json.dumps(told))
    write_file(runs.root / FOLDER / results.key / FILE, json.dumps({**data, "digest": digest(data)}).encode())
    return made


def _answered(entry: Entry, tables: Tables) -> list[Answered]:
    found = []
    for name in sorted(entry.tested):
        by_stage: dict[str, tuple[Evaluate, list[str]]] = {}
        for image, stage in entry.last_scorings(tables, name).items():
            by_stage.setdefault(stage.key, (stage, []))[1].append(image)
        if not by_stage:
            continue
        answers = tuple(
            Answer(stage.name, "" if stage.head is None else _folder(stage), tuple(images))
            for _, (stage, images) in sorted(by_stage.items())
        )
        ref, frozen = entry.tested[name].ref, entry.frozen[name]
        found.append(
            Answered(
                entry.config.label, ref.task, ref.split, ref.content, frozen.prompt, frozen.name, answers
            )
        )
    return found


def _folder(stage: Evaluate) -> str:
    assert stage.head is not None
    return f"{stage.head.name}/{stage.member}" if stage.member else stage.head.name


def read_answers(folder: Path) -> BenchAnswers | None:
    """What `write_answers` wrote beside the results in a folder; None where it is not there or damaged."""
    try:
        data = json.loads((folder / FILE).read_text())
        if data.pop("digest") != digest(data):
            return None
        sets = tuple(
            Answered(
                **{
                    **each,
                    "answers": tuple(
                        Answer(str(one["scoring"]), str(one["head"]), tuple(one["images"]))
                        for one in each["answers"]
                    ),
                }
            )
            for each in data["sets"]
        )
        return BenchAnswers(Path(data["stores"]), str(data["model"]), int(data["left_out"]), sets)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None

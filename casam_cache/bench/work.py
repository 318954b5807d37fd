"""What stages of heads compute: a fit, a step of a sequence, a memory, a joint fit, an evaluation.

Every function takes a `Work` and returns facts to record. Keys are made in `nodes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from casam_cache.bench.node import Work
from casam_cache.bench.outcomes import write_outcomes
from casam_cache.config import validated
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.heads.files import build_head, load_head, save_head
from casam_cache.methods.base import Method
from casam_cache.methods.joint import Joint
from casam_cache.methods.memory import Memory, load_memory, save_memory
from casam_cache.methods.registry import METHODS
from casam_cache.methods.sequential import Past, Sequential, Setting
from casam_cache.registry import revision_of
from casam_cache.training.evaluate import evaluate as evaluate_head
from casam_cache.training.items import Items, pick
from casam_cache.training.loop import FitResult, fit_head
from casam_cache.training.options import TrainingOptions
from casam_cache.training.step import Penalty


def fit(work: Work) -> dict[str, Any]:
    """One task from its train split: the paper's single-task fit, and every routed method's expert."""
    method, seed = method_of(work), work.inputs["seed"]
    items = work.split(work.task, "train", work.inputs["items"])
    return _train(work, method.build(work.backbone(), seed), items, None)


def joint(work: Work) -> dict[str, Any]:
    """One head on the union of several tasks' train splits."""
    method = method_of(work)
    assert isinstance(method, Joint)
    views: dict[str, Items] = {
        task: work.split(task, "train", content) for task, content in work.inputs["items"]
    }
    head = method.build(work.backbone(), work.inputs["seed"])
    training = method.training(training_options(work.inputs), views)
    return _train(work, head, method.items(views), None, training)


def learn(work: Work) -> dict[str, Any]:
    """One more task for a sequential method: trains its head, then makes its memory."""
    method = _sequential(work)
    items = work.split(work.task, "train", work.inputs["items"])
    past, setting = _past(work), _setting(work)
    head = method.start(past, setting)
    penalty = method.penalty(items, past, setting)
    facts = _train(work, head, method.items(items, past, setting), penalty)
    save_memory(method.remember(head, items, past, penalty, setting), work.result)
    return facts


def remember(work: Work) -> dict[str, Any]:
    """The memory after a first task whose head is an ordinary fit."""
    method = _sequential(work)
    items = work.split(work.task, "train", work.inputs["items"])
    head = load_head(work.parents["head"], work.backbone()).to(work.device)
    save_memory(method.remember(head, items, None, None, _setting(work)), work.result)
    return {}


def evaluate(work: Work) -> dict[str, Any]:
    """Per-mask outcomes of a head, or of the frozen SAM, on one split."""
    backbone = work.backbone()
    if "head" in work.parents:
        member = work.inputs.get("member")
        folder = work.parents["head"] / member if member else work.parents["head"]
        head = load_head(folder, backbone)
    else:
        head = build_head("identity", None, backbone, seed=0)
    items = work.split(work.task, work.inputs["split"], work.inputs["items"])
    progress = work.progress
    done = None if progress is None else (lambda images, total: progress((images, total)))
    write_outcomes(work.result, evaluate_head(head, backbone, items, progress=done))
    return {}


def method_of(work: Work) -> Method:
    """The method named in a stage's inputs, with its options."""
    name = work.inputs["method"]["name"]
    made = METHODS.get(work.place.references.get(name, name))
    if revision_of(made) != work.inputs["method"]["revision"]:
        raise CasamError(
            f"method '{name}' has changed since the plan was made",
            "run the command again: it plans with what is there now",
        )
    return made(validated(made.Options, work.inputs["options"]))


def training_options(inputs: Mapping[str, Any]) -> TrainingOptions:
    """The recipe named in a stage's inputs."""
    options = validated(TrainingOptions, inputs["training"])
    assert isinstance(options, TrainingOptions)
    return options


def _sequential(work: Work) -> Sequential:
    method = method_of(work)
    assert isinstance(method, Sequential)
    return method


def _setting(work: Work) -> Setting:
    inputs = work.inputs
    return Setting(work.backbone(), training_options(inputs), inputs["seed"], work.task)


def _past(work: Work) -> Past | None:
    """The last head, the memory, and a view of the memory's exemplars alone."""
    if "head" not in work.parents:
        return None
    head = load_head(work.parents["head"], work.backbone()).to(work.device).eval()
    for parameter in head.parameters():
        parameter.requires_grad_(False)
    memory = load_memory(work.parents["memory"]) if "memory" in work.parents else Memory()
    seen: list[tuple[str, str]] = [(task, content) for task, content in work.inputs["past"]]
    replay = None
    if memory.exemplars:
        named = {exemplar.task for exemplar in memory.exemplars}
        views = {task: work.split(task, "train", content) for task, content in seen if task in named}
        replay = pick(views, memory.exemplars)
    return Past(head, memory, replay, tuple(task for task, _ in seen))


def _train(
    work: Work, head: Head, items: Items, penalty: Penalty | None, training: TrainingOptions | None = None
) -> dict[str, Any]:
    """Trains and keeps the head; returns what is recorded."""
    fitted = fit_head(
        head, work.backbone(), items, training or training_options(work.inputs),
        seed=work.inputs["seed"], device=work.device, checkpoint_dir=work.checkpoints, penalty=penalty,
        on_step=work.progress,
    )  # fmt: skip
    return keep_head(work, head, fitted)


def keep_head(work: Work, head: Head, fitted: FitResult) -> dict[str, Any]:
    """Writes a trained head as the stage's result; returns what is recorded."""
    task = work.task if "task" in work.inputs else work.inputs["items"][0][0]
    store = work.store(task)
    recorded = {
        "task": work.inputs.get("task", ""),
        "method": work.inputs["method"]["name"],
        "store": str(store.path.resolve()),
        "identity": store.identity,
        "mask_mode": store.annotations.attributes["mask_mode"],
    }
    save_head(head, work.result, **recorded)
    return {**recorded, "fit": fitted.to_json(), "parameters": head.trained_parameters()}

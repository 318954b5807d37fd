"""Fits of one task computed as a pack (`casam bench --pack K`): one pass over the embeddings for up to K stages."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from casam_cache.bench.node import Work, takes_many
from casam_cache.bench.work import fit, keep_head, method_of, training_options
from casam_cache.fingerprint import digest
from casam_cache.heads.base import Head
from casam_cache.training.pack import PackRequest, fit_pack, why_not_packed

MEMBERS = "pack.json"


@takes_many
def fit_packed(works: Sequence[Work]) -> list[dict[str, Any]]:
    """`work.fit` of each, as far as their heads can be packed in one go; the others alone.

    Each result is within the bounds of `training/pack.py` of what `work.fit` gives; which stages share a pack depends
    on which are missing, and decides no more than the last digits. An interrupted pack goes on from its checkpoint with
    those of its members that are still missing, apart from stages that were not in it.
    """
    facts: dict[Path, dict[str, Any]] = {}
    packs: dict[tuple[str, ...], list[tuple[Work, Head]]] = {}
    for work in works:
        head = method_of(work).build(work.backbone(), work.inputs["seed"])
        if why_not_packed(head) is None:
            packs.setdefault(_interrupted(work), []).append((work, head))
        else:
            facts[work.result] = fit(work)
    for members in packs.values():
        facts |= _fit_together(members)
    return [facts[work.result] for work in works]


def _fit_together(members: Sequence[tuple[Work, Head]]) -> dict[Path, dict[str, Any]]:
    first, last = members[0][0], members[-1][0]
    names = [_name(work) for work, _ in members]
    for work, _ in members:
        _remember(work, names)
    fitted = fit_pack(
        [PackRequest(head, training_options(work.inputs), work.inputs["seed"]) for work, head in members],
        first.backbone(),
        first.split(first.task, "train", first.inputs["items"]),
        device=first.device,
        checkpoint_dir=last.checkpoints,  # stages are published in this order, and their checkpoints go with them
        on_step=first.progress,
    )
    return {
        work.result: {**keep_head(work, head, result), "packed": len(members)}
        for (work, head), result in zip(members, fitted, strict=True)
    }


def _name(work: Work) -> str:
    return digest(work.inputs)


def _interrupted(work: Work) -> tuple[str, ...]:
    """The members of the pack that this stage was in when it was interrupted; empty for one that never began."""
    try:
        return tuple(json.loads((work.checkpoints / MEMBERS).read_text()))
    except (OSError, ValueError):
        return ()


def _remember(work: Work, names: Sequence[str]) -> None:
    path = work.checkpoints / MEMBERS
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(list(names)) + "\n")
    os.replace(partial, path)

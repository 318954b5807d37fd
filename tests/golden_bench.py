"""A tiny bench over every kind of stage and every method, and its numbers as plain data.

`python tests/golden_bench.py --write` computes them anew and keeps them as what later code is compared with.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bench_sets import BENCH, UNSEEN, draw_set, encode_sets, one_thread, plan

from casam_cache.bench.configs import ALL_METHODS

FILE = Path(__file__).parent / "golden" / "bench.json"
NAMED = tuple(name for name in ALL_METHODS if isinstance(name, str))
LOOKS_USED = ("amber", "cobalt", "moss", UNSEEN)
# Each entry: methods, settings, further keys of the recipe.
BENCHES: dict[str, tuple[tuple[str, ...], tuple[str, ...], Mapping[str, Any]]] = {
    "methods": (("alignment", "decoder", "hq-sam", *NAMED), (), BENCH),
    "routers": (("ca-sam",), ("router=vae,centroid,mahalanobis,knn,gmm", "threshold=p95,conformal"), BENCH),
    "poolings": (("ca-sam",), ("pooling=attention,mean,gap,flatten,cls,learned",), BENCH),
    "variants": (
        ("er", "ewc", "joint", "emr", "moda", "l2p"),
        (
            "er.replay=batch",
            "er.selection=reservoir",
            "ewc.consolidation=last,online,separate",
            "joint.balance=task",
            "emr.routing=density",
            "moda.classifier=query",
            "l2p.alignment=identity",
        ),
        BENCH,
    ),
    "views": (("alignment",), ("views=flip_h+rot90", "masks_per_image=2"), {"seeds": 2}),
}
KEPT = (
    "order", "seed", "parameters", "bytes_kept", "gflops", "matrix", "unseen", "router", "routing_accuracy",
    "thresholds", "confusion", "distances", "last_iou", "avg_iou", "ff_iou", "last_biou", "avg_biou", "ff_biou", "bwt",
    "fwt", "ood_iou", "ood_biou", "ood_accuracy", "oracle_last_iou", "oracle_ff_biou",
)  # fmt: skip


def environment() -> dict[str, str]:
    """What decides the last bits: only where all of it is the same are numbers compared to the bit."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = " ".join(
            next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
            for name in ("model name", "model\t", "stepping")
        )
    except OSError:
        model = platform.processor()
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "processor": model,
    }


def compute(folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Runs every bench and gives its numbers: rows by bench and label, and the last loss of every training."""
    for name in LOOKS_USED:
        draw_set(folder / "data", name)
    extra = {"extra": ("early", "tokens"), "views": ("flip_h", "rot90")}
    found: dict[str, Any] = {}
    with one_thread():
        encode_sets(folder / "data", folder / "stores", checkpoint, **extra)
        for bench, (methods, settings, recipe) in BENCHES.items():
            results = plan(folder / "stores", folder / "runs", methods, settings, **recipe).run()
            found[bench] = _rows(results.rows)
        single = {"tasks": ["moss"], "reference": str(folder / "stores")}
        found["distances"] = _rows(
            plan(folder / "stores", folder / "runs", ["alignment"], **single).run().rows
        )
    return {"rows": found, "losses": _losses(folder / "runs")}


def _rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [{"label": row["label"], **{key: _known(row[key]) for key in KEPT if key in row}} for row in rows]
    plain: list[dict[str, Any]] = json.loads(json.dumps(kept))
    return plain


def _known(value: Any) -> Any:
    """Without Dice, which results have had only since these numbers were kept."""
    if not isinstance(value, dict):
        return value
    return {key: _known(entry) for key, entry in value.items() if key not in ("dice", "frozen_dice")}


def _losses(runs: Path) -> list[list[Any]]:
    """Method, task and losses of the last epoch of everything that was trained, sorted."""
    found = []
    for kind in ("fit", "joint", "learn"):
        for path in (runs / kind).glob("*/record.json"):
            recorded = json.loads(path.read_text())["recorded"]
            last = recorded["fit"]["history"][-1]
            found.append(
                [kind, recorded["method"], recorded["task"], last["loss"], last["iou"], last["penalty"]]
            )
    return sorted(found)


SCORE, LOSS = 0.02, 1e-4  # how far another processor or release of torch may be off: absolute, and relative
ROUTED = (
    "routing_accuracy",
    "thresholds",
    "confusion",
    "ood_accuracy",
)  # one image more or less is a large step


def differences(golden: Mapping[str, Any], found: Mapping[str, Any], *, exact: bool) -> list[str]:
    """What differs, a line each; to the bit, or as far as it may differ between machines."""
    wrong = []
    for bench in sorted({*golden["rows"], *found["rows"]}):
        before, now = (_named(data["rows"].get(bench, [])) for data in (golden, found))
        for name in sorted({*before} ^ {*now}):
            wrong.append(f"{bench}: {name}: {'is new' if name in now else 'is missing'}")
        for name in [name for name in before if name in now]:
            for key in sorted({*before[name], *now[name]}):
                old, new = before[name].get(key), now[name].get(key)
                if not (old == new if exact else _close(key, old, new)):
                    wrong.append(f"{bench}: {name}: {key} {_short(old)} -> {_short(new)}")
    return wrong + _other_losses(golden["losses"], found["losses"], exact=exact)


def explained(wrong: list[str]) -> str:
    """For whoever changed the numbers."""
    return "\n".join(
        [
            f"{len(wrong)} golden numbers differ:",
            *wrong[:40],
            *([f"and {len(wrong) - 40} more"] if len(wrong) > 40 else []),
            "",
            "If this was not meant, it is a defect. If it was, raise the `revision` of what changed, so that finished"
            " runs are not taken for the new numbers:",
            "  losses and everything after them: Method.revision, or Stage.revision of Fit, JointFit, Learn",
            "  scores alone: Stage.revision of Evaluate; memories: of Remember; merged heads: of Merge",
            "  thresholds, confusion, routing: Stage.revision of FitRouter, Pool, Query or Classify",
            "  gflops: of Cost; distances: of Distance",
            "and keep the new numbers: python tests/golden_bench.py --write",
        ]
    )


def _named(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"{row['label']}, {'-'.join(row['order'])}, seed {row['seed']}": row for row in rows}


def _close(key: str, old: Any, new: Any) -> bool:
    """Whether two values are the same but for what a machine decides: counts are, scores may be a little off."""
    if isinstance(old, dict) and isinstance(new, dict):
        if key == "confusion":  # an image near a threshold may go elsewhere, but none is lost
            return old.keys() == new.keys() and all(
                sum(old[name].values()) == sum(new[name].values()) for name in old
            )
        return old.keys() == new.keys() and all(
            _close(key if key in ROUTED else name, old[name], new[name]) for name in old
        )
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_close(key, *pair) for pair in zip(old, new, strict=True))
    if isinstance(old, float) and isinstance(new, float | int):
        if key in ROUTED:
            return (key == "thresholds" and math.isclose(old, new, rel_tol=0.05)) or abs(old - new) <= 0.2
        return abs(old - new) <= SCORE
    return type(old) is type(new) and old == new


def _other_losses(before: list[list[Any]], now: list[list[Any]], *, exact: bool) -> list[str]:
    """Trainings of a kind, method and task, in the order of their losses."""
    wrong = []
    sides: list[dict[tuple[str, ...], list[list[float]]]] = [{}, {}]
    for side, losses in zip(sides, (before, now), strict=True):
        for *name, loss, iou, penalty in losses:
            side.setdefault(tuple(name), []).append([loss, iou, penalty])
    for name in sorted({*sides[0], *sides[1]}):
        told = f"losses: {name[0]} of {name[1]} on {name[2] or 'all tasks'}"
        old, new = (sorted(side.get(name, [])) for side in sides)
        if len(old) != len(new):
            wrong.append(f"{told}: {len(old)} trainings -> {len(new)}")
            continue
        for first, second in zip(old, new, strict=True):
            close = all(
                math.isclose(a, b, rel_tol=LOSS, abs_tol=1e-7) for a, b in zip(first, second, strict=True)
            )
            if not (first == second if exact else close):
                wrong.append(f"{told}: {first} -> {second}")
    return wrong


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def written(golden: Mapping[str, Any]) -> str:
    """The text of the file: a row a line, so that a comparison of two versions can be read."""

    def lines(entries: list[Any]) -> str:
        return ",\n".join(f"   {json.dumps(entry, separators=(',', ':'))}" for entry in entries)

    rows = ",\n".join(f'  "{bench}": [\n{lines(found)}\n  ]' for bench, found in golden["rows"].items())
    losses = ",\n".join(f"  {json.dumps(entry)}" for entry in golden["losses"])
    return (
        f'{{\n "environment": {json.dumps(golden["environment"])},\n "rows": {{\n{rows}\n }},\n'
        f' "losses": [\n{losses}\n ]\n}}\n'
    )


def main() -> None:
    """Writes the file."""
    if sys.argv[1:] != ["--write"]:
        sys.exit("python tests/golden_bench.py --write")
    from conftest import TINY
    from safetensors.torch import save_file

    from casam_cache.backbones.sam import backbone_state, seeded_backbone

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "tiny.safetensors"
        state = {key: value.contiguous() for key, value in backbone_state(seeded_backbone(TINY, 7)).items()}
        save_file(state, checkpoint, metadata={"architecture": json.dumps(TINY.to_json())})
        found = compute(Path(folder), checkpoint)
    FILE.write_text(written({"environment": environment(), **found}))


if __name__ == "__main__":
    main()

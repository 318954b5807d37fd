"""A tiny bench over every kind of stage and every method, and its numbers as plain data."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bench_sets import BENCH, UNSEEN, draw_set, encode_sets, one_thread, plan

from casam_cache.bench.configs import ALL_METHODS

FILE = Path(__file__).parent / "golden" / "bench.json"
LOOKS_USED = ("amber", "cobalt", "moss", UNSEEN)
# Each entry: methods, settings, further keys of the recipe.
BENCHES: dict[str, tuple[tuple[str, ...], tuple[str, ...], Mapping[str, Any]]] = {
    "methods": (("alignment", "decoder", "hq-sam", *ALL_METHODS), (), BENCH),
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
            "l2p.alignment=first",
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

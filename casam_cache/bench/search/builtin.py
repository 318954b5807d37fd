"""Spaces to begin with: what of each head is worth trying, and its learning rate."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from casam_cache.methods.base import Method

_LAYER: Mapping[str, Any] = {
    "kind": ["affine", "bottleneck", "depthwise", "full"],
    "blocks": {"values": [1, 2, 3], "when": {"kind": ["bottleneck", "depthwise", "full"]}},
}
_LOW_RANK: Mapping[str, Any] = {"rank": {"values": [2, 4, 8, 16], "when": {"train": "lora"}}}
_LEARNING_RATE: Mapping[str, Any] = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}

BUILTIN: Mapping[str, Mapping[str, Any]] = {
    "alignment": {
        **_LAYER,
        "norm": {"values": ["none", "post"], "when": {"kind": ["bottleneck", "depthwise", "full"]}},
        **_LEARNING_RATE,
    },
    "decoder": {
        "train": ["bias", "norm", "ssf", "lora", "all"],
        **_LOW_RANK,
        "targets": {"values": ["qv", "linear"], "when": {"train": "lora"}},
        **_LEARNING_RATE,
    },
    "combined": {
        **_LAYER,
        "train": ["bias", "norm", "ssf", "lora"],
        **_LOW_RANK,
        "tokens": [0, 2, 4],
        **_LEARNING_RATE,
    },
    "prompt-tuning": {"tokens": [1, 2, 4, 8, 16], "dense": ["none", "channel", "cell"], **_LEARNING_RATE},
    "fcn": {"width": [32, 64, 128], "blocks": [1, 2, 3], "depth": [1, 2], **_LEARNING_RATE},
    "class-prompts": {"tokens": [2, 4, 8, 16], "dense": ["none", "channel", "cell"], **_LEARNING_RATE},
    "proposals": {
        "width": [32, 64, 128],
        "blocks": [0, 1],
        "depth": [1, 2, 3],
        "box_weight": [1.0, 2.0, 4.0],
        **_LEARNING_RATE,
    },
    "hq-sam": {"train_decoder": [True, False], "init": ["random", "zero"], **_LEARNING_RATE},
}


def builtin_space(made: type[Method], fixed: Mapping[str, Any]) -> Mapping[str, Any]:
    """The space of a method; of one that is not of this package, its options with few values, and the learning rate.

    Args:
        made: the method.
        fixed: options that are given one value each.
    """
    if made.name in BUILTIN and made.__module__.startswith("casam_cache."):
        return BUILTIN[made.name]
    found: dict[str, Any] = {}
    for name, option in made.options_model().model_fields.items():
        if name in fixed:
            continue
        if option.annotation is bool:
            found[name] = [False, True]
        elif typing.get_origin(option.annotation) is typing.Literal:
            found[name] = list(typing.get_args(option.annotation))
    return {**found, **_LEARNING_RATE}

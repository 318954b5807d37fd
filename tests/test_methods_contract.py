"""Every method of this package through the contract that third parties' methods are checked by."""

from __future__ import annotations

from typing import Any

import pytest

from casam_cache.methods.registry import METHODS
from casam_cache.methods.testing import MethodContract

SMALL: dict[str, dict[str, Any]] = {
    name: {"blocks": 1}
    for name in ("alignment", "ca-sam", "der", "emr", "er", "ewc", "joint", "lwf", "moda", "naive")
} | {
    "ca-sam-fcn": {"width": 16, "blocks": 1},
    "ca-sam-proposals": {"width": 16, "least_score": 0.01},
    "class-prompts": {"tokens": 2},
    "combined": {"blocks": 1, "rank": 2, "tokens": 1},
    "decoder": {},
    "fcn": {"width": 16, "blocks": 1},
    "frozen": {},
    "hq-sam": {},
    "l2p": {"prompts": 6, "prompt_length": 2, "top_k": 2, "slot_size": 2},
    "moda-hq": {},
    "prompt-tuning": {},
    "proposals": {"width": 16, "least_score": 0.01},
}


# tests/test_image_mode.py, tests/test_image_networks.py: these need pixels, and some an encoder
THROUGH_IMAGES = {
    "msa", "sam-decoder", "sam-full", "sam-lora", "sam-med2d",
    "segformer", "segformer-box", "unet", "unet-box", "unetpp", "unetpp-box",
}  # fmt: skip


def test_every_method_is_listed() -> None:
    assert set(SMALL) | THROUGH_IMAGES == set(METHODS.names())


def contract(name: str) -> type[MethodContract]:
    title = "Test" + name.title().replace("-", "")
    return type(title, (MethodContract,), {"method": name, "options": SMALL[name], "__module__": __name__})


for _name in SMALL:
    _class = contract(_name)
    globals()[_class.__name__] = pytest.mark.timeout(120)(_class)
del _class


class TestL2PWithALayer(MethodContract):
    method = "l2p"
    options = {**SMALL["l2p"], "alignment": "first", "blocks": 1}  # noqa: RUF012


class TestL2PWithoutSlots(MethodContract):
    method = "l2p"
    options = {**SMALL["l2p"], "slots": False}  # noqa: RUF012

"""Every head of this package through the contract that third parties' heads are checked by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from casam_cache.backbones.base import Backbone
from casam_cache.errors import CasamError
from casam_cache.heads.base import Head
from casam_cache.heads.options import IdentityOptions
from casam_cache.heads.registry import HEADS
from casam_cache.heads.testing import HeadContract

SMALL: dict[str, list[dict[str, Any]]] = {
    "alignment": [
        {"blocks": 1},
        {"blocks": 2, "relu": "post", "norm": "branch"},
        {"blocks": 1, "norm": "none"},
    ],
    "combined": [{"blocks": 1}, {"kind": "affine", "train": "bias", "tokens": 2}],
    "decoder": [
        {},
        {"train": "bias"},
        {"train": "norm"},
        {"train": "ssf"},
        {"train": "lora", "rank": 2},
        {"train": "lora", "targets": "linear"},
    ],
    "hq-sam": [{}, {"train_decoder": False}, {"init": "zero"}],
    "identity": [{}],
    "prompt-pool": [
        {"prompts": 6, "prompt_length": 2, "top_k": 2, "slot_size": 2},
        {"prompts": 4, "top_k": 2, "slots": False, "alignment": "first", "blocks": 1},
    ],
    "prompt-tuning": [{}, {"tokens": 0, "dense": "cell"}, {"dense": "none"}],
}


def test_every_head_is_listed() -> None:
    # tests/test_image_mode.py and tests/test_image_networks.py: they need pixels; tests/test_map_heads.py,
    # tests/test_proposals_head.py: they answer with what they find, whatever the prompt
    others = {"image-network", "image-sam", "class-prompts", "fcn", "proposals"}
    assert {*SMALL, *others} == set(HEADS.names())


for _name, _choices in SMALL.items():
    for _number, _options in enumerate(_choices):
        _title = f"Test{_name.title().replace('-', '')}{_number or ''}"
        _members = {"head": _name, "options": _options, "__module__": __name__}
        globals()[_title] = type(_title, (HeadContract,), _members)


class Scaled(Head):
    """A head as it should be, for others to go wrong by one thing each."""

    name = "scaled"
    Options: type[BaseModel] = IdentityOptions

    def __init__(self, options: BaseModel, backbone: Backbone, seed: int) -> None:
        super().__init__(options)
        self.scale = nn.Parameter(torch.ones(backbone.channels, 1, 1))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return embedding * self.scale


class Open(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Lax(Scaled):
    Options = Open


class Hungry(Scaled):
    """Needs what no store has."""

    needs = ("embedding", "depth")


class Sly(Scaled):
    """Reads what it does not name."""

    def align(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return super().align(features) + features["early"].mean()


class Loose(Scaled):
    """Draws from the generator that everybody draws from."""

    def __init__(self, options: BaseModel, backbone: Backbone, seed: int) -> None:
        super().__init__(options, backbone, seed)
        self.conv = nn.Conv2d(1, 1, 1)


class Thief(Scaled):
    """Trains the backbone's own decoder."""

    def __init__(self, options: BaseModel, backbone: Backbone, seed: int) -> None:
        super().__init__(options, backbone, seed)
        self.mask_decoder = backbone.mask_decoder


class Common(Scaled):
    """One parameter for all builds."""

    one = nn.Parameter(torch.ones(16, 1, 1))

    def __init__(self, options: BaseModel, backbone: Backbone, seed: int) -> None:
        super().__init__(options, backbone, seed)
        self.scale = self.one


class Flat(Scaled):
    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return super().forward(embedding).flatten(2)


class Writing(Scaled):
    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return embedding.mul_(2) * self.scale


class Mixing(Scaled):
    """Looks at the whole batch."""

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return super().forward(embedding) - embedding.mean((0, 2, 3), keepdim=True)


class Single(Scaled):
    """Forgets all masks but one."""

    def decode(self, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        low_res, iou = super().decode(*arguments)
        return low_res[:, :1], iou[:, :1]


class Detached(Scaled):
    """Has a parameter that decides masks and is never learnt."""

    def __init__(self, options: BaseModel, backbone: Backbone, seed: int) -> None:
        super().__init__(options, backbone, seed)
        self.shift = nn.Parameter(torch.zeros(backbone.channels, 1, 1))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return super().forward(embedding) + self.shift.detach()


class Cut(Scaled):
    @torch.no_grad()
    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return super().forward(embedding)


class Forgetful(Scaled):
    """Depends on the seed by something that is not saved."""

    def __init__(self, options: BaseModel, backbone: Backbone, seed: int) -> None:
        super().__init__(options, backbone, seed)
        self.shift = seed / 10

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return super().forward(embedding) + self.shift


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HEADS, "_registered", {})


@pytest.mark.usefixtures("registered")
class TestScaled(HeadContract):
    head = Scaled

    def test_it_comes_back_from_disk(self) -> None:
        with pytest.raises(CasamError, match="could not be found again"):
            super().test_it_comes_back_from_disk()
        HEADS.register(Scaled)
        super().test_it_comes_back_from_disk()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("kind", "test", "words"),
    [
        (Lax, "test_options_are_checked_by_name_and_type", "takes unknown names"),
        (Hungry, "test_it_needs_features_that_there_are", "depth"),
        (Sly, "test_it_needs_features_that_there_are", "reads 'early'"),
        (Loose, "test_initial_weights_depend_on_the_seed_alone", "torch's global generator"),
        (Thief, "test_builds_share_nothing", "backbone's own"),
        (Common, "test_builds_share_nothing", "another build's"),
        (Flat, "test_align_keeps_the_shape", r"\(1, 16, 64\), expected \(1, 16, 8, 8\)"),
        (Writing, "test_align_keeps_the_shape", "writes into embedding"),
        (Mixing, "test_an_image_gets_in_a_batch_what_it_gets_alone", "images beside it"),
        (
            Single,
            "test_decode_gives_masks_for_several_prompts_an_image",
            r"\(5, 1, 32, 32\), expected \(5, 3",
        ),
        (Detached, "test_gradients_reach_what_is_trained", "no gradient reaches shift"),
        (Cut, "test_gradients_reach_what_is_trained", "no gradient flows"),
        (Forgetful, "test_it_comes_back_from_disk", "gives other masks"),
    ],
)
def test_the_contract_catches(kind: type[Head], test: str, words: str) -> None:
    HEADS.register(kind)
    contract = type("Contract", (HeadContract,), {"head": kind})()
    with pytest.raises(AssertionError, match=words):
        getattr(contract, test)()

"""Tests that a head of yours can be put through: subclass `HeadContract` in a test file and run pytest.

    from casam_cache.heads.testing import HeadContract

    class TestMyHead(HeadContract):
        head = "my_file.py:MyHead"

Everything runs on a tiny seeded SAM and drawn features, in seconds, on a CPU. pytest itself is not imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch

from casam_cache.backbones.architecture import Architecture
from casam_cache.backbones.prompts import Prompts
from casam_cache.backbones.sam import SamBackbone, seeded_backbone
from casam_cache.config import validated
from casam_cache.errors import OptionError
from casam_cache.fingerprint import generator
from casam_cache.heads.base import Head, predict_low_res, run_head
from casam_cache.heads.files import load_head, save_head
from casam_cache.heads.registry import HEADS

TINY = Architecture(
    image_size=64, patch_size=8, width=16, depth=1, heads=2, window=4, global_blocks=(0,), channels=16,
    decoder_heads=2, decoder_mlp=32, iou_width=16,
)  # fmt: skip
OF_IMAGE = (0, 1, 1, 0, 1)  # two images, and the image of each of five prompts
Masks = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class HeadContract:
    """What training, evaluation and prediction rely on in every head.

    Set `head`, and `options` where the defaults do not do.

    Attributes:
        head: a name, `my_file.py:MyHead`, or a class that is registered.
        options: values by name; keep the head small.
    """

    head: ClassVar[str | type[Head]]
    options: ClassVar[Mapping[str, Any]] = {}

    @cached_property
    def backbone(self) -> SamBackbone:
        """One for all builds of a test, so that it shows what they share with it."""
        return seeded_backbone(TINY, 0)

    def made(self, seed: int = 0) -> Head:
        """The head as training begins with it, in evaluation mode."""
        kind = self._class()
        return kind.build(validated(kind.Options, self.options), self.backbone, seed).eval()

    def test_options_are_checked_by_name_and_type(self) -> None:
        """Defaults exist, unknown names are refused, and what head.json keeps of them gives them again."""
        model = self._class().Options
        for given in ({}, self.options):
            options = validated(model, given)
            again = validated(model, options.model_dump(mode="json"))
            assert again == options, "options do not come back from JSON"
        try:
            validated(model, {"no_such_option": 1})
        except OptionError:
            return
        raise AssertionError('Options takes unknown names: model_config = ConfigDict(extra="forbid")')

    def test_it_needs_features_that_there_are(self) -> None:
        """`needs` names arrays of `casam encode`, the embedding among them, or `valid`; nothing else is read."""
        head, known = self.made(), (*self.backbone.features(), "valid")
        assert "embedding" in head.needs, "needs leaves out the embedding"
        assert set(head.needs) <= set(known), f"needs {head.needs}, known are {', '.join(known)}"
        try:
            self._run(head, self._features(head))
        except KeyError as error:
            raise AssertionError(f"the head reads {error}, which its needs do not name") from error

    def test_initial_weights_depend_on_the_seed_alone(self) -> None:
        """Neither a global generator nor anything built before decides them, nor are they left disturbed."""
        torch.manual_seed(1)
        before, drawn = torch.get_rng_state(), np.random.get_state()[1]  # type: ignore[index] # noqa: NPY002
        first = self.made(seed=5)
        assert torch.equal(torch.get_rng_state(), before), "build draws from torch's global generator"
        after = np.random.get_state()[1]  # type: ignore[index] # noqa: NPY002
        assert np.array_equal(after, drawn), "build draws from numpy's global generator"
        torch.manual_seed(2)
        self.made(seed=6)
        _assert_same_weights(self.made(seed=5), first, "two builds with one seed differ")

    def test_builds_share_nothing(self) -> None:
        """Neither with each other nor with the backbone: what one trains or loads must not change another."""
        first, second = self.made(), self.made()
        taken = _memory(*_parts(self.backbone))
        for head in (first, second):
            own = _memory(head)
            assert not own & taken, "tensors are the backbone's own, or another build's: copy.deepcopy them"
            taken |= own

    def test_align_keeps_the_shape(self) -> None:
        """(B, C, g, g) -> finite (B, C, g, g), and the features, which the next epoch reads too, stay as they are."""
        head = self.made()
        for images in (1, 2):
            features = self._features(head, range(images))
            before = {name: tensor.clone() for name, tensor in features.items()}
            with torch.no_grad():
                aligned, added = head.align(features), head.prompt_tokens(features)
            _assert_shape("align", aligned, features["embedding"].shape)
            if added is not None:
                assert added.ndim == 3, f"prompt_tokens gives {tuple(added.shape)}, not (B, n, C)"
                _assert_shape("prompt_tokens", added, (images, added.shape[1], TINY.channels))
            for name, tensor in before.items():
                assert torch.equal(features[name], tensor), f"the head writes into {name}"

    def test_decode_gives_masks_for_several_prompts_an_image(self) -> None:
        """Logits (P, m, 4g, 4g) and IoU (P, m), m = 1 or 3; no index means prompt i on image i."""
        head, side = self.made(), self.backbone.low_res
        features = self._features(head)
        for multimask, masks in ((False, 1), (True, 3)):
            _, low_res, iou = self._run(head, features, multimask=multimask)
            _assert_shape("logits of decode", low_res, (len(OF_IMAGE), masks, side, side))
            _assert_shape("IoU estimates of decode", iou, (len(OF_IMAGE), masks))
            named = self._run(head, features, (0, 1), multimask=multimask)
            _assert_close(
                self._run(head, features, None, multimask=multimask),
                named,
                "image_index=None is another order",
            )

    def test_an_image_gets_in_a_batch_what_it_gets_alone(self) -> None:
        """The other images and prompts beside it play no part, but for the last bits."""
        head = self.made()
        for multimask in (False, True):
            aligned, low_res, iou = self._run(head, self._features(head), multimask=multimask)
            for image in (0, 1):
                own = [place for place, of in enumerate(OF_IMAGE) if of == image]
                expected = aligned[image : image + 1], low_res[own], iou[own]
                alone = self._run(
                    head, self._features(head, [image]), [0] * len(own), own, multimask=multimask
                )
                _assert_close(alone, expected, "an image depends on the images beside it")
            for place, image in enumerate(OF_IMAGE):
                expected = aligned[image : image + 1], low_res[[place]], iou[[place]]
                alone = self._run(head, self._features(head, [image]), [0], [place], multimask=multimask)
                _assert_close(alone, expected, "a prompt depends on the prompts beside it")

    def test_gradients_reach_what_is_trained(self) -> None:
        """Every trained parameter that the masks depend on, something among them, and nothing of the backbone."""
        head = self.made().train()
        trained = {id(parameter) for parameter in head.trained()}
        if not trained:
            return
        features = self._features(head)
        _, low_res, iou = masks = self._run(head, features)
        assert low_res.requires_grad, "no gradient flows from the masks to the head"
        (low_res.square().mean() + iou.square().mean()).backward()
        reached = False
        for name, parameter in head.named_parameters():
            if id(parameter) not in trained:
                assert parameter.grad is None, f"{name} has a gradient and is not trained"
            elif parameter.grad is not None:
                assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
                reached = reached or bool(parameter.grad.any())
            else:
                assert self._unused(parameter, head, features, masks), (
                    f"no gradient reaches {name}, which is used"
                )
        assert reached, "every gradient is zero: the head cannot begin to learn"
        for part in _parts(self.backbone):
            assert all(parameter.grad is None for parameter in part.parameters()), (
                "the backbone gets gradients"
            )
            assert not any(parameter.requires_grad for parameter in part.parameters()), (
                "the backbone is unfrozen"
            )

    def test_it_comes_back_from_disk(self) -> None:
        """By its files alone, with the same bits of weights and of masks, whatever seed it was built with."""
        head = self.made(seed=5)
        with torch.no_grad():
            for name, tensor in head.state_dict().items():
                if tensor.is_floating_point():  # as if it had been trained
                    tensor.add_(0.01 * _drawn(tensor.shape, "trained", name))
        with TemporaryDirectory() as folder:
            save_head(head, Path(folder))
            loaded = load_head(Path(folder), self.backbone, trust=True)
        assert loaded.options == head.options, "the loaded head has other options"
        _assert_same_weights(loaded, head, "the loaded head has other weights")
        for found, expected in zip(
            self._run(loaded, self._features(loaded)), self._run(head, self._features(head)), strict=True
        ):
            assert torch.equal(found, expected), "the loaded head gives other masks"

    def test_stored_precision_is_accepted(self) -> None:
        """float16 features, as stores hold them, are the same numbers in float32; bf16 autocast gives masks too."""
        head = self.made()
        features, index = self._features(head), torch.tensor(OF_IMAGE)
        prompts = _prompts(range(len(OF_IMAGE)))
        stored = {name: tensor.half() for name, tensor in features.items()}
        low_res, iou = predict_low_res(head, self.backbone, stored, prompts, index)
        _, *expected = self._run(head, features)
        assert torch.equal(low_res, expected[0]), "float16 features give other masks"
        assert torch.equal(iou, expected[1]), "float16 features give other IoU estimates"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low_res, iou = predict_low_res(head, self.backbone, stored, prompts, index)
        assert low_res.isfinite().all(), "under bf16 autocast masks are not finite"
        assert iou.isfinite().all(), "under bf16 autocast IoU estimates are not finite"

    def _features(self, head: Head, images: Iterable[int] = (0, 1)) -> dict[str, torch.Tensor]:
        """What the head needs of these images, rounded to float16 as in a store. Image 1 is a landscape."""
        valid = torch.ones(2, TINY.grid, TINY.grid)
        valid[1, TINY.grid // 2 :] = 0
        shapes = self.backbone.features()
        chosen = list(images)
        return {
            name: valid[chosen]
            if name == "valid"
            else torch.stack([_drawn(shapes[name], name, image) for image in chosen]).half().float()
            for name in head.needs
        }

    def _run(
        self,
        head: Head,
        features: Mapping[str, torch.Tensor],
        of_image: Sequence[int] | None = OF_IMAGE,
        places: Sequence[int] | None = None,
        *,
        multimask: bool = False,
    ) -> Masks:
        """The aligned embedding, logits and IoU estimates; one that drops units at random draws the same each time.

        Args:
            head: in the mode it is in; gradients only where it trains.
            features: of B images.
            of_image: the image of each prompt.
            places: which of the drawn prompts; the first ones if None.
            multimask: three masks a prompt.
        """
        count = len(features["embedding"]) if of_image is None else len(of_image)
        sparse, dense = self.backbone.embed_prompts(_prompts(range(count) if places is None else places))
        index = None if of_image is None else torch.tensor(of_image)
        with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(head.training):
            torch.manual_seed(0)
            return run_head(head, self.backbone, features, index, sparse, dense, multimask)

    def _unused(
        self, parameter: torch.nn.Parameter, head: Head, features: Mapping[str, torch.Tensor], masks: Masks
    ) -> bool:
        """Whether a small change of a parameter leaves the masks as they were."""
        with torch.no_grad():
            before, size = parameter.clone(), parameter.abs().mean().item() or 1.0
            parameter.add_(1e-3 * size * _drawn(parameter.shape, "change"))
            changed = self._run(head, features)
            parameter.copy_(before)
        return all(torch.equal(one, other) for one, other in zip(changed, masks, strict=True))

    def _class(self) -> type[Head]:
        return HEADS.get(self.head) if isinstance(self.head, str) else self.head


def _parts(backbone: SamBackbone) -> tuple[torch.nn.Module, torch.nn.Module]:
    return backbone.prompt_encoder, backbone.mask_decoder


def _drawn(shape: Iterable[int], *belongs_to: str | int) -> torch.Tensor:
    return torch.from_numpy(generator(*belongs_to).standard_normal(tuple(shape))).float()


def _prompts(places: Iterable[int]) -> Prompts:
    """Boxes in input pixels."""
    corner = [generator("box", place).uniform(0, 24, 2) for place in places]
    boxes = np.concatenate([corner, np.add(corner, 24)], axis=1)
    return Prompts(boxes=torch.from_numpy(boxes).float())


def _memory(*modules: torch.nn.Module) -> set[int]:
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def _assert_shape(what: str, found: torch.Tensor, shape: Iterable[int]) -> None:
    assert tuple(found.shape) == tuple(shape), f"{what}: {tuple(found.shape)}, expected {tuple(shape)}"
    assert found.dtype == torch.float32, f"{what}: {found.dtype}, not float32"
    assert found.isfinite().all(), f"{what}: not finite"


def _assert_close(found: Masks, expected: Masks, message: str) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape, message
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5), message


def _assert_same_weights(found: Head, expected: Head, message: str) -> None:
    one, other = found.state_dict(), expected.state_dict()
    assert one.keys() == other.keys(), message
    for name, tensor in one.items():
        assert torch.equal(tensor.cpu(), other[name].cpu()), f"{message}: {name}"

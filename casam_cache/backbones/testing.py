"""The tests that every backbone passes. A subclass in a test file is all it takes for one of your own:

class TestMine(BackboneContract):
    backbone = "my_backbone.py:Mine"

pytest runs its methods; nothing here imports pytest. Everything happens on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from casam_cache.backbones.base import EMBEDDING, Backbone
from casam_cache.backbones.encoder import FrozenEncoder
from casam_cache.backbones.preprocess import stack_inputs
from casam_cache.backbones.prompts import Prompts
from casam_cache.backbones.registry import BACKBONES, load_backbone
from casam_cache.fingerprint import canonical_json
from casam_cache.geometry import Geometry

FEATURES = (EMBEDDING, "early", "tokens")


class BackboneContract:
    """What the rest of the package relies on in every backbone. Set `backbone`, or override `made`.

    Attributes:
        backbone: a name, or `my_file.py:MyBackbone`.
        checkpoint: of its weights; None for its own.
    """

    backbone: ClassVar[str]
    checkpoint: ClassVar[Path | None] = None

    def made(self) -> Backbone:
        return load_backbone(self.backbone, self.checkpoint)

    def test_the_same_weights_have_the_same_name(self) -> None:
        """Loading twice gives one fingerprint, and what identifies a store is plain JSON."""
        first, second = self.made(), self.made()
        assert first.fingerprint == second.fingerprint
        assert len(first.fingerprint) == 64
        assert first.name
        for told in (
            first.description,
            first.preprocessing(),
            {name: first.feature_identity(name) for name in first.features()},
        ):
            assert json.loads(canonical_json(told)) == told, "not plain JSON: it reads back as something else"
        assert canonical_json(first.identity) == canonical_json(second.identity)
        assert set(first.choose_settings("fp32", 1)) == set(first.settings)

    def test_preprocessing_is_part_of_the_identity(self) -> None:
        """Another resize is another identity, and a backbone does not overwrite what others say of the pixels."""
        backbone = self.made()
        longest, stretch = (backbone.preprocessing_identity(mode, "auto") for mode in ("longest", "stretch"))
        assert longest != stretch
        assert not {"image_size", "resize", "intensity"} & set(backbone.preprocessing())
        assert backbone.preprocessing(), "say how pixels become numbers"

    def test_geometry(self) -> None:
        """Cells tile the input, and the embedding has one for each."""
        backbone = self.made()
        assert backbone.image_size % backbone.patch_size == 0
        shapes = backbone.features()
        assert shapes[EMBEDDING] == (backbone.channels, backbone.grid, backbone.grid)
        assert set(shapes) <= set(FEATURES), f"stores hold {', '.join(FEATURES)}"
        assert backbone.low_res == 4 * backbone.grid, "targets are made at four pixels a cell"
        assert isinstance(backbone.encoder_flops(), int)
        assert backbone.encoder_flops() > 0

    def test_an_image_is_prepared_to_its_place(self) -> None:
        """`prepare` gives uint8 of the size that the geometry says, for every resize mode."""
        backbone = self.made()
        for mode in ("longest", "stretch"):
            for image in _images(backbone):
                height, width = image.shape[:2]
                geometry = Geometry.fit(height, width, backbone.image_size, backbone.patch_size, mode)
                prepared = backbone.prepare(image, geometry)
                assert prepared.dtype == np.uint8
                assert prepared.shape == (geometry.input_height, geometry.input_width, 3)

    def test_features_are_as_declared(self) -> None:
        """Shapes, float32, finite, and another image has others."""
        backbone = self.made()
        found = _encoded(backbone, _images(backbone))
        for name, shape in backbone.features().items():
            assert found[name].shape == (3, *shape), name
            assert found[name].dtype == torch.float32
            assert torch.isfinite(found[name]).all()
            assert not torch.equal(found[name][0], found[name][1]), f"{name} does not see the image"

    def test_encoding_twice_gives_the_same_bits(self) -> None:
        """Also by a backbone that was loaded again, and with the settings that a store would remember."""
        first, second = self.made(), self.made()
        chosen = first.choose_settings("fp32", 3)
        for settings in ({}, first.settings_of(chosen)):
            one, other = (_encoded(backbone, _images(first), settings) for backbone in (first, second))
            _assert_same(one, other, "two encodings of the same images differ")

    def test_an_image_does_not_depend_on_its_batch(self) -> None:
        """Nor on what else is asked for: a store can be continued, and arrays added, at any time."""
        backbone = self.made()
        images = _images(backbone)
        together = _encoded(backbone, images)
        for index, image in enumerate(images):
            alone = _encoded(backbone, [image])
            _assert_same(
                alone, {name: part[index : index + 1] for name, part in together.items()}, "alone it differs"
            )
        for name in backbone.features():
            _assert_same(
                _encoded(backbone, images, names=[name]), {name: together[name]}, "asked for alone it differs"
            )

    def test_what_lies_beside_the_image_does_not_matter(self) -> None:
        """`normalise` overwrites the padding."""
        backbone = self.made()
        pixels, sizes = _batch(backbone, _images(backbone))
        clean = backbone.normalise(pixels, sizes)
        assert clean.dtype == torch.float32
        assert clean.shape == pixels.shape
        for square, (height, width) in zip(pixels, sizes.tolist(), strict=True):
            square[:, height:], square[:, :, width:] = 255, 255
        assert torch.equal(backbone.normalise(pixels, sizes), clean)

    def test_nothing_trains_and_nothing_random_moves(self) -> None:
        """Frozen parts, and the caller's random numbers as they were."""
        torch.manual_seed(3)
        before = torch.get_rng_state()
        backbone = self.made()
        assert torch.equal(torch.get_rng_state(), before), "load draws from torch's global generator"
        for part in vars(backbone).values():
            if isinstance(part, torch.nn.Module):
                assert not part.training, "call eval()"
                assert not any(parameter.requires_grad for parameter in part.parameters()), "freeze it"

    def test_gradients_reach_the_embedding(self) -> None:
        """Through boxes and points, with one mask and with several; a head trains by them."""
        backbone = self.made()
        for prompts in (_boxes(backbone, 3), _points(backbone, 3)):
            for multimask in (False, True):
                embedding = _embeddings(backbone).requires_grad_()
                sparse, dense = backbone.embed_prompts(prompts)
                assert sparse.shape[0] == len(prompts)
                assert sparse.shape[2] == backbone.channels
                assert dense.shape == (3, backbone.channels, backbone.grid, backbone.grid)
                index = torch.tensor([0, 1, 1])
                logits, iou = backbone.decode(embedding, index, sparse, dense, multimask)
                masks = logits.shape[1] if multimask else 1
                assert logits.shape == (3, masks, backbone.low_res, backbone.low_res)
                assert iou.shape == (3, masks)
                (logits.square().mean() + iou.mean()).backward()
                assert embedding.grad is not None, "no gradient reaches the embedding"
                assert all(part.abs().max() > 0 for part in embedding.grad), "an image's embedding gets none"

    def test_prompts_are_decoded_on_their_images(self) -> None:
        """Each prompt as if it were alone with its image; without an index the i-th belongs to the i-th."""
        backbone = self.made()
        embedding = _embeddings(backbone)
        with torch.no_grad():
            sparse, dense = backbone.embed_prompts(_boxes(backbone, 3))
            logits, _ = backbone.decode(embedding, torch.tensor([1, 0, 1]), sparse, dense, False)
            for row, image in enumerate((1, 0, 1)):
                one = slice(row, row + 1)
                alone, _ = backbone.decode(embedding[image : image + 1], None, sparse[one], dense[one], False)
                torch.testing.assert_close(alone, logits[one], rtol=1e-4, atol=1e-4)
            assert not torch.equal(logits[0], logits[2]), "another box on the same image gives the same mask"

    def test_the_decoder_comes_back_from_its_file(self, tmp_path: Path) -> None:
        """By the class that its description names, with the same bits and the same facts, and without an encoder."""
        backbone = self.made()
        path = tmp_path / "decoders" / "decoder.safetensors"
        path.parent.mkdir()
        backbone.save_decoder(path)
        assert [file.name for file in path.parent.iterdir()] == [path.name], (
            "more than the file was left behind"
        )
        folder = tmp_path / "class"
        folder.mkdir()
        described = json.loads(json.dumps(BACKBONES.describe(type(backbone), folder)))
        cls = BACKBONES.restore(described, folder)
        assert cls is type(backbone)
        loaded = cls.load_decoder(path)
        assert loaded.encoder is None
        for fact in (
            "name", "fingerprint", "identity", "image_size", "patch_size", "channels", "neck", "low_res", "features",
            "preprocessing", "encoder_flops",
        ):  # fmt: skip
            one, other = getattr(backbone, fact), getattr(loaded, fact)
            assert (one() if callable(one) else one) == (other() if callable(other) else other), fact
        with torch.no_grad():
            for prompts in (_boxes(backbone, 2), _points(backbone, 2)):
                ours, theirs = backbone.embed_prompts(prompts), loaded.embed_prompts(prompts)
                assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
                found = [
                    part.decode(_embeddings(backbone), None, *ours, False) for part in (backbone, loaded)
                ]
                assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), "other masks"


def _images(backbone: Backbone) -> list[np.ndarray]:
    """Three images: wide, tall, and as large as the input."""
    rng, side = np.random.default_rng(0), backbone.image_size
    sizes = ((side // 2, side), (side, side // 3), (side, side))
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def _batch(backbone: Backbone, images: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    prepared = [
        backbone.prepare(
            image, Geometry.fit(image.shape[0], image.shape[1], backbone.image_size, backbone.patch_size)
        )
        for image in images
    ]
    pixels, sizes = stack_inputs(prepared, backbone.image_size)
    return torch.from_numpy(pixels), torch.from_numpy(sizes)


def _encoded(
    backbone: Backbone,
    images: list[np.ndarray],
    settings: Mapping[str, Any] | None = None,
    names: list[str] | None = None,
) -> dict[str, Tensor]:
    encoder = FrozenEncoder(backbone, "fp32", **(settings or {}))
    return encoder(*_batch(backbone, images), names or list(backbone.features()))


def _embeddings(backbone: Backbone) -> Tensor:
    """float32 (2, C, g, g), random, at the scale of the backbone's own embeddings."""
    mean, deviation = backbone.neck
    shape = (2, backbone.channels, backbone.grid, backbone.grid)
    return mean + deviation * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _boxes(backbone: Backbone, count: int) -> Prompts:
    side = float(backbone.image_size)
    return Prompts(
        boxes=torch.tensor([[0.1, 0.2, 0.5 + 0.1 * i, 0.7 + 0.1 * i] for i in range(count)]) * side
    )


def _points(backbone: Backbone, count: int) -> Prompts:
    places = torch.tensor([[[0.2 + 0.2 * i, 0.5]] for i in range(count)]) * float(backbone.image_size)
    return Prompts(points=places, labels=torch.ones((count, 1), dtype=torch.long))


def _assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], message: str) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), f"{message}: {name}"

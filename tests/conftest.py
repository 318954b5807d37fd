"""A tiny seeded SAM of the real modules, a small dataset, and the command line, for every test."""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from casam_cache.backbones.architecture import Architecture
from casam_cache.references import loaded_files

pytest_plugins = ("sam_files", "export_runs")  # their fixtures

# How long an example takes says how busy the machine is, nothing about what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

TINY = Architecture(
    image_size=64, patch_size=8, width=32, depth=2, heads=2, window=3, global_blocks=(1,), channels=16,
    decoder_heads=2, decoder_mlp=32, mask_channels=4, iou_width=16,
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the cache folder of whoever runs the tests; also not in processes it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASAM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_draws(request: pytest.FixtureRequest) -> None:
    """What a test draws without a generator is its own, whichever tests its process ran before it."""
    import torch

    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def own_files() -> Iterator[None]:
    """A class of a file that a test loaded is known to no other test, whichever process and order they run in."""
    before = {module.__name__ for module in loaded_files()}
    yield
    for module in loaded_files():
        if module.__name__ not in before:
            del sys.modules[module.__name__]


def write_tiny_checkpoint(path: Path) -> None:
    """The tiny SAM with seeded weights, as safetensors."""
    from safetensors.torch import save_file

    from casam_cache.backbones.sam import backbone_state, seeded_backbone

    state = {key: value.contiguous() for key, value in backbone_state(seeded_backbone(TINY, 7)).items()}
    save_file(state, path, metadata={"architecture": json.dumps(TINY.to_json())})


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A safetensors checkpoint of the tiny SAM, to be given as --model small --checkpoint FILE."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_tiny_checkpoint(path)
    return path


def draw_dataset(root: Path, images: int = 10, seed: int = 0, size: tuple[int, int] = (48, 40)) -> Path:
    """A dataset of bright discs on noise: binary masks, two images a patient, one empty mask, split.csv."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows = ["id,split,group"]
    y, x = np.mgrid[: size[0], : size[1]]
    for index in range(images):
        cy, cx = rng.integers(12, size[0] - 12), rng.integers(12, size[1] - 12)
        disc = (y - cy) ** 2 + (x - cx) ** 2 < rng.integers(5, 11) ** 2
        if index == 1:
            disc[:] = False
        picture = rng.integers(0, 90, (*size, 3)) + 120 * disc[..., None]
        Image.fromarray(picture.astype(np.uint8)).save(root / "images" / f"p{index:03d}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(root / "masks" / f"p{index:03d}.png")
        group = index // 2
        rows.append(f"p{index:03d},{'test' if group % 3 == 2 else 'train'},patient{group}")
    (root / "split.csv").write_text("\n".join(rows) + "\n")
    return root


def add_images(root: Path, count: int) -> None:
    """Images that come later, for training, to a dataset that `draw_dataset` drew."""
    later = draw_dataset(root.parent / "later", images=count, seed=5)
    for path in sorted(later.glob("*/p*.png")):
        path.rename(root / path.parent.name / f"z_{path.name}")
    shutil.rmtree(later)
    with (root / "split.csv").open("a") as file:
        file.writelines(f"z_p{index:03d},train,later{index}\n" for index in range(count))


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    """A dataset named `discs`."""
    return draw_dataset(tmp_path / "data" / "discs")


class Casam:
    """Runs the command line in this process, as a user would in a folder of their own."""

    def __init__(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch
        self.out = self.err = ""
        self.code = 0

    def __call__(self, *arguments: object) -> str:
        """Runs `casam ARGUMENTS`; keeps exit code, stdout and stderr; returns stdout."""
        from casam_cli.main import run

        self._monkeypatch.setattr("sys.argv", ["casam", *map(str, arguments)])
        self._capsys.readouterr()
        try:
            run()
            self.code = 0
        except SystemExit as end:
            self.code = int(end.code or 0)
        self.out, self.err = self._capsys.readouterr()
        return self.out

    def json(self, *arguments: object) -> Any:
        """Runs `casam ARGUMENTS --json` and reads its one JSON object."""
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def casam(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Casam]:
    """The command line, in an empty folder, with a checkpoint cache of its own."""
    import torch

    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CASAM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    # Tensors this small gain nothing from threads, and on busy cores threads wait for each other for minutes.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Casam(folder, capsys, monkeypatch)
    torch.set_num_threads(threads)


@pytest.fixture
def encode(casam: Casam, tiny_checkpoint: Path) -> Callable[..., Any]:
    """`casam encode` with the tiny SAM; returns its JSON."""

    def run(path: Path, *options: object) -> Any:
        return casam.json(
            "encode", path, "--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny", *options
        )

    return run


@pytest.fixture(scope="session")
def bench_stores(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Stores of the sets in `bench_sets.py`; not to be written to."""
    from bench_sets import draw_and_encode

    return draw_and_encode(tmp_path_factory.mktemp("bench"), tiny_checkpoint)


@pytest.fixture(scope="session")
def reference(bench_stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished bench of several methods over two orders; its runs are not to be written to."""
    from bench_sets import Reference

    return Reference.run(bench_stores, tmp_path_factory.mktemp("reference") / "runs")


@pytest.fixture
def browser() -> Iterator[Any]:
    """A real browser, which asks no network for anything; skipped, with the reason, where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium on the path: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A server that speaks S3."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server, "AWS_ALLOW_HTTP": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    requests = pytest.importorskip("requests")
    requests.post(f"{s3_server}/moto-api/reset", timeout=10)
    assert requests.put(f"{s3_server}/lab", timeout=10).ok
    return "s3://lab/stores"

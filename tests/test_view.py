"""`casam view` as a browser meets it: a real server, asked over HTTP, on the tiny SAM."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_sets import Reference
from conftest import Casam, draw_dataset
from PIL import Image
from test_cli import documented

from casam_cache.bench.predict import Predictor
from casam_cache.errors import CasamError, OptionError
from casam_cache.view.kept import Kept, runs_of
from casam_cache.view.opening import open_session
from casam_cache.view.server import HEADERS, LARGEST, ViewServer

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"
BOX = [5, 5, 20, 30]


class Client:
    """Asks a server as its own page does."""

    def __init__(self, server: ViewServer) -> None:
        self.port, self.token = server.server_address[1], server.token

    def raw(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, name: str) -> tuple[int, bytes]:
        status, _, content = self.raw("GET", f"/{self.token}/{name}")
        return status, content

    def post(self, name: str, /, **body: Any) -> tuple[int, Any]:
        sent = json.dumps(body).encode()
        status, _, content = self.raw("POST", f"/{self.token}/{name}", sent, Content_Type="application/json")
        return status, json.loads(content)

    def ok(self, name: str, /, **body: Any) -> Any:
        status, found = self.post(name, **body)
        assert status == 200, found
        return found


@contextmanager
def served(what: Path, out: Path, **options: Any) -> Iterator[Client]:
    kept = Kept(out)
    session = open_session(what, kept, device="cpu", **options)
    with ViewServer(session) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Client(server)
        finally:
            server.shutdown()
            thread.join()
            kept.close()


@pytest.fixture
def fitted(casam: Casam, encode: Callable[..., Any], discs: Path) -> Path:
    """A fit of the discs; returns its folder."""
    encode(discs)
    return casam.folder / casam.json("fit", "--task", "discs", "--epochs", 1, "--set", "held_out=0")["run"]


def test_both_masks_of_a_prompt_are_those_of_the_predictor_and_can_be_kept(
    casam: Casam, fitted: Path, discs: Path
) -> None:
    from pycocotools import mask as coco_mask

    out = casam.folder / "kept"
    with served(fitted, out) as client:
        listing = json.loads(client.get("items")[1])
        [source] = listing["sources"]
        assert (source["name"], len(source["ids"]), listing["run"]) == ("discs", 10, f"fit/{fitted.name}")
        item = source["ids"].index("p004")
        opened = client.ok("open", source=0, place=item)
        assert (opened["width"], opened["height"], opened["kept"]) == (40, 48, 0)
        status, picture = client.get(f"image/0/{item}")
        assert status == 200
        shown = np.asarray(Image.open(io.BytesIO(picture)))
        assert (shown == np.asarray(Image.open(discs / "images" / "p004.png"))).all()

        prompt = {"source": 0, "place": item, "points": [[12, 14, 1], [30, 40, 0]], "box": BOX}
        found = client.ok("predict", **prompt)
        assert list(found["masks"]) == ["frozen", "fitted"]
        assert found["masks"]["fitted"]["by"] == "alignment of discs"
        given = {"points": [(12, 14), (30, 40)], "labels": [1, 0], "boxes": BOX}
        store = casam.folder / "casam_store" / "discs" / "tiny.zarr"
        masks = {}
        for whose, run in (("frozen", None), ("fitted", fitted)):
            masks[whose] = Predictor(run, store=store, device="cpu").set_item(store, "p004").predict(**given)
            told = found["masks"][whose]
            assert told["area"] == masks[whose].mask.sum()
            assert told["score"] == pytest.approx(masks[whose].predicted_iou, abs=1e-4)
            assert bool(told["outline"]) == bool(told["area"])

        files = []
        for whose, name in (("fitted", "polyp"), ("frozen", ""), ("fitted", "polyp")):
            kept = client.ok("keep", **prompt, whose=whose, name=name)
            files.append(Path(kept["file"]))
            assert (np.asarray(Image.open(files[-1])) == 255 * masks[whose].mask).all()
        assert [path.relative_to(out).as_posix() for path in files] == [
            f"discs/p004_{n}.png" for n in (1, 2, 3)
        ]
        assert client.ok("drop", source=0, place=item) == {"file": str(files[2]), "kept": 2}
        assert not files[2].exists()
        assert client.ok("open", source=0, place=item)["kept"] == 2
    coco = json.loads((out / "discs" / "masks.json").read_text())
    assert [entry["name"] for entry in coco["categories"]] == ["polyp", "object"]
    assert [entry["file_name"] for entry in coco["images"]] == ["images/p004.png"]
    for entry, whose in zip(coco["annotations"], ("fitted", "frozen"), strict=True):
        runs = coco_mask.frPyObjects(entry["segmentation"], 48, 40)
        assert (coco_mask.decode(runs) == masks[whose].mask).all()
        assert entry["bbox"] == coco_mask.toBbox(runs).tolist()
        assert entry["casam"]["points"] == [[12, 14], [30, 40]]


def test_what_an_earlier_session_kept_is_gone_on_with_and_never_replaced(tmp_path: Path) -> None:
    mask = np.zeros((6, 5), bool)
    mask[2:4, 1:3] = True
    assert runs_of(mask) == [8, 2, 4, 2, 14]
    assert runs_of(~mask)[:2] == [0, 8]
    first = Kept(tmp_path / "out")
    first.keep("task", "deep/a", "deep/a.png", mask, "object", {})
    with pytest.raises(CasamError, match="keeps masks in"):
        Kept(tmp_path / "out").keep("task", "b", "b.png", mask, "object", {})
    first.close()
    (tmp_path / "out" / "task" / "deep" / "a_2.png").write_text("somebody's")
    later = Kept(tmp_path / "out")
    assert later.count("task", "deep/a") == 1
    assert later.keep("task", "deep/a", "deep/a.png", mask, "object", {}).name == "a_3.png"
    with pytest.raises(OptionError, match="empty"):
        later.keep("task", "deep/a", "deep/a.png", mask & False, "object", {})
    with pytest.raises(CasamError, match="outside"):
        later.keep("task", "../a", "a.png", mask, "object", {})
    later.close()
    coco = json.loads((tmp_path / "out" / "task" / "masks.json").read_text())
    assert [entry["id"] for entry in coco["annotations"]] == [1, 2]
    assert len(coco["images"]) == len(coco["categories"]) == 1
    (tmp_path / "out" / "other").mkdir()
    (tmp_path / "out" / "other" / "masks.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(CasamError, match="is not a list of casam view"):
        Kept(tmp_path / "out").count("other", "a")


def test_only_its_own_page_is_answered(bench_stores: Path, tmp_path: Path) -> None:
    with served(bench_stores / "amber" / "tiny.zarr", tmp_path / "out") as client:
        page, body = f"/{client.token}/", b'{"source": 0, "place": 0}'
        kind = {"Content_Type": "application/json"}
        status, headers, content = client.raw("GET", page)
        assert status == 200
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert b"style=" not in content
        assert b" onclick" not in content
        for path in ("/", "//", "/items", "/wrong/items", f"/{client.token}", f"/{client.token[:-1]}/items"):
            assert client.raw("GET", path)[0] == 404, path
        for name in (
            "../session.py",
            "view.py",
            "image/0",
            "image/0/-1",
            "image/0/%2e%2e",
            "image/0/1/2",
            "x?y",
        ):
            assert client.get(name)[0] == 404, name
        assert client.get("image/0/99")[0] == client.get("image/7/0")[0] == 422
        port = str(client.port)
        assert client.raw("GET", page, Host=f"localhost:{port}")[0] == 200
        for refused in (
            {"Host": f"evil.example:{port}"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
            {"Origin": f"http://127.0.0.1:{client.port + 1}"}, {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
        ):  # fmt: skip
            assert client.raw("GET", f"{page}items", **refused)[0] == 403, refused
            assert client.raw("POST", f"{page}open", body, **kind, **refused)[0] == 403, refused
        same = {"Origin": f"http://127.0.0.1:{port}", "Sec_Fetch_Site": "same-origin"}
        assert client.raw("POST", f"{page}open", body, **kind, **same)[0] == 200
        assert client.raw("POST", f"{page}open", body, Content_Type="text/plain")[0] == 415
        assert client.raw("POST", f"{page}open", b"[]", **kind)[0] == 400
        assert client.raw("POST", f"{page}open", b"{" * 3, **kind)[0] == 400
        too_long = b" " * (LARGEST + 1)
        assert client.raw("POST", f"{page}open", too_long, **kind)[0] == 413
        assert client.raw("DELETE", page)[0] == 501
    hosts = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)} - {"127.0.0.1", "::1"}
    with served(bench_stores / "amber" / "tiny.zarr", tmp_path / "out") as client:
        for host in hosts:
            with pytest.raises((ConnectionRefusedError, TimeoutError)):
                socket.create_connection((host, client.port), timeout=1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "no prompt"),
        ({"points": [[1, 2]]}, "a point is x, y, label"),
        ({"points": [["1", 2, 1]]}, "a point is x, y, label"),
        ({"points": [[1, True, 1]]}, "a point is x, y, label"),
        ({"points": [[4000, 2, 1]]}, "outside the image"),
        ({"points": [[4, 2, 7]]}, "label"),
        ({"points": [[4, 2, 1]] * 201}, "at most 200"),
        ({"box": [1, 2, 3]}, "a box is"),
        ({"box": [9, 2, 3, 8]}, "reversed"),
        ({"source": 0.0}, "two whole numbers"),
        ({"place": 1000}, "there is no image 1000"),
        ({"box": BOX, "whose": "fitted"}, "no mask of 'fitted'"),
        ({"box": BOX, "whose": "frozen", "name": "a\nb"}, "on one line"),
    ],
)
def test_what_is_no_prompt_is_said(
    bench_stores: Path, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    with served(bench_stores / "amber" / "tiny.zarr", tmp_path / "out") as client:
        asked = {"source": 0, "place": 0, **wrong}
        status, found = client.post("keep" if "whose" in wrong else "predict", **asked)
        assert status == 422
        assert said in found["error"]
        assert client.ok("predict", source=0, place=0, box=BOX)["masks"].keys() == {"frozen"}
    assert not (tmp_path / "out").exists()


def test_a_routed_model_shows_all_its_tasks_and_says_where_an_image_goes(
    reference: Reference, tmp_path: Path
) -> None:
    [run] = {row["run"] for row in reference.results.rows if row["label"] == "ca-sam" and row["seed"] == 0}
    with served(Path(run), tmp_path / "out") as client:
        sources = json.loads(client.get("items")[1])["sources"]
        assert [source["name"] for source in sources] == ["amber", "cobalt", "ghost", "moss"]
        found = client.ok("predict", source=1, place=0, box=BOX)
        assert re.search("^routed to (cobalt|amber|moss|no task)", found["routing"])
        status, failed = client.get("image/1/0")
        assert (status, failed[:4]) == (200, b"\x89PNG")


def test_a_folder_is_encoded_when_opened_and_nothing_beyond_it_is_read(
    casam: Casam, fitted: Path, discs: Path
) -> None:
    folder = casam.folder / HOSTILE.replace("/", "_")
    draw_dataset(casam.folder / "more", images=3, seed=5)
    (casam.folder / "more" / "images").rename(folder)
    (folder / "b.png").write_bytes(b"no image")
    (folder / "link.png").symlink_to(discs / "images" / "p000.png")
    with served(fitted, casam.folder / "kept", images=folder) as client:
        sources = json.loads(client.get("items")[1])["sources"]
        assert [source["name"] for source in sources] == ["discs", folder.name]
        ids = sources[1]["ids"]
        assert ids == ["b.png", "link.png", "p000.png", "p001.png", "p002.png"]
        status, said = client.post("open", source=1, place=0)
        assert status == 404
        assert "b.png" in said["error"]
        for name in ("open", "predict"):
            status, said = client.post(name, source=1, place=1, box=BOX)
            assert status == 404
            assert "leads out of the folder" in said["error"]
        assert client.get("image/1/1")[0] == 404
        found = client.ok("predict", source=1, place=2, box=BOX)
        expected = Predictor(fitted, device="cpu").set_image(folder / "p000.png").predict(boxes=BOX)
        assert found["masks"]["fitted"]["area"] == expected.mask.sum()
        kept = client.ok("keep", source=1, place=2, box=BOX, whose="frozen", name=HOSTILE)
        assert Path(kept["file"]).is_relative_to(casam.folder / "kept")
    # The store gone, a folder is all there is.
    (casam.folder / "casam_store").rename(casam.folder / "away")
    with pytest.raises(CasamError, match="is gone"):
        open_session(fitted, Kept(casam.folder / "kept"), device="cpu")
    with served(fitted, casam.folder / "kept", images=folder) as client:
        assert client.ok("open", source=0, place=2)["kept"] == 1


def test_an_image_that_is_gone_leaves_its_outlines(casam: Casam, fitted: Path, discs: Path) -> None:
    discs.rename(discs.with_name("elsewhere"))
    with served(fitted, casam.folder / "kept") as client:
        status, said = client.get("image/0/0")
        assert status in (404, 422)
        assert "--data" in json.loads(said)["error"]
        assert client.ok("predict", source=0, place=0, box=BOX)["masks"]["frozen"]["outline"]


def test_no_thread_outlives_the_server(fitted: Path, tmp_path: Path) -> None:
    """A browser keeps its connection open; a thread of it that is left when the interpreter ends can abort it."""
    before = set(threading.enumerate())
    with served(fitted, tmp_path / "kept") as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        connection.request("GET", f"/{client.token}/items")
        assert connection.getresponse().read()
        begun = time.monotonic()
    assert time.monotonic() - begun < 20, "it does not wait until the connection times out"
    assert not {thread for thread in set(threading.enumerate()) - before if "process_request" in thread.name}
    connection.close()


def test_the_command_serves_until_it_is_interrupted(bench_stores: Path, tmp_path: Path) -> None:
    import signal

    store = bench_stores / "amber" / "tiny.zarr"
    # Where the tests run in the background, a shell has had SIGINT ignored, which processes inherit.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from casam_cli.main import run; run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "view", store, "--json", "--device", "cpu"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line == "}\n":
                break
        address = json.loads(said)["address"]
        assert json.loads(said).keys() == documented()["view"].keys()
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{32})/", address).groups()  # type: ignore[union-attr]
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
        connection.request("GET", f"/{token}/items")
        assert json.loads(connection.getresponse().read())["sources"][0]["name"] == "amber"
        connection.close()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert "ended" in err
    assert "Traceback" not in err


def test_what_cannot_be_served_is_said(casam: Casam, bench_stores: Path) -> None:
    store = bench_stores / "amber" / "tiny.zarr"
    for arguments, said in (
        ((store, "--store", store), "is no run"),
        (("nowhere",), "no store"),
        ((bench_stores, "--task", "nothing"), "nothing"),
        ((store, "--images", "nowhere"), "there is no folder nowhere"),
    ):
        casam("view", *arguments)
        assert casam.code == 1, arguments
        assert said in casam.err
        assert "Traceback" not in casam.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        casam("view", store, "--port", taken.getsockname()[1])
    assert casam.code == 1
    assert "another --port" in casam.err

"""What a store was begun with stays until an option says otherwise, and a change is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Casam, draw_dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from casam_cache.datasets import DatasetOptions
from casam_cache.encode.finished import memory_path
from casam_cache.errors import OptionError
from casam_cache.store import Annotations
from casam_cli import dataset_options

Encode = Callable[..., Any]
BEGUN = ("--test-fraction", "1", "--masks", "components", "--split-seed", "3")


@pytest.fixture
def unsplit(tmp_path: Path) -> Path:
    """A dataset without a split of its own, whose images name their patient."""
    root = draw_dataset(tmp_path / "data" / "discs")
    (root / "split.csv").unlink()
    return root


def splits(report: Any) -> list[int]:
    annotations = Annotations.open(report["tasks"][0]["store"])
    return [len(annotations.rows(name)) for name in ("train", "val", "test")]


def test_every_option_is_on_the_command_line() -> None:
    assert {field.name for field in fields(DatasetOptions)} == vars(dataset_options._Options).keys() - {
        name for name in vars(dataset_options._Options) if name.startswith("__")
    }


@given(
    st.fixed_dictionaries({}, optional={"masks": st.sampled_from(["auto", "binary", "instances"]),
    "test_fraction": st.sampled_from([0, 0.3, 1]), "unlabelled": st.booleans(),
    "group_regex": st.sampled_from(["", "^p"]), "seed": st.integers(0, 3)}),
    st.fixed_dictionaries({}, optional={"masks": st.sampled_from(["auto", "classes"]), "seed": st.integers(0, 3),
    "test_fraction": st.sampled_from([0, 0.3, 1]), "val_fraction": st.sampled_from([0, 0.5])}),
)  # fmt: skip
def test_given_options_win_and_the_rest_is_as_recorded(now: dict[str, Any], before: dict[str, Any]) -> None:
    recorded = json.loads(json.dumps(DatasetOptions(**before).to_json()))
    merged = DatasetOptions(**now).over(recorded)
    assert merged == DatasetOptions(**{**before, **now})
    assert DatasetOptions(**now).given == now.keys()


def test_an_option_of_a_later_release_is_not_ignored() -> None:
    with pytest.raises(OptionError, match="'not-yet'"):
        DatasetOptions().over({"not-yet": "all"})


def test_a_second_run_without_options_keeps_split_and_masks(
    casam: Casam, encode: Encode, unsplit: Path
) -> None:
    first = encode(unsplit, *BEGUN)
    version = Annotations.open(first["tasks"][0]["store"]).version
    again = encode(unsplit)["tasks"][0]  # a finished store, known by its files alone
    assert (again["refreshed"], again["mask_mode"]) == (False, "components")
    assert "goes on with --masks components, --test-fraction 1.0, --split-seed 3" in casam.err
    memory_path(casam.folder / again["store"]).unlink()  # compared in full
    again = encode(unsplit)
    assert splits(again) == [0, 0, 10]
    assert Annotations.open(again["tasks"][0]["store"]).version == version
    Image.fromarray(np.zeros((48, 40), np.uint8)).save(unsplit / "images" / "q.png")
    Image.fromarray(np.eye(48, 40).astype(np.uint8) * 255).save(unsplit / "masks" / "q.png")
    assert splits(encode(unsplit)) == [0, 0, 11], "an image that was added later"


def test_what_is_given_changes_and_a_line_says_from_what_to_what(
    casam: Casam, encode: Encode, unsplit: Path
) -> None:
    encode(unsplit, *BEGUN)
    encode(unsplit, "--test-fraction", "0.3", "--dry-run")
    assert "--test-fraction was 1.0 in this store and is 0.3 now" in casam.err
    changed = encode(unsplit, "--test-fraction", "0.3")
    assert splits(changed)[2] == 3
    assert changed["tasks"][0]["mask_mode"] == "components"
    assert "--test-fraction was 1.0 in this store and is 0.3 now" in casam.err
    assert "--masks was" not in casam.err
    encode(unsplit)
    assert "test-fraction" not in casam.err, "0.3 is what is usual"
    assert encode(unsplit, "--masks", "auto")["tasks"][0]["mask_mode"] == "binary"
    assert "--masks was components in this store and is auto now" in casam.err


def test_an_interrupted_run_goes_on_as_it_was_begun(
    casam: Casam, encode: Encode, unsplit: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = ("--model", "small", "--checkpoint", tiny_checkpoint, "--name", "tiny")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("casam_cache.encode.task.annotate", stop)
        casam("encode", unsplit, *tiny, *BEGUN)
        assert casam.code != 0
    report = encode(unsplit)
    assert report["tasks"][0]["encoded"] == 0
    assert splits(report) == [0, 0, 10]


def test_what_follows_from_the_files_is_said_where_it_changes(
    casam: Casam, encode: Encode, unsplit: Path
) -> None:
    encode(unsplit)
    mask = np.asarray(Image.open(unsplit / "masks" / "p000.png")).copy()
    mask[:3] = 90
    Image.fromarray(mask).save(unsplit / "masks" / "p000.png")
    rows = [f"p{index:03d},test" for index in range(10)]
    (unsplit / "split.csv").write_text("\n".join(["id,split", *rows]))
    assert splits(encode(unsplit)) == [0, 0, 10]
    assert "masks were read as binary" in casam.err
    assert "are read as classes now" in casam.err
    assert "and is from split.csv now" in casam.err


def test_a_reader_stays_and_one_from_a_file_is_asked_for(casam: Casam, encode: Encode, unsplit: Path) -> None:
    reader = casam.folder / "my.py"
    reader.write_text(
        "from casam_cache.datasets.folder import FolderReader\nclass Mine(FolderReader):\n    name = 'mine'\n"
    )
    encode(unsplit, "--reader", "my.py:Mine")
    assert "tasks" not in encode(unsplit)
    assert casam.code == 1
    assert "begun with the reader 'mine' of a file" in casam.err
    assert encode(unsplit, "--reader", "folder", "--update")["tasks"][0]["encoded"] == 10
    assert "the reader of this store was 'mine'" in casam.err

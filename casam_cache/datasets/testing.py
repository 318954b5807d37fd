"""Tests that a reader of yours can be put through: subclass `ReaderContract` in a test file and run pytest.

    from casam_cache.datasets.testing import ReaderContract

    class TestMyReader(ReaderContract):
        reader = "my_reader.py:MyReader"

        def write(self, folder, name, seed):
            ...

pytest itself is not imported.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np

from casam_cache.datasets.arrays import read_array, read_image, read_masks
from casam_cache.datasets.base import Reader
from casam_cache.datasets.readers import read_dataset
from casam_cache.datasets.registry import READERS
from casam_cache.datasets.sample import SPLITS, Dataset, DatasetOptions
from casam_cache.errors import ImageError

NAMES = ("b", "a", "d", "c")


class ReaderContract:
    """What encoding relies on in every reader. Set `reader`, and define `write`.

    Attributes:
        reader: a name, `my_file.py:MyReader`, or the class.
    """

    reader: ClassVar[str | type[Reader]]

    def write(self, folder: Path, name: str, seed: int) -> Path:
        """Adds files to a dataset folder that give at least one labelled image more, and returns one of them.

        Args:
            folder: there, perhaps empty.
            name: of what is added, e.g. of the patient.
            seed: another one gives other pixels.
        """
        raise NotImplementedError

    def test_it_recognises_its_datasets_only(self) -> None:
        """An empty folder is nobody's dataset."""
        with self._drawn() as folder:
            assert self._reader().recognises(folder)
            (folder / "empty").mkdir()
            assert not self._reader().recognises(folder / "empty")

    def test_ids_are_unique_and_sorted(self) -> None:
        """An id names an item of the store for good."""
        with self._drawn() as folder:
            ids = [sample.id for sample in self._read(folder).samples]
            assert len(ids) >= len(NAMES), "every call of `write` adds an image"
            assert ids == sorted(set(ids))

    def test_a_dataset_can_be_moved(self) -> None:
        """Names are relative to the folder and stay inside, so that a copy of the folder is the same dataset."""
        with self._drawn() as folder, tempfile.TemporaryDirectory() as elsewhere:
            copy = Path(elsewhere) / "other" / folder.name
            shutil.copytree(folder, copy)
            here, there = self._read(folder), self._read(copy)
            assert here.samples == there.samples
            assert not any(str(folder) in repr(sample) for sample in here.samples)
            self._same(here, there)

    def test_the_same_files_are_read_the_same_twice(self) -> None:
        """Nothing depends on time, chance, or what was read before."""
        with self._drawn() as folder:
            first, second = self._read(folder), self._read(folder)
            assert first == second
            self._same(first, second)

    def test_images_and_masks_agree(self) -> None:
        """Each mask is a bool array of the size of its image, in the order of classes and instances."""
        with self._drawn() as folder:
            dataset, objects = self._read(folder), 0
            for sample in dataset.samples:
                image = read_image(dataset, sample)
                assert image.dtype == np.uint8
                assert image.shape[2] == 3
                masks = list(read_masks(dataset, sample, image.shape[:2]))
                numbers = [(mask.class_id, mask.instance) for mask in masks]
                assert numbers == sorted(set(numbers))
                assert all(min(number) >= 1 for number in numbers)
                objects += len(masks)
            assert objects, "the dataset that `write` makes has masks"

    def test_splits_part_no_group(self) -> None:
        """Options decide the split where the dataset has none, and a group lies in one of them."""
        with self._drawn() as folder:
            for seed in range(3):
                options = DatasetOptions(test_fraction=0.5, val_fraction=0.3, seed=seed)
                found: dict[str, set[str]] = {}
                for sample in self._read(folder, options).samples:
                    assert sample.split in SPLITS
                    found.setdefault(sample.group, set()).add(sample.split)
                assert all(len(splits) == 1 for splits in found.values()), found

    def test_files_tell_of_every_change(self) -> None:
        """What `casam encode` looks at to say that there is nothing to do."""
        with self._drawn() as folder:
            reader = self._reader()
            before = reader.files(folder)
            names = [name for name, _, _ in before]
            assert names == sorted(set(names))
            assert all((folder / name).is_file() for name in names)
            assert reader.files(folder) == before
            (folder / ".DS_Store").write_text("litter")
            assert reader.files(folder) == before, "a system's litter is no change"
            added = self.write(folder, "e", 99)
            more = reader.files(folder)
            assert set(before) < set(more), "an added file is a change"
            os.utime(added, ns=(0, 1_234_567_890))
            assert reader.files(folder) != more, "a touched file is a change"

    def test_reader_and_samples_reach_other_processes(self) -> None:
        """Decoding processes get the reader and the names of images."""
        with self._drawn() as folder:
            dataset = self._read(folder)
            reader = pickle.loads(pickle.dumps(dataset.reader))
            assert type(reader) is type(dataset.reader)
            assert pickle.loads(pickle.dumps(dataset.samples)) == dataset.samples
            source, limit = dataset.samples[0].source, dataset.options.max_pixels
            expected = read_array(dataset.reader, folder, source, limit)
            assert np.array_equal(read_array(reader, folder, source, limit), expected)

    def test_a_bad_file_is_a_problem_and_no_exception(self) -> None:
        """It is reported when the dataset is read, or fails as one image; the others are read as before."""
        with self._drawn() as folder:
            whole = self._read(folder)
            bad = self.write(folder, "0", 7)
            bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
            damaged = self._read(folder)
            known = {sample.id for sample in whole.samples}
            rest = [sample for sample in damaged.samples if sample.id in known]
            assert [sample.id for sample in rest] == [sample.id for sample in whole.samples]
            failed = [str(problem) for problem in damaged.problems]
            for sample in damaged.samples:
                if sample.id not in known:
                    try:
                        read_image(damaged, sample)
                        list(read_masks(damaged, sample))
                    except ImageError as error:
                        failed.append(error.message)
            assert any(bad.name in line for line in failed), f"nothing says that {bad.name} is damaged"
            self._same(whole, damaged)

    def _same(self, first: Dataset, second: Dataset) -> None:
        """The pixels and masks of the samples of the first are those of the second."""
        others = {sample.id: sample for sample in second.samples}
        for sample in first.samples:
            image, again = read_image(first, sample), read_image(second, others[sample.id])
            assert np.array_equal(image, again)
            for mask, other in zip(
                read_masks(first, sample), read_masks(second, others[sample.id]), strict=True
            ):
                assert (mask.class_id, mask.instance) == (other.class_id, other.instance)
                assert np.array_equal(mask.bitmap, other.bitmap)

    def _reader(self) -> Reader:
        return (self.reader if isinstance(self.reader, type) else READERS.get(self.reader))()

    def _read(self, folder: Path, options: DatasetOptions | None = None) -> Dataset:
        return read_dataset(folder, options, reader=self._reader())

    @contextmanager
    def _drawn(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "dataset"
            folder.mkdir()
            for seed, name in enumerate(NAMES):
                self.write(folder, name, seed)
            yield folder

"""What is known about one public dataset, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Role = Literal["task", "unseen", ""]


@dataclass(frozen=True)
class Entry:
    """One dataset of the catalogue. What is not known for sure is empty, or says where to look.

    Attributes:
        name: what `--dataset` takes; the paper's spelling where it is one of the paper's.
        title: its full name.
        modality: how the images are made.
        classes: (number, name) as the masks read here number them; empty where every image has other objects.
        images: what its distribution holds, as far as its own publication says it.
        licence: of the data, or where to read it.
        url: where it is published.
        access: what is asked of those who want it.
        reference: the publication to cite.
        layout: the folder as it is distributed, as a tree.
        group: what is never parted over train and test.
        split: where the split comes from.
        reader: the reader of that layout; empty where there is none yet.
        folders: names of the folder that holds this set where several are distributed together, in lower case.
        role: `task` for one of the paper's nine, `unseen` for one of its unseen sets.
        train, test: the paper's counts of images; None where it gives none.
        paper: what else the paper says of it.
        aliases: other names it goes by.
        notes: what else one should know before using it.
    """

    name: str
    title: str
    modality: str
    classes: tuple[tuple[int, str], ...]
    images: str
    licence: str
    url: str
    access: str
    reference: str
    layout: str
    group: str
    split: str
    reader: str = ""
    folders: tuple[str, ...] = ()
    role: Role = ""
    train: int | None = None
    test: int | None = None
    paper: str = ""
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """How to encode it from its folder."""
        return f"casam encode FOLDER --dataset {self.name}" if self.reader else ""

    @property
    def counts(self) -> str:
        """The paper's counts, for people."""
        return "" if self.train is None else f"{self.train:,} / {self.test:,}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the command added."""
        return {**asdict(self), "command": self.command}

"""Few images to train on: nested, of many groups, decided by the seed and names alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import Casam
from hypothesis import given
from hypothesis import strategies as st

from casam_cache.geometry import Geometry
from casam_cache.training.few_shots import few_shots
from casam_cache.training.items import Item, ItemMask, Items, items_from_arrays


def made(groups: list[int], unlabelled: int = 1) -> Items:
    """Images i0, i1, ... of the groups of these numbers, and some without masks."""
    bitmap = np.ones((8, 8), bool)
    box = np.array([0, 0, 7, 7], np.float32)
    items, masks = [], []
    for number, group in enumerate([*groups, *[0] * unlabelled]):
        own = [ItemMask(bitmap, 1, 1, box, box[:2])] if number < len(groups) else []
        items.append(Item(f"i{number}", "t", f"g{group}", Geometry.fit(8, 8, 8, 8), len(own)))
        masks.append(own)
    return items_from_arrays("t", items, np.zeros((len(items), 1, 1, 1), np.float16), masks, {})


@given(st.lists(st.integers(0, 5), min_size=1, max_size=24), st.integers(0, 3))
def test_fewer_are_among_more_and_groups_take_turns(groups: list[int], seed: int) -> None:
    items = made(groups)
    before: set[str] = set()
    for shots in range(1, len(groups) + 1):
        found = few_shots(items, shots, seed)
        names = {item.id for item in found}
        assert len(names) == shots
        assert before < names
        assert all(item.masks for item in found)
        counts = [sum(item.group == group for item in found) for group in {f"g{group}" for group in groups}]
        left = [groups.count(int(group[1:])) for group in {f"g{group}" for group in groups}]
        most = max(counts)
        assert all(count >= min(most - 1, own) for count, own in zip(counts, left, strict=True))
        before = names
    assert {item.id for item in few_shots(items, 99, seed)} == before
    assert few_shots(items, None, seed) is items


def test_new_images_do_not_change_the_order_of_others() -> None:
    old, new = made([0, 1, 2, 3, 4, 5, 6, 7]), made([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])

    def order(items: Items) -> list[str]:
        taken: list[str] = []
        for shots in range(1, len(items)):
            taken += [item.id for item in few_shots(items, shots, 0) if item.id not in taken]
        return taken

    assert [name for name in order(new) if name in order(old)] == order(old)
    assert len({tuple(item.id for item in few_shots(old, 2, seed)) for seed in range(12)}) > 3, (
        "the seed matters"
    )


def test_a_fit_of_few_images_says_so_and_a_sequence_refuses(
    casam: Casam, encode: Callable[..., Any], discs: Path
) -> None:
    encode(discs)
    steps = ("--set", "max_steps=2", "--set", "held_out=0")
    shown = " ".join(casam("fit", "--task", "discs", "--set", "shots=2", *steps).split())
    assert casam.code == 0, casam.err
    assert "Images to train on, of as many groups as there are: 2 (discs)" in shown
    found = casam.json("fit", "--task", "discs", "--set", "shots=2", *steps)
    assert (found["shots"], found["groups"], found["computed"]) == (2, 2, False)
    assert casam.json("fit", "--task", "discs", *steps)["shots"] == 0
    assert casam.json("fit", "--task", "discs", "--set", "shots=99", *steps)["shots"] == 7
    casam("bench", "--methods", "frozen,alignment,naive", "--set", "shots=2", *steps)
    assert casam.code == 1
    assert "shots is of methods that learn one task, and naive learns several" in casam.err
    rows = casam.json("bench", "--methods", "frozen,alignment", "--set", "shots=1,2", *steps)["results"]
    assert casam.code == 0, casam.err
    assert {row["label"] for row in rows} == {"frozen", "alignment, shots=1", "alignment, shots=2"}
    casam("fit", "--task", "discs", "--set", "shots=0", *steps)
    assert casam.code == 1
    assert "shots" in casam.err

"""Tests that a router or a pooling of yours can be put through: subclass one of these in a test file and run pytest.

    from casam_cache.routers.testing import PoolingContract, RouterContract

    class TestMyRouter(RouterContract):
        router = "my_file.py:MyRouter"

    class TestMyPooling(PoolingContract):
        pooling = "my_file.py:MyPooling"

Everything runs on drawn vectors and embeddings, in seconds, on a CPU. pytest itself is not imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from casam_cache.config import validated
from casam_cache.errors import OptionError
from casam_cache.routers.base import Job, Router
from casam_cache.routers.choice import PoolingChoice, RouterChoice, RoutingOptions, routing_model
from casam_cache.routers.files import load_pooling, load_router, save_pooling, save_router
from casam_cache.routers.fit import FitRequest, fit_routers
from casam_cache.routers.fitted import FittedRouter, TaskRouters
from casam_cache.routers.pooling import Pooling, Read, pool_one
from casam_cache.routers.registry import POOLINGS, ROUTERS
from casam_cache.routers.thresholds import RULES

TASKS = {"heart": 21, "liver": 34, "aorta": 12}  # images; not in sorted order, as orders are
CHANNELS = 12


def drawn_vectors(task: str, count: int = 20) -> np.ndarray:
    """float32 (count, 12) of a task, drawn by its name alone."""
    rng = np.random.default_rng(list(task.encode()))
    return (3 * rng.standard_normal(CHANNELS) + rng.standard_normal((count, CHANNELS))).astype(np.float32)


def drawn_embeddings(task: str, count: int = 8) -> np.ndarray:
    """float16 (count, 12, 5, 6) of a task, drawn by its name alone."""
    rng = np.random.default_rng(list(task.encode()))
    drawn = rng.standard_normal((CHANNELS, 1, 1)) + rng.standard_normal((count, CHANNELS, 5, 6))
    return drawn.astype(np.float16)


class RouterContract:
    """What routing relies on in every router. Set `router`, and `options` where the defaults do not do.

    Attributes:
        router: a name, `my_file.py:MyRouter`, or the class.
        options: values by name; keep training short.
    """

    router: ClassVar[str | type[Router]]
    options: ClassVar[Mapping[str, Any]] = {}

    def choice(self) -> RouterChoice:
        kind = ROUTERS.get(self.router) if isinstance(self.router, str) else self.router
        return RouterChoice(kind, validated(kind.Options, self.options))

    def fitted(self, tasks: Sequence[str] = tuple(TASKS), seed: int = 0) -> list[FittedRouter]:
        return fit_routers([self._request(task, seed) for task in tasks])

    def test_options_are_checked_by_name_and_type(self) -> None:
        """Defaults exist, unknown names are refused, and no name is one of another's."""
        kind = self.choice().kind
        _check_options(kind.Options)
        json.dumps(kind.decisive(self.choice().options))

    def test_scores_are_numbers(self) -> None:
        """float64, one a row, finite for vectors like the task's, and never NaN however far away."""
        for one in self.fitted():
            scores = one.score(drawn_vectors(one.task))
            assert scores.shape == (20,), f"scores of 20 rows have the shape {scores.shape}"
            assert scores.dtype == np.float64, f"scores are {scores.dtype}, not float64"
            assert np.isfinite(scores).all(), "a score is not finite"
            assert not np.isnan(one.score(np.full((1, CHANNELS), 1e6, np.float32))).any(), "a score is NaN"
            assert one.score(np.zeros((0, CHANNELS), np.float32)).shape == (0,), "no rows have no scores"

    def test_a_row_has_the_same_bits_whatever_rows_beside_it(self) -> None:
        """Alone, in other company, and in another place."""
        [one] = self.fitted(["heart"])
        rows = np.concatenate([drawn_vectors(task, 30) for task in TASKS])
        scores = one.score(rows)
        order = np.random.default_rng(0).permutation(len(rows))
        _same(one.score(rows[order]), scores[order], "scores depend on the order of the rows")
        for row in (0, 15, 16, 63, 89):
            _same(one.score(rows[row : row + 1]), scores[row : row + 1], "a score depends on rows beside it")

    def test_a_fit_depends_on_its_own_task_and_seed_alone(self) -> None:
        """Not on tasks fitted with it, their order, or random numbers that others draw; nor does it disturb these."""
        together = {one.task: one for one in self.fitted()}
        for one in self.fitted(tuple(reversed(TASKS))):
            _same_router(one, together[one.task], "a fit depends on the order of the tasks")
        before: Any = np.random.get_state()  # noqa: NPY002
        [alone] = self.fitted(["liver"])
        after: Any = np.random.get_state()  # noqa: NPY002
        _same(after[1], before[1], "a fit draws from numpy's global generator")
        _same_router(alone, together["liver"], "a fit depends on tasks fitted with it")

    def test_rows_held_out_play_no_part(self) -> None:
        """A fold's router knows nothing of `job.features` but `job.rows`."""
        choice, vectors, rows = self.choice(), drawn_vectors("heart"), np.arange(0, 20, 2)
        spoilt = vectors.copy()
        spoilt[1::2] = 99
        jobs = [Job(given, choice.options, 0, "heart", rows) for given in (vectors, spoilt)]
        first, second = (choice.kind.fit_many([job])[0] for job in jobs)
        _same_state(first.state(), second.state(), "a fit reads rows outside job.rows")

    def test_it_comes_back_from_disk(self) -> None:
        """With the same bits of everything kept, and of scores."""
        [one] = self.fitted(["heart"], seed=5)
        with TemporaryDirectory() as folder:
            save_router(one, Path(folder))
            loaded = load_router(Path(folder), trust=True)
        _same_router(loaded, one, "what was loaded is not what was saved")
        rows = drawn_vectors("liver")
        _same(loaded.score(rows), one.score(rows), "a loaded router scores otherwise")
        _same(
            TaskRouters([loaded]).scores(rows),
            TaskRouters([one]).scores(rows),
            "combined it scores otherwise",
        )

    def test_thresholds_come_from_images_held_out(self) -> None:
        """Every rule gives one; few images of the task's own are above that of p97; one group leaves nothing."""
        for one in self.fitted():
            assert one.folds == 5
            assert np.isfinite(one.held_out).all(), "a held-out score is not finite"
            assert not any(np.isnan(tau) for tau in one.thresholds().values())
            assert set(one.thresholds()) == set(RULES)
            assert one.calibrated("p97"), "p97 gives no finite threshold"
            assert (one.held_out > one.threshold("p97")).mean() <= 0.1
        request = self._request("heart")
        [single] = fit_routers([FitRequest(request.features, ["one"] * 21, request.choice, 0, "heart")])
        assert not single.calibrated()

    def test_the_order_of_tasks_has_no_part(self) -> None:
        """Scores, thresholds and choices among all tasks have the same bits in every order."""
        fitted = self.fitted()
        rows = np.concatenate([drawn_vectors(task) for task in (*TASKS, "unseen")])
        first, second = TaskRouters(fitted), TaskRouters(fitted[::-1])
        _same(first.scores(rows), second.scores(rows), "scores depend on the order of the tasks")
        _same(first.thresholds(), second.thresholds(), "thresholds depend on the order of the tasks")
        _same(
            first.route(first.scores(rows)), second.route(second.scores(rows)), "choices depend on the order"
        )

    def test_what_is_kept_is_counted(self) -> None:
        [one] = self.fitted(["heart"])
        assert one.router.stored_bytes >= one.router.stored_numbers > 0
        assert one.router.trained_parameters >= 0

    def _request(self, task: str, seed: int = 0) -> FitRequest:
        count = TASKS[task]
        groups = [f"patient {row // 2}" for row in range(count)]
        return FitRequest(drawn_vectors(task, count), groups, self.choice(), seed, task)


class PoolingContract:
    """What routing relies on in every pooling. Set `pooling`, and `options` where the defaults do not do.

    Attributes:
        pooling: a name, `my_file.py:MyPooling`, or the class.
        options: values by name.
    """

    pooling: ClassVar[str | type[Pooling]]
    options: ClassVar[Mapping[str, Any]] = {}

    def choice(self) -> PoolingChoice:
        kind = POOLINGS.get(self.pooling) if isinstance(self.pooling, str) else self.pooling
        return PoolingChoice(kind, validated(kind.Options, self.options))

    def made(self, task: str = "heart") -> Pooling:
        return (
            self._fitted(drawn_embeddings(task), task)[0] if self.choice().learned else self.choice().make()
        )

    def test_options_are_checked_by_name_and_type(self) -> None:
        """Defaults exist, unknown names are refused, and no name is one of another's."""
        _check_options(self.choice().kind.Options)
        json.dumps(self.choice().decisive())

    def test_an_image_has_the_same_bits_whatever_was_pooled_before(self) -> None:
        """A finite float32 vector of one width, of the image alone, which stays as it was."""
        pooling, embeddings = self.made(), drawn_embeddings("liver")
        before = embeddings.copy()
        vectors = [pool_one(pooling, embedding, (4, 6)) for embedding in embeddings]
        _same(embeddings, before, "pooling changes the embedding")
        assert len({vector.shape for vector in vectors}) == 1, "vectors of different width"
        for index in reversed(range(len(embeddings))):
            again = pool_one(self.made(), embeddings[index], (4, 6))
            _same(again, vectors[index], "a vector depends on what was pooled before")

    def test_cells_without_image_play_no_part(self) -> None:
        """Only `valid` rows and columns are read; without `valid`, all."""
        pooling, embedding = self.made(), drawn_embeddings("liver")[0]
        spoilt = embedding.copy()
        spoilt[:, 3:], spoilt[:, :, 2:] = 100, -100
        first, second = (pool_one(pooling, given, (3, 2)) for given in (embedding, spoilt))
        _same(first, second, "cells that hold no image are read")
        _same(
            pool_one(pooling, embedding), pool_one(pooling, embedding, (5, 6)), "valid=None is not all cells"
        )

    def test_stored_precision_is_read_as_it_is(self) -> None:
        """float16 embeddings are the same numbers in float32, so that they have the same vector."""
        pooling, embedding = self.made(), drawn_embeddings("liver")[0]
        wide = pool_one(pooling, embedding.astype(np.float32), (5, 4))
        _same(
            pool_one(pooling, embedding, (5, 4)),
            wide,
            "sums are not in a wider type: cells.astype(np.float64)",
        )

    def test_it_comes_back_from_disk(self) -> None:
        """With the same bits of what was learned, and of vectors."""
        pooling, embedding = self.made(), drawn_embeddings("liver")[0]
        with TemporaryDirectory() as folder:
            save_pooling(pooling, Path(folder))
            loaded = load_pooling(Path(folder), trust=True)
        _same_state(loaded.state(), pooling.state(), "what was loaded is not what was saved")
        _same(pool_one(loaded, embedding), pool_one(pooling, embedding), "a loaded pooling pools otherwise")

    def test_a_learned_one_knows_nothing_of_what_a_fold_holds_out(self) -> None:
        """One for all images, one without each fold, from their own task and seed alone."""
        if not self.choice().learned:
            return
        embeddings = drawn_embeddings("heart")
        spoilt = embeddings.copy()
        spoilt[6:] = 9
        first, second = self._fitted(embeddings), self._fitted(spoilt)
        assert len(first) == 5, "of four folds: one on all images, and one without each fold"
        _same_state(first[4].state(), second[4].state(), "a fold's pooling depends on images held out")
        for one, again in zip(first, self._fitted(embeddings), strict=True):
            _same_state(one.state(), again.state(), "two fits differ")
        assert len(self._fitted(embeddings, folds=np.zeros(8, dtype=np.int64))) == 1

    def _fitted(
        self, embeddings: np.ndarray, task: str = "heart", folds: np.ndarray | None = None
    ) -> list[Pooling]:
        read: Read = lambda index: (embeddings[index], (4, 5))  # noqa: E731
        assigned = np.arange(len(embeddings)) // 2 if folds is None else folds
        choice = self.choice()
        found = choice.kind.fit_folds(read, len(embeddings), assigned, choice.options, seed=3, task=task)
        return [*found]


def _check_options(options: type[BaseModel]) -> None:
    validated(options, {})
    try:
        validated(options, {"no_such_option": 1})
    except OptionError:
        pass
    else:
        raise AssertionError('Options takes unknown names: model_config = ConfigDict(extra="forbid")')
    assert set(options.model_fields) <= set(routing_model(RoutingOptions).model_fields)
    for entry in entry_points(group="casam_cache.methods"):  # their options, and those of the training
        entry.load().options_model()


def _same(found: np.ndarray, expected: np.ndarray, message: str) -> None:
    assert found.shape == expected.shape, message
    assert found.tobytes() == expected.tobytes(), message


def _same_state(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], message: str) -> None:
    assert found.keys() == expected.keys(), message
    for name in found:
        _same(found[name], expected[name], f"{message}: {name}")


def _same_router(found: FittedRouter, expected: FittedRouter, message: str) -> None:
    _same_state(found.router.state(), expected.router.state(), message)
    _same(found.held_out, expected.held_out, f"{message}: held-out scores")

"""Every router and pooling of this package through the contracts that third parties' are checked by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from casam_cache.errors import CasamError
from casam_cache.routers.base import Router
from casam_cache.routers.centroid import Centroid
from casam_cache.routers.pooling import Pooling
from casam_cache.routers.poolings import Mean
from casam_cache.routers.registry import POOLINGS, ROUTERS
from casam_cache.routers.testing import PoolingContract, RouterContract

SMALL: dict[str, dict[str, Any]] = {
    "vae": {"latent": 4, "hidden": 8, "vae_steps": 30, "vae_learning_rate": 0.02},
    "centroid": {},
    "mahalanobis": {},
    "knn": {},
    "gmm": {},
}


def test_every_router_is_listed() -> None:
    assert set(SMALL) == set(ROUTERS.names())
    assert set(POOLINGS.names()) == {"attention", "mean", "gap", "flatten", "cls", "learned"}


for _name, _options in SMALL.items():
    globals()[f"TestRouter{_name.title()}"] = type(
        f"TestRouter{_name.title()}",
        (RouterContract,),
        {"router": _name, "options": _options, "__module__": __name__},
    )
for _name in POOLINGS.names():
    globals()[f"TestPooling{_name.title()}"] = type(
        f"TestPooling{_name.title()}", (PoolingContract,), {"pooling": _name, "__module__": __name__}
    )


class TestOwnCovariance(RouterContract):
    router = "mahalanobis"
    options = {"covariance": "own"}  # noqa: RUF012


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda rows: rows, r"float32 \(.*, 12\), expected float64"),
        (lambda rows: rows.mean(axis=1), "are float32"),
        (lambda rows: np.full(len(rows), np.nan), "the score of image 0 is NaN"),
    ],
)
def test_scores_that_are_none_are_refused(given: Any, words: str) -> None:
    class Odd(Centroid):
        name = "odd"

        def score(self, features: np.ndarray) -> np.ndarray:
            return given(features)

    contract: Any = type("Contract", (RouterContract,), {"router": Odd})()
    with pytest.raises(CasamError, match=f"router odd of heart: .*{words}"):
        contract.fitted(["heart"])


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Forgetful(Centroid):
    """Scores by what else it is asked about."""

    name = "forgetful"

    def score(self, features: np.ndarray) -> np.ndarray:
        return super().score(features) / max(1, len(features))


class Curious(Centroid):
    """Reads what a fold holds out."""

    name = "curious"

    @classmethod
    def fit(cls, job: Any) -> Any:
        return cls(job.features.astype(np.float64).mean(axis=0))


class Loose(Centroid):
    """Draws from the generator that everybody draws from."""

    name = "loose"

    @classmethod
    def fit(cls, job: Any) -> Any:
        return cls(job.vectors.mean(axis=0) + np.random.standard_normal())  # noqa: NPY002


class Greedy(Mean):
    """Reads cells that hold no image."""

    name = "greedy"

    def pool(self, embedding: np.ndarray, valid: Any = None) -> np.ndarray:
        return super().pool(embedding, None)


class Counting(Mean):
    """Remembers how often it was asked."""

    name = "counting"

    def pool(self, embedding: np.ndarray, valid: Any = None) -> np.ndarray:
        self.asked = getattr(self, "asked", 0) + 1
        return super().pool(embedding, valid) + np.float32(self.asked)


class Open(Nothing):
    model_config = ConfigDict(extra="ignore")


class Lax(Mean):
    name, Options = "lax", Open


@pytest.mark.parametrize(
    ("kind", "test", "words"),
    [
        (Forgetful, "test_a_row_has_the_same_bits_whatever_rows_beside_it", "rows beside it"),
        (Curious, "test_rows_held_out_play_no_part", "outside job.rows"),
        (Loose, "test_a_fit_depends_on_its_own_task_and_seed_alone", "depends on the order"),
        (Greedy, "test_cells_without_image_play_no_part", "hold no image"),
        (Counting, "test_an_image_has_the_same_bits_whatever_was_pooled_before", "pooled before"),
        (Lax, "test_options_are_checked_by_name_and_type", "takes unknown names"),
    ],
)
def test_the_contracts_catch(kind: Any, test: str, words: str) -> None:
    is_router = issubclass(kind, Router)
    assert is_router or issubclass(kind, Pooling)
    base: Any = RouterContract if is_router else PoolingContract
    contract = type("Contract", (base,), {"router" if is_router else "pooling": kind})()
    with pytest.raises(AssertionError, match=words):
        getattr(contract, test)()

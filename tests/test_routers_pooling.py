"""Poolings: equation 5 by hand, what each reads, and the learned one's gradient and limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from casam_cache.config import validated
from casam_cache.errors import CasamError, OptionError
from casam_cache.routers.choice import RoutingOptions, pooling_choice, routing_model
from casam_cache.routers.learned import Learned, fit_query, sample_cells, spread
from casam_cache.routers.pooling import Pooling, pool_all
from casam_cache.routers.poolings import TemperatureOptions, flatten_pool
from casam_cache.routers.registry import POOLINGS


def images(count=6, channels=8, side=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, channels, side, side)).astype(np.float16)


def reader(embeddings, valid=(3, 4)):
    return lambda place: (embeddings[place], valid)


def pool(embedding, valid, name, **options):
    model = POOLINGS.get(name).Options
    return POOLINGS.get(name)(model(**options)).pool(embedding, valid)


def test_equation_5_by_hand():
    embedding = np.zeros((2, 1, 2))
    embedding[:, 0, 0] = (3, 4)  # norm 5
    embedding[:, 0, 1] = (0, 1)  # norm 1
    weights = np.array([math.exp(5 / (2 * 0.5)), math.exp(1 / (2 * 0.5))])
    weights /= weights.sum()
    expected = [3 * weights[0], 4 * weights[0] + weights[1]]
    found = pool(embedding, None, "attention", temperature=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("pooling", POOLINGS.names())
def test_cells_without_image_play_no_part(pooling):
    embedding = images(1)[0]
    spoilt = embedding.copy()
    spoilt[:, 3:], spoilt[:, :, 2:] = 100, -100
    kind = POOLINGS.get(pooling)
    made = kind.from_state({"query": np.ones(8, np.float32)}, kind.Options())
    first, second = (made.pool(one, (3, 2)) for one in (embedding, spoilt))
    assert first.shape == (8,)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, second)


def test_mean_and_gap_are_one_operation():
    embedding = images(1)[0]
    mean, gap = (pool(embedding, (2, 3), name) for name in ("mean", "gap"))
    np.testing.assert_array_equal(mean, gap)
    np.testing.assert_allclose(mean, embedding[:, :2, :3].astype(float).mean(axis=(1, 2)), rtol=1e-6)


def test_cls_is_the_top_left_cell():
    embedding = images(1)[0]
    np.testing.assert_array_equal(pool(embedding, None, "cls"), embedding[:, 0, 0])


@pytest.mark.parametrize("shape", [(4, 3, 5), (8, 4, 4), (1, 1, 1)])
def test_flatten_is_a_fixed_linear_map_of_signs(shape):
    size = math.prod(shape)
    columns = np.stack([flatten_pool(np.eye(size)[i].reshape(shape)) for i in range(size)], axis=1)
    np.testing.assert_allclose(np.abs(columns), 1 / math.sqrt(size), rtol=1e-6)
    z = np.random.default_rng(3).normal(size=shape)
    np.testing.assert_allclose(flatten_pool(z), columns @ z.reshape(-1), rtol=1e-5, atol=1e-6)
    assert len(np.unique(columns, axis=0)) == shape[0]


def test_flatten_keeps_distances_about():
    near = images(40, channels=64, side=8, seed=1).astype(float)
    pooled = np.stack([flatten_pool(one) for one in near])
    ratio = np.square(pooled[:20] - pooled[20:]).mean(axis=1)
    ratio /= np.square(near[:20] - near[20:]).reshape(20, -1).mean(axis=1)
    assert abs(ratio.mean() - 1) < 0.2


def test_options_say_what_vectors_depend_on():
    def decisive(**values):
        return pooling_choice(validated(routing_model(RoutingOptions), values)).decisive()

    attention = {"name": "attention", "revision": 1, "options": {"temperature": 2.0}}
    assert decisive(temperature=2, threshold="p95") == attention
    assert decisive(pooling="mean", temperature=2) == {"name": "mean", "revision": 1, "options": {}}
    with pytest.raises(OptionError, match="temperature"):
        decisive(temperature=0)
    with pytest.raises(OptionError, match="unknown pooling 'max'") as caught:
        decisive(pooling="max")
    assert "attention, cls, flatten, gap, learned, mean" in caught.value.hint


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda z: z.mean(axis=(1, 2)).astype(np.float64), "float64"),
        (lambda z: z.astype(np.float32), "expected a float32 vector"),
        (lambda z: [1.0], "gives list"),
        (lambda z: np.full(3, np.nan, np.float32), "not finite"),
        (lambda z: np.zeros(1 + int(z[0, 0, 0] > 0), np.float32), "of another"),
    ],
)
def test_what_a_pooling_gives_is_checked(given, words):
    class Nothing(BaseModel):
        pass

    class Odd(Pooling):
        name, Options = "odd", Nothing

        def pool(self, embedding, valid=None):
            return given(embedding)

    embeddings = np.stack([np.full((3, 2, 2), -1.0), np.full((3, 2, 2), 1.0)])
    with pytest.raises(CasamError, match=words):
        pool_all(reader(embeddings, None), 2, [Odd(Nothing())])


@given(st.floats(0.1, 16), st.integers(0, 5))
def test_attention_lies_within_the_cells(temperature, seed):
    embedding = images(1, seed=seed)[0]
    cells = embedding.reshape(8, -1).astype(np.float32)
    found = pool(embedding, None, "attention", temperature=temperature)
    assert (found >= cells.min(axis=1) - 1e-5).all()
    assert (found <= cells.max(axis=1) + 1e-5).all()


def test_gradient_of_the_learned_pooling():
    random = np.random.default_rng(2)
    cells, absent = random.normal(size=(5, 6, 3)), np.zeros((5, 6), dtype=bool)
    absent[2, 4:] = True
    query = random.normal(size=3)
    slope = spread(query, cells, absent, 0.7)[1]
    for channel in range(3):
        step = np.eye(3)[channel] * 1e-6
        change = spread(query + step, cells, absent, 0.7)[0] - spread(query - step, cells, absent, 0.7)[0]
        assert slope[channel] == pytest.approx(change / 2e-6, rel=1e-5)


def test_learned_pooling_lowers_the_spread_it_is_trained_for():
    sample = sample_cells(reader(images()), 6, seed=0, task="a")
    fitted = fit_query(sample)
    before = spread(np.zeros(8), sample.cells, sample.absent, 1.0)[0]
    after = spread(fitted.astype(np.float64), sample.cells, sample.absent, 1.0)[0]
    assert after < 0.9 * before


def test_learned_pooling_sees_only_the_rows_it_is_given():
    embeddings = images()
    other = embeddings.copy()
    other[4:] = np.float16(7)
    kept = [0, 1, 2, 3]
    first, second = (
        fit_query(sample_cells(reader(one), 6, seed=0, task="a"), kept) for one in (embeddings, other)
    )
    np.testing.assert_array_equal(first, second)


def test_sampled_cells_are_cells_of_their_image(monkeypatch):
    monkeypatch.setattr("casam_cache.routers.learned.CELLS", 6 * 5)
    embeddings = images()
    sample = sample_cells(reader(embeddings), 6, seed=0, task="a")
    assert sample.cells.shape == (6, 5, 8)
    for place in range(6):
        own = {tuple(cell) for cell in embeddings[place, :, :3, :4].reshape(8, -1).T.astype(float)}
        assert {tuple(cell) for cell in sample.cells[place]} <= own
    again = sample_cells(reader(embeddings), 6, seed=0, task="a")
    np.testing.assert_array_equal(sample.cells, again.cells)
    other = sample_cells(reader(embeddings), 6, seed=0, task="b")
    assert not np.array_equal(sample.cells, other.cells)


def test_images_of_different_shape_in_one_learned_pooling():
    embeddings, valid = images(), [(4, 4), (2, 4), (1, 3), (4, 1), (3, 3), (4, 4)]
    sample = sample_cells(lambda place: (embeddings[place], valid[place]), 6, seed=0, task="a")
    np.testing.assert_array_equal((~sample.absent).sum(axis=1), [16, 8, 3, 4, 9, 16])
    assert np.isfinite(fit_query(sample)).all()


def test_a_query_of_another_backbone_is_refused():
    with pytest.raises(CasamError, match="8 channels"):
        Learned(TemperatureOptions(), np.ones(8, np.float32)).pool(np.zeros((4, 2, 2)))
    with pytest.raises(ValueError, match="query"):
        pool(np.zeros((4, 2, 2)), None, "learned")

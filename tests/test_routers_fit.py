"""Every kind of density: its arithmetic, calibration and files. What all have in common: test_routers_contract.py."""

import json
import math

import numpy as np
import pytest

from casam_cache.config import parse_assignments, validated
from casam_cache.errors import CasamError, OptionError
from casam_cache.routers.choice import RouterChoice, RoutingOptions, router_choice, routing_model
from casam_cache.routers.files import load_router, save_router
from casam_cache.routers.fit import FitRequest, fit_routers
from casam_cache.routers.fitted import TaskRouters
from casam_cache.routers.mahalanobis import Mahalanobis, MahalanobisOptions, shrunk
from casam_cache.routers.registry import ROUTERS
from casam_cache.routers.routing import FALLBACK

SMALL = {"latent": 4, "hidden": 8, "vae_steps": 40, "vae_learning_rate": 0.02}
KINDS = [*ROUTERS.names(), "mahalanobis-own"]


def fit_router(*request, **options):
    return fit_routers([FitRequest(*request, **options)])[0]


def chosen(**options):
    return router_choice(validated(routing_model(RoutingOptions), options))


def options_of(kind, **more):
    name, _, own = kind.partition("-")
    return chosen(router=name, covariance=own or "shared", **SMALL, **more)


def features(task, count=20, channels=6):
    random = np.random.default_rng(sum(task.encode()))
    return (random.normal(size=channels) * 3 + random.normal(size=(count, channels))).astype(np.float32)


def groups(count=20):
    return [f"g{i // 2}" for i in range(count)]


def requests(kind, tasks="abc", channels=6):
    return [
        FitRequest(features(t, n, channels), groups(n), options_of(kind), 0, t)
        for t, n in zip(tasks, (20, 9, 34), strict=False)
    ]


def same(first, second):
    a, b = first.router.state(), second.router.state()
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_array_equal(first.held_out, second.held_out)


@pytest.mark.parametrize("kind", KINDS)
def test_far_tasks_are_told_apart_and_far_images_rejected(kind):
    routers = TaskRouters(fit_routers(requests(kind)))
    for column, name in enumerate(routers.names):
        scores = routers.scores(features(name))
        assert scores.shape == (20, 3)
        assert scores.dtype == np.float64
        assert (scores.argmin(axis=1) == column).mean() > 0.9
    far = np.full((4, 6), 60, dtype=np.float32)
    np.testing.assert_array_equal(routers.route(routers.scores(far)), [FALLBACK] * 4)


def test_one_image_is_decided_as_among_many():
    images = np.concatenate([features(t, 30) for t in "abx"])
    routers = TaskRouters(fit_routers(requests("mahalanobis")))
    scores = routers.scores(images)
    for fallback in (True, False):
        chosen = routers.route(scores, fallback=fallback)
        for row in (0, 31, 75):
            decided = routers.decide(images[row], fallback=fallback)
            assert decided.scores == dict(zip(routers.names, scores[row], strict=True))
            assert decided.task == (None if chosen[row] == FALLBACK else routers.names[chosen[row]])
    assert FALLBACK in routers.route(scores)


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_scores_come_from_fits_without_the_fold(kind):
    x, who = features("a"), groups()
    router = fit_router(x, who, options_of(kind, folds=4), seed=0, task="a")
    assert router.folds == 4
    spoilt = x.copy()
    spoilt[router.fold == 2] += 5
    other = fit_router(spoilt, who, options_of(kind, folds=4), seed=0, task="a")
    np.testing.assert_array_equal(other.fold, router.fold)
    changed = other.held_out != router.held_out
    assert changed[router.fold == 2].all()  # scored, but not fitted, by the same density
    for fold in range(4):
        rows = np.flatnonzero(router.fold != fold)
        if kind.startswith("vae"):
            continue  # its draws go by row: tested through `Job.rows` beside the training
        alone = fit_router(x[rows], [who[i] for i in rows], options_of(kind), seed=0, task="a")
        expected = alone.score(x[router.fold == fold])
        if kind != "gmm":  # whose first component is drawn among the rows
            np.testing.assert_allclose(router.held_out[router.fold == fold], expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_one_group_cannot_be_calibrated(kind):
    router = fit_router(features("a"), ["only"] * 20, options_of(kind), seed=0, task="a")
    assert (router.folds, len(router.held_out), router.groups) == (0, 0, 1)
    assert router.threshold() == math.inf
    assert not router.calibrated()
    assert TaskRouters([router]).thresholds()[0] == math.inf


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_and_constant_tasks(kind):
    two = fit_router(features("a", 2), ["x", "y"], options_of(kind), seed=0, task="a")
    assert two.folds == 2
    assert np.isfinite(two.score(features("a"))).all()
    constant = fit_router(np.ones((8, 6), np.float32), groups(8), options_of(kind), seed=0, task="a")
    assert np.isfinite(constant.score(features("a"))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_routers_on_disk(kind, tmp_path):
    router = fit_router(features("a"), groups(), options_of(kind), seed=5, task="a")
    save_router(router, tmp_path, backbone="abc")
    loaded = load_router(tmp_path)
    same(router, loaded)
    assert (loaded.task, loaded.seed, loaded.choice, loaded.folds) == ("a", 5, router.choice, 5)
    assert loaded.thresholds() == router.thresholds()
    np.testing.assert_array_equal(loaded.score(features("b")), router.score(features("b")))
    np.testing.assert_array_equal(
        TaskRouters([loaded]).scores(features("b")), TaskRouters([router]).scores(features("b"))
    )
    described = json.loads((tmp_path / "router.json").read_text())
    assert described["recorded"] == {"backbone": "abc"}
    assert described["thresholds"]["conformal"] is None  # 20 scores are too few
    assert described["stored_bytes"] == router.router.stored_bytes > 0


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_one_clear_error(kind, tmp_path):
    from safetensors.numpy import load, save

    save_router(fit_router(features("a"), groups(), options_of(kind), seed=5, task="a"), tmp_path)
    arrays, text = (tmp_path / "router.safetensors").read_bytes(), (tmp_path / "router.json").read_text()
    state = load(arrays)
    narrow = {n: a[..., :3] if n.startswith("state.") else a for n, a in state.items()}
    without = {n: a for n, a in state.items() if not n.startswith("state.")}
    nothing = {n: np.full_like(a, np.nan) if a.dtype.kind == "f" else a for n, a in state.items()}
    for damaged in (arrays[:-9], b"", save(narrow), save(without), save(nothing)):
        (tmp_path / "router.safetensors").write_bytes(damaged)
        with pytest.raises(CasamError, match="no readable router"):
            load_router(tmp_path)
    (tmp_path / "router.safetensors").write_bytes(arrays)
    for damaged_text in (text[:-20], "[]", "{}", text.replace('"version": 2', '"version": 99')):
        (tmp_path / "router.json").write_text(damaged_text)
        with pytest.raises(CasamError):
            load_router(tmp_path)
    (tmp_path / "router.json").unlink()
    with pytest.raises(CasamError, match="no readable router"):
        load_router(tmp_path)


def test_bad_features_are_named():
    x = features("a")
    with pytest.raises(CasamError, match="1 training image,"):
        fit_router(x[:1], ["g"], chosen(router="centroid"), seed=0, task="a")
    x[3, 2] = np.nan
    with pytest.raises(CasamError, match="training image 3"):
        fit_router(x, groups(), chosen(router="centroid"), seed=0, task="a")
    with pytest.raises(CasamError, match="19 groups for 20"):
        fit_router(features("a"), groups(19), chosen(router="centroid"), seed=0, task="a")
    with pytest.raises(CasamError, match="shape"):
        fit_router(x[0], groups(), chosen(router="centroid"), seed=0, task="a")
    good = fit_router(features("a"), groups(), chosen(router="centroid"), seed=0, task="a")
    with pytest.raises(CasamError, match="6 features"):
        good.score(np.zeros((1, 5), np.float32))
    with pytest.raises(CasamError, match="image 0"):
        good.score(np.full((1, 6), np.inf, np.float32))


def test_routers_that_cannot_stand_side_by_side():
    one, other = (
        fit_router(features("a"), groups(), chosen(router=kind), seed=0, task="a")
        for kind in ("centroid", "knn")
    )
    with pytest.raises(OptionError, match="two routers"):
        TaskRouters([one, one])
    with pytest.raises(OptionError, match="different options"):
        TaskRouters([one, fit_router(features("b"), groups(), other.choice, seed=0, task="b")])
    with pytest.raises(OptionError, match="no router"):
        TaskRouters([]).decide(features("a")[0])


def test_thresholds_may_differ_between_routers_of_one_fit():
    strict = chosen(router="centroid", threshold="p95", strict=True)
    assert strict.decisive() == chosen(router="centroid", beta=3).decisive()
    assert chosen(beta=3).decisive() != chosen().decisive()
    assert chosen(vae_steps=9, vae_epochs=2).decisive() == chosen(vae_steps=9).decisive()


def test_options_by_name():
    model = routing_model(RoutingOptions)
    found = router_choice(parse_assignments(["router=knn", "neighbours=1", "shrinkage=0.2"], [model])[0])
    assert found == RouterChoice(ROUTERS.get("knn"), ROUTERS.get("knn").Options(neighbours=1))
    for wrong in ("router=tree", "neighbours=0", "shrinkage=2", "betas=1"):
        with pytest.raises(OptionError):
            parse_assignments([wrong], [model])


def test_centroid_and_neighbours_by_hand():
    x = np.array([[0, 0], [2, 0], [0, 4], [2, 4]], dtype=np.float32)
    who, at = list("abcd"), np.array([[3.0, 2.0]], dtype=np.float32)
    centroid = fit_router(x, who, chosen(router="centroid"), seed=0, task="t")
    assert centroid.score(at)[0] == pytest.approx(((3 - 1) ** 2 + 0) / 2)
    assert centroid.folds == 4
    np.testing.assert_allclose(  # mean of the other three
        centroid.held_out, [(1.0**2 * 16 / 9 + (8 / 3) ** 2) / 2] * 4
    )
    nearest = fit_router(x, who, chosen(router="knn", neighbours=3), seed=0, task="t")
    assert nearest.score(at)[0] == pytest.approx((5 + 5 + 13) / 3 / 2)
    assert nearest.router.stored_numbers == 8
    more = fit_router(x, who, chosen(router="knn", neighbours=9), seed=0, task="t")
    assert more.score(at)[0] == pytest.approx((5 + 5 + 13 + 13) / 4 / 2)


def test_mahalanobis_by_hand():
    x = np.array([[-1, 0], [1, 0], [0, -2], [0, 2]], dtype=np.float32)  # scatter diag(2, 8), 3 degrees
    at = np.array([[1.0, 2.0]], dtype=np.float32)
    own = chosen(router="mahalanobis", covariance="own", shrinkage=0)
    router = fit_router(x, list("abcd"), own, seed=0, task="t")
    squared = 1 / (2 / 3) + 4 / (8 / 3)
    log_determinant = math.log(2 / 3) + math.log(8 / 3)
    assert router.score(at)[0] == pytest.approx((squared + log_determinant) / 2, rel=1e-5)
    np.testing.assert_allclose(
        shrunk(np.diag([2.0, 8.0]), 3, 0.25), np.diag([0.75 * 2 + 1.25, 0.75 * 8 + 1.25])
    )
    oracle = shrunk(np.diag([2.0, 8.0]), 3, None)
    # Chen et al.: ((1 - 2/p) tr(S^2) + tr(S)^2) / ((n + 1 - 2/p) (tr(S^2) - tr(S)^2 / p)), at p = 2, n = 4.
    expected = 100 / (4 * (68 - 50))
    assert oracle[0, 0] == pytest.approx(2 + min(1, expected) * 3)


def test_shared_covariance_pools_scatter_and_moves_thresholds():
    wanted = requests("mahalanobis")
    fitted = fit_routers(wanted)
    alone = TaskRouters(fitted[:1])
    np.testing.assert_allclose(alone.fitted[0].held_out, fitted[0].held_out, rtol=1e-9)
    together = TaskRouters(fitted)
    scatter, degrees = np.zeros((6, 6)), 0
    for request in wanted:
        x = request.features.astype(float)
        scatter, degrees = scatter + (len(x) - 1) * np.cov(x.T), degrees + len(x) - 1
    inverse = np.linalg.inv(shrunk(scatter / degrees, degrees, None))
    apart = features("x") - features("b", 9).astype(float).mean(axis=0)
    expected = np.einsum("nc,cd,nd->n", apart, inverse, apart) / 6
    np.testing.assert_allclose(together.scores(features("x"))[:, 1], expected, rtol=1e-6)


def test_mean_of_moved_held_out_scores_is_exact():
    wanted = requests("mahalanobis")
    fitted = fit_routers(wanted)
    together = TaskRouters(fitted).fitted[2]
    x, fold = wanted[2].features.astype(float), fitted[2].fold
    total, degrees, scores = 0.0, 0, []
    for request in wanted[:2]:
        total = total + (len(request.features) - 1) * np.cov(request.features.T.astype(float))
        degrees += len(request.features) - 1
    for one in range(5):
        rest, out = x[fold != one], x[fold == one]
        here = total + (len(rest) - 1) * np.cov(rest.T)
        inverse = np.linalg.inv(shrunk(here / (degrees + len(rest) - 1), degrees + len(rest) - 1, None))
        apart = out - rest.mean(axis=0)
        scores.append(np.einsum("nc,cd,nd->n", apart, inverse, apart) / 6)
    assert together.held_out.mean() == pytest.approx(np.concatenate(scores).mean(), rel=1e-9)
    ratio = together.held_out / fitted[2].held_out
    np.testing.assert_allclose(ratio, ratio[0])


def test_statistics_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="fit"):
        Mahalanobis(4, np.zeros(3), np.zeros((2, 2)), MahalanobisOptions())
    other = fit_router(features("b", channels=5), groups(), options_of("mahalanobis"), seed=0, task="b")
    first = fit_router(features("a"), groups(), options_of("mahalanobis"), seed=0, task="a")
    with pytest.raises(OptionError, match="width"):
        TaskRouters([first, other])


def test_mixture_of_one_component_is_a_gaussian():
    x = features("a").astype(float)
    router = fit_router(x, groups(), chosen(router="gmm", components=1, iterations=5), seed=0, task="a")
    variance = x.var(axis=0)
    expected = 0.5 * (np.square(x - x.mean(axis=0)) / variance + np.log(2 * np.pi * variance)).mean(axis=1)
    np.testing.assert_allclose(router.score(x), expected, rtol=1e-4)


def test_mixture_finds_two_clusters():
    random = np.random.default_rng(0)
    x = np.concatenate([random.normal(-5, 1, (30, 3)), random.normal(5, 0.5, (10, 3))]).astype(np.float32)
    router = fit_router(x, groups(40), chosen(router="gmm"), seed=0, task="a")
    state = router.router.state()
    low, high = np.argsort(state["means"][:, 0])
    np.testing.assert_allclose(state["weights"][[low, high]], [0.75, 0.25], atol=1e-6)
    np.testing.assert_allclose(state["means"][low], x[:30].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(state["means"][high], x[30:].mean(axis=0), atol=1e-5)


def test_features_of_each_task_pooled_its_own_way():
    routers = TaskRouters(fit_routers(requests("centroid")))
    own = {name: features("x") + column for column, name in enumerate(routers.names)}
    scores = routers.scores(own)
    for column, name in enumerate(routers.names):
        np.testing.assert_array_equal(scores[:, column], routers.scores(own[name])[:, column])
    one = routers.decide({name: rows[0] for name, rows in own.items()})
    assert list(one.scores.values()) == list(scores[0])


def test_fold_features_are_what_folds_fit_and_score():
    x, who = features("a"), groups()
    views = np.stack([x + fold for fold in range(5)])
    options = chosen(router="centroid")
    plain = fit_router(x, who, options, seed=0, task="a")
    moved = fit_router(x, who, options, seed=0, task="a", fold_features=views)
    np.testing.assert_allclose(moved.held_out, plain.held_out, rtol=1e-5)  # a shift moves mean and image
    np.testing.assert_array_equal(moved.router.state()["mean"], plain.router.state()["mean"])
    with pytest.raises(CasamError, match="fold features"):
        fit_router(x, who, options, seed=0, task="a", fold_features=views[:3])

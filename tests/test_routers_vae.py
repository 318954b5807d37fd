"""The VAE router: equation 6 by hand, training in a stack equal to training alone, draws and failures."""

import math

import numpy as np
import pytest
import torch

from casam_cache.errors import CasamError
from casam_cache.routers import vae_training
from casam_cache.routers.base import Job
from casam_cache.routers.choice import RouterChoice
from casam_cache.routers.fit import FitRequest, fit_routers
from casam_cache.routers.vae import VAE, VAEOptions, initial_weights, shapes

SMALL = {"latent": 3, "hidden": 7, "vae_batch_size": 4, "vae_epochs": 3, "vae_min_steps": 0}


def fit_router(*request, **options):
    return fit_routers([FitRequest(*request, **options)])[0]


def features(task, count=11, channels=5):
    random = np.random.default_rng(sum(task.encode()))
    return (random.normal(size=channels) + random.normal(size=(count, channels))).astype(np.float32)


def job(task="a", rows=None, count=11, channels=5, seed=0, **options):
    x = features(task, count, channels)
    kept = np.arange(len(x)) if rows is None else np.array(rows)
    return Job(x, VAEOptions(**{**SMALL, **options}), seed, task, kept)


def assert_same(first, second):
    for name, array in first.state().items():
        np.testing.assert_array_equal(array, second.state()[name], err_msg=name)


def reference(task):
    """One VAE trained the plain way: a module, one batch after another, torch's own Adam."""
    options, x = task.options, torch.from_numpy(task.features)
    start = initial_weights(x.shape[1], options, task.seed)
    w = {name: torch.from_numpy(array).requires_grad_() for name, array in start.items()}
    adam = torch.optim.Adam(w.values(), lr=options.vae_learning_rate)
    draws = vae_training._Draws(task.seed, task.task, len(x), options.latent)
    draws.extend(50)
    step, epoch = 0, 0
    steps = options.vae_steps or max(
        options.vae_min_steps, options.vae_epochs * math.ceil(len(task.rows) / options.vae_batch_size)
    )
    while step < steps:
        order = [row for row in draws.orders[epoch] if row in set(task.rows)]
        for start_at in range(0, len(order), options.vae_batch_size):
            if step == steps:
                break
            rows = np.array(order[start_at : start_at + options.vae_batch_size])
            f, noise = x[rows], torch.from_numpy(draws.noise[epoch][rows])
            encoded = torch.relu(f @ w["encode1.weight"] + w["encode1.bias"])
            encoded = encoded @ w["encode2.weight"] + w["encode2.bias"]
            mu, log_variance = encoded[:, : options.latent], encoded[:, options.latent :]
            z = mu + noise * torch.exp(log_variance / 2)
            back = torch.relu(z @ w["decode1.weight"] + w["decode1.bias"])
            back = back @ w["decode2.weight"] + w["decode2.bias"]
            kl = mu**2 + torch.exp(log_variance) - 1 - log_variance
            kl = kl.sum(1) if options.kl == "sum" else kl.mean(1)
            loss = (((f - back) ** 2).mean(1) + options.beta / 2 * kl).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            step += 1
        epoch += 1
    return {name: array.detach().numpy() for name, array in w.items()}


@pytest.mark.parametrize(
    "task",
    [
        job(),
        job(rows=[0, 2, 3, 4, 9], beta=0.5, kl="mean"),
        job(vae_steps=8, vae_batch_size=6),
        job(vae_min_steps=40),
        job(beta=0.0, latent=2, hidden=3, vae_batch_size=1),
    ],
)
def test_stack_equals_plain_training(task):
    trained = VAE.fit_many([task, job("b", count=30)])[0]
    for name, expected in reference(task).items():
        np.testing.assert_allclose(trained.weights[name], expected, atol=1e-5, err_msg=name)


def test_equation_6_by_hand():
    options = VAEOptions(latent=1, hidden=1, beta=2.0)
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes(2, options).items()}
    weights["encode1.weight"][:] = [[1], [2]]
    weights["encode1.bias"][:] = -1
    weights["encode2.weight"][:] = [[0.5, 0.25]]
    weights["decode1.weight"][:] = 3
    weights["decode2.weight"][:] = [[1, -1]]
    weights["decode2.bias"][:] = [0, 1]
    f = np.array([[1.0, 1.0]], np.float32)  # hidden 2; mu 1, log variance 0.5; z = mu; hidden 3; fhat (3, -2)
    expected = ((1 - 3) ** 2 + (1 + 2) ** 2) / 2 + 1.0 * (1 + math.exp(0.5) - 1 - 0.5)
    assert VAE(weights, options).score(f)[0] == pytest.approx(expected, rel=1e-12)
    closed = np.array([[-5.0, 1.0]], np.float32)  # hidden 0, so mu 0, variance 1 and fhat (0, 1)
    assert VAE(weights, options).score(closed)[0] == pytest.approx(25 / 2, rel=1e-12)


def test_kl_is_summed_or_averaged():
    x = features("a")
    weights = initial_weights(5, VAEOptions(**SMALL), 0)
    error, summed, averaged = (
        VAE(weights, VAEOptions(**SMALL, beta=beta, kl=kl)).score(x)
        for beta, kl in ((0, "sum"), (1, "sum"), (3, "mean"))
    )
    np.testing.assert_allclose(summed, averaged, rtol=1e-12)
    assert (summed > error).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        {"channels": 16, "latent": 8, "hidden": 16, "vae_batch_size": 6},
        {"channels": 5, "latent": 3, "hidden": 7, "vae_batch_size": 1},
        {"channels": 1, "latent": 1, "hidden": 1, "vae_batch_size": 2},
    ],
)
def test_bits_do_not_depend_on_company(shape, monkeypatch):
    wanted = [
        job(task, count=count, beta=beta, seed=seed, **shape)
        for task, count in zip("abcd", (11, 30, 2, 7), strict=True)
        for beta, seed in ((0.0, 0), (16.5, 0), (16.5, 1))
    ]
    together = VAE.fit_many(wanted)
    order = np.random.default_rng(0).permutation(len(wanted))
    for place, router in zip(order, VAE.fit_many([wanted[i] for i in order]), strict=True):
        assert_same(router, together[place])
    for place in range(len(wanted)):
        assert_same(VAE.fit_many([wanted[place]])[0], together[place])
    monkeypatch.setattr(vae_training, "STACK_FLOATS", 1)  # one model a stack
    for router, expected in zip(VAE.fit_many(wanted), together, strict=True):
        assert_same(router, expected)


def test_bits_do_not_depend_on_threads_or_torchs_generator():
    wanted = [job(task, count=40, channels=32, latent=16, hidden=64) for task in "abc"]
    before, threads = VAE.fit_many(wanted), torch.get_num_threads()
    torch.manual_seed(99)
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        changed = torch.get_num_threads()
        after = VAE.fit_many(wanted)
        assert torch.get_num_threads() == changed
    finally:
        torch.set_num_threads(threads)
    for first, second in zip(before, after, strict=True):
        assert_same(first, second)


def test_tasks_start_alike_and_draw_apart():
    options = VAEOptions(**SMALL)
    for name, array in initial_weights(5, options, 0).items():
        np.testing.assert_array_equal(array, initial_weights(5, VAEOptions(**SMALL, beta=1), 0)[name])
        assert not np.array_equal(array, initial_weights(5, options, 1)[name])
    x = features("a")
    one, two = (VAE.fit_many([Job(x, options, 0, task, np.arange(11))])[0] for task in ("a", "b"))
    assert not np.array_equal(one.weights["decode2.bias"], two.weights["decode2.bias"])


def test_rows_left_out_play_no_part():
    x = features("a")
    spoilt = x.copy()
    spoilt[[1, 5]] = 1000
    rows = np.array([0, 2, 3, 4, 6, 7, 8, 9, 10])
    options = VAEOptions(**SMALL, standardise="task")
    first, second = VAE.fit_many([Job(one, options, 0, "a", rows) for one in (x, spoilt)])
    assert_same(first, second)


def test_more_steps_learn_more():
    x = features("a", 40) + 3
    few, many = (
        VAE.fit_many(
            [Job(x, VAEOptions(latent=2, hidden=16, beta=0.01, vae_steps=n), 0, "a", np.arange(40))]
        )[0]
        for n in (1, 400)
    )
    assert many.score(x).mean() < 0.7 * few.score(x).mean()


def test_standardised_scores_do_not_depend_on_units():
    options = RouterChoice(VAE, VAEOptions(**SMALL, standardise="task"))
    x, who = features("a", 20), [str(i) for i in range(20)]
    plain = fit_router(x, who, options, seed=0, task="a")
    scaled = fit_router(x * 64 + 512, who, options, seed=0, task="a")
    np.testing.assert_allclose(scaled.held_out, plain.held_out, rtol=1e-3)
    constant = fit_router(np.ones((6, 5), np.float32), list("abcdef"), options, seed=0, task="a")
    assert np.isfinite(constant.score(features("b"))).all()


def test_divergence_is_reported():
    with pytest.raises(CasamError, match="diverged"):
        VAE.fit_many([job(vae_learning_rate=1e30)])


def test_progress_counts_steps():
    seen = []
    fit_routers(
        [
            FitRequest(
                features("a", 20), [str(i) for i in range(20)], RouterChoice(VAE, VAEOptions(**SMALL)), 0, "a"
            )
        ],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen
    assert seen[-1][0] == seen[-1][1] == 3 * 5 + 5 * 3 * 4  # 20 rows: 5 steps an epoch; 16 rows: 4


def test_a_score_too_large_for_a_number_is_infinite():
    options = VAEOptions(latent=1, hidden=1)
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes(2, options).items()}
    assert VAE(weights, options).score(np.full((1, 2), 1e30, np.float32))[0] == math.inf

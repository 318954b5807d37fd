"""MoDA's task classifier: its training against a loop in torch, its draws, and files."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from casam_cache.errors import CasamError
from casam_cache.fingerprint import generator
from casam_cache.routers.classifier import (
    Classifier,
    ClassifierOptions,
    choose_exemplars,
    classifier_input,
    fit_classifier,
)

TOKENS = ClassifierOptions(classifier_epochs=5, classifier_batch_size=4, classifier_learning_rate=1e-2)
QUERY = TOKENS.model_copy(update={"classifier": "query"})


def tokens(seed=0):
    rng = np.random.default_rng(seed)
    centres = {"heart": 1.0, "teeth": -1.0, "aorta": 0.0}
    return {
        task: (rng.standard_normal((5, 6)) + 2 * centre * np.arange(6) + (centre == 0)).astype(np.float32)
        for task, centre in centres.items()
    }


def cells(seed=0):
    """Images of different sizes; in every one a single loud cell tells the task."""
    rng = np.random.default_rng(seed)
    found = {}
    for number, task in enumerate(("heart", "teeth", "aorta")):
        images = []
        for count in (9, 12, 20, 9, 16):
            image = rng.standard_normal((4, count))
            image[:, 3] = [4, *(3.0 * (number == k) for k in range(3))]
            images.append(image.astype(np.float16))
        found[task] = images
    return found


def in_torch(features, options, seed):
    """The same training with torch's own Linear, cross-entropy and Adam, in float64."""
    tasks = sorted(features)
    images = [torch.tensor(np.asarray(image), dtype=torch.float64) for t in tasks for image in features[t]]
    labels = torch.tensor([k for k, t in enumerate(tasks) for _ in features[t]])
    width = len(images[0])
    linear = torch.nn.Linear(width, len(tasks), dtype=torch.float64)
    query = torch.zeros(width, dtype=torch.float64, requires_grad=True)
    belongs_to = (seed, "classifier", *tasks)
    with torch.no_grad():
        for name, parameter in linear.named_parameters():
            drawn = generator(*belongs_to, name).uniform(-(width**-0.5), width**-0.5, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn))
    learnt = [*linear.parameters(), *([query] if options.classifier == "query" else [])]
    adam = torch.optim.Adam(learnt, lr=options.classifier_learning_rate)

    def pooled(image):
        if options.classifier == "tokens":
            return image
        return image @ (query @ image / width**0.5).softmax(0)

    for epoch in range(options.classifier_epochs):
        order = generator(*belongs_to, epoch).permutation(len(images))
        for start in range(0, len(order), options.classifier_batch_size):
            batch = order[start : start + options.classifier_batch_size]
            loss = F.cross_entropy(linear(torch.stack([pooled(images[i]) for i in batch])), labels[batch])
            adam.zero_grad()
            loss.backward()
            adam.step()
    return linear, query


@pytest.mark.parametrize(("features", "options"), [(tokens(), TOKENS), (cells(), QUERY)])
def test_it_is_trained_as_torch_would(features, options):
    fitted = fit_classifier(features, options, seed=3)
    linear, query = in_torch(features, options, 3)
    assert fitted.tasks == ("aorta", "heart", "teeth")
    np.testing.assert_allclose(fitted.weight, linear.weight.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(fitted.bias, linear.bias.detach().numpy(), atol=1e-6)
    if options.classifier == "query":
        np.testing.assert_allclose(fitted.query, query.detach().numpy(), atol=1e-6)
        assert fitted.trained_parameters == 3 * 4 + 3 + 4


def test_it_learns_and_names_a_task_it_has_seen():
    options = TOKENS.model_copy(update={"classifier_epochs": 60})
    fitted = fit_classifier(tokens(), options, 0)
    for number, task in enumerate(fitted.tasks):
        assert (fitted.predict(tokens(1)[task]) == number).all()
    nowhere = np.full((3, 6), 1e3, dtype=np.float32)
    assert set(fitted.predict(nowhere)) <= {0, 1, 2}
    assert fitted.predict([]).shape == (0,)


def test_the_query_finds_the_cell_that_tells():
    options = QUERY.model_copy(update={"classifier_epochs": 80})
    fitted = fit_classifier(cells(), options, 0)
    image = cells(5)["teeth"][2].astype(np.float64)
    scores = fitted.query @ image
    assert scores.argmax() == 3
    assert fitted.predict(cells(5)["teeth"]).tolist() == [2] * 5


def test_neither_the_order_of_tasks_nor_global_state_matters():
    features = tokens()
    first = fit_classifier(features, TOKENS, 1)
    torch.manual_seed(9)
    again = fit_classifier(dict(reversed(features.items())), TOKENS, 1)
    for name, array in first.arrays.items():
        assert array.tobytes() == again.arrays[name].tobytes()
    assert fit_classifier(features, TOKENS, 2).weight.tobytes() != first.weight.tobytes()


@pytest.mark.parametrize(("features", "options"), [(tokens(), TOKENS), (cells(), QUERY)])
def test_saved_and_loaded_it_is_the_same(tmp_path, features, options):
    fitted = fit_classifier(features, options, 0)
    fitted.save(tmp_path, exemplars=["a"])
    loaded = Classifier.load(tmp_path)
    assert (loaded.tasks, loaded.options, loaded.seed) == (fitted.tasks, options, 0)
    assert (loaded.logits(features["heart"]) == fitted.logits(features["heart"])).all()
    assert loaded.stored_bytes == 4 * loaded.trained_parameters
    (tmp_path / "classifier.safetensors").write_bytes(b"no")
    with pytest.raises(CasamError, match="no readable classifier"):
        Classifier.load(tmp_path)


def test_exemplars_depend_on_seed_task_and_image_alone():
    ids = [f"image {i}" for i in range(30)]
    chosen = choose_exemplars(ids, 10, 0, "heart")
    assert len(chosen) == 10
    assert chosen == sorted(chosen)
    assert choose_exemplars(ids[::-1], 10, 0, "heart") == chosen
    assert len(set(choose_exemplars([*ids, "new"], 10, 0, "heart")) - set(chosen)) <= 1
    assert choose_exemplars(ids, 10, 0, "teeth") != chosen
    assert choose_exemplars(ids, 10, 1, "heart") != chosen
    assert choose_exemplars(ids[:4], 10, 0, "heart") == sorted(ids[:4])


def test_it_sees_the_token_or_the_cells_that_hold_image():
    arrays = {"tokens": np.arange(5.0), "embedding": np.arange(32.0).reshape(2, 4, 4)}
    assert classifier_input(TOKENS, arrays.__getitem__, (2, 3)) is arrays["tokens"]
    np.testing.assert_array_equal(
        classifier_input(QUERY, arrays.__getitem__, (2, 3)),
        [[0, 1, 2, 4, 5, 6], [16, 17, 18, 20, 21, 22]],
    )


def test_a_task_without_exemplars_is_said():
    with pytest.raises(CasamError, match="no exemplars of heart"):
        fit_classifier({"heart": [], "teeth": tokens()["teeth"]}, TOKENS, 0)

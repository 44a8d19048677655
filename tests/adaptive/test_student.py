import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.adaptive.probing import last_layer, progress
from robustkit.adaptive.student import student
from robustkit.errors import BadInput
from robustkit.models.torch import TorchModel


def hidden(network):
    """Scores from NumPy, of which no gradient is to be had."""

    def scores(x):
        with torch.no_grad():
            return network(torch.from_numpy(x.astype(np.float32))).numpy()

    return rk.NumPyModel(scores)


def test_it_learns_the_way(behind, digits):
    x, label = digits
    network = behind()
    model, step = hidden(network), 0.1
    learned = student(model, x, 0.3, 3000)
    asked = progress(rk.Surrogate(model, learned), x, label, step)
    assert asked > 0.6 * progress(TorchModel(network), x, label, step) > 0.3
    own = rk.run(rk.FMN(steps=50), network, x, label).distance
    lent = rk.run(rk.FMN(steps=50), rk.Surrogate(model, learned), x, label).distance
    assert np.median(lent / np.maximum(own, 1e-9)) < 1.3


def test_the_same_seed_gives_the_same_student(behind, digits, monkeypatch):
    monkeypatch.setattr("robustkit.adaptive.student._STEPS", 10)
    model, x = hidden(behind()), digits[0]
    one, same, other = (student(model, x, 0.3, 300, seed) for seed in (1, 1, 2))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_as_many_answers_as_allowed_and_within_the_bounds(digits, monkeypatch):
    monkeypatch.setattr("robustkit.adaptive.student._STEPS", 2)
    seen = []

    def scores(x):
        seen.append(x.copy())
        return x.reshape(len(x), -1)[:, :3]

    student(rk.NumPyModel(scores, (0.0, 1.0)), digits[0], 0.3, 40)
    asked = np.concatenate(seen)
    assert len(asked) == 40
    assert asked.min() >= 0
    assert asked.max() <= 1
    np.testing.assert_array_equal(asked[:16], digits[0])


def test_it_learns_from_a_model_that_rules_classes_out(behind, digits):
    """By minus infinity, as where only the likeliest classes are shown."""
    x, label = digits

    def likeliest(logits):
        third = logits.topk(3, dim=1).values[:, -1:]
        return logits.where(logits >= third, -torch.inf)

    model = hidden(behind(after=likeliest))
    learned = student(model, x, 0.3, 3000)
    assert progress(rk.Surrogate(model, learned), x, label, 0.1) > 0.15


def test_a_model_without_an_answer_teaches_nothing(digits):
    silent = rk.NumPyModel(lambda x: np.full((len(x), 3), np.nan))
    with pytest.raises(BadInput, match="no answer to learn from"):
        student(silent, digits[0], 0.3, 40)


def test_the_last_layer_is_named(behind, digits):
    network = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 8),
        torch.nn.ReLU(),
        torch.nn.Linear(8, 3),
    ).eval()
    assert last_layer(TorchModel(network), digits[0][:2]) == "2"
    assert last_layer(rk.NumPyModel(lambda x: x), digits[0][:2]) is None
    alone = torch.nn.Sequential(torch.nn.Flatten()).eval()
    assert last_layer(TorchModel(alone), digits[0][:2]) is None

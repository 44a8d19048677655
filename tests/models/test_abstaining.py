import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.checks.fixed import Fixed
from robustkit.checks.transfer import ask_again
from robustkit.checks.trials import try_attack
from robustkit.engine.criteria import Undetected
from robustkit.errors import BadInput
from robustkit.evaluation.goals import make_criterion
from robustkit.models.abstaining import Abstaining
from robustkit.models.base import Access, Model
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import as_tensor, like, to_numpy

W = np.array([[1.0, -1.0, 0.2], [-1.0, 0.5, 0.4]])


class Fed(Model):
    """Whose logits are given, whatever it is asked."""

    bounds, access, name = Bounds(), Access.GRADIENT, "fed"

    def __init__(self, answer):
        self.answer = answer

    def logits(self, x):
        return self.answer

    def linearise(self, x):
        return self.answer, lambda slopes: slopes[:, :1] * 0

    def to_tensor(self, x):
        return like(self.answer, x)


def classifier():
    return NumPyModel(lambda x: x @ W, gradient=lambda x, s: s @ W.T)


def detector():
    """Fires above x0 + x1 = 1.2."""
    ones = np.ones((2, 1))
    return NumPyModel(
        lambda x: x @ ones - 1.2, gradient=lambda x, s: s @ ones.T, name="detector"
    )


def inputs(count=200):
    return np.random.default_rng(0).random((count, 2))


def test_it_refuses_exactly_where_the_detector_fires():
    x = inputs()
    for scale in (0.01, 1.0, 100.0):
        model = Abstaining(classifier(), detector(), scale=scale)
        answer = to_numpy(model.logits(as_tensor(x))).argmax(axis=1)
        fires = x.sum(axis=1) > 1.2
        assert ((answer == 3) == fires).all()
        assert (answer[~fires] == (x @ W).argmax(axis=1)[~fires]).all()


@pytest.mark.parametrize("native", [np.array, torch.tensor])
@pytest.mark.parametrize("highest", [0.0, -3.7, 1e6, 1e-42])
def test_scores_that_drown_in_the_logits_decide(native, highest):
    row = as_tensor(native(np.float32([[highest, -7.0]] * 3)))
    score = as_tensor(native(np.float32([[-1e-30], [0.0], [1e-30]])))
    model = Abstaining(Fed(row), Fed(score))
    logits, _ = model.linearise(row)
    np.testing.assert_array_equal(to_numpy(logits), to_numpy(model.logits(row)))
    assert to_numpy(logits).argmax(axis=1).tolist() == [0, 0, 2]
    # The rest is not the label: two are adversarial, one is refused.
    labels = like(row, np.ones(3, dtype=np.int64))
    margin = to_numpy(Undetected(labels).margin(logits))
    assert (margin < 0).tolist() == [True, True, False]


def test_scores_that_are_no_number_are_no_answer():
    row = as_tensor(np.array([[1.0, 0.0]]))
    logits = Abstaining(Fed(row), Fed(as_tensor(np.array([[np.nan]])))).logits(row)
    assert np.isnan(to_numpy(logits)[0, 2])


def test_a_detector_that_never_fires_defends_nothing():
    x = inputs(20).astype(np.float32)
    labels = (x @ W).argmax(axis=1)
    silent = NumPyModel(
        lambda x: np.zeros((len(x), 1)), gradient=lambda x, s: np.zeros_like(x)
    )
    model = Abstaining(classifier(), silent)
    bare, guarded = (
        rk.run(rk.FMN(steps=60), one, x, labels, norm="linf").distance
        for one in (classifier(), model)
    )
    np.testing.assert_allclose(guarded, bare, rtol=1e-3)


def test_gradients_pass_through_both():
    x, model = inputs(5), Abstaining(classifier(), detector(), scale=3.0)
    slopes = np.random.default_rng(1).normal(size=(5, 4))
    logits, pull_back = model.linearise(as_tensor(x))
    np.testing.assert_array_equal(logits.raw, model.logits(as_tensor(x)).raw)
    found = to_numpy(pull_back(as_tensor(slopes)))
    step = 1e-6
    for feature in range(2):
        shift = step * np.eye(2)[feature]
        above, below = (
            to_numpy(model.logits(as_tensor(x + sign * shift))) for sign in (1, -1)
        )
        expected = ((above - below) * slopes).sum(axis=1) / (2 * step)
        np.testing.assert_allclose(found[:, feature], expected, atol=1e-6)


def test_adversarial_is_misclassified_and_not_refused():
    """The nearest such point by brute force, on a fine grid."""
    x = np.array([[0.6, 0.3]])
    model = Abstaining(classifier(), detector())
    label = (x @ W).argmax(axis=1)
    axis = np.linspace(0, 1, 401)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    wrong = (grid @ W).argmax(axis=1) != label
    allowed = wrong & (grid.sum(axis=1) < 1.2)
    distance = np.abs(grid - x).max(axis=1)
    found = rk.run(rk.FMN(steps=200), model, x, label, norm="linf")
    assert found.distance[0] == pytest.approx(distance[allowed].min(), abs=4e-3)
    assert found.x_adversarial.sum() <= 1.2


def test_refused_originals_are_errors_and_no_success():
    x = inputs(60)
    labels = (x @ W).argmax(axis=1)
    model = Abstaining(classifier(), detector())
    results = rk.evaluate(
        model, (x, labels), norm="l2", attacks={"fmn": rk.FMN(steps=60)}
    )
    refused = x.astype(np.float32).sum(axis=1) > 1.2
    assert (results.prediction[refused] == 3).all()
    assert results.clean_accuracy.estimate == pytest.approx((~refused).mean())
    assert (results.distance[refused] == 0).all()
    best = results.adversarials()
    answer = to_numpy(model.logits(as_tensor(best["x_adversarial"]))).argmax(axis=1)
    assert (answer != 3).all()
    assert (answer != best["label"]).all()


def test_torch_detectors_and_models_that_refuse_by_themselves():
    net = torch.nn.Linear(2, 3).eval()
    x = as_tensor(torch.rand(6, 2))
    whole = Abstaining(TorchModel(net), torch.nn.Linear(2, 1).eval())
    assert whole.logits(x).shape == (6, 4)
    assert whole.access is Access.GRADIENT
    assert whole.fingerprint() != Abstaining(TorchModel(net)).fingerprint()
    alone = Abstaining(TorchModel(net))
    assert torch.equal(alone.logits(x).raw, TorchModel(net).logits(x).raw)
    assert alone.abstains
    assert alone.detector is None
    assert rk.EOT(alone, 2).abstains
    assert rk.MajorityVote(alone, 2).abstains
    assert rk.Estimated(alone, 2).abstains
    blind = Abstaining(TorchModel(net), rk.Estimated(NumPyModel(lambda x: x), 4))
    assert blind.passes_per_gradient == 4


@pytest.mark.parametrize("kind", ["list", "truths", "torch", "module", "numpy"])
@pytest.mark.parametrize("torch_model", [False, True])
def test_detectors_of_any_framework(kind, torch_model):
    weights = np.linspace(-1, 1, 4, dtype=np.float32)
    module = torch.nn.Linear(4, 1, bias=False).eval()
    module.weight.data[:] = torch.tensor(weights)
    detectors = {
        "list": lambda x: [float(row @ weights) for row in np.asarray(x)],
        "truths": lambda x: np.asarray(x) @ weights > 0,
        "torch": TorchModel(module),
        "module": module,
        "numpy": NumPyModel(lambda x: (x @ weights)[:, None]),
    }
    detector = detectors[kind]
    model = NumPyModel(lambda x: x[:, :2])
    if torch_model:
        model = TorchModel(torch.nn.Linear(4, 2).eval())
        if kind in ("list", "truths"):
            detector = NumPyModel(lambda x: np.asarray(detectors[kind](x))[:, None])
    x = np.random.default_rng(0).random((9, 4)).astype(np.float32)
    abstaining = Abstaining(model, detector)
    batch = abstaining.to_tensor(x)
    logits = abstaining.logits(batch)
    assert isinstance(logits, type(batch))
    refused = to_numpy(logits).argmax(axis=1) == 2
    assert refused.tolist() == (x @ weights > 0).tolist()


@pytest.mark.parametrize("kind", [NumPyModel, TorchModel])
def test_detector_models_may_return_a_score_per_input(kind):
    x = np.array([[0.2, 0.5], [0.8, 0.7]], np.float32)
    slopes = np.array([[0, 0, 0, 1.0], [1, 0, 0, 2]], np.float32)
    ways = {"gradient": lambda x, s: np.stack([s, s], 1)} if kind is NumPyModel else {}
    flat = Abstaining(classifier(), kind(lambda x: x.sum(1) - 1.2, **ways))
    column = Abstaining(classifier(), detector())
    (logits, back), (same, way) = (m.linearise(as_tensor(x)) for m in (flat, column))
    np.testing.assert_allclose(to_numpy(logits), to_numpy(same), atol=1e-6)
    np.testing.assert_array_equal(to_numpy(flat.logits(as_tensor(x))), to_numpy(logits))
    np.testing.assert_allclose(
        to_numpy(back(as_tensor(slopes))), to_numpy(way(as_tensor(slopes))), atol=1e-6
    )


def test_bad_detectors():
    with pytest.raises(BadInput, match="must be more than 0; got 0"):
        Abstaining(classifier(), detector(), scale=0)
    with pytest.raises(BadInput, match=r"expected a detector, .* got 'model\.pt'"):
        Abstaining(classifier(), "model.pt")
    with pytest.raises(BadInput, match=r"takes inputs from 0\.0 to 0\.5, but the"):
        Abstaining(classifier(), NumPyModel(lambda x: x[:, :1], Bounds(0, 0.5)))
    Abstaining(classifier(), NumPyModel(lambda x: x[:, :1], Bounds(-50, 50)))
    model = Abstaining(classifier(), lambda x: x)
    with pytest.raises(BadInput, match=r"one score per input.*\(3, 2\)"):
        model.logits(as_tensor(inputs(3)))


def test_no_chosen_target_is_the_refusal():
    x, model = inputs(60).astype(np.float32), Abstaining(classifier(), detector())
    label = (x @ W).argmax(axis=1)
    # Where it is sure not to refuse, the refusal is the least likely answer.
    logits = np.concatenate([x @ W, np.full((60, 1), -10)], axis=1)
    for target in ("random", "least-likely"):
        make = make_criterion(model, target, None, 4, seed=0)
        targets = to_numpy(make(label, logits, x).targets)
        assert ((targets != 3) & (targets != label)).all()
    asked = make_criterion(model, 3, None, 4, seed=0)(label, logits, x)
    assert (to_numpy(asked.targets) == 3).all()


def test_refusals_of_old_adversarials_are_no_successes():
    x = inputs(60).astype(np.float32)
    labels = (x @ W).argmax(axis=1)
    results = rk.evaluate(classifier(), (x, labels), attacks=["fmn"])
    model = Abstaining(classifier(), detector())
    (transfer,) = ask_again(model, results, 60)
    best = results.adversarials()["x_adversarial"]
    fires = best.sum(axis=1) > 1.2
    assert 0 < fires.sum() < len(best)
    assert (transfer.held == ~fires).all()


def test_refusals_are_no_successes_of_trials():
    x = inputs(30).astype(np.float32)
    labels = (x @ W).argmax(axis=1)
    # It refuses all that the classifier takes for another class than the first.
    guard = NumPyModel(
        lambda x: (x @ (W[:, 1:] - W[:, :1])).max(axis=1, keepdims=True),
        gradient=lambda x, s: 0 * x,
    )
    trials = try_attack(Abstaining(classifier(), guard), x, labels, 0.1)
    assert trials is not None
    assert not trials.broken.any()
    assert not trials.targeted.any()
    assert trials.targets == 2


def test_a_refusal_is_no_label():
    model = Abstaining(classifier(), detector())
    x = inputs(4).astype(np.float32)
    labels = np.array([0, 1, 2, 3])
    with pytest.raises(BadInput, match="must be 0 to 2; sample 3 has"):
        rk.evaluate(model, (x, labels), attacks=["fmn"], budget=5)
    with pytest.raises(BadInput, match="labels must be 0 to 2"):
        rk.run("fmn", model, x, labels, norm="l2")


def test_fingerprints_tell_scales_apart():
    net = TorchModel(torch.nn.Linear(2, 2).eval())
    fires = TorchModel(torch.nn.Linear(2, 1).eval())
    prints = {Abstaining(net, fires, scale=s).fingerprint() for s in (1, 2)}
    assert len(prints) == 2
    assert None not in prints


def test_refusals_are_no_successes_where_randomness_is_held_still():
    x, names = inputs(16).astype(np.float32), ("abstains", "passes_per_question")
    rivals = torch.from_numpy(W[:, 1:] - W[:, :1]).float()
    noisy = TorchModel(
        lambda x: (x + 1e-3 * torch.randn_like(x)) @ torch.tensor(W).float()
    )
    # It refuses all that is not taken for the first class.
    guard = TorchModel(lambda x: (x @ rivals).max(dim=1, keepdim=True).values + 0.05)
    model = Abstaining(noisy, guard)
    assert all(getattr(Fixed(model), n) == getattr(model, n) for n in names)
    trials = try_attack(model, x, np.zeros(16, int), 0.1, random=True)
    assert trials is not None
    assert not trials.broken.any()
    assert not trials.fixed.any()

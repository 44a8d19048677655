import numpy as np
import pytest
import torch

from robustkit.attacks.decision.boundary import Boundary
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access, NoGradient
from robustkit.models.estimated import Estimated
from robustkit.models.labels import LabelModel
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.models.wrappers import MajorityVote, Preprocessed, WithStrategy
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, to_numpy


def flat(x):
    return x.reshape(len(x), -1)


def test_it_keeps_what_the_model_says_of_itself():
    model = Preprocessed(NumPyModel(flat, Bounds(0, 255), name="mine"), [0.5], [2])
    assert (model.bounds, model.name) == (Bounds(0, 255), "mine")
    assert model.access is Access.SCORE
    assert model.fingerprint() is None
    with pytest.raises(NoGradient):
        model.linearise(as_tensor(np.zeros((1, 2, 3))))


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 1, 1)), (-1, (2,)), (3, (2,))])
def test_channels_are_on_the_given_axis(axis, shape):
    x = np.random.default_rng(0).random((3, 2, 2, 2))
    mean, std = np.array([0.2, 0.7]), np.array([0.5, 3.0])
    model = Preprocessed(NumPyModel(flat), list(mean), list(std), axis=axis)
    expected = flat((x - mean.reshape(shape)) / std.reshape(shape))
    np.testing.assert_allclose(to_numpy(model.logits(as_tensor(x))), expected)


def test_one_number_serves_all_channels():
    x = np.random.default_rng(0).random((3, 4, 2))
    for mean, std in [([0.5], [2.0]), (0.5, 2), (np.float32(0.5), np.array([2.0]))]:
        model = Preprocessed(NumPyModel(flat), mean, std)
        np.testing.assert_allclose(
            to_numpy(model.logits(as_tensor(x))), flat((x - 0.5) / 2)
        )


@pytest.mark.parametrize(
    ("mean", "std"),
    [([0, 0], [1]), ([0], [0]), ([0], [-1]), ([0], [float("nan")]), (None, 1)],
)
def test_impossible_scales_are_refused(mean, std):
    with pytest.raises(BadInput, match="every std positive"):
        Preprocessed(NumPyModel(flat), mean, std)


@pytest.mark.parametrize("mean", [float("nan"), float("inf")])
def test_means_are_finite(mean):
    with pytest.raises(BadInput, match=r"finite.*got mean \[(nan|inf)\]"):
        Preprocessed(NumPyModel(flat), mean, 1)
    with pytest.raises(BadInput, match=r"finite.*std \[inf\]"):
        Preprocessed(NumPyModel(flat), 0, float("inf"))


@pytest.mark.parametrize("axis", [3, -4, 0, -3])
def test_axes_that_hold_no_channels_are_refused(axis):
    model = Preprocessed(NumPyModel(flat), 0.5, 0.5, axis=axis)
    with pytest.raises(BadInput, match=rf"axis {axis} .*\(2, 3, 4\).*axis="):
        model.logits(as_tensor(np.zeros((2, 3, 4))))


def test_other_numbers_of_channels_are_refused():
    model = Preprocessed(NumPyModel(flat), [0, 0, 0], [1, 1, 1])
    with pytest.raises(BadInput, match=r"3 means.*axis 1.*\(1, 2, 4\)"):
        model.logits(as_tensor(np.zeros((1, 2, 4))))


def test_fingerprint_is_of_weights_and_scale():
    module = torch.nn.Linear(3, 2).eval()
    prints = {
        Preprocessed(TorchModel(module), *scale).fingerprint()
        for scale in (([0.0], [1.0]), ([0.5], [1.0]), ([0.5], [2.0]))
    }
    assert len(prints) == 3


def test_its_session_is_that_of_the_model():
    module = torch.nn.Linear(3, 2).eval()
    model = Preprocessed(TorchModel(module), [0.0], [1.0])
    with model.session():
        assert not module.weight.requires_grad
    assert module.weight.requires_grad


class Fickle:
    """Says in turn what it was told to say, whatever the input."""

    def __init__(self, *classes):
        self.classes, self.asked = classes, 0

    def __call__(self, x):
        said = self.classes[self.asked % len(self.classes)]
        self.asked += 1
        return np.tile(np.eye(3)[said] * 5, (len(x), 1))


def test_the_scores_of_a_majority_are_shares_of_the_votes():
    fickle = Fickle(0, 2, 2, 1, 2)
    vote = MajorityVote(NumPyModel(fickle, Bounds(0, 9), name="mine"), votes=5)
    logits = vote.logits(as_tensor(np.zeros((2, 4)))).raw
    np.testing.assert_allclose(logits, np.tile([0.2, 0.2, 0.6], (2, 1)))
    assert fickle.asked == 5
    assert (vote.bounds, vote.name) == (Bounds(0, 9), "mine")


def test_a_majority_shows_no_more_than_scores():
    weights = np.eye(3)
    model = NumPyModel(lambda x: x @ weights, gradient=lambda x, s: s @ weights)
    vote = MajorityVote(model, votes=3)
    assert vote.access is Access.SCORE
    with pytest.raises(NoGradient):
        vote.linearise(as_tensor(np.zeros((1, 3))))
    labels = LabelModel(lambda x: [0] * len(x), classes=2)
    assert MajorityVote(labels, votes=3).access is Access.DECISION


def test_every_vote_is_billed_and_a_tie_is_not_yet_adversarial():
    x = as_tensor(np.zeros((2, 4)))
    fickle = Fickle(0, 1, 1, 0)
    model = MajorityVote(NumPyModel(fickle), votes=4)
    criterion = Misclassification(as_tensor(np.zeros(2, dtype=np.int64)))
    problem = Problem(model, x, criterion, get_norm("l2"))
    assert not problem.decide(x + 0.5).raw.any()
    fickle.classes = (1,)
    assert problem.decide(x + 0.5, as_tensor(np.array([True, False]))).raw[0]
    assert problem.ledger.forwards.tolist() == [8, 4]
    assert problem.ledger.decisions.tolist() == [8, 4]
    problem.probe(as_tensor(np.full((2, 3, 4), 0.25)))
    assert problem.ledger.forwards.tolist() == [20, 16]
    assert problem.ledger.distance_after(11)[0] == 1.0
    assert problem.ledger.distance_after(12)[0] == 0.5


def test_a_budget_of_passes_allows_fewer_questions_of_a_majority():
    rng = np.random.default_rng(0)

    def function(x):
        shaky = x + rng.normal(scale=0.01, size=x.shape)
        return np.stack([shaky.sum(axis=1) - 1, 0 * x[:, 0]], axis=1)

    x, y = np.full((3, 4), 0.5), np.zeros(3, dtype=np.int64)
    asked = []
    counted = NumPyModel(lambda x: asked.append(len(x)) or function(x))
    p = Problem(
        MajorityVote(counted, votes=7),
        as_tensor(x),
        Misclassification(as_tensor(y)),
        get_norm("l2"),
    )
    # Three passes are too few for one more question.
    ledger = run(Boundary(), p, budget=703)
    assert (ledger.forwards == 700).all()
    assert sum(asked) == 3 * 700
    # 0.5 without the noise.
    assert ledger.distance.raw == pytest.approx(0.5, abs=0.03)


def test_a_wrapped_majority_costs_as_much():
    vote = MajorityVote(MajorityVote(NumPyModel(flat), votes=3), votes=2)
    assert vote.passes_per_question == 6
    assert Preprocessed(vote, [0], [1]).passes_per_question == 6
    with pytest.raises(BadInput, match="votes must be at least 1"):
        MajorityVote(NumPyModel(flat), votes=0)
    with pytest.raises(BadInput, match=r"must be a whole number; got 2\.5"):
        MajorityVote(NumPyModel(flat), votes=2.5)


def test_the_fingerprint_of_a_majority_is_of_the_model_and_its_votes():
    module = torch.nn.Linear(3, 2).eval()
    prints = {MajorityVote(TorchModel(module), votes=k).fingerprint() for k in (1, 2)}
    assert len(prints | {TorchModel(module).fingerprint()}) == 3
    assert MajorityVote(NumPyModel(flat), votes=2).fingerprint() is None


class TestWithStrategy:
    def test_it_asks_as_it_likes_and_says_what_that_takes(self):
        inner = NumPyModel(flat, gradient=lambda x, s: s.reshape(x.shape))
        model = WithStrategy(
            inner, lambda ask, x: (ask(x) + ask(x + 1)) / 2, passes_per_question=2
        )
        out = model.logits(as_tensor(np.zeros((3, 2))))
        np.testing.assert_array_equal(out.numpy(), 0.5)
        assert (model.passes_per_question, model.access) == (2, Access.SCORE)
        outer = WithStrategy(model, lambda ask, x: ask(x), passes_per_question=3)
        assert outer.passes_per_question == 6

    def test_several_points_per_sample_come_as_one_batch(self):
        sizes = []

        def watching(ask, points):
            sizes.append(points.shape[0])
            return ask(points)

        model = WithStrategy(NumPyModel(flat), watching)
        x = as_tensor(np.full((3, 2), 0.5))
        labels = as_tensor(np.zeros(3, dtype=int))
        problem = Problem(model, x, Misclassification(labels), get_norm("l2"))
        problem.probe(as_tensor(np.full((3, 4, 2), 0.5)))
        assert sizes == [12]

    def test_what_a_strategy_does_cannot_be_seen(self):
        inner = TorchModel(torch.nn.Linear(2, 3).eval())
        assert inner.fingerprint() is not None
        assert WithStrategy(inner, lambda ask, x: -ask(x)).fingerprint() is None

    def test_less_than_one_pass_is_refused(self):
        with pytest.raises(BadInput, match="passes_per_question must be at least 1"):
            WithStrategy(NumPyModel(flat), lambda ask, x: x, passes_per_question=0)


def test_an_answer_that_is_no_number_is_no_vote():
    def sometimes(x):
        out = flat(x)
        out[1] = np.nan
        return out

    x = as_tensor(np.full((3, 2), 0.5))
    votes = MajorityVote(NumPyModel(sometimes), votes=3).logits(x).numpy()
    assert np.isnan(votes).all(axis=1).tolist() == [False, True, False]


def test_normalising_estimated_gradients_is_refused():
    with pytest.raises(BadInput, match=r"Estimated\(Preprocessed"):
        Preprocessed(Estimated(NumPyModel(flat), samples=4), [0.5], [0.2])


def test_what_verifies_a_fast_model_verifies_it_through_wrappers():
    fast = TorchModel(torch.nn.Linear(2, 2).eval(), autocast=torch.bfloat16)
    x = as_tensor(torch.linspace(0.05, 0.95, 10).reshape(5, 2))
    for wrapped in (
        WithStrategy(fast, lambda ask, points: ask(points), passes_per_question=2),
        Estimated(fast, samples=4),
    ):
        exact = wrapped.precise().logits(x).raw
        assert torch.equal(exact, fast.precise().logits(x).raw)
        assert not torch.equal(exact, wrapped.logits(x).raw)
    vote = MajorityVote(fast, votes=2)
    assert vote.precise() is not vote
    assert vote.precise().passes_per_question == 2
    plain = MajorityVote(fast.precise(), votes=2)
    assert plain.precise() is plain


@pytest.mark.parametrize(
    "strategy", [lambda ask, x: ask(x).raw, lambda ask, x: ask(x)[:1], lambda ask, x: 0]
)
def test_strategies_return_scores(strategy):
    model = WithStrategy(NumPyModel(lambda x: x), strategy)
    with pytest.raises(BadInput, match="a strategy must return scores"):
        model.logits(as_tensor(np.zeros((3, 2))))

"""Answers that change with earlier questions, told from chance."""

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.checks.finding import Severity
from robustkit.checks.memory import remembers

SAMPLES = 24


def asked(answer, between=20, classes=5, repeats=3, samples=SAMPLES):
    """What `answer(question, half, n, classes)` gives in the order of the probe."""
    count = iter(range(1000))

    def everyone():
        half = samples // 2
        return np.concatenate(
            [answer(next(count), part, half, classes) for part in (0, 1)]
        )

    first = everyone()
    early = np.stack([everyone() for _ in range(repeats)])
    for _ in range(between):
        next(count)
    return remembers(first, early, np.stack([everyone() for _ in range(repeats)]))


def fixed(part, n, classes):
    return np.random.default_rng(part).normal(size=(n, classes))


def chance(rng):
    """Models whose answers are random, in the ways that people make them."""

    def noise(k, part, n, classes):
        return fixed(part, n, classes) + 0.3 * rng.normal(size=(n, classes))

    def shared(k, part, n, classes):
        return fixed(part, n, classes) * (1 + 0.3 * rng.normal())

    def one_of_two(k, part, n, classes):
        return fixed(part + 2 * int(rng.random() < 0.5), n, classes)

    def seldom(k, part, n, classes):
        return fixed(part + 2 * int(rng.random() < 0.05), n, classes)

    def dropped(k, part, n, classes):
        return fixed(part, n, classes) * (rng.random((n, classes)) < 0.7)

    def hardly(k, part, n, classes):
        return fixed(part, n, classes) + 1e-6 * rng.normal(size=(n, classes))

    return {f.__name__: f for f in (noise, shared, one_of_two, seldom, dropped, hardly)}


@pytest.mark.parametrize("kind", chance(None))
@pytest.mark.parametrize("classes", [2, 10])
def test_chance_is_no_memory(kind, classes):
    rng = np.random.default_rng(7)
    alarms = sum(asked(chance(rng)[kind], classes=classes).found for _ in range(400))
    # By chance two questions of two kinds agree with what a memory would do.
    assert alarms <= (8 if kind == "seldom" else 2)


def test_rare_answers_are_no_memory_of_few_samples_either():
    """One in seven: the share at which chance looks like a memory most often."""
    rng = np.random.default_rng(11)

    def one_in_seven(k, part, n, classes):
        other = rng.random((n, 1)) < 1 / 7
        return np.where(other, fixed(part + 2, n, classes), fixed(part, n, classes))

    for samples in (4, 8, 16, 24):
        alarms = sum(asked(one_in_seven, samples=samples).found for _ in range(200))
        assert alarms <= 8, samples


def test_what_never_changes_is_no_memory():
    found = asked(lambda k, part, n, classes: fixed(part, n, classes))
    assert not found.found
    assert not found.flipped.any()
    assert (found.change == 0).all()


def test_a_first_answer_unlike_all_later_ones():
    def answer(k, part, n, classes):
        return fixed(part, n, classes) * (k < 2)

    found = asked(answer)
    assert found.found
    assert found.once.all()
    np.testing.assert_allclose(found.change, 1)


def test_answers_that_end_after_many_questions():
    def answer(k, part, n, classes):
        return fixed(part, n, classes) * (k < 20) + 1e-5 * k

    found = asked(answer)
    assert found.found
    assert found.drifted.all()
    assert not found.once.any()


def test_a_memory_in_front_of_chance():
    rng = np.random.default_rng(3)

    def answer(k, part, n, classes):
        noise = 0.01 * rng.normal(size=(n, classes))
        return fixed(part, n, classes) * (k < 20) + noise

    assert asked(answer).found


def test_one_sample_tells_nothing():
    one = np.ones((1, 3))
    assert not remembers(one, 0 * one[None], 0 * one[None]).found


class Refusing(torch.nn.Module):
    """Gives near copies of earlier questions the same score for all classes.

    Args:
        network: That answers.
        patience: So many near copies are answered.
        reach: How near copies are (L2).
    """

    def __init__(self, network, patience, reach=0.5):
        super().__init__()
        self.network, self.patience, self.reach = network, patience, reach
        self.seen = torch.zeros(0, 64)

    def forward(self, x):
        flat = x.detach().flatten(1)
        near = (torch.cdist(flat, self.seen) < self.reach).sum(dim=1)
        self.seen = torch.cat([self.seen, flat])
        return self.network(x) * (near <= self.patience).unsqueeze(1)


class Drifting(torch.nn.Module):
    """Adapts to what it sees, a little with each question."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.mean = torch.zeros(1, 1, 8, 8)

    def forward(self, x):
        self.mean = 0.95 * self.mean + 0.05 * x.detach().mean(dim=0, keepdim=True)
        return self.network(x - self.mean)


def findings(model, digits, **settings):
    _, x, y = digits
    found = rk.check(model.eval(), (x, y), samples=len(x), trials=0, **settings)
    return {f.id: f for f in found.findings}


@pytest.mark.parametrize("patience", [0, 10])
def test_a_detector_of_near_copies_is_named_and_nothing_else_is(digits, patience):
    found = findings(Refusing(digits[0], patience), digits)
    assert found.keys() == {"R1"}
    assert found["R1"].severity is Severity.INVALIDATES
    assert "remembers what it was asked" in found["R1"].diagnosis
    assert "without its memory" in found["R1"].remedy
    assert len(found["R1"].samples) > 40
    told = "the first answer" if patience == 0 else "many questions about near copies"
    assert told in found["R1"].diagnosis


def test_it_is_named_beside_a_run_whose_adversarials_are_near_copies(digits):
    network, x, y = digits
    results = rk.evaluate(network, (x, y), attacks=["fmn"], norm="l2", budget=40)
    assert np.median(results.distance) < 1.5
    found = findings(Refusing(network, 0, reach=1.5), digits, run=results)
    assert "remembers what it was asked" in found["R1"].diagnosis


def test_a_model_that_adapts_is_named(digits):
    found = findings(Drifting(digits[0]), digits)
    assert "remembers what it was asked" in found["R1"].diagnosis


@pytest.mark.parametrize(
    "change",
    [
        lambda n, x: n(x),
        lambda n, x: n(torch.nn.functional.dropout(x, 0.3)),
        lambda n, x: n(x) + 0.1 * torch.randn(1),
        lambda n, x: n(x + 0.2 * torch.randn_like(x[:1])),
        lambda n, x: n(x - x.mean(dim=0)),
    ],
    ids=["sound", "dropout", "one draw for all", "noise", "batch statistics"],
)
def test_no_other_model_is_called_one_that_remembers(digits, wrapped, change):
    for seed in range(5):
        found = findings(wrapped(change), digits, seed=seed)
        assert "R1" not in found or "remembers" not in found["R1"].diagnosis


def test_remedies_do_not_ask_a_memory_again_and_again(digits):
    _, x, y = digits
    model = Refusing(digits[0], 15).eval()
    said = []
    results = rk.evaluate(model, (x, y), attacks=["fgsm"], samples=12)
    model.seen = model.seen[:0]
    found = rk.adapt(
        results, model, (x[:12], y[:12]), budget=20, remedies=[], progress=said.append
    )
    assert any("attack it without its memory" in words for words in said)
    assert found.draws == 1

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.attacks.score import thompson
from robustkit.attacks.score.square import Square
from robustkit.attacks.score.thompson import Thompson
from robustkit.engine.loop import run
from robustkit.errors import BadInput
from robustkit.numerics.tensors import as_tensor, take

NORMS = ("l1", "l2", "linf")
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 9, 7), (12,), (1, 1)])
def test_every_question_lies_in_ball_and_box(watched, norm, shape):
    images, epsilon = watched(shape), 1.1
    images.offset = -1e9
    ledger = run(Thompson(epsilon, steps=40, guesses=20), images.problem(norm))
    assert (ledger.forwards == 40).all()
    assert (ledger.backwards == 0).all()
    for point in images.asked:
        assert ((point >= -1) & (point <= 3)).all()
        delta = (point - images.x).reshape(len(point), -1)
        size = np.linalg.norm(delta, ord=ORDER[norm], axis=1)
        assert (size <= epsilon * (1 + 1e-9)).all()


def test_features_are_what_slopes_meet_perturbations_with(watched):
    images = watched((3, 12, 10))
    problem = images.problem("linf")
    space, slopes = thompson._space(problem.x), thompson._expected(problem)
    rng = np.random.default_rng(0)
    delta = as_tensor(rng.normal(size=images.x.shape))
    drawn = rng.normal(size=(len(images.x), space.size + slopes.ways.shape[1]))
    slope = thompson._images(space, slopes, as_tensor(drawn)).numpy()
    meets = (thompson._features(space, slopes, delta) * drawn).sum(axis=1)
    inner = (slope * delta.numpy()).reshape(len(drawn), -1).sum(axis=1)
    assert np.allclose(meets, inner)


def test_slopes_drawn_agree_with_the_answers_and_differ_where_these_say_nothing():
    rng = np.random.default_rng(0)
    true, original = rng.normal(size=30), 5.0
    features = rng.normal(size=(1, 10, 30))
    margins = features @ true + original
    count = np.array([8])
    drawn = [rng.normal(size=(1, 30)) for _ in range(200)]
    slopes = np.stack(
        [thompson._sampled(features, margins, count, one)[0] for one in drawn]
    )
    # Differences of answers, since the original's margin is not known either.
    told = (features[0, 1:8] - features[0, 0]) @ slopes.T
    answers = margins[0, 1:8] - margins[0, 0]
    assert np.abs(told - answers[:, None]).mean() < 0.1 * np.abs(answers).mean()
    free = np.linalg.svd(features[0, :8])[2][8:]
    spread = (free @ slopes.T).std(axis=1)
    assert (spread > 0.3).all()
    # What has not been asked yet is not known.
    features[0, 8:], margins[0, 8:] = 1e6, -1e6
    again = thompson._sampled(features, margins, count, drawn[0])
    assert np.array_equal(again[0], slopes[0])


def test_answers_that_are_no_numbers_teach_nothing(watched):
    features, margins = np.ones((2, 3, 4)), np.array([[np.inf] * 3, [1.0, np.inf, 2.0]])
    drawn = np.random.default_rng(0).normal(size=(2, 4))
    slopes = thompson._sampled(features, margins, np.array([2, 3]), drawn)
    assert np.isfinite(slopes).all()
    assert np.array_equal(slopes[0], drawn[0])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_needs_fewer_questions_than_squares_on_a_smooth_linear_model(watched, norm):
    needed = {Thompson: [], Square: []}
    for seed in range(4):
        images = watched((1, 16, 16), samples=8, seed=seed)
        rows, columns = np.mgrid[:16, :16] * np.pi / 16
        rng = np.random.default_rng(seed)
        images.w = sum(
            rng.normal() * np.cos(i * rows) * np.cos(j * columns)
            for i in range(4)
            for j in range(4)
        )[None]
        flat = np.abs(images.w).sum() if norm == "linf" else np.linalg.norm(images.w)
        margins = (images.x * images.w).reshape(8, -1).sum(axis=1)
        # Adversarials fill a corner of the ball.
        images.offset = margins.min() - 0.6 * flat * 0.2
        images.x = images.x[margins == margins.min()]
        images.y = images.y[:1]
        for kind in needed:
            problem = images.problem(norm, seed=seed)
            ledger = run(kind(0.2, steps=300), problem)
            needed[kind].append(int(ledger.forwards[0]))
    assert np.median(needed[Thompson]) < 0.5 * np.median(needed[Square])


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_does_not_depend_on_its_company(watched, norm):
    images = watched((2, 9, 7), samples=5)
    images.offset = -1e9
    attack = Thompson(1.0, steps=30, guesses=15)

    def asked(rows):
        images.asked = []
        run(attack, images.problem(norm, rows))
        return np.stack(images.asked, axis=1)

    together = asked(slice(None))
    assert np.array_equal(together[3:4], asked(slice(3, 4)))
    assert np.array_equal(together[[4, 1]], asked([4, 1]))


def test_goes_on_by_squares_from_an_adversarial_that_is_known(watched):
    images = watched((2, 9, 7))
    problem = images.problem("linf")
    far = problem.x - 2.0 * as_tensor(np.sign(images.w))
    assert bool(problem.score(far).adversarial.all())
    attack = Thompson(0.5, steps=10)
    state = attack.init(problem)
    assert (state.asked.numpy() == attack.guesses).all()
    expected = np.clip(problem.ledger.best.numpy() - images.x, -0.5, 0.5)
    assert np.allclose(state.best.proposal.numpy(), expected)


def test_state_can_be_taken_apart(watched):
    images = watched((2, 9, 7))
    state = Thompson(1.0).init(images.problem("l2"))
    part = take(state, np.array([2, 0]))
    assert part.slopes.ways.shape[0] == part.features.shape[0] == 2


def test_bad_settings(watched):
    with pytest.raises(BadInput, match="at least 1 guess; got 0"):
        run(Thompson(1.0, guesses=0), watched().problem("l2"))
    with pytest.raises(BadInput, match="share above 0"):
        run(Thompson(1.0, share=0), watched().problem("l2"))


def test_breaks_a_network_in_half_the_questions_that_squares_take(shared):
    module = shared.torch_model("cifar_cnn_a_adv").requires_grad_(False)
    x, y = map(torch.tensor, shared.images("cifar10"))
    right = (module(x).argmax(dim=1) == y).nonzero()[-40:, 0]
    broken = {}
    for kind, questions in ((Thompson, 20), (Square, 40)):
        result = rk.run(
            kind(8 / 255, steps=1000).within(questions),
            module,
            x[right],
            y[right],
            norm="linf",
        )
        broken[kind] = int(result.found.sum())
    assert broken[Thompson] >= broken[Square]

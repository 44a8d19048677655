import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.attacks.score import thompson
from robustkit.attacks.score.sparse_rs import SparseRS
from robustkit.attacks.score.square import Square
from robustkit.attacks.score.thompson import Thompson
from robustkit.combine import Minimise
from robustkit.engine.loop import run
from robustkit.errors import BadInput
from robustkit.numerics.tensors import as_tensor, full, take

NORMS = ("l0", "l0-pixels", "l1", "l2", "linf")
ORDER = {"l0": 0, "l1": 1, "l2": 2, "linf": np.inf}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 9, 7), (12,), (1, 1)])
def test_every_question_lies_in_ball_and_box(watched, norm, shape):
    if norm == "l0-pixels" and len(shape) < 3:
        pytest.skip("no pixels")
    images, epsilon = watched(shape), 1.1
    images.offset = -1e9
    ledger = run(Thompson(epsilon, steps=40, guesses=20), images.problem(norm))
    assert (ledger.forwards == 40).all()
    assert (ledger.backwards == 0).all()
    for point in images.asked:
        assert ((point >= -1) & (point <= 3)).all()
        delta = point - images.x
        if norm == "l0-pixels":
            delta = delta.any(axis=1).astype(float)
        order = ORDER[norm.partition("-")[0]]
        size = np.linalg.norm(delta.reshape(len(delta), -1), ord=order, axis=1)
        assert (size <= epsilon * (1 + 1e-9)).all()


@pytest.mark.parametrize("norm", ["l0", "l0-pixels"])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_the_edge_is_the_best_change_of_so_many_units(watched, norm, count):
    problem = watched((2, 3, 4)).problem(norm)
    way = np.random.default_rng(0).normal(size=problem.x.shape)
    epsilon = full(problem.x, float(count))
    edge = thompson._to_edge(problem, as_tensor(way), epsilon).numpy()
    gain = np.maximum(way * problem.low.numpy(), way * problem.high.numpy())
    gain = gain.sum(axis=1) if norm == "l0-pixels" else gain
    best = np.sort(gain.reshape(len(way), -1), axis=1)[:, -count:].sum(axis=1)
    assert np.allclose((edge * way).reshape(len(way), -1).sum(axis=1), best)


def test_guesses_stand_alone_and_then_take_turns_with_changes(watched):
    images = watched((2, 9, 7))
    images.offset = -1e9
    problem, attack = images.problem("linf"), Thompson(1.0, guesses=5, alone=3)
    states = [attack.init(problem)]
    for t in range(29):
        states.append(attack.step(problem, states[-1], t))
    asked = np.stack([state.asked.numpy() for state in states], axis=1)
    questions = np.stack([images.margin(point) for point in images.asked], axis=1)
    for row, guessed in enumerate(np.diff(asked).astype(bool)):
        places = np.flatnonzero(guessed)
        assert places[:3].tolist() == [0, 1, 2]
        assert (np.diff(places[2:]) > 1).all()
        # The answers are those to the questions asked then, and no others.
        noted = states[-1].told.margins[row, : len(places)]
        assert np.allclose(noted, questions[row, places])
    assert asked.max() == 5


@pytest.mark.parametrize("norm", ["l0", "linf"])
def test_a_search_over_the_radius_forgets_no_answer(watched, norm):
    images = watched((1, 8, 8))
    # So far away that some balls hold adversarials and smaller ones do not.
    least = images.margin(np.where(images.w > 0, -1.0, 3.0)).max()
    images.offset += least / 2
    attack = Minimise(Thompson(1.0, steps=20), steps=60)
    problem = images.problem(norm)
    state = attack.init(problem)
    radii, asked = [state.epsilon.numpy()], [state.inner.asked.numpy()]
    for t in range(60):
        state = attack.step(problem, state, t)
        radii.append(state.epsilon.numpy())
        asked.append(state.inner.asked.numpy())
    assert (np.diff(np.stack(radii), axis=0) != 0).any(axis=0).all()
    questions = np.stack([images.margin(point) for point in images.asked], axis=1)
    for row, guessed in enumerate(np.diff(np.stack(asked, axis=1)).astype(bool)):
        noted = state.inner.told.margins[row, : guessed.sum()]
        assert guessed.sum() > 20
        assert np.allclose(noted, questions[row, guessed])


@pytest.mark.parametrize("reachable", [True, False])
def test_changes_go_on_as_small_as_they_were_from_what_was_found(
    watched, monkeypatch, reachable
):
    images = watched((1, 8, 8))
    least = images.margin(np.where(images.w > 0, -1.0, 3.0)).max()
    images.offset += least / 20 if reachable else -1e9
    counts, propose = [], Square.propose

    def noted(self, p, delta, epsilon, progress, rng):
        counts.append(progress.numpy() * self.steps)
        return propose(self, p, delta, epsilon, progress, rng)

    monkeypatch.setattr(Square, "propose", noted)
    problem = images.problem("l2")
    attack = Minimise(Thompson(1.0, steps=20), steps=60)
    state, radii = attack.init(problem), []
    for t in range(60):
        state = attack.step(problem, state, t)
        radii.append(state.epsilon.numpy())
    counts, changed = np.stack(counts), np.diff(np.stack(radii), axis=0) != 0
    assert changed.any(axis=0).all()
    if reachable:
        # Nobody begins anew once something was found, though balls change.
        assert problem.ledger.found.numpy().all()
        assert (np.diff(counts[-15:], axis=0) == 1).all()
        assert changed[-15:].any()
    else:
        assert (np.diff(counts, axis=0) < 0).any(axis=0).all()


@pytest.mark.parametrize("paying", [0, 1, None])
def test_questions_are_of_the_kind_that_pays(watched, paying):
    images, level = watched((1, 8, 8)), [0.0]
    images.margin = lambda x: np.full(len(x), 1e9 + level[0])
    problem, attack = images.problem("linf"), Thompson(1.0)
    state, kinds = attack.init(problem), []
    for t in range(40):
        kinds.append(int(state.turn.numpy()[0]))
        level[0] -= kinds[-1] == paying
        state = attack.step(problem, state, t)
    if paying == 0:
        assert kinds == [0] * 40
    elif paying == 1:
        # The first question of all tells of nothing.
        assert kinds == [0] * 13 + [1] * 27
    else:
        # One in twelve questions.
        assert kinds == [0] * 13 + ([1] + [0] * 11) * 2 + [1, 0, 0]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_large_images_begin_as_in_square(watched, norm):
    for side, alike in ((64, True), (32, False)):
        problem = watched((1, side, 64)).problem(norm)
        ours, theirs = (attack.init(problem) for attack in (Thompson(0.5), Square(0.5)))
        first = ours.best.proposal.numpy()
        assert np.array_equal(first, theirs.delta.numpy()) == alike
        # What was no guess is noted as none.
        ours = Thompson(0.5).step(problem, ours, 0)
        assert (ours.asked.numpy() == (not alike)).all()


@pytest.mark.parametrize("shape", [(64,), (1, 64), (2, 64), (64, 64)])
def test_long_signals_are_no_large_images(watched, shape):
    problem = watched(shape, samples=3).problem("linf")
    state = Thompson(0.5).step(problem, Thompson(0.5).init(problem), 0)
    assert (state.asked.numpy() == 1).all()


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


def test_begins_at_an_adversarial_that_is_known_and_guesses_all_the_same(watched):
    images = watched((2, 9, 7))
    problem = images.problem("linf")
    far = problem.x - 2.0 * as_tensor(np.sign(images.w))
    assert bool(problem.score(far).adversarial.all())
    attack = Thompson(0.5, steps=10)
    state = attack.init(problem)
    assert (state.asked.numpy() == 0).all()
    expected = np.clip(problem.ledger.best.numpy() - images.x, -0.5, 0.5)
    assert np.allclose(state.best.proposal.numpy(), expected)


def test_state_can_be_taken_apart(watched):
    images = watched((2, 9, 7))
    state = Thompson(1.0).init(images.problem("l2"))
    part = take(state, np.array([2, 0]))
    assert part.slopes.ways.shape[0] == part.told.features.shape[0] == 2


def test_bad_settings(watched):
    with pytest.raises(BadInput, match="its guesses to be above 0; got 0"):
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


def test_needs_a_third_of_the_features_that_exchanges_alone_leave(shared):
    module = shared.torch_model("mnist_conv_small_nat").requires_grad_(False)
    x, y = map(torch.tensor, shared.images("mnist"))
    right = (module(x).argmax(dim=1) == y).nonzero()[-24:, 0]
    left = {}
    for kind in (Thompson, SparseRS):
        attack = Minimise(kind(1.0, steps=1000), steps=5000).within(100)
        result = rk.run(attack, module, x[right], y[right], norm="l0", budget=100)
        left[kind] = np.median(result.distance)
    assert left[Thompson] < left[SparseRS] / 3


@pytest.mark.parametrize("norm", NORMS)
def test_rounded_scores_lead_to_no_question_about_the_originals(watched, norm):
    images = watched((2, 6, 5))
    smooth = images.margin
    images.margin = lambda x: 1.0 + 0 * smooth(x)
    run(Thompson(1.0, steps=40), images.problem(norm))
    for point in images.asked:
        assert (point != images.x).reshape(len(point), -1).any(axis=1).all()


def test_huge_logits_in_single_precision_are_as_good_as_others(watched):
    def found(scale):
        images = watched((1, 6, 5))
        margin = images.margin
        images.margin = lambda x: margin(x.astype(np.float64)) * scale
        return run(Thompson(1.0, steps=40), images.problem("l2", dtype=np.float32))

    usual, huge = found(1.0), found(1e30)
    assert np.allclose(usual.distance.numpy(), huge.distance.numpy(), rtol=1e-3)

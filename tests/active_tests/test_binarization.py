import copy
import dataclasses

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.active_tests.binarization import binarize
from robustkit.active_tests.build import Builder
from robustkit.active_tests.draws import Ball
from robustkit.active_tests.readouts import Fit
from robustkit.active_tests.verdict import Verdict
from robustkit.models.base import Access
from robustkit.models.estimated import Estimated
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.norms import Linf
from robustkit.numerics.tensors import as_tensor, take, to_numpy

SMALL = {"points": 300, "tries": 60}
RADII = {"linf": 0.1, "l2": 0.3, "l1": 0.6, "l0": 2.0}


def pgd(epsilon=0.1, steps=30, entropy=False):
    """Written as its users would, for the margin of two classes."""

    def attack(model, x, y):
        z = x.clone()
        for step in range(steps):
            z = z.detach().requires_grad_()
            logits = model(z)
            if entropy:
                loss = -torch.nn.functional.cross_entropy(logits, y)
            else:
                loss = (logits[:, 0] - logits[:, 1]).sum()
            (gradient,) = torch.autograd.grad(loss, z)
            z = z.detach() - 2 * epsilon * (1 - step / steps) * gradient.sign()
            z = (x + (z - x).clamp(-epsilon, epsilon)).clamp(0, 1)
        return z

    return attack


@pytest.fixture(scope="module", params=["standard", "hard", "logistic"])
def built(request, network, inputs):
    return binarize(
        network, inputs, epsilon=0.1, mode=request.param, features="bend", **SMALL
    )


def test_witnesses_are_adversarial_in_ball_and_box_and_originals_are_not(built):
    assert len(built.rows) >= 90
    every, x = np.arange(len(built.rows)), built.x[built.rows]
    assert built.adversarial(built.witness, every).all()
    assert not built.adversarial(x, every).any()
    assert np.abs(built.witness.astype(float) - x).max() <= 0.1
    assert built.witness.min() >= 0
    assert built.witness.max() <= 1
    holds, distance, flaws = built.verify(built.witness)
    assert holds.all()
    assert (distance > 0).all()
    assert not any(flaws)


def test_the_witnesses_themselves_are_an_attack_that_succeeds(built):
    result = built.test(lambda model, x, y: torch.tensor(built.witness))
    assert result.success[result.covered].all()
    assert result.covered.sum() == len(built.rows)


def test_doing_nothing_fails(built):
    result = built.test(lambda model, x, y: x)
    assert result.verdict is Verdict.FAIL
    assert result.success_rate.estimate == 0
    assert "nothing found" in result.reasons


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("mode", ["standard", "hard"])
def test_a_good_attack_on_a_plain_model_passes(network, inputs, norm, mode):
    result = rk.active_test(
        network, inputs, "auto", epsilon=RADII[norm], norm=norm, mode=mode,
        budget=300 if norm == "l0" else 60, **SMALL,
    )  # fmt: skip
    assert result.verdict is Verdict.PASS, result.rule
    assert (result.distance[result.success] <= RADII[norm] * 1.0001).all()


def test_masking_by_the_scale_of_logits_is_carried_over(network, masked, inputs):
    scaled = masked(network, after=lambda z: 1e4 * z)
    test = binarize(scaled, inputs, epsilon=0.1, features="net.bend", **SMALL)
    entropy = dataclasses.replace(rk.PGD(0.1), loss="cross-entropy")
    assert test.test(entropy).verdict is Verdict.FAIL
    assert test.test(rk.PGD(0.1)).verdict is Verdict.PASS
    assert test.test(pgd(entropy=True)).verdict is Verdict.FAIL
    assert test.test(pgd()).verdict is Verdict.PASS


def test_masking_in_the_features_fails_a_gradient_attack_only(network, masked, inputs):
    coarse = masked(network, before=lambda x: x + ((16 * x).round() / 16 - x) * 1.0)
    test = binarize(coarse, inputs, epsilon=0.2, **SMALL)
    assert test.test(rk.PGD(0.2)).verdict is Verdict.FAIL
    assert test.test(rk.Square(0.2, steps=600)).verdict is Verdict.PASS


def test_more_hangs_on_the_attack_in_the_hard_mode(network, inputs):
    one_step = dataclasses.replace(rk.PGD(0.6), steps=1, stop=False)
    settings = {"epsilon": 0.6, **SMALL}
    easy = rk.active_test(network, inputs, one_step, **settings)
    hard = rk.active_test(network, inputs, one_step, mode="hard", **settings)
    assert hard.success_rate.estimate < easy.success_rate.estimate
    assert hard.random_rate.estimate <= easy.random_rate.estimate


@pytest.mark.parametrize("kind", ["standard", "hard"])
def test_a_sample_has_the_same_readout_and_result_in_any_company(network, inputs, kind):
    attack = rk.PGD(0.1)
    whole = binarize(network, inputs[:20], epsilon=0.1, mode=kind, **SMALL)
    order = np.array([7, 3, 11, 0])
    some = binarize(network, inputs[order], epsilon=0.1, mode=kind, **SMALL)
    one, other = whole.test(attack), some.test(attack)
    assert (one.covered[order] == other.covered).all()
    assert (one.success[order] == other.success).all()
    assert np.allclose(one.distance[order], other.distance, atol=1e-5)
    assert np.allclose(one.witness[order], other.witness, atol=1e-5)


def test_readouts_follow_samples_that_leave_the_batch(network, inputs):
    """Attacks that drop samples see, of each, the readout that is its own."""
    test = binarize(network, inputs[:30], epsilon=0.1, **SMALL)
    problem = test.problem()
    kept = np.arange(30) % 3 == 0
    whole = test.problem().score(problem.x).margin
    problem.drop(~kept)
    a = problem.gradient(problem.x)
    assert np.allclose(to_numpy(a.margin), to_numpy(whole)[kept], atol=1e-5)
    rows = np.array([4, 1])
    logits, back = problem.linearise(take(problem.x, rows), rows)
    margin = to_numpy(logits)[:, 0] - to_numpy(logits)[:, 1]
    assert np.allclose(margin, to_numpy(whole)[kept][rows], atol=1e-5)
    slopes = np.zeros(logits.shape, np.float32)
    slopes[:, 0], slopes[:, 1] = 1, -1
    gradient = to_numpy(back(as_tensor(torch.tensor(slopes))))
    assert np.allclose(gradient, to_numpy(a.gradient)[rows], atol=1e-5)


def test_functions_that_ask_about_other_rows_are_called_sample_by_sample(
    network, inputs
):
    calls = []

    def restarts(model, x, y):
        calls.append(len(x))
        both = torch.cat([x, x])
        found = pgd()(model, both, torch.cat([y, y]))
        return found[: len(x)]

    test = binarize(network, inputs[:20], epsilon=0.1, **SMALL)
    at_once = test.test(pgd())
    assert (test.test(restarts).success == at_once.success).all()
    assert calls == [len(test.rows)] + [1] * len(test.rows)


def test_what_an_attack_returns_is_not_trusted(network, inputs):
    test = binarize(network, inputs, epsilon=0.1, **SMALL)
    lies = {
        "farther than epsilon": lambda m, x, y: pgd(0.3)(m, x, y),
        "leaves the bounds": lambda m, x, y: x - 0.1,
        "not finite": lambda m, x, y: x * np.nan,
        "shape": lambda m, x, y: x[:, :3],
    }
    for flaw, attack in lies.items():
        result = test.test(attack)
        assert result.verdict is Verdict.FAIL
        assert any(flaw in reason for reason in result.reasons)


def test_plain_functions_draw_the_same_numbers_again(network, inputs):
    def noise(model, x, y):
        return (x + 0.1 * torch.randn_like(x).sign()).clamp(0, 1)

    test = binarize(network, inputs[:10], epsilon=0.1, **SMALL)
    state = torch.random.get_rng_state()
    one, other = test.test(noise), test.test(noise)
    assert (one.distance == other.distance).all()
    assert (state == torch.random.get_rng_state()).all()


def test_attacks_that_see_decisions_only_work_on_black_boxes(network, inputs):
    def black_box(x):
        with torch.no_grad():
            return network(torch.from_numpy(x)).numpy()

    attack = rk.Boundary(steps=800)
    assert attack.access is Access.DECISION
    result = rk.active_test(
        black_box, inputs, attack, epsilon=0.3, norm="l2", closeness=0.3,
        points=60, tries=3,
    )  # fmt: skip
    assert result.success_rate.estimate > 0.85
    with pytest.raises(rk.BadInput, match="gradient access"):
        rk.active_test(black_box, inputs, "pgd", epsilon=0.1, samples=3, **SMALL)


def test_jax_models(inputs):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    weights = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)

    def one_step(model, x, y):
        slope = jax.grad(lambda z: (model(z)[:, 0] - model(z)[:, 1]).sum())(x)
        return (x - 0.1 * jnp.sign(slope)).clip(0, 1)

    test = binarize(
        lambda x: jnp.tanh(x @ weights), inputs[:8], epsilon=0.1, points=40, tries=10
    )
    for attack in (one_step, rk.PGD(0.1, steps=10, stop=False)):
        assert test.test(attack).success_rate.estimate > 0.8
    assert test.test(lambda model, x, y: x).verdict is Verdict.FAIL


def test_other_bounds_and_double_precision(network, masked, inputs):
    double = masked(copy.deepcopy(network), before=lambda x: (x + 3) / 8).double()
    shifted = inputs.astype(np.float64) * 8 - 3
    result = rk.active_test(
        double, shifted, rk.PGD(0.8), epsilon=0.8, bounds=(-3, 5), **SMALL
    )
    assert result.verdict is Verdict.PASS
    assert result.witness.dtype == np.float64
    assert np.isclose(np.abs(result.witness - shifted).max(), 0.8, rtol=1e-3)


def test_every_loss_and_number_of_targets_can_be_tested(network, inputs):
    test = binarize(network, inputs, epsilon=0.1, features="bend", **SMALL)
    for loss, targets in (("dlr", 0), ("dlr", 3), ("cross-entropy", 0), ("margin", 3)):
        attack = rk.APGD(0.1, steps=60, loss=loss, targets=targets)
        assert test.test(attack).verdict is Verdict.PASS, (loss, targets)


def test_attacks_of_foolbox_by_name_and_as_functions(network, inputs):
    foolbox = pytest.importorskip("foolbox")
    guest = foolbox.attacks.LinfPGD()

    def attack(model, x, y):
        asked = foolbox.PyTorchModel(model, bounds=(0, 1))
        return guest(asked, x, y, epsilons=0.1)[1]

    test = binarize(network, inputs[:30], epsilon=0.1, closeness=0.5, **SMALL)
    assert test.test(attack).success_rate.estimate > 0.9
    found = test.test("foolbox:LinfFastGradientAttack")
    assert found.success_rate.estimate > 0.5


def norm_detector(x):
    """Detects what is bright."""
    return x.reshape(len(x), -1).mean(1) - 0.5


def test_an_attack_that_ignores_the_detector_fails(network, inputs):
    settings = {"detector": norm_detector, "points": 60, "tries": 10, "closeness": 0.5}
    settings["epsilon"] = 0.15
    near = 0.5 - inputs.mean(axis=1)
    x = inputs[np.argsort(np.abs(near))]
    normal = binarize(network, x, **settings)
    inverted = binarize(network, x, inverted=True, **settings)
    joint, blind = rk.PGD(0.15, steps=100), pgd(0.15)
    for test, sign in ((normal, 1), (inverted, -1)):
        assert len(test.rows) >= 80
        assert (sign * (test.witness.mean(axis=1) - 0.5) < 0).all()
        assert test.test(joint).success_rate.estimate > 0.9
        assert test.test(blind).success_rate.estimate < 0.8
    assert inverted.settings["inverted"]


def test_the_inverted_test_covers_those_around_whom_something_can_be_detected(
    network, inputs
):
    """A linear detector, of which the most it says in a ball is known exactly."""
    weight = np.random.default_rng(3).normal(size=12).astype(np.float32)
    level, epsilon = 1.5, 0.15

    def detector(x):
        return x @ torch.tensor(weight) - level

    room = np.minimum(epsilon, np.where(weight > 0, 1 - inputs, inputs))
    highest = inputs @ weight - level + (np.abs(weight) * room).sum(axis=1)
    # The few between are near enough to the end of what a search reaches.
    can, cannot = highest > 0.01, highest < 0
    assert min(can.sum(), cannot.sum()) > 30
    # More features than logits, so that some readout tells any point from those around.
    settings = {"epsilon": epsilon, "detector": detector, "features": "bend", **SMALL}
    test = binarize(network, inputs, inverted=True, **settings)
    covered = np.isin(np.arange(len(inputs)), test.rows)
    assert covered[can].all()
    assert not covered[cannot].any()
    result = test.test(rk.PGD(epsilon))
    assert result.verdict is Verdict.INVALID
    assert "meets the detector's condition" in result.rule
    # Those around whom something can be detected are a test of their own.
    among = binarize(network, inputs[can], inverted=True, **settings)
    assert among.test(rk.PGD(epsilon, steps=100)).success_rate.estimate > 0.95
    assert among.test(pgd(epsilon)).success_rate.estimate < 0.8


def test_random_search_obeys_the_detector(network, inputs):
    settings = {"epsilon": 0.1, "samples": 40, **SMALL}
    alert = binarize(network, inputs, detector=lambda x: x[:, 0] * 0 - 1, **settings)
    free = binarize(network, inputs, **settings)
    assert (alert.random == free.random).all()
    deaf = binarize(network, inputs, detector=lambda x: x[:, 0] * 0 + 1, **settings)
    assert len(deaf.rows) == 0
    assert deaf.test(rk.PGD(0.1)).verdict is Verdict.INVALID


@pytest.mark.parametrize(("score", "lucky"), [(-1.0, True), (1.0, False)])
def test_what_random_search_finds_must_meet_the_detectors_condition(score, lucky):
    model = NumPyModel(lambda x: np.stack([x[:, 0], 0 * x[:, 0] + score], axis=1))
    builder = Builder(model, Linf(), 0.1, 1, "standard", 0.99, 10, 10, votes=1, seed=0)
    everywhere = Fit(
        direction=np.ones(1), last=-2.0, reached=-1.0, spread=0.0, closeness=0.5
    )
    ball = Ball(np.full(4, 0.5, np.float32), Linf(), 0.1, model.bounds)
    assert builder._lucky(ball, everywhere) is lucky


def test_random_models_are_voted_on(network, masked, inputs):
    noisy = masked(network, before=lambda x: x + 0.03 * torch.randn_like(x))
    test = binarize(
        noisy, inputs[:40], epsilon=0.2, mode="hard", votes=9, points=40, tries=20
    )
    assert len(test.rows) >= 36
    every = np.arange(len(test.rows))
    agreed = [test.adversarial(test.witness, every).mean() for _ in range(5)]
    assert min(agreed) > 0.9
    assert test.test(pgd(0.2)).success_rate.estimate > 0.8


@pytest.mark.parametrize("as_features", [False, True])
def test_inputs_at_which_the_model_raises_have_no_witness(network, inputs, as_features):
    marked = inputs.copy()
    marked[1:4].reshape(3, -1)[:, 0] = 0.875

    class Cautious(torch.nn.Module):
        def forward(self, x):
            if (x.flatten(1)[:, 0] == 0.875).any():
                raise ValueError("cannot be read")
            return network(x)

    model = Cautious().eval()
    given = {"features": model} if as_features else {}
    built = binarize(
        network if as_features else model, marked, epsilon=0.1, **given, **SMALL
    )
    flawed = [row for row, flaw in enumerate(built.flaws) if "not finite" in flaw]
    assert flawed == [1, 2, 3]
    result = built.test(rk.PGD(0.1))
    assert result.verdict is Verdict.PASS
    assert "where the model raised" in result.rule
    assert "ValueError: cannot be read" in result.rule


@pytest.mark.parametrize("by", ["model", "detector"])
def test_what_raises_is_said_with_a_detector_too(network, inputs, by):
    def cautious(x):
        if (x[:, 0] == 0.875).any():
            raise ValueError("cannot be read")
        return network(x)

    marked = inputs.copy()
    marked[1:4, 0] = 0.875
    built = binarize(
        cautious if by == "model" else network,
        marked,
        epsilon=0.1,
        detector=norm_detector if by == "model" else lambda x: cautious(x)[:, 0] - 9,
        **SMALL,
    )
    rule = built.test(rk.PGD(0.1)).rule
    assert "where the model raised, nothing is adversarial (ValueError: can" in rule


def test_a_fast_model_is_tested_by_the_gradients_it_was_attacked_by(network, inputs):
    fast = rk.TorchModel(network, autocast=torch.bfloat16)
    for model in (Estimated(fast, 10), Estimated(rk.TorchModel(network), 10)):
        built = binarize(model, inputs[:8], epsilon=0.1, **SMALL)
        cost = built.test(rk.PGD(0.1, steps=5)).cost
        assert cost["backward"] == 0
        assert cost["forward"] >= 11


def test_a_detector_changes_nothing_about_what_a_gradient_costs(network, inputs):
    model = Estimated(rk.TorchModel(network), 10)
    attack = rk.PGD(0.1, steps=5)
    for detector in (None, lambda x: x[:, 0] * 0 - 1):
        built = binarize(model, inputs[:8], epsilon=0.1, detector=detector, **SMALL)
        cost = built.test(attack).cost
        assert cost["backward"] == 0
        assert cost["forward"] >= 11


def test_a_model_that_never_changes_cannot_be_tested(inputs):
    result = rk.active_test(
        lambda x: np.ones((len(x), 3)), inputs, "boundary", epsilon=0.1, samples=5,
        **SMALL,
    )  # fmt: skip
    assert result.verdict is Verdict.INVALID
    assert result.coverage == 0
    assert all("stands apart" in reason for reason in result.reasons)


def test_a_model_of_one_output_is_refused(inputs):
    with pytest.raises(rk.BadInput, match=r"one number per input.*\(0, s\)"):
        rk.active_test(
            lambda x: x.sum(axis=1, keepdims=True), inputs[:3], "boundary",
            epsilon=0.1, **SMALL,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be more than 0; got 0"),
        ({"epsilon": "a"}, "epsilon must be a number; got 'a'"),
        ({"votes": 1.5}, "votes must be a whole number; got 1.5"),
        ({"samples": "3"}, "samples must be a whole number; got '3'"),
        ({"closeness": "a"}, "closeness must be a number; got 'a'"),
        ({"epsilon": 0.5, "norm": "l0"}, "at least 1"),
        ({"mode": "herd"}, "did you mean 'hard'"),
        ({"inverted": True}, "detector"),
        ({"votes": 0}, "votes must be at least 1"),
        ({"closeness": 1.0}, "between 0 and 1"),
        ({"seed": -1}, "seed"),
        ({"attack": rk.PGD(0.2)}, "same epsilon"),
        ({"attack": "standard"}, "stands for fmn"),
        ({"attack": "pdg"}, "did you mean"),
        ({"attack": 7}, "expected an attack"),
        ({"attack": pgd(), "budget": 5}, "plain function"),
        ({"norm": "l3"}, "unknown norm"),
        ({"x": np.ones((3, 12), np.float32) * 2}, "outside the bounds"),
        ({"mode": 3}, "unknown mode '3'; known: hard"),
        ({"mode": ["hard"]}, "unknown mode"),
        ({"attack": lambda model, x, y: None}, "expected the attack to return adv"),
        ({"attack": rk.PGD}, "one for each input; got a PGD"),
    ],
)
def test_bad_input(network, inputs, change, message):
    settings = {"x": inputs[:3], "attack": rk.PGD(0.1), "epsilon": 0.1} | change
    with pytest.raises(rk.BadInput, match=message):
        rk.active_test(network, **SMALL, **settings)

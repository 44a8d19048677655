from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit import demo
from robustkit.checks.finding import Severity
from robustkit.checks.fixed import Fixed
from robustkit.checks.trial_checks import check_trials
from robustkit.checks.trials import Trials, try_attack
from robustkit.errors import BadInput
from robustkit.models.torch import TorchModel
from robustkit.numerics.tensors import as_tensor


def trials(broken, at=2, **changes):
    """What came of 30 samples, of which so many are broken at each of four sizes."""
    first = np.asarray(broken)
    if first.ndim == 1:
        first = np.arange(30)[:, None] < first
    sound = {
        "index": 100 + np.arange(30),
        "attack": "PGD(steps=20)",
        "norm": "linf",
        "epsilons": np.array([0.1, 0.2, 0.4, 1.0]),
        "broken": first,
        "at": at,
        "doubled": first[:, at],
        "patient": first[:, at],
        "targeted": first[:, at],
        "targets": 3,
    }
    return Trials(**{**sound, **changes})


def found(t):
    return {f.id: f for f in check_trials(t)}


def some(count):
    return np.arange(30) < count


def test_a_sound_attack_has_nothing():
    assert found(trials([0, 5, 20, 30])) == {}
    assert found(trials([0, 0, 0, 30], at=2)) == {}


def test_success_that_falls_with_size():
    first = some(20)[:, None] & np.array([True, True, False, True])
    first[:, 3] = True
    finding = found(trials(first, at=1))["C1"]
    assert finding.severity is Severity.SUSPICIOUS
    assert finding.samples == tuple(range(100, 120))
    assert finding.evidence["success small"] == pytest.approx(2 / 3)
    assert finding.evidence["success large"] == 0
    # 20 to 0 by chance, one pair of six: 6 / 2^20.
    assert finding.evidence["chance"] == pytest.approx(6 * 0.5**20)
    few = first.copy()
    few[6:, 2] = few[6:, 1]
    assert "C1" not in found(trials(few))


@pytest.mark.parametrize(("gained", "named"), [(1, False), (8, True)])
def test_more_steps_that_help(gained, named):
    t = trials([0, 5, 15, 30], doubled=some(15 + gained))
    assert ("C4" in found(t)) is named
    if named:
        assert found(t)["C4"].samples == tuple(range(115, 123))
        assert 0.01 < found(t)["C4"].evidence["gain at least"] < gained / 30
        assert found(t)["C4"].diagnosis.endswith("it has not converged")
        t = replace(t, random=True)
        assert found(t)["C4"].diagnosis.endswith("fewer lucky draws of the model")


def test_an_attack_that_fails_whatever_it_is_let_do():
    t = trials([0, 5, 10, 12])
    finding = found(replace(t, several=False))["S4"]
    assert ", or the model answers the same everywhere" in finding.diagnosis
    assert finding.severity is Severity.SUSPICIOUS
    finding = found(t)["S4"]
    assert finding.severity is Severity.INVALIDATES
    assert finding.samples == tuple(range(112, 130))


def test_an_attack_that_fails_without_what_it_is_said_to_fail_for():
    assert found(trials([0, 5, 20, 30], fixed=some(30))) == {}
    assert found(trials([0, 5, 20, 30], fixed=some(20)))["C7"].samples[0] == 120
    bare = np.stack([some(28), some(30)], axis=1)
    assert found(trials([0, 5, 20, 30], undefended=bare)) == {}
    weak = found(trials([0, 5, 20, 30], undefended=bare & some(10)[:, None]))["C7"]
    assert weak.severity is Severity.INVALIDATES
    sturdy = np.stack([some(10), some(30)], axis=1)
    note = found(trials([0, 5, 20, 30], undefended=sturdy))["C7"]
    assert note.severity is Severity.NOTE


@pytest.mark.parametrize(("more", "named"), [(4, False), (10, True)])
def test_targets_that_help(more, named):
    t = trials([0, 5, 15, 30], targeted=some(15 + more))
    assert ("C8" in found(t)) is named


@dataclass(frozen=True)
class Lazy(rk.PGD):
    """Takes one step in ten, so that more steps do help."""

    def advance(self, p, s, progress, rng):
        later = super().advance(p, s, progress * 0, rng)
        delta = 0.04 * (later.point - s.point) + (s.point - p.x)
        return replace(later, point=p.bounds.clip(p.x + delta))


def tried(digits, model, attack=None, epsilon=8 / 255, **settings):
    _, x, y = digits
    return try_attack(
        TorchModel(model), x[:32], y[:32], epsilon, attack=attack, **settings
    )


def test_a_sound_network_and_attack(digits):
    t = tried(digits, digits[0])
    assert found(t) == {}
    assert t.broken[:, -1].all()
    assert (np.diff(t.broken.mean(axis=0)) >= 0).all()


def test_trials_take_as_many_passes_as_they_say(digits, wrapped):
    asked = []

    def flat(network, x):
        asked.append(len(x))
        return network((4 * x).round() / 4)

    _, x, y = digits
    tried = try_attack(TorchModel(wrapped(flat)), x[:16], y[:16], 8 / 255)
    assert not tried.broken.any()
    assert 280 <= sum(asked) / len(tried.index) <= 300


def test_an_attack_that_is_stopped_too_soon(digits):
    t = tried(digits, digits[0], Lazy(0.1, steps=15), epsilon=0.1)
    assert "C4" in found(t)
    sound = tried(digits, digits[0], rk.PGD(0.1, steps=40), epsilon=0.1)
    assert "C4" not in found(sound)


def test_a_model_that_knows_what_is_far_from_its_data(digits, wrapped):
    """It puts the nearest original in the place of what is farther than 0.22."""
    origin = torch.from_numpy(digits[1])

    def snapped(network, batch):
        gaps = (batch[:, None] - origin[None]).flatten(2).abs().amax(dim=2)
        near, place = gaps.min(dim=1)
        far = (near > 0.22).reshape(-1, 1, 1, 1)
        return network(torch.where(far, origin[place], batch))

    plain = demo.load_model("digits")
    model = wrapped(lambda _, x: snapped(plain, x))
    t = tried(digits, model, rk.PGD(0.1, steps=3), epsilon=0.1)
    assert t.epsilons.tolist() == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.4, 1.0])
    assert found(t)["C1"].evidence["success small"] > 0.5
    assert found(t)["C1"].evidence["success large"] < 0.2
    assert "C1" not in found(tried(digits, plain, rk.PGD(0.1, steps=3), epsilon=0.1))


def test_a_decoy_class_misleads_an_attack_without_targets(digits, wrapped):
    """It is always second, by the same margin, so that the margin has no slope."""

    def decoy(network, x):
        z = network(x)
        shadow = z.max(dim=1, keepdim=True).values - 0.01
        return torch.cat([z, shadow], dim=1)

    t = tried(digits, wrapped(decoy), epsilon=0.1)
    assert "C8" in found(t)
    assert (t.targeted & ~t.patient).mean() > 0.25


def test_randomness_held_still(digits, wrapped):
    model = TorchModel(wrapped(lambda n, x: n(x + 0.5 * torch.randn_like(x))))
    x = as_tensor(torch.from_numpy(digits[1][:4]))
    assert not np.array_equal(model.logits(x).numpy(), model.logits(x).numpy())
    before = torch.get_rng_state()
    still = Fixed(model)
    assert np.array_equal(still.logits(x).numpy(), still.logits(x).numpy())
    logits, pull_back = still.linearise(x)
    assert np.array_equal(logits.numpy(), still.logits(x).numpy())
    assert np.isfinite(pull_back(logits).numpy()).all()
    # What others draw is what they would have drawn.
    assert torch.equal(before, torch.get_rng_state())


def test_an_attack_that_fails_on_a_random_model_held_still(digits, wrapped):
    def hidden(network, x):
        return network((x + 0.3 * torch.randn_like(x)).detach() + 0 * x)

    t = tried(digits, wrapped(hidden), random=True)
    assert "C7" in found(t)
    open_ = tried(
        digits, wrapped(lambda n, x: n(x + 0.05 * torch.randn_like(x))), random=True
    )
    assert "C7" not in found(open_)


def test_a_generator_of_the_models_own_is_not_held_still(digits, wrapped):
    own = torch.Generator().manual_seed(0)

    def hidden(network, x):
        noise = 0.3 * torch.randn(x.shape, generator=own)
        return network((x + noise).detach() + 0 * x)

    t = tried(digits, wrapped(hidden), random=True)
    assert t.fixed is None
    assert "C7" not in found(t)


def test_an_attack_must_break_the_undefended_model(digits):
    network, x, y = digits
    data = (x, y)
    weak = rk.PGD(0.1, steps=1, stepsize=1e-3)
    found = rk.check(network, data, attack=weak, undefended=network).findings
    assert {"C7", "S4"} <= {f.id for f in found}
    # The plain attack does on a plain network.
    found = rk.check(network, data, undefended="digits", epsilon=0.1).findings
    assert "C7" not in {f.id for f in found}
    # Nor at a size beyond all others, which is then the only one.
    found = rk.check(network, data, undefended="digits", epsilon=9, trials=4).findings
    assert "C7" not in {f.id for f in found}


def test_what_cannot_be_tried(digits, plant):
    network, x, y = digits
    assert tried(digits, network, norm="l0") is None
    planted = plant(bounds=(0.0, 1.0), dtype=np.float32)
    blind = rk.NumPyModel(planted.logits)
    assert try_attack(blind, planted.x, planted.y, 0.1) is None
    assert try_attack(TorchModel(network), x, (y + 1) % 10, 0.1) is None
    with pytest.raises(BadInput, match="gives no gradients"):
        tried(digits, network, undefended=rk.NumPyModel(lambda z: z))


def test_an_attack_by_scores_is_tried_where_there_are_no_gradients(digits):
    network, x, y = digits

    def scores(x):
        with torch.no_grad():
            return network(torch.from_numpy(x)).numpy()

    settings = {"samples": 16, "trials": 4, "attack": rk.Square(0.1, steps=20)}
    found = rk.check(rk.NumPyModel(scores), (x, y), **settings)
    assert found.measured["trials"]["attack"].startswith("Square(")
    found = rk.check(network, (x, y), **settings | {"attack": rk.PGD(0.1)})
    assert found.measured["trials"]["attack"].startswith("PGD(")
    blind = rk.check(
        rk.NumPyModel(scores), (x, y), **settings | {"attack": rk.PGD(0.1)}
    )
    assert "trials" not in blind.measured


def test_the_command_tries_unless_told_not_to(digits):
    network, x, y = digits
    assert "trials" in rk.check(network, (x, y)).to_json()["measured"]
    assert "trials" not in rk.check(network, (x, y), trials=0).to_json()["measured"]

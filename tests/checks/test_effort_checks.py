"""What more room and more steps brought, by a run's own records."""

from dataclasses import dataclass

import numpy as np
import pytest

import robustkit as rk
from robustkit.checks.check import check
from robustkit.checks.effort_checks import after_half, check_effort
from robustkit.checks.finding import Severity
from robustkit.checks.trials import own_attack


@dataclass(frozen=True)
class Late(rk.Attack):
    """Asks at `factor` times the distance, and at the distance from step `turn` on."""

    access = rk.Access.GRADIENT
    norms = frozenset({"linf"})
    factor: float = 3.0
    turn: int = 12
    steps: int = 20

    def init(self, p):
        return None

    def step(self, p, s, t):
        a = p.gradient(p.x)
        reach = 1.001 * p.norm.to_boundary(a.margin, a.gradient)
        factor = self.factor if t < self.turn else 1.0
        p.score(p.x - a.gradient.sign() * (reach * factor).expand_dims(1))


@dataclass(frozen=True)
class AtSize(rk.Attack):
    """Finds what is within its epsilon, but above 0.06 nothing."""

    access = rk.Access.GRADIENT
    norms = frozenset({"linf"})
    epsilon: float = 0.1
    steps: int = 2

    def init(self, p):
        return None

    def step(self, p, s, t):
        a = p.gradient(p.x)
        if self.epsilon < 0.06:
            p.score(p.x - 0.999 * self.epsilon * a.gradient.sign())


@dataclass(frozen=True)
class Stumbling(AtSize):
    """Ends in an error above 0.06."""

    def step(self, p, s, t):
        if self.epsilon > 0.06:
            raise RuntimeError("stumbled")
        super().step(p, s, t)


def run(planted, attacks, **settings):
    chosen = {"epsilons": [0.02, 0.05, 0.1]} | settings
    return rk.evaluate(
        planted.model(), (planted.x, planted.y), attacks=attacks, **chosen
    )


def found(results):
    return {f.id: f for f in check_effort(results)}


def test_what_the_second_half_of_the_steps_broke_is_counted(planted):
    results = run(planted, {"late": Late()})
    finding = found(results)["C4"]
    assert finding.severity is Severity.SUSPICIOUS
    # A run does not say whether its model answers at random.
    assert "Unless the model answers at random" in finding.diagnosis
    exact = results.distances()
    size = finding.evidence["epsilon"]
    new = (exact <= size) & (3 * exact > size)
    assert finding.samples == tuple(np.flatnonzero(new))
    assert finding.evidence["gain"] == pytest.approx(new.mean())
    index, half, whole = after_half(results, "linf")
    assert index.tolist() == list(range(40))
    np.testing.assert_allclose(half, 3 * whole, rtol=1e-3)


def test_attacks_that_were_done_after_half_of_their_steps(planted):
    assert found(run(planted, {"early": Late(turn=8)})) == {}
    assert found(run(planted, ["auto", "fmn"])) == {}
    # What another attack had found by then was no gain.
    assert found(run(planted, {"late": Late(), "early": Late(turn=8)})) == {}


def test_an_attack_of_the_run_that_succeeds_less_often_where_more_is_allowed(planted):
    results = run(planted, {"near": AtSize(0.05), "far": AtSize(0.1)})
    finding = found(results)["C1"]
    within = results.distances("linf", "near") <= 0.05
    assert within.sum() > 8
    assert finding.samples == tuple(np.flatnonzero(within))
    assert finding.evidence["success large"] == 0
    assert "near at" in finding.diagnosis
    sound = {
        name: rk.Cascade((rk.PGD(size, steps=20),), size)
        for name, size in (("small", 0.05), ("large", 0.1))
    }
    assert "C1" not in found(run(planted, sound))
    # An error is no failure to find anything.
    stumbling = {"near": Stumbling(0.05), "far": Stumbling(0.1)}
    assert "C1" not in found(run(planted, stumbling))
    # Of other settings, and so another attack.
    other = {"near": AtSize(0.05), "far": AtSize(0.1, steps=3)}
    assert "C1" not in found(run(planted, other))


def test_the_attack_that_is_tried_is_the_run_s_own_where_it_has_one(planted):
    results = run(planted, ["fmn", "pgd"], budget=60)
    own = own_attack(results, planted.model())
    assert repr(own) == repr(rk.get_attack("pgd").within(60).attack)
    data = (planted.x, planted.y)
    tried = check(planted.model(), data, run=results, trials=8).measured["trials"]
    assert tried["own"]
    assert tried["attack"] == repr(own)
    for model in (rk.Estimated(planted.model(), 6), rk.EOT(planted.model(), 3)):
        costly = rk.evaluate(model, data, attacks=["pgd"], budget=210)
        steps = 210 // (7 if isinstance(model, rk.Estimated) else 3)
        planned = rk.get_attack("pgd").within(steps).attack
        assert repr(own_attack(costly, model)) == repr(planned)
    without = run(planted, ["fmn"])
    assert own_attack(without, planted.model()) is None
    tried = check(planted.model(), data, run=without, trials=8).measured["trials"]
    assert not tried["own"]

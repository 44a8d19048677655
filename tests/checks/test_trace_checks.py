from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.checks.finding import Severity
from robustkit.checks.run_checks import check_run
from robustkit.checks.trace_checks import check_traces, falls, unfinished
from robustkit.checks.transfer import Transfer, ask_again, check_transfer
from robustkit.evaluation.store import write_json
from robustkit.models.base import as_access
from robustkit.models.torch import TorchModel


@dataclass(frozen=True)
class Creep(rk.Attack):
    """Goes along the gradient to `first` times the distance, then on to `last` times.

    Evenly, one step at a time; at the very end it may go home.
    """

    access = rk.Access.GRADIENT
    norms = frozenset({"linf"})
    first: float = 2.0
    last: float = 1.02
    home: bool = False
    steps: int = 40

    def init(self, p):
        return None

    def step(self, p, s, t):
        a = p.gradient(p.x)
        reach = 1.001 * p.norm.to_boundary(a.margin, a.gradient)
        share = t / (self.steps - 1)
        factor = self.first + share * (self.last - self.first)
        p.score(p.x - a.gradient.sign() * (reach * factor).expand_dims(1))
        if self.home and t == self.steps - 1:
            p.score(p.x)


def run(planted, attacks, **settings):
    return rk.evaluate(
        planted.model(), (planted.x, planted.y), attacks=attacks, **settings
    )


def found(results):
    return {f.id: f for f in check_traces(results)}


def test_sound_attacks_have_nothing(planted):
    names = [
        "auto",
        "fmn",
        "pgd",
        "apgd",
        "square",
        "boundary",
        "fab",
        "gaussian-noise",
    ]
    assert found(run(planted, names, budget=200)) == {}


@pytest.mark.parametrize(
    ("first", "last", "named"), [(3.0, 1.0, True), (1.02, 1.01, False)]
)
def test_an_attack_that_was_still_coming_nearer(planted, first, last, named):
    finding = found(run(planted, {"creep": Creep(first, last)})).get("S2")
    assert (finding is not None) == named
    if finding:
        assert finding.severity is Severity.SUSPICIOUS
        assert len(finding.samples) > 20
        # From 1.2 to 1 times the distance, in the last tenth of 40 steps.
        fall = finding.evidence["largest fall of the distance"]
        assert 0.1 < fall < 0.25


def test_no_distance_falls_by_more_than_all_of_it(planted):
    finding = found(run(planted, {"creep": Creep(30.0, 1.0)}))["S2"]
    assert 0.5 < finding.evidence["largest fall of the distance"] <= 1


@pytest.mark.parametrize(("steps", "part"), [(4, "of its"), (20, "tenth of its")])
def test_the_last_of_few_steps_is_no_tenth(planted, steps, part):
    finding = found(run(planted, {"creep": Creep(3.0, 1.0, steps=steps)}))["S2"]
    assert f"nearer in the last {part} steps ({steps} in the median)" in (
        finding.diagnosis
    )


def test_of_a_few_samples_nothing_is_said(planted):
    for count in (1, 4):
        results = rk.evaluate(
            planted.model(),
            (planted.x[:count], planted.y[:count]),
            attacks={"creep": Creep(3.0, 1.0), "home": Creep(1.2, 1.1, home=True)},
        )
        assert found(results) == {}
    results = rk.evaluate(
        planted.model(),
        (planted.x[:5], planted.y[:5]),
        attacks={"creep": Creep(3.0, 1.0)},
    )
    assert "at 5 of 5 samples" in found(results)["S2"].diagnosis


def test_an_attack_that_finds_nothing_and_was_still_falling(planted):
    finding = found(run(planted, {"creep": Creep(0.0, 0.9)}))["S2"]
    assert finding.evidence["largest fall of the distance"] == 0
    # Its last point but four of 40 had come as far as nine tenths of the last.
    assert finding.evidence["largest fall of the margin"] == pytest.approx(
        0.1, abs=0.03
    )


def test_margins_that_stay_infinite_have_not_fallen(planted):
    """As of a model that rules all other classes out, by the logarithm of zero."""
    traced = run(planted, {"creep": Creep(0.0, 0.9)}).traced("creep")
    trace = traced.trace
    first, lowest = trace.first_margin.copy(), trace.lowest_margin.copy()
    first[::3], lowest[::3] = np.inf, np.inf
    changed = replace(trace, first_margin=first, lowest_margin=lowest)
    (finding,) = unfinished(replace(traced, trace=changed), "creep", "linf")
    assert 0 < finding.evidence["largest fall of the margin"] < 1
    assert 0 not in finding.samples


def test_a_margin_that_was_infinite_fell_by_all_of_it(planted):
    trace = run(planted, {"creep": Creep(0.0, 0.9)}).traced("creep").trace
    first, lowest = trace.first_margin.copy(), trace.lowest_margin.copy()
    last = int(trace.points()[0]) - 1
    first[:2], lowest[:2, :last] = np.inf, np.inf
    lowest[1, last] = np.inf
    margin, _ = falls(replace(trace, first_margin=first, lowest_margin=lowest))
    assert margin[:2].tolist() == [1, 0]


def test_what_another_attack_settled_does_not_matter(planted):
    attacks = {"creep": Creep(3.0, 1.5), "fmn": rk.get_attack("fmn")}
    assert found(run(planted, attacks)) == {}


def test_an_attack_that_loses_what_it_found(planted):
    finding = found(run(planted, {"creep": Creep(1.2, 1.1, home=True)}))["S1"]
    assert finding.severity is Severity.NOTE
    assert finding.evidence["share"] == 1
    assert "S1" not in found(run(planted, {"creep": Creep(1.02, 1.01)}))


@pytest.mark.parametrize("access", ["decision", "gradient"])
def test_who_goes_on_without_gradients_may_ask_far_away(planted, access):
    @dataclass(frozen=True)
    class Home(rk.Attack):
        norms = frozenset({"linf"})
        steps: int = 3

        def init(self, p):
            return None

        def step(self, p, s, t):
            p.decide(p.x)

    @dataclass(frozen=True)
    class HandsOn(Creep):
        successor: rk.Attack | None = None

        def given_up(self, p, s):
            return p.ledger.found

    last = Home()
    object.__setattr__(last, "access", as_access(access))
    attacks = {"hands-on": HandsOn(1.2, 1.1, successor=last)}
    assert ("S1" in found(run(planted, attacks))) is (access == "gradient")


def test_what_losing_adversarials_costs_is_a_share_of_all_samples(planted):
    labels = planted.y.copy()
    labels[:30] = (labels[:30] + 1) % 3
    results = rk.evaluate(
        planted.model(),
        (planted.x, labels),
        attacks={"creep": Creep(1.2, 1.1, home=True)},
    )
    finding = found(results)["S1"]
    assert finding.evidence == {"share": 1, "last not adversarial": 0.25}
    assert "up to 25 points higher" in finding.diagnosis


def test_a_run_that_does_not_say_what_attacks_used(planted):
    results = run(planted, {"creep": Creep(1.2, 1.1, home=True)})
    del results.run["attack_access"]
    assert found(results) == {}


def test_lost_samples_are_positions_in_the_data(planted):
    @dataclass(frozen=True)
    class Half(Creep):
        def step(self, p, s, t):
            super().step(p, s, t)
            if t == self.steps - 1:
                mine = np.isin(p.x.numpy().sum(axis=1), planted.x[::2].sum(axis=1))
                p.decide(p.x, type(p.x)(mine))

    finding = found(run(planted, {"half": Half(1.02, 1.01)}))["S1"]
    assert set(finding.samples) == set(range(0, 40, 2))


def test_adversarials_hold_when_they_are_asked_about_again(planted):
    results = run(planted, ["fmn"])
    (transfer,) = ask_again(planted.model(), results, 20)
    assert transfer.index.tolist() == list(range(20))
    assert transfer.held.min() == 1
    assert check_transfer(transfer) == []


@pytest.mark.parametrize(("share", "lost"), [(5e-4, False), (0.1, True)])
def test_rounding_at_the_boundary_is_no_lost_adversarial(planted, share, lost):
    """The labels, as far as points tell them, gain a share of an original's margin."""
    scores = np.sort(planted.logits(planted.x), axis=1)
    change = share * np.median(scores[:, -1] - scores[:, -2])

    def favoured(x):
        out = planted.logits(x)
        gaps = np.abs(x[:, None] - planted.x[None]).max(axis=2)
        out[np.arange(len(x)), planted.y[gaps.argmin(axis=1)]] += change
        return out

    results = run(planted, ["auto"])
    best = results.adversarials()
    asked = favoured(best["x_adversarial"])
    assert (asked.argmax(axis=1) == best["label"]).any()
    (transfer,) = ask_again(rk.NumPyModel(favoured), results, 40)
    assert bool(check_transfer(transfer)) is lost


def test_adversarials_of_another_model_do_not_carry_over(digits):
    network, x, y = digits
    results = rk.evaluate("digits", (x, y), attacks=["fmn"])
    (transfer,) = ask_again(TorchModel(network), results, 48)
    (finding,) = check_transfer(transfer)
    assert finding.id == "S3"
    assert finding.severity is Severity.INVALIDATES
    assert "made on another model" in finding.diagnosis
    assert len(finding.samples) == round(finding.evidence["share"] * len(transfer.held))
    found = rk.check(network, (x, y), run=results, trials=0).findings
    assert "S3" in {f.id for f in found}
    same = rk.check("digits", (x, y), run=results, trials=0).findings
    assert "S3" not in {f.id for f in same}


def test_lucky_draws_of_a_random_model_do_not_hold(digits):
    network, x, y = digits
    noise = torch.Generator().manual_seed(0)

    def noisy(x):
        return network(x + 0.02 * torch.randn(x.shape, generator=noise))

    results = rk.evaluate(noisy, (x, y), attacks=["fmn"], budget=60)
    (transfer,) = ask_again(TorchModel(noisy), results, 48)
    (finding,) = check_transfer(transfer)
    assert finding.severity is Severity.INVALIDATES


def test_lucky_draws_are_no_adversarials():
    held = np.repeat([1.0, 0.2], [35, 5])
    (finding,) = check_transfer(Transfer("l2", np.arange(40), held, same=True))
    assert finding.samples == (35, 36, 37, 38, 39)
    assert "MajorityVote" in finding.remedy
    assert check_transfer(Transfer("l2", np.arange(40), np.ones(40), same=True)) == []


def test_adversarials_undone_at_their_verification(planted):
    """What answers is another model than what is attacked, and sturdier by far."""

    class Hasty(rk.NumPyModel):
        def precise(self):
            return rk.NumPyModel(lambda x: planted.logits(x / 2))

    model = Hasty(planted.logits, gradient=planted.gradient)
    labels = planted.logits(planted.x / 2).argmax(axis=1)
    results = rk.evaluate(model, (planted.x, labels), attacks=["fmn"])
    undone = results.undone()
    assert undone.sum() > 5
    found = {f.id: f for f in check_run(results)}
    assert found["S3"].samples == tuple(results.index[undone])
    assert found["S3"].severity is Severity.INVALIDATES
    assert not run(planted, ["fmn"]).undone().any()


@pytest.mark.parametrize(
    ("verdicts", "severity"),
    [
        ({"fmn": "FAIL", "pgd": "FAIL"}, Severity.INVALIDATES),
        ({"fmn": "FAIL", "pgd": "PASS"}, Severity.NOTE),
        ({"fmn": "INCONCLUSIVE", "pgd": "PASS"}, None),
        ({"fmn": "FAIL", "pgd": "INCONCLUSIVE"}, Severity.SUSPICIOUS),
        ({"fmn": "FAIL"}, Severity.SUSPICIOUS),
        ({"fgsm": "FAIL", "fmn": "INVALID", "pgd": "INCONCLUSIVE"}, Severity.NOTE),
        ({"fgsm": "INVALID", "fmn": "FAIL", "pgd": "FAIL"}, Severity.INVALIDATES),
        ({}, None),
    ],
)
def test_attacks_that_failed_their_unit_test(planted, tmp_path, verdicts, severity):
    results = run(planted, ["fmn", "pgd", "fgsm"], out=tmp_path / "run")
    rate = {"estimate": 0.4, "lower": 0.3, "upper": 0.5}
    tests = {
        name: {"verdict": v, "rule": "", "epsilon": 0.1, "success_rate": rate}
        for name, v in verdicts.items()
    }
    write_json(
        tmp_path / "run" / "warrants.json", {"schema": 1, "norms": {"linf": tests}}
    )
    results.reload_warrants()
    finding = {f.id: f for f in check_run(results)}.get("T1")
    assert (finding and finding.severity) == severity
    if finding:
        assert finding.evidence == {
            f"success rate of {name}": 0.4
            for name, v in verdicts.items()
            if v == "FAIL"
        }


def test_of_a_run_of_baselines_alone_a_unit_test_speaks_of_them(planted, tmp_path):
    results = run(planted, ["fgsm"], out=tmp_path / "run")
    tests = {"fgsm": {"verdict": "FAIL", "rule": "", "epsilon": 0.1}}
    write_json(
        tmp_path / "run" / "warrants.json", {"schema": 1, "norms": {"linf": tests}}
    )
    results.reload_warrants()
    found = {f.id: f for f in check_run(results)}
    assert found["T1"].severity is Severity.INVALIDATES

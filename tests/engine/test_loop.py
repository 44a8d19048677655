import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from robustkit.attacks.baseline.noise import GaussianNoise
from robustkit.attacks.gradient.alma import ALMA
from robustkit.attacks.gradient.apgd import APGD
from robustkit.attacks.gradient.carlini_wagner import CarliniWagnerL2
from robustkit.attacks.gradient.carlini_wagner_l0 import CarliniWagnerL0
from robustkit.attacks.gradient.ddn import DDN
from robustkit.attacks.gradient.ead import EAD
from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.momentum import MIFGSM
from robustkit.attacks.gradient.pgd import PGD
from robustkit.attacks.gradient.sigma_zero import SigmaZero
from robustkit.attacks.gradient.vfga import VFGA
from robustkit.attacks.score.evolution import Evolution
from robustkit.attacks.score.square import Square
from robustkit.combine import minimum_norm_pgd
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, full, take

ATTACKS = {
    "fmn": FMN(steps=40),
    "pgd": PGD(epsilon=2.0, steps=40, random_start=True),
    "minimise": minimum_norm_pgd().within(40),
}


@dataclass(frozen=True)
class Walk:
    share: object
    draws: object
    name: str = "a setting"


@dataclass(frozen=True)
class Wander(Attack[Walk]):
    """Asks about a random point on the way to each start, `per_step` times a step."""

    access = Access.SCORE
    norms = frozenset({"l2"})
    cost = "1 forward"
    source = "this test"
    steps: int = 10
    per_step: int = 1
    question: str = "score"
    at_end: bool = False
    patience: int | None = None
    despair: int | None = None
    successor: Attack | None = None
    budget: int | None = None

    def init(self, p):
        return Walk(full(p.x, 1.0), full(p.x, 0.0))

    def step(self, p, s, t):
        rng = p.rng(t)
        for _ in range(self.per_step):
            share = rng.uniform(())
            point = p.x + share.expand_dims(1) * (p.starts - p.x)
            getattr(p, self.question)(point)
        return dataclasses.replace(s, share=share, draws=s.draws + 1)

    def finished(self, p, s):
        return None if self.patience is None else s.draws >= s.share * self.patience

    def given_up(self, p, s):
        if self.despair is None:
            return None
        label = p.criterion.labels
        return (s.draws >= self.despair + label).logical_and(label > 0)

    def finalise(self, p, s):
        if self.at_end:
            p.score(p.starts)


class Counting:
    """A planted classifier that counts the rows of every forward and backward pass."""

    def __init__(self, planted):
        self.planted = planted
        self.forwards = self.backwards = 0

    def model(self):
        return NumPyModel(
            self._logits,
            Bounds(self.planted.lower, self.planted.upper),
            gradient=self._gradient,
        )

    def _logits(self, x):
        self.forwards += len(x)
        return self.planted.logits(x)

    def _gradient(self, x, slopes):
        self.backwards += len(x)
        return self.planted.gradient(x, slopes)


def problem_of(planted, norm="l2", rows=slice(None), model=None, **options):
    x, y = as_tensor(planted.x[rows]), as_tensor(planted.y[rows])
    far = np.where(planted.x > 1, planted.lower, planted.upper)[rows]
    return Problem(
        model or planted.model(),
        x,
        Misclassification(y),
        get_norm(norm),
        starts=as_tensor(far),
        **options,
    )


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("budget", [None, 7])
def test_counts_are_exactly_the_passes_made(plant, name, budget):
    counting = Counting(plant())
    p = problem_of(counting.planted, model=counting.model())
    ledger = run(ATTACKS[name], p, budget=budget)
    assert ledger.forwards.sum() == counting.forwards
    assert ledger.backwards.sum() == counting.backwards
    assert ledger.decisions.sum() == 0
    assert counting.forwards > 0
    if budget:
        assert ledger.forwards.max() <= budget


def test_steps_and_last_questions_are_taken_and_timed(plant):
    ledger = run(Wander(steps=3, per_step=2, at_end=True), problem_of(plant()))
    assert (ledger.steps == 3).all()
    assert (ledger.forwards == 7).all()
    assert (ledger.seconds > 0).all()


def test_plans_one_question_per_step():
    assert Wander(steps=3).within(11) == Wander(steps=11)


@pytest.mark.parametrize("budget", range(1, 12))
def test_an_overdraft_is_billed_and_never_rewarded(plant, budget):
    planted = plant()
    unlimited = run(Wander(steps=6, per_step=3), problem_of(planted))
    ledger = run(Wander(steps=6, per_step=3), problem_of(planted), budget=budget)
    # A step of three questions is finished once it is begun.
    assert (ledger.forwards == -(-budget // 3) * 3).all()
    expected = unlimited.distance_after(budget)
    assert np.array_equal(ledger.distance.numpy(), expected)


@pytest.mark.parametrize("name", [*ATTACKS, "wander"])
def test_the_curve_over_questions_is_the_one_a_replay_gives(plant, name):
    planted = plant()
    attack = {**ATTACKS, "wander": Wander(steps=20)}[name]
    whole = run(attack, problem_of(planted))
    curve = [whole.distance_after(q) for q in range(42)]
    assert np.isinf(curve[0]).all()
    assert np.array_equal(curve[-1], whole.distance.numpy())
    for q in range(1, 42):
        replay = run(attack, problem_of(planted), budget=q)
        assert np.array_equal(curve[q], replay.distance.numpy())
        assert np.array_equal(curve[q], replay.distance_after(q))


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_company_order_and_departures_change_nothing(plant, name, norm):
    planted = plant(samples=9)
    # Two samples leave at once, because they are adversarial as they are.
    planted.y[[2, 5]] = (planted.y[[2, 5]] + 1) % 3
    attack = ATTACKS[name]
    whole = run(attack, problem_of(planted, norm))
    alone = [run(attack, problem_of(planted, norm, [row])) for row in range(9)]
    backwards = run(attack, problem_of(planted, norm, slice(None, None, -1)))
    for ledger in (backwards, *alone):
        rows = np.arange(9)[::-1] if ledger is backwards else [alone.index(ledger)]
        part = take(whole.distance, np.asarray(rows)).numpy()
        assert np.array_equal(ledger.distance.numpy(), part)
        assert np.array_equal(ledger.best.numpy(), whole.best.numpy()[rows])
        assert np.array_equal(ledger.forwards, whole.forwards[rows])
        assert np.array_equal(ledger.steps, whole.steps[rows])
    assert len(set(whole.forwards)) > 1


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_departures_change_nothing_on_torch(norm):
    rng = np.random.default_rng(0)
    module = torch.nn.Linear(8, 3).double().eval()
    with torch.no_grad():
        module.weight.copy_(torch.tensor(rng.normal(size=(3, 8))))
        module.bias.zero_()
    x = torch.tensor(rng.random((9, 8)))
    labels = module(x).argmax(dim=1)
    labels[[2, 5]] = (labels[[2, 5]] + 1) % 3

    def distances(rows):
        criterion = Misclassification(as_tensor(labels[rows]))
        problem = Problem(
            TorchModel(module), as_tensor(x[rows]), criterion, get_norm(norm)
        )
        return run(FMN(steps=40), problem).distance.numpy()

    whole = distances(list(range(9)))
    parts = [distances([row])[0] for row in range(9)]
    assert np.allclose(whole, parts, rtol=0, atol=1e-6)


def test_a_finished_sample_is_neither_billed_nor_improved(plant):
    planted = plant()
    ledger = run(Wander(steps=10, patience=6), problem_of(planted))
    whole = run(Wander(steps=10), problem_of(planted))
    assert len(set(ledger.steps)) > 1
    assert np.array_equal(ledger.forwards, ledger.steps)
    for row, steps in enumerate(ledger.steps):
        assert ledger.distance.numpy()[row] == whole.distance_after(steps)[row]


def test_a_successor_goes_on_with_samples_that_are_given_up(plant):
    planted = plant()
    whole = run(Wander(despair=3), problem_of(planted))
    # Without a successor nobody is given up.
    assert (whole.steps == 10).all()
    last = Wander(steps=4, question="decide")
    ledger = run(Wander(despair=3, successor=last), problem_of(planted))
    lost = planted.y > 0
    assert set(planted.y) == {0, 1, 2}
    assert np.array_equal(ledger.steps, np.where(lost, 3 + planted.y + 4, 10))
    assert np.array_equal(ledger.forwards, ledger.steps)
    assert np.array_equal(ledger.decisions, np.where(lost, 4, 0))
    # What was found before counts on.
    assert np.array_equal(ledger.distance_after(4), whole.distance_after(4))
    assert (ledger.distance.numpy() < ledger.distance_after(4))[lost].any()
    assert np.array_equal(ledger.distance_after(99), ledger.distance.numpy())


def test_steps_without_gradients_that_were_given_up_are_counted(plant):
    planted = plant()
    last = Wander(steps=4)
    for first, blind in ((Access.GRADIENT, 4), (Access.SCORE, 0)):
        attack = Wander(despair=3, successor=last)
        object.__setattr__(attack, "access", first)
        ledger = run(attack, problem_of(planted))
        assert np.array_equal(ledger.blind, np.where(planted.y > 0, blind, 0))


def test_company_changes_nothing_for_who_is_given_up(plant):
    planted = plant()
    attack = Wander(despair=3, successor=Wander(steps=5, patience=4))
    whole = run(attack, problem_of(planted))
    for row in range(12):
        alone = run(attack, problem_of(planted, rows=[row]))
        assert alone.distance.numpy()[0] == whole.distance.numpy()[row]
        assert np.array_equal(alone.best.numpy()[0], whole.best.numpy()[row])
        assert (alone.steps[0], alone.forwards[0]) == (
            whole.steps[row],
            whole.forwards[row],
        )


def test_one_budget_holds_for_an_attack_and_its_successors(plant):
    last = Wander(steps=20, despair=0, successor=Wander(steps=20))
    attack = Wander(despair=3, successor=last, budget=15)
    for budget, most in ((None, 15), (99, 15), (12, 12)):
        forwards = run(attack, problem_of(plant()), budget=budget).forwards
        assert set(forwards) == {10, most}
    # Who has spent it is not worked on again.
    asking = dataclasses.replace(attack, successor=minimum_norm_pgd())
    assert (run(asking, problem_of(plant()), budget=4).forwards == 4).all()
    # An attack counts its questions, a budget the passes that they take.
    thrice = problem_of(plant())
    thrice.ledger.passes = 3
    assert set(run(attack, thrice).forwards) == {30, 45}


def test_samples_known_to_be_adversarial_are_asked_nothing(plant):
    planted = plant()
    p = problem_of(planted)
    p.ledger.know(np.arange(12) < 3)
    ledger = run(ATTACKS["fmn"], p)
    assert (ledger.distance.numpy()[:3] == 0).all()
    assert (ledger.forwards[:3] == 0).all()
    assert (ledger.forwards[3:] > 0).all()
    assert np.array_equal(ledger.best.numpy()[:3], planted.x[:3])


def test_an_adversarial_original_is_found_by_the_first_question(plant):
    planted = plant()
    planted.y[4] = (planted.y[4] + 1) % 3
    ledger = run(ATTACKS["fmn"], problem_of(planted))
    assert ledger.distance.numpy()[4] == 0
    assert ledger.forwards[4] == 1
    assert (np.delete(ledger.distance.numpy(), 4) > 0).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_empty_batch(plant, name):
    ledger = run(ATTACKS[name], problem_of(plant(), rows=slice(0, 0)))
    assert ledger.distance.shape == (0,)
    assert ledger.best.shape == (0, 8)
    assert ledger.distance_after(5).shape == (0,)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("broken", ["logits", "gradient"])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_samples_that_give_nan_touch_no_others(plant, name, broken, norm):
    planted = plant()

    def spoil(x, values):
        mask = np.isin(x[:, -1], bad[:, -1])
        return np.where(mask[:, None], np.nan, values)

    # The last feature tells who is who: it weighs nothing, so no attack moves it.
    planted.w[-1] = 0
    planted.x[:, -1] = np.linspace(0, 1, 12)
    bad = planted.x[[1, 6]]
    planted.y = planted.logits(planted.x).argmax(axis=1)
    attack = ATTACKS[name]
    if name == "pgd":
        attack = dataclasses.replace(attack, random_start=False)

    def logits(x):
        values = planted.logits(x)
        return spoil(x, values) if broken == "logits" else values

    def gradient(x, slopes):
        values = planted.gradient(x, np.nan_to_num(slopes))
        return spoil(x, values) if broken == "gradient" else values

    model = NumPyModel(logits, Bounds(-3, 5), gradient=gradient)
    ledger = run(attack, problem_of(planted, norm, model=model))
    whole = run(attack, problem_of(planted, norm))
    good = np.setdiff1d(np.arange(12), [1, 6])
    assert np.array_equal(ledger.distance.numpy()[good], whole.distance.numpy()[good])
    assert np.array_equal(ledger.forwards[good], whole.forwards[good])
    assert not ledger.found.numpy()[[1, 6]].any()
    assert np.isfinite(ledger.best.numpy()).all()


def test_an_exception_leaves_a_ledger_that_speaks_of_all_samples(plant):
    planted = plant()
    planted.y[4] = (planted.y[4] + 1) % 3
    counting, most = Counting(planted), 60

    class Tired(Exception):
        pass

    def logits(x):
        if counting.forwards > most:
            raise Tired
        return counting._logits(x)

    model = NumPyModel(logits, Bounds(-3, 5), gradient=counting._gradient)
    p = problem_of(planted, model=model)
    with pytest.raises(Tired):
        run(ATTACKS["fmn"], p)
    assert p.size == 11
    assert p.ledger.distance.shape == (12,)
    assert p.ledger.distance.numpy()[4] == 0
    assert p.ledger.forwards.sum() == counting.forwards
    found = p.ledger.found.numpy()
    assert found.sum() > 1
    predicted = planted.logits(p.ledger.best.numpy()).argmax(axis=1)
    assert (predicted != planted.y)[found].all()


def test_the_state_of_the_model_is_restored_after_an_exception():
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout())
    module[0].weight.requires_grad_(False)

    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            raise RuntimeError("no answer today")

    with pytest.warns(UserWarning, match="training mode"):
        model = TorchModel(Broken())
    x, labels = as_tensor(torch.rand(2, 4)), as_tensor(torch.zeros(2).long())
    with pytest.raises(RuntimeError, match="no answer today"):
        run(FMN(), Problem(model, x, Misclassification(labels), get_norm("l2")))
    assert module.training
    assert [p.requires_grad for p in module.parameters()] == [False, True]


def test_observers_see_every_step_before_samples_leave(plant):
    seen = []

    class Observer:
        def after_step(self, p, step):
            seen.append((step, p.size))
            assert (np.diff(p.ledger.rows) > 0).all()

    planted = plant()
    planted.y[4] = (planted.y[4] + 1) % 3
    run(FMN(steps=3), problem_of(planted), observers=[Observer()])
    assert seen == [(0, 12), (1, 11), (2, 11)]
    seen.clear()
    attack = Wander(steps=3, despair=0, successor=Wander(steps=2))
    run(attack, problem_of(planted), observers=[Observer()])
    first, second = (planted.y == 0).sum(), (planted.y == 2).sum()
    sizes = [12, first + second, first, 12 - first, 12 - first]
    assert seen == list(enumerate(sizes))


@pytest.mark.parametrize("question", ["score", "gradient"])
def test_a_decision_attack_gets_decisions_only(plant, question):
    @dataclass(frozen=True)
    class Cheat(Wander):
        access = Access.DECISION

    with pytest.raises(BadInput, match="only decision access is given"):
        run(Cheat(question=question), problem_of(plant()))
    ledger = run(Cheat(question="decide"), problem_of(plant()))
    assert np.array_equal(ledger.decisions, ledger.forwards)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (FMN(gamma=-1.0), "the gamma of FMN must be at least 0; got -1"),
        (FMN(gamma=np.nan), "the gamma of FMN must be a finite number; got nan"),
        (FMN(gamma="x"), "the gamma of FMN must be a number; got 'x'"),
        (FMN(steps=2.5), "the steps of FMN must be a whole number; got 2.5"),
        (FMN(steps=None), "the steps of FMN must be a whole number; got None"),
        (FMN(steps=-1), "FMN needs at least 1 step; got -1"),
        (ALMA(constraint=0.0), "ALMA needs its constraint to be above 0; got 0"),
        (VFGA(candidates=-1), "VFGA needs its candidates to be above 0; got -1"),
        (VFGA(candidates=1.5), "the candidates of VFGA must be a whole number"),
        (APGD(1.0, targets=None), "the targets of APGD must be a whole number"),
        (Square(1.0, share="1"), "the share of Square must be a number; got '1'"),
        (Evolution(population="7"), "the population of Evolution must be a whole"),
        (MIFGSM(1.0, decay=None), "the decay of MIFGSM must be a number; got None"),
        (PGD(1.0, random_start="no"), "the random_start of PGD must be True or False"),
        (PGD(1.0, stop=1), "the stop of PGD must be True or False; got 1"),
        (Square(1.0, rescale="no"), "the rescale of Square must be True or False"),
        (GaussianNoise(scale=0.0), "GaussianNoise needs its scale to be above 0"),
        (FMN(loss=3), "unknown loss '3'"),
        (FMN(loss=["dlr"]), r"unknown loss '\['dlr'\]'"),
    ],
)
def test_settings_are_numbers_within_their_range(plant, attack, message):
    with pytest.raises(BadInput, match=message):
        run(attack, problem_of(plant(), sorted(attack.norms)[0]))


@pytest.mark.parametrize(
    "attack",
    [
        ALMA(stepsize=0.0),
        CarliniWagnerL0(stepsize=0.0),
        CarliniWagnerL2(stepsize=0.0),
        DDN(stepsize=0.0),
        EAD(stepsize=0.0),
        FMN(stepsize=0.0),
        PGD(1.0, stepsize=0.0),
        SigmaZero(stepsize=0.0),
    ],
)
def test_steps_that_lead_nowhere_are_refused(plant, attack):
    name = type(attack).__name__
    message = f"{name} needs its stepsize to be above 0; got 0"
    with pytest.raises(BadInput, match=message):
        run(attack, problem_of(plant(), sorted(attack.norms)[0]))


@pytest.mark.parametrize("number", [np.float32, np.array, torch.tensor])
def test_settings_may_be_numbers_of_any_framework(plant, number):
    found = run(DDN(gamma=number(0.5)), problem_of(plant())).distance
    expected = run(DDN(gamma=0.5), problem_of(plant())).distance
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_settings_may_be_below_zero_where_their_class_says_so(plant):
    @dataclass(frozen=True)
    class Shifted(Wander):
        shift: float = -1.0

    @dataclass(frozen=True)
    class Signed(Shifted):
        signed = ("shift",)

    with pytest.raises(BadInput, match="the shift of Shifted must be at least 0"):
        run(Shifted(), problem_of(plant()))
    assert run(Signed(), problem_of(plant())).forwards.all()


def test_bad_settings(plant):
    planted = plant()
    with pytest.raises(BadInput, match="the budget must be at least 1; got 0"):
        run(FMN(), problem_of(planted), budget=0)
    with pytest.raises(BadInput, match="needs at least 1 step; got 0"):
        run(FMN(steps=0), problem_of(planted))
    with pytest.raises(BadInput, match="VFGA needs its candidates to be above 0"):
        run(VFGA(candidates=0), problem_of(planted, "l0"))
    with pytest.raises(BadInput, match="Wander cannot minimise the norm linf"):
        run(Wander(), problem_of(planted, "linf"))
    scores_only = NumPyModel(planted.logits, Bounds(-3, 5), name="scores only")
    with pytest.raises(
        BadInput, match=r"FMN needs gradient access, but .*'scores only'"
    ):
        run(FMN(), problem_of(planted, model=scores_only))

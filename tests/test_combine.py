import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.apgd import APGD
from robustkit.attacks.gradient.fab import TargetedFAB
from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.pgd import PGD
from robustkit.attacks.score.square import Square
from robustkit.combine import ByAim, Cascade, Minimise, Part, minimum_norm_pgd
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, take
from robustkit.presets import autoattack

NORMS = ("l1", "l2", "linf")


def attack(planted, norm, rows=slice(None), criterion=None, budget=300, **settings):
    chosen = Minimise(PGD(epsilon=1.0, steps=20, **settings)).within(budget)
    criterion = criterion or Misclassification(as_tensor(planted.y[rows]))
    x = as_tensor(planted.x[rows])
    problem = Problem(planted.model(), x, criterion, get_norm(norm))
    return run(chosen, problem, budget=budget)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [False, True])
def test_reaches_the_only_boundary_there_is(plant, norm, random_start):
    planted = plant(seed=1, classes=2)
    targets = 1 - planted.y
    exact = planted.exact(norm, targets)
    ledger = attack(
        planted, norm, criterion=Targeted(as_tensor(targets)), random_start=random_start
    )
    distance = ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert (distance <= exact * (1.05 if random_start else 1.01)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_near_the_nearest_of_several_boundaries(plant, norm):
    planted = plant(seed=2, samples=40)
    exact, distance = planted.exact(norm), attack(planted, norm).distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.001
    assert (distance <= 2.5 * exact).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_does_not_depend_on_its_company(plant, norm):
    planted = plant(seed=3)
    whole = attack(planted, norm, budget=60, random_start=True)
    for rows in (np.arange(5), np.arange(12)[::-1], np.array([7])):
        part = attack(planted, norm, rows, budget=60, random_start=True)
        assert np.array_equal(part.distance.numpy(), take(whole.distance, rows).numpy())
        assert np.array_equal(part.forwards, whole.forwards[rows])


def test_rounds_that_succeed_end_at_once(plant):
    # 39 steps are one whole round; its radius alone would be 5 % too large.
    planted = plant(seed=4, classes=2)
    chosen = Minimise(PGD(epsilon=1.0, steps=20), steps=39)
    criterion = Misclassification(as_tensor(planted.y))
    problem = Problem(
        planted.model(), as_tensor(planted.x), criterion, get_norm("linf")
    )
    distance = run(chosen, problem).distance.numpy()
    assert np.median(distance / planted.exact("linf")) <= 1.03


def test_nothing_is_found_where_there_is_nothing(plant):
    planted = plant(seed=5, classes=2)
    planted.b = planted.b + np.where(np.arange(2) == planted.y[0], 100.0, 0.0)
    planted.y[:] = planted.y[0]
    ledger = attack(planted, "l2", budget=100)
    assert not ledger.found.numpy().any()
    assert (ledger.forwards == 100).all()
    assert (ledger.backwards == 100).all()


def test_what_others_found_limits_the_first_radius(plant):
    planted = plant(seed=3)
    labels = Misclassification(as_tensor(planted.y))
    for steps in (1, 100):
        x = as_tensor(planted.x)
        problem = Problem(planted.model(), x, labels, get_norm("l2"))
        best = run(FMN(steps=steps), problem).distance.numpy()
        assert np.isfinite(best).any() == (steps > 1)
        state = minimum_norm_pgd().init(problem)
        assert np.array_equal(state.upper.numpy(), best)
        assert (state.epsilon.numpy() <= 0.8 * best).all()


def test_plans_rounds_within_a_budget():
    plan = minimum_norm_pgd().within(1000)
    assert (plan.steps, plan.attack.steps) == (999, 20)
    plan = minimum_norm_pgd().within(31)
    assert (plan.steps, plan.attack.steps) == (30, 6)
    plan = minimum_norm_pgd().within(1)
    assert (plan.steps, plan.attack.steps) == (1, 1)
    # No question is about the original where nothing is estimated there.
    plan = Minimise(Square(1.0)).within(1000)
    assert (plan.steps, plan.attack.steps) == (1000, 199)
    plan = Minimise(PGD(1.0), first=0.1).within(1000)
    assert (plan.steps, plan.attack.steps) == (1000, 40)
    # A step may take several passes, and a target one step at least.
    plan = Minimise(APGD(1.0, steps=20, passes=20)).within(1000)
    assert (plan.steps, plan.attack.steps) == (49, 9)
    plan = Minimise(APGD(1.0, steps=90, targets=9, loss="dlr")).within(30)
    assert (plan.steps, plan.attack.steps, plan.attack.targets) == (29, 5, 5)


@pytest.mark.parametrize(
    "attack",
    [
        Minimise(Square(1.0)),
        minimum_norm_pgd(),
        Minimise(PGD(1.0), first=9.0),
        Minimise(APGD(1.0, passes=5)),
        Minimise(APGD(1.0, targets=9, loss="dlr")),
    ],
)
def test_asks_as_many_questions_as_it_may(plant, attack):
    problem = Problem(
        plant().model(),
        as_tensor(plant().x),
        Misclassification(as_tensor(plant().y)),
        get_norm("linf"),
    )
    assert (run(attack.within(31), problem).forwards == 31).all()


@pytest.mark.parametrize("attack", [FMN(), minimum_norm_pgd(), "pgd", PGD])
def test_refuses_what_has_no_radius(attack):
    with pytest.raises(BadInput, match="an attack within a given distance"):
        Minimise(attack)


def test_is_what_the_inner_attack_is(plant):
    combined = minimum_norm_pgd()
    assert combined.norms == PGD.norms
    assert combined.access == PGD.access
    problem = Problem(
        plant().model(),
        as_tensor(plant().x),
        Misclassification(as_tensor(plant().y)),
        get_norm("l0"),
    )
    with pytest.raises(BadInput, match="cannot minimise the norm l0"):
        run(combined, problem)


class TestCascade:
    def problem(self, planted, norm="linf", rows=slice(None), seed=0):
        criterion = Misclassification(as_tensor(planted.y[rows]))
        x = as_tensor(planted.x[rows])
        return Problem(planted.model(), x, criterion, get_norm(norm), seed=seed)

    def test_broken_samples_leave_and_the_others_go_through_all(self, plant):
        planted = plant(seed=6, samples=30)
        exact = planted.exact("linf")
        epsilon = float(np.median(exact)) * 1.001
        cascade = Cascade((PGD(epsilon, steps=20), FMN(steps=30)), epsilon)
        ledger = run(cascade, self.problem(planted))
        broken = ledger.distance.numpy() <= epsilon * (1 + 1e-5)
        assert np.array_equal(broken, exact <= epsilon)
        assert (ledger.forwards[broken] < 51).all()
        assert (ledger.forwards[~broken] == 20 + 1 + 30).all()
        assert (ledger.steps[~broken] == cascade.steps).all()

    def test_an_attack_that_stops_early_alone_goes_on(self, plant):
        planted = plant(seed=7)
        cascade = Cascade((FMN(steps=20), PGD(1e-6, steps=5, stop=True)), 0.0)
        ledger = run(cascade, self.problem(planted))
        assert (ledger.forwards == 20 + 5 + 1).all()
        alone = run(FMN(steps=20), self.problem(planted)).distance.numpy()
        assert (ledger.distance.numpy() <= alone).all()

    def test_attacks_come_in_their_order(self, plant):
        planted, asked = plant(seed=8), []

        class Noted(PGD):
            def advance(self, p, s, progress, rng):
                asked.append((self.epsilon, float(progress.numpy()[0])))
                return super().advance(p, s, progress, rng)

        cascade = Cascade((Noted(1e-6, steps=2), Noted(2e-6, steps=4)), 1e-6)
        run(cascade, self.problem(planted))
        ends = [(1e-6, 0.0), (1e-6, 0.5)] + [(2e-6, k / 4) for k in range(4)]
        assert asked == ends

    def test_random_starts_are_never_the_same_twice(self, plant):
        planted, starts = plant(seed=9), []

        class Noted(PGD):
            def start(self, p, epsilon, rng):
                state = super().start(p, epsilon, rng)
                starts.append(state.point.numpy())
                return state

        inner = Noted(1e-6, steps=2, random_start=True)
        run(Cascade((inner, inner), 1e-6), self.problem(planted))
        assert not np.array_equal(*starts)

    def test_a_sample_does_not_depend_on_its_company(self, plant):
        planted = plant(seed=10, classes=4)
        epsilon = float(np.median(planted.exact("l2")))
        cascade = Cascade(
            (
                APGD(epsilon, steps=10, random_start=True),
                FMN(steps=10),
                Square(epsilon, steps=20),
            ),
            epsilon,
        )
        whole = run(cascade, self.problem(planted, "l2"))
        for rows in (np.array([3]), np.arange(12)[::-1]):
            part = run(cascade, self.problem(planted, "l2", rows))
            assert np.array_equal(
                part.distance.numpy(), take(whole.distance, rows).numpy()
            )
            assert np.array_equal(part.forwards, whole.forwards[rows])

    def test_names_the_sources_of_its_attacks(self):
        fmn = FMN()
        assert Cascade((fmn, fmn)).source == fmn.source
        assert Cascade((fmn, PGD(0.1))).source == f"{fmn.source}; {PGD.source}"

    def test_is_what_its_attacks_have_in_common(self):
        cascade = Cascade((FMN(steps=30), Square(0.1, steps=50)), 0.1)
        assert cascade.norms == {"l1", "l2", "linf"}
        assert cascade.access is Access.GRADIENT
        assert Cascade((Square(0.1),), 0.1).access is Access.SCORE
        assert [a.steps for a in cascade.within(40).attacks] == [15, 25]

    def test_a_successor_goes_on_with_who_is_given_up(self, plant):
        planted = plant(seed=11)

        class Doubtful(PGD):
            def given_up(self, p, s):
                return p.criterion.labels > 0

        # Only once its turn has come.
        cascade = Cascade(
            (PGD(1e-6, steps=3), Doubtful(1e-6, steps=9)),
            successor=Square(5.0, steps=50, stop=False),
            budget=20,
        )
        assert cascade.steps == 12
        ledger = run(cascade, self.problem(planted))
        lost = planted.y > 0
        # Each PGD asks once more about its last point.
        assert np.array_equal(ledger.forwards, np.where(lost, 20, 12 + 2))
        assert np.array_equal(ledger.backwards, np.where(lost, 4, 12))
        assert np.array_equal(ledger.found.numpy(), lost)
        fewer = cascade.within(10)
        assert (fewer.successor.steps, fewer.budget) == (10, 10)
        assert (run(fewer, self.problem(planted)).forwards <= 10).all()

    def test_a_part_takes_its_share_of_what_is_left_to_each(self, plant):
        planted = plant(seed=11)
        part = Part(FMN(steps=1000), 0.25, Square(5.0, steps=1000, stop=False))
        problem = self.problem(planted)
        # Some have spent a part before.
        early = planted.y > 0
        for _ in range(20):
            problem.decide(problem.x, as_tensor(early))
        ledger = run(part, problem, budget=60)
        assert (ledger.forwards == 60).all()
        assert np.array_equal(ledger.backwards, np.where(early, 10, 15))
        shorter = part.within(40)
        assert (shorter.steps, shorter.attack.steps) == (1000, 1000)
        planned = Part(minimum_norm_pgd(), 0.5, FMN()).within(40).attack
        assert (planned.steps, planned.attack.steps) == (200, 3)

    def test_a_part_may_be_made_of_parts(self, plant):
        fmn = FMN(steps=30)
        for inner in (Cascade((fmn, fmn)), Part(fmn, 0.5, fmn)):
            part = Part(inner, 0.5, fmn).within(40)
            ledger = run(part, self.problem(plant()), budget=40)
            assert ledger.found.numpy().all()
            assert (ledger.forwards <= 40).all()

    @pytest.mark.parametrize("aims", [True, False])
    def test_who_aims_is_attacked_by_another(self, plant, aims):
        planted = plant(seed=3)
        x, labels = as_tensor(planted.x), as_tensor(planted.y)
        aim = Targeted(as_tensor((planted.y + 1) % 3))
        criterion = aim if aims else Misclassification(labels)
        aimed, free = Cascade((PGD(0.5, steps=5), FMN(steps=7))), FMN(steps=30)
        both = ByAim(aimed, free)
        assert both.steps == 30
        assert both.within(12).steps == 12
        ledgers = [
            run(attack, Problem(planted.model(), x, criterion, get_norm("linf")))
            for attack in (both, aimed if aims else free)
        ]
        assert np.array_equal(*(one.distance.numpy() for one in ledgers))
        assert np.array_equal(*(one.forwards for one in ledgers))

    def test_both_of_two_are_checked_and_declared(self, plant):
        both = ByAim(FMN(), Square(0.1))
        assert both.norms == {"l1", "l2", "linf"}
        assert both.access is Access.GRADIENT
        with pytest.raises(BadInput, match="epsilon above 0"):
            run(ByAim(FMN(), Square(0.0)), self.problem(plant()))
        with pytest.raises(BadInput, match="expected an attack"):
            ByAim(FMN(), "fmn")

    def test_a_part_needs_what_both_need(self, plant):
        part = Part(Square(0.1), 0.5, FMN())
        assert part.norms == {"l1", "l2", "linf"}
        assert part.access is Access.GRADIENT
        with pytest.raises(BadInput, match="epsilon above 0"):
            run(Part(FMN(), 0.5, Square(0.0)), self.problem(plant()))

    def test_a_successor_must_fit_as_well(self, plant):
        cascade = Cascade((FMN(),), successor=Square(0.1))
        assert cascade.norms == {"l1", "l2", "linf"}
        assert cascade.access is Access.GRADIENT
        assert Cascade((Square(0.1),), successor=FMN()).access is Access.GRADIENT
        with pytest.raises(BadInput, match="cannot minimise the norm l0"):
            run(cascade, self.problem(plant(), "l0"))
        with pytest.raises(BadInput, match="epsilon above 0"):
            run(Cascade((FMN(),), successor=PGD(0.0)), self.problem(plant()))

    def test_bad_settings(self, plant):
        for none in ("fmn", FMN):
            with pytest.raises(BadInput, match="expected an attack"):
                Cascade((FMN(), none))
            with pytest.raises(BadInput, match="expected an attack"):
                Cascade((FMN(),), successor=none)
            with pytest.raises(BadInput, match="expected an attack"):
                Part(FMN(), 0.5, none)
        with pytest.raises(BadInput, match="a tuple or a list"):
            Cascade(FMN())
        assert Cascade([FMN()]) == Cascade((FMN(),))
        with pytest.raises(BadInput, match="at least one attack"):
            Cascade((), 0.1)
        with pytest.raises(BadInput, match="epsilon of Cascade must be a finite"):
            run(Cascade((FMN(),), float("nan")), self.problem(plant()))
        with pytest.raises(BadInput, match="epsilon above 0"):
            run(Cascade((FMN(), PGD(0.0)), 0.1), self.problem(plant()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "excess"), [("linf", 1.02), ("l2", 1.02), ("l1", 1.05)]
)
def test_real_networks_whose_exact_distances_are_known(shared, norm, excess):
    ratios = []
    for net in ("linear", "toy20", "mlp14_std"):
        known = shared.exact(net, norm)
        model = TorchModel(shared.exact_model(net).double())
        x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
        criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
        problem = Problem(model, x, criterion, get_norm(norm))
        distance = run(minimum_norm_pgd().within(300), problem).distance.numpy()
        assert np.isfinite(distance).all()
        assert (distance >= known["distance"] * (1 - 1e-5)).all()
        ratios.extend(distance / known["distance"])
    assert np.median(ratios) <= excess


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "share must be above 0 and below 1; got 0.0"),
        ({"share": 1.0}, "share must be above 0 and below 1; got 1.0"),
        ({"share": None}, "share must be a number; got None"),
        ({"first": "x"}, "first radius must be a number; got 'x'"),
        ({"patience": 0}, "patience must be at least 1; got 0"),
    ],
)
def test_settings_of_the_search_over_the_radius(settings, message):
    with pytest.raises(BadInput, match=message):
        Minimise(PGD(epsilon=1.0), **settings)


def test_the_first_radius_may_be_given(plant):
    planted = plant(seed=1)
    asked = []

    def logits(x):
        asked.append(x)
        return planted.logits(x)

    bounds = Bounds(planted.lower, planted.upper)
    problem = Problem(
        NumPyModel(logits, bounds),
        as_tensor(planted.x),
        Misclassification(as_tensor(planted.y)),
        get_norm("linf"),
    )
    attack = Minimise(Square(epsilon=1.0, steps=50), steps=1, first=0.25)
    run(attack.within(2), problem)
    assert np.abs(asked[0] - planted.x).max(axis=1) == pytest.approx(0.25)
    with pytest.raises(BadInput, match="first radius must be more than 0"):
        Minimise(Square(epsilon=1.0), first=0.0)


@pytest.mark.parametrize(
    ("budget", "patience", "asked", "leaps"),
    # Half of the steps, 150 of them, what is said; few are left after that alone.
    [(101, None, 51, False), (1000, None, 150, False), (101, 80, 80, True)],
)
def test_the_first_radius_is_searched_longest_and_then_larger_ones(
    plant, budget, patience, asked, leaps
):
    planted = plant(seed=1, classes=4, samples=8)
    tiny = float(planted.exact("linf").min()) / 10_000
    attack = Minimise(Square(1.0), first=tiny, patience=patience).within(budget)
    criterion = Misclassification(as_tensor(planted.y))
    x = as_tensor(planted.x)
    p = Problem(planted.model(), x, criterion, get_norm("linf"))
    state, radii = attack.init(p), []
    for t in range(attack.steps):
        state = attack.step(p, state, t)
        radii.append(state.epsilon.numpy().copy())
    radii = np.array(radii)
    assert np.allclose(radii[: asked - 1], tiny)
    far = p.largest.numpy() / 8
    assert np.allclose(radii[asked - 1], far if leaps else 4 * tiny)
    if budget > 101:
        assert np.allclose(radii[asked + 24], far)
        assert np.isfinite(p.ledger.distance.numpy()).all()
    # An adversarial ends the search at the first radius.
    found = Minimise(Square(1.0), first=float(p.largest.numpy().max())).within(101)
    p = Problem(planted.model(), x, criterion, get_norm("linf"))
    state = found.step(p, found.init(p), 0)
    won = np.isfinite(p.ledger.distance.numpy())
    assert won.any()
    assert (state.epsilon.numpy()[won] < p.ledger.distance.numpy()[won]).all()


NAMES = {
    kind.__name__: kind
    for kind in (APGD, ByAim, Cascade, FMN, Part, PGD, Square, TargetedFAB)
}


@pytest.mark.parametrize(
    "combined",
    [
        Cascade((PGD(epsilon=0.1), FMN(steps=30)), epsilon=0.1, successor=FMN()),
        Part(FMN(steps=30), 0.5, PGD(epsilon=0.1)),
        ByAim(FMN(steps=30), PGD(epsilon=0.1)),
        autoattack(0.1),
    ],
)
def test_what_is_shown_of_an_attack_makes_it_again(combined):
    assert eval(repr(combined), NAMES) == combined

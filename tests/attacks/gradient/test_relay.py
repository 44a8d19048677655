import itertools

import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.legs import plan
from robustkit.attacks.gradient.relay import Leg, Relay
from robustkit.demo import load_data, load_model
from robustkit.engine.criteria import AnyOf, Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor
from robustkit.presets import auto

NORMS = ("l0", "l1", "l2", "linf")
# A descent, two walks of which one is kept, a search and a walk from what it found.
SEARCHING = (
    Leg(10),
    Leg(5, start="noise", along=0.5, keep=True),
    Leg(5, start="noise", along=0.5, keep=True),
    Leg(5, start="kept", along=0.25),
    Leg(25, tries=4, way=0),
    Leg(10, start="kept", along=0.25),
)
EXCESS = {"l0": 1.0, "l1": 1.05, "l2": 1.01, "linf": 1.01}


def attack(planted, norm, steps=200, criterion=None, legs=None):
    criterion = criterion or Misclassification(as_tensor(planted.y))
    problem = Problem(planted.model(), as_tensor(planted.x), criterion, get_norm(norm))
    return run(Relay(steps=steps, legs=legs), problem)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_reaches_the_only_boundary_there_is(plant, norm, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    ledger = attack(planted, norm, criterion=Targeted(as_tensor(targets)))
    exact, distance = planted.exact(norm, targets), ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert (distance <= exact * EXCESS[norm] * (1 + 1e-9)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_finds_the_nearest_of_several_boundaries(plant, norm):
    planted = plant(seed=2, samples=40, classes=4)
    exact, distance = planted.exact(norm), attack(planted, norm, 400).distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert (distance <= exact * EXCESS[norm]).mean() >= 0.95


@pytest.mark.parametrize("aimed", [True, False])
def test_a_way_that_was_tried_is_not_gone_again(plant, laws, aimed):
    planted = plant(seed=3, classes=3)
    criterion = Misclassification(as_tensor(planted.y))
    if aimed:
        criterion = Targeted(as_tensor((planted.y + 1) % 3))
    legs = (Leg(10, "linf"), Leg(10, "linf", way=1), Leg(10, "linf", way=2))
    x = as_tensor(planted.x)
    problem = Problem(planted.model(), x, criterion, get_norm("l2"))
    asked = laws.asked(Relay(steps=30, legs=legs), problem)
    # The first question of each leg.
    at_the_original = [(asked[place][1] < 1e-3).all() for place in (0, 11, 21)]
    # Two ways are open where any will do, one where it is a certain class.
    assert at_the_original == [True, not aimed, False]


def test_a_class_to_be_reached_has_one_round_of_its_own(plant):
    planted = plant(seed=3, classes=3)

    def found(criterion, legs=None):
        return attack(planted, "l1", 90, criterion, legs=legs).distance.numpy()

    target = Targeted(as_tensor((planted.y + 1) % 3))
    assert np.array_equal(found(target), found(target, plan("l1", 90, True)))
    assert not np.array_equal(found(target), found(target, plan("l1", 90)))
    label = Misclassification(as_tensor(planted.y))
    assert np.array_equal(found(label), found(label, plan("l1", 90)))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [1, 7, 30, 100, 900])
def test_asks_one_question_per_step_and_one_at_the_start(plant, norm, steps):
    ledger = attack(plant(seed=3), norm, steps)
    assert (ledger.forwards == steps + 1).all()
    assert (ledger.backwards == steps + 1).all()
    planned = Relay().within(steps + 1)
    assert planned.steps == steps


@pytest.mark.parametrize("norm", NORMS)
def test_neighbours_in_the_batch_change_nothing(plant, laws, norm):
    laws.any_batch(Relay(steps=60), plant(seed=4), norm)
    laws.any_batch(Relay(60, SEARCHING), plant(seed=4), norm)


@pytest.mark.parametrize("norm", NORMS)
def test_neighbours_change_nothing_where_gradients_vanish(norm):
    """Also whether they were found matters to nobody else."""
    rng = np.random.default_rng(0)
    weights = torch.tensor(rng.normal(size=(6, 3)))
    x = torch.tensor(rng.uniform(size=(9, 6)))
    labels = (x @ weights).argmax(dim=1)

    def scores(points):
        return points.detach() @ weights + 0 * points.sum(dim=1, keepdim=True)

    def found(rows):
        criterion = Misclassification(as_tensor(labels[rows]))
        p = Problem(TorchModel(scores), as_tensor(x[rows]), criterion, get_norm(norm))
        return run(Relay(steps=60), p).best.numpy()

    whole = found(slice(None))
    for row in range(len(x)):
        assert (found(slice(row, row + 1))[0] == whole[row]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_rescaled_inputs_give_the_rescaled_result(plant, laws, norm):
    # Without noise, since random numbers are drawn by the content of a sample.
    legs = (Leg(1.0), Leg(1.0, start="best", way=0))
    planted = plant(seed=5, bounds=(0.0, 1.0))
    # Rounding may lead an L1 projection to another face.
    rtol = 1e-3 if norm == "l1" else 1e-6
    laws.any_bounds_and_units(Relay(100, legs), planted, norm, rtol)


@pytest.mark.parametrize("legs", [5, "origin", (1.0,), [Leg(1.0), None]])
def test_what_are_no_legs(legs):
    with pytest.raises(BadInput, match="legs must be a tuple or a list of `Leg`"):
        Relay(legs=legs)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"length": 0}, "the length of a leg must be more than 0; got 0"),
        ({"norm": "l3"}, "unknown norm 'l3'"),
        ({"start": "orign"}, "unknown start 'orign' of a leg; did you mean 'origin'"),
        ({"way": -1}, "the way of a leg must be at least 0; got -1"),
        ({"along": "far"}, "the first trust radius of a leg must be a number"),
        ({"stepsize": 0}, "the stepsize of a leg must be more than 0; got 0"),
        ({"gamma": None}, "the gamma of a leg must be a number; got None"),
        ({"exchange": "no"}, "the exchange of a leg must be True or False; got 'no'"),
        ({"keep": 1}, "the keep of a leg must be True or False; got 1"),
        ({"tries": 1.5}, "the tries of a leg must be a whole number; got 1.5"),
    ],
)
def test_what_is_no_leg(setting, message):
    with pytest.raises(BadInput, match=message):
        Leg(**{"length": 1.0, **setting})


def test_legs_may_be_a_list():
    assert Relay(legs=[Leg(1.0)]) == Relay(legs=(Leg(1.0),))


def test_aims_at_the_way_it_is_told(plant):
    planted = plant(seed=6, classes=4, samples=40)

    def median(way):
        ledger = attack(planted, "l2", 100, legs=(Leg(1.0, way=way),))
        return np.median(ledger.distance.numpy())

    assert median(None) <= 1.001 * median(0)
    assert min(median(1), median(2)) > 1.1 * median(0)
    assert median(1) != median(2)
    # There are three ways, so the fourth is the first again.
    assert median(3) == median(0)


def test_skips_the_ways_that_are_closed(plant):
    planted = plant(seed=6, classes=3, samples=20)
    label = as_tensor(planted.y)
    either = AnyOf(Misclassification(label), Misclassification(label))
    for way in range(8):
        ledger = attack(planted, "l2", 60, either, legs=(Leg(1.0, way=way),))
        assert ledger.found.numpy().all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "l1", "l0"])
def test_comes_by_way_of_linf_to_where_other_walks_do_not(shared, norm):
    """An adversarially trained network, by a tenth of the passes of FMN."""
    module = shared.torch_model("mnist_cnn_a_adv")
    x, y = (torch.tensor(values[:16]) for values in shared.images("mnist"))
    right = module(x).argmax(dim=1) == y
    criterion = Misclassification(as_tensor(y[right]))

    def mean(attack):
        problem = Problem(
            TorchModel(module), as_tensor(x[right]), criterion, get_norm(norm)
        )
        return run(attack, problem).distance.numpy().mean()

    assert mean(Relay(steps=99)) <= 0.85 * mean(FMN(steps=1000))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_far_class_is_reached_with_few_passes(norm):
    x = torch.from_numpy(load_data("digits")[0])[:64]
    network = load_model("digits")
    farthest = Targeted(as_tensor(network(x).argmin(dim=1)))
    model = TorchModel(network)
    problem = Problem(model, as_tensor(x), farthest, get_norm(norm))
    assert run(auto(norm, 15), problem, budget=15).found.numpy().all()


def test_a_far_class_is_reached_behind_silent_units(shared):
    network = shared.torch_model("mnist_small_kw_0.3").requires_grad_(False)
    x, y = map(torch.tensor, shared.images("mnist"))
    x = x[network(x).argmax(dim=1) == y][:24]
    farthest = Targeted(as_tensor(network(x).argmin(dim=1)))
    problem = Problem(TorchModel(network), as_tensor(x), farthest, get_norm("l2"))
    assert run(auto("l2", 300), problem, budget=300).found.numpy().all()


class Dead(torch.nn.Module):
    """No gradient at the original: rectified units that all stand below zero."""

    def forward(self, x):
        alive = torch.relu(x.sum(dim=1) - 0.6 * x.shape[1])
        return torch.stack([0.1 - alive, torch.zeros_like(alive)], dim=1)


@pytest.mark.parametrize("norm", NORMS)
def test_a_vanishing_gradient_is_met_with_noise(norm):
    x = as_tensor(torch.full((3, 16), 0.4))
    labels = as_tensor(torch.zeros(3, dtype=torch.long))
    problem = Problem(
        TorchModel(Dead().eval()), x, Misclassification(labels), get_norm(norm)
    )
    ledger = run(auto(norm).within(200), problem)
    exact = {"l0": 6, "l1": 3.3, "l2": 3.3 / 4, "linf": 3.3 / 16}[norm]
    assert ledger.found.numpy().all()
    assert (ledger.distance.numpy() <= exact * 1.02).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_point_is_asked_about_again_where_all_is_flat(norm):
    asked = []

    class Flat(torch.nn.Module):
        def forward(self, x):
            asked.append(x.detach().clone())
            return torch.stack([1 + 0 * x.sum(dim=1), 0 * x.sum(dim=1)], dim=1)

    x = as_tensor(torch.full((1, 16), 0.4))
    labels = Misclassification(as_tensor(torch.zeros(1, dtype=torch.long)))
    problem = Problem(TorchModel(Flat().eval()), x, labels, get_norm(norm))
    run(Relay(steps=60), problem)
    again = [bool((one == other).all()) for one, other in itertools.pairwise(asked)]
    assert sum(again) <= 2, again


class Silent(torch.nn.Module):
    """A rectified unit that would lead far, but is below zero at the original.

    Half of the 64 features are at 0.7, the others at 0.3. The unit waits for the first
    to fall and the others to rise. Nothing else depends on that direction, so no
    descent from the original meets the unit; in random order their values do.
    """

    def __init__(self, original):
        super().__init__()
        self.original = original
        self.unit = torch.where(original > 0.5, -1.0, 1.0)
        # At a right angle to it.
        self.other = torch.tensor([1.0, -1.0]).repeat(32) * original.sign()

    def forward(self, x):
        change = x - self.original
        unit = torch.relu(change @ self.unit - 2.8)
        seen = change @ self.other / 12.8
        return torch.stack([torch.ones_like(unit), unit + seen], dim=1)


def silent(norm, legs, steps=80):
    original = torch.tensor([0.7, 0.7, 0.3, 0.3]).repeat(16)
    x = as_tensor(original.expand(20, 64) + 1e-4 * torch.arange(20)[:, None])
    labels = as_tensor(torch.zeros(20, dtype=torch.long))
    problem = Problem(
        TorchModel(Silent(original).eval()), x, Misclassification(labels), norm
    )
    return run(Relay(steps, legs), problem).distance.numpy()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_search_for_starts_wakes_units_that_no_descent_meets(norm):
    norm = get_norm(norm)
    # Alone the one direction takes 0.2 in Linf, 1.6 in L2; both together take this.
    exact = {"linf": 3.8 / 64, "l2": 3.8 / 8.025}[norm.name]
    descents = (Leg(1.0), Leg(1.0, start="noise"), Leg(1.0, start="best"))
    assert (silent(norm, descents) > 3 * exact).mean() >= 0.8
    legs = (Leg(20), Leg(20, tries=4, way=0), Leg(40, start="kept", along=0.25))
    found = silent(norm, legs)
    assert (found >= 0.98 * exact).all()
    assert (found <= 1.02 * exact).all()


def test_goes_on_from_the_nearer_of_the_walks_that_are_kept(plant, laws):
    planted = plant(seed=7, classes=4, samples=12)
    criterion = Misclassification(as_tensor(planted.y))
    walk = Leg(6, start="noise", along=0.5, keep=True)
    legs = (Leg(2), walk, walk, Leg(6, start="kept", along=0.25))
    problem = Problem(planted.model(), as_tensor(planted.x), criterion, get_norm("l2"))
    asked = [
        np.where(margin < 0, distance, np.inf)
        for margin, distance in laws.asked(Relay(20, legs), problem)
    ]
    assert len(asked) == 21
    # Before the walks there is the original, and two steps.
    walks, kept = asked[3:15], asked[15]
    np.testing.assert_allclose(kept, np.min(walks, axis=0), rtol=1e-6)
    ends = np.min(walks[:6], axis=0), np.min(walks[6:], axis=0)
    # Sometimes it is the one, sometimes the other.
    assert len({int(first < second) for first, second in zip(*ends, strict=True)}) == 2


@pytest.mark.slow
def test_comes_to_the_exact_minimum_behind_silent_units(shared):
    """Where descents of any number end 3 % too far for half of the images."""
    known = shared.exact("toy20", "linf")
    model = TorchModel(shared.exact_model("toy20").double())
    labels = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
    x = as_tensor(torch.tensor(known["x"]).double())
    ledger = run(auto("linf", 1000), Problem(model, x, labels, get_norm("linf")))
    ratio = ledger.distance.numpy() / known["distance"]
    assert (ratio >= 1 - 1e-5).all()
    assert np.median(ratio) <= 1.0005
    assert np.quantile(ratio, 0.95, method="higher") <= 1.01

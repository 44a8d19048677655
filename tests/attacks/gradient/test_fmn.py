import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.fmn import FMN
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

NORMS = ("l0", "l1", "l2", "linf")
# Most that the median may exceed the exact distance by, as a ratio.
EXCESS = {"linf": 1.02, "l2": 1.02, "l1": 1.05}


def attack(planted, norm, steps=300, criterion=None):
    criterion = criterion or Misclassification(as_tensor(planted.y))
    x = as_tensor(planted.x)
    return run(FMN(steps=steps), Problem(planted.model(), x, criterion, get_norm(norm)))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_reaches_the_only_boundary_there_is(plant, norm, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    ledger = attack(planted, norm, criterion=Targeted(as_tensor(targets)))
    exact, distance = planted.exact(norm, targets), ledger.distance.numpy()
    assert np.isfinite(exact).all()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert (distance <= exact * (1.01 if norm == "l1" else 1.001)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_near_the_nearest_of_several_boundaries(plant, norm):
    planted = plant(seed=2, samples=40, classes=3)
    exact, distance = planted.exact(norm), attack(planted, norm).distance.numpy()
    assert np.isfinite(exact).all()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.001
    assert (distance <= 2.5 * exact).all()


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_is_found_where_the_box_ends_before_the_boundary(plant, norm):
    planted = plant(seed=3, classes=2)
    planted.b = planted.b + np.where(np.arange(2) == planted.y[0], 100.0, 0.0)
    planted.y[:] = planted.y[0]
    assert np.isinf(planted.exact(norm)).all()
    assert not attack(planted, norm, steps=30).found.numpy().any()


@pytest.mark.parametrize("norm", NORMS)
def test_rescaled_inputs_give_the_rescaled_result(plant, norm):
    planted = plant(seed=4, bounds=(0.0, 1.0))
    scale, shift = 255.0, -20.0
    moved = NumPyModel(
        lambda x: planted.logits((x - shift) / scale),
        Bounds(shift, shift + scale),
        gradient=lambda x, slopes: planted.gradient(x, slopes) / scale,
    )
    x = as_tensor(planted.x * scale + shift)
    criterion = Misclassification(as_tensor(planted.y))
    ledger = run(FMN(steps=100), Problem(moved, x, criterion, get_norm(norm)))
    expected = attack(planted, norm, steps=100).distance.numpy()
    unit = 1.0 if norm == "l0" else scale
    assert np.allclose(ledger.distance.numpy(), expected * unit, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_margin_of_zero_is_left_behind(plant, norm):
    planted = plant(seed=5, samples=1, classes=2)
    gap = np.diff(planted.logits(planted.x)[0])[0]
    planted.b = planted.b - np.array([0.0, gap])
    planted.x = planted.x[:1]
    planted.y = np.array([0])
    ledger = attack(planted, norm)
    assert ledger.found.numpy().all()
    assert ledger.distance.numpy()[0] <= (1 if norm == "l0" else 0.01)


def test_learns_both_losses_and_no_other(plant):
    planted = plant(seed=6, classes=2)
    x, criterion = as_tensor(planted.x), Misclassification(as_tensor(planted.y))

    def median(loss):
        problem = Problem(planted.model(), x, criterion, get_norm("l2"))
        distance = run(FMN(steps=300, loss=loss), problem).distance.numpy()
        return np.median(distance / planted.exact("l2"))

    assert median("cross-entropy") <= 1.001
    with pytest.raises(BadInput, match="did you mean 'margin'"):
        median("margins")


@pytest.mark.slow
@pytest.mark.parametrize("norm", [*EXCESS, "l0"])
def test_real_networks_whose_exact_distances_are_known(shared, norm):
    ratios = []
    for net in ("linear",) if norm == "l0" else ("linear", "toy20", "mlp14_std"):
        known = shared.exact(net, norm)
        model = TorchModel(shared.exact_model(net).double())
        x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
        criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
        ledger = run(FMN(steps=1000), Problem(model, x, criterion, get_norm(norm)))
        distance = ledger.distance.numpy()
        assert np.isfinite(distance).all()
        assert (distance >= known["distance"] * (1 - 1e-5)).all()
        if norm == "l0":
            assert np.median(distance - known["distance"]) <= 1
        else:
            ratios.extend(distance / known["distance"])
    assert norm == "l0" or np.median(ratios) <= EXCESS[norm]


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "name"), [("linf", "LInfFMNAttack"), ("l2", "DDN")])
def test_not_worse_than_foolbox(shared, norm, name):
    foolbox = pytest.importorskip("foolbox")
    module = shared.torch_model("mnist_cnn_a_adv")
    images, labels = (torch.tensor(values[:32]) for values in shared.images("mnist"))
    theirs = {
        "LInfFMNAttack": foolbox.attacks.LInfFMNAttack(steps=100),
        "DDN": foolbox.attacks.DDNAttack(steps=100),
    }[name]
    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    points = theirs.run(model, images, labels)
    delta = (points - images).flatten(1)
    size = torch.linalg.vector_norm(delta, torch.inf if norm == "linf" else 2, dim=1)
    missed = module(points).argmax(dim=1) == labels
    reference = np.where(missed.numpy(), np.inf, size.detach().numpy())

    criterion = Misclassification(as_tensor(labels))
    problem = Problem(TorchModel(module), as_tensor(images), criterion, get_norm(norm))
    distance = run(FMN(steps=100), problem).distance.numpy()
    attacked = reference > 0
    assert np.isfinite(distance).all()
    assert np.median(distance[attacked] / reference[attacked]) <= 1.02

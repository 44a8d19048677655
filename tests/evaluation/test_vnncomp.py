"""Local robustness problems whose verdict is known, on ONNX files of all kinds."""

import numpy as np
import pytest

import robustkit as rk
from robustkit.evaluation.verify import confirm
from robustkit.models.onnx import OnnxModel
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.norms import get_norm

CATEGORIES = (
    "cifar10_resnet",
    "eran_mnist",
    "marabou_cifar10",
    "mnistfc",
    "oval21",
    "sri_resnet_a",
    "traffic_bnn_30",
    "verivital_mnist",
)
# What 300 decisions per sample broke when this was written; two may be lost to luck.
BROKEN_BY_DECISIONS = {
    "mnistfc": 4,
    "oval21": 1,
    "traffic_bnn_30": 5,
    "verivital_mnist": 2,
}
# The same with 200 passes of FMN; one may be lost.
BROKEN_BY_GRADIENTS = {
    "eran_mnist": 1,
    "marabou_cifar10": 17,
    "mnistfc": 17,
    "oval21": 2,
    "sri_resnet_a": 6,
    "verivital_mnist": 3,
}
DIFFERENTIABLE = tuple(name for name in CATEGORIES if name != "traffic_bnn_30")


def model(folder, name, category, mean, std):
    if category.startswith("traffic"):
        mean, std = [0.0], [1 / 255]
    return Preprocessed(OnnxModel(folder / name), list(mean), list(std))


def distances(problems, folder, category, attack, budget):
    found = np.full(len(problems["x"]), np.nan)
    targeted = problems["target"] >= 0
    mean, std = np.atleast_1d(problems["mean"]), np.atleast_1d(problems["std"])
    for name in np.unique(problems["model"]):
        for kind in (False, True):
            rows = np.flatnonzero((problems["model"] == name) & (targeted == kind))
            if len(rows) == 0:
                continue
            labels = problems["target" if kind else "y"][rows].astype(np.int64)
            network = model(folder, str(name), category, mean, std)
            x = problems["x"][rows].astype(np.float32)
            make = rk.Targeted if kind else rk.Misclassification
            criterion = make(network.to_tensor(labels))
            result = rk.run(
                attack.within(budget),
                network,
                x,
                criterion,
                norm="linf",
                budget=budget,
            )
            # Scores of gradient attacks are torch's; onnxruntime has the last word.
            _, distance, wrong = confirm(
                network, criterion, x, result.x_adversarial, get_norm("linf")
            )
            found[rows] = np.where([bool(flaw) for flaw in wrong], np.nan, distance)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("category", CATEGORIES)
def test_no_proven_instance_is_ever_broken(shared, category):
    problems, folder = shared.vnncomp(category)
    distance = distances(problems, folder, category, rk.Boundary(), 300)
    assert broken(problems, distance) >= BROKEN_BY_DECISIONS.get(category, 0) - 2


@pytest.mark.slow
@pytest.mark.parametrize("category", DIFFERENTIABLE)
def test_gradients_break_what_can_be_broken_and_nothing_else(shared, category):
    problems, folder = shared.vnncomp(category)
    distance = distances(problems, folder, category, rk.FMN(), 200)
    assert broken(problems, distance) >= BROKEN_BY_GRADIENTS.get(category, 0) - 1


@pytest.mark.slow
@pytest.mark.parametrize("category", DIFFERENTIABLE)
def test_every_witnessed_instance_falls_to_auto(shared, category):
    problems, folder = shared.vnncomp(category)
    witnessed = (problems["verdict"] == "sat") & problems["witnessed"]
    if not witnessed.any():
        pytest.skip(f"no instance of {category} has a witness")
    problems = chosen(problems, witnessed)
    distance = distances(problems, folder, category, rk.auto("linf", 300), 300)
    # One of the largest category's may be lost to rounding.
    assert broken(problems, distance) >= witnessed.sum() - (category == "mnistfc")


def chosen(problems, rows):
    """Some of the problems; what is one for all stays as it is."""
    of_all = ("mean", "std")
    return {k: v if k in of_all else v[rows] for k, v in problems.items()}


def broken(problems, distance):
    """How many of the problems with an adversarial; of the others it must be none."""
    near = distance <= problems["eps"]
    assert not (near & (problems["verdict"] == "unsat")).any()
    return (near & (problems["verdict"] == "sat") & problems["witnessed"]).sum()

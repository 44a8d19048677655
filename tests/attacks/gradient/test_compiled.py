"""Attacks whose arithmetic is compiled find what they find when it is not."""

import copy
import math

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.attacks.gradient.apgd import APGD
from robustkit.attacks.gradient.brendel_bethge import BrendelBethge
from robustkit.attacks.gradient.ddn import DDN
from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.pgd import PGD
from robustkit.attacks.gradient.relay import Relay
from robustkit.numerics import fused
from robustkit.numerics.fused import compiler_missing
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

SAMPLES = 9


@pytest.fixture(scope="module", autouse=True)
def compiler():
    if reason := compiler_missing():
        pytest.skip(f"torch cannot compile here: {reason}")


@pytest.fixture(scope="module")
def task():
    """A smooth network in double precision, so that rounding decides nothing."""
    rng = np.random.default_rng(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(12, 30), torch.nn.Softplus(), torch.nn.Linear(30, 4)
    )
    network = network.double().eval()
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(torch.from_numpy(rng.normal(0, 0.5, tuple(weights.shape))))
    x = torch.from_numpy(rng.uniform(size=(SAMPLES, 12)))
    # Images have many features at a bound.
    x[:, ::3] = 0.0
    return network, x, network(x).argmax(dim=1)


CASES = [
    *((FMN(steps=30), norm) for norm in ("linf", "l2", "l1", "l0")),
    (PGD(epsilon=0.3, steps=10), "linf"),
    (PGD(epsilon=0.5, steps=10), "l2"),
    (PGD(epsilon=1.5, steps=10), "l1"),
    (DDN(steps=20), "l2"),
    (APGD(epsilon=0.3, steps=15), "linf"),
    *((Relay(steps=60), norm) for norm in ("linf", "l2", "l1", "l0")),
    (BrendelBethge(steps=40), "linf"),
]


@pytest.fixture
def only_unguarded(monkeypatch):
    """That nothing comes to the slow kind of program unnoticed."""

    def absent(*_):
        raise AssertionError("not needed for functions of this package")

    monkeypatch.setattr(fused, "_guarded", absent)


@pytest.mark.usefixtures("only_unguarded")
@pytest.mark.parametrize(("attack", "norm"), CASES, ids=lambda case: str(case)[:3])
def test_the_same_is_found(task, attack, norm):
    network, x, y = task
    plain = rk.run(attack, network, x, y, norm=norm)
    fast = rk.run(attack, network, x, y, norm=norm, compiled=True)
    assert plain.found.any()
    assert np.allclose(plain.distance, fast.distance, rtol=1e-6)
    # The points may differ where many are as near: rounding decides who is at a bound.
    assert (network(fast.x_adversarial).argmax(dim=1) != y)[fast.found].all()
    size = get_norm(norm)(as_tensor(fast.x_adversarial - x)).raw
    assert np.allclose(size[fast.found], fast.distance[fast.found], rtol=1e-6)
    assert (plain.ledger.forwards == fast.ledger.forwards).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_same_is_found_by_programs_with_guards(task, norm, monkeypatch):
    """As on GPUs, and where torch's insides are others."""

    def absent(*_):
        raise AttributeError("other versions of torch have no such thing")

    monkeypatch.setattr(fused, "_unguarded", absent)
    test_the_same_is_found(task, Relay(steps=40), norm)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_gradients_that_are_no_numbers_count_as_zero(task, norm):
    network, x, y = task

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, points):
            return points.clone()

        @staticmethod
        def backward(ctx, slopes):
            broken = slopes.clone()
            broken[:, 1], broken[:, 2] = math.nan, -math.inf
            return broken

    model = torch.nn.Sequential(Through(Broken), network).eval()
    plain = rk.run(FMN(steps=30), model, x, y, norm=norm)
    fast = rk.run(FMN(steps=30), model, x, y, norm=norm, compiled=True)
    # Whom the features that are left suffice for.
    assert plain.found.sum() > len(x) / 2
    assert np.allclose(plain.distance, fast.distance, rtol=1e-6)


class Through(torch.nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, points):
        return self.function.apply(points)


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        (DDN(steps=20), "l2"),
        pytest.param(FMN(steps=20), "l1", marks=pytest.mark.slow),
        pytest.param(APGD(epsilon=0.3, steps=10), "linf", marks=pytest.mark.slow),
        pytest.param(Relay(steps=30), "linf", marks=pytest.mark.slow),
    ],
    ids=lambda case: str(case)[:3],
)
def test_the_same_is_found_in_jax(attack, norm, jax_on_a_device):
    jnp = pytest.importorskip("jax.numpy")
    from robustkit.models.jax import JaxModel

    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(12, 30)) / 2, rng.normal(size=(30, 4)) / 2

    def network(x):
        return jnp.logaddexp(x @ first, 0.0) @ second

    x = jnp.asarray(rng.uniform(size=(SAMPLES, 12)).astype(np.float32))
    y = network(x).argmax(axis=1)
    model = JaxModel(network)
    plain = rk.run(attack, model, x, y, norm=norm)
    fast = rk.run(attack, model, x, y, norm=norm, compiled=True)
    assert plain.found.any()
    assert np.allclose(plain.distance, fast.distance, rtol=1e-3)
    assert (network(fast.x_adversarial).argmax(axis=1) != y)[fast.found].all()
    assert (plain.ledger.forwards == fast.ledger.forwards).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_company_changes_nothing(task, norm):
    """Not even that of a single sample."""
    network, x, y = task
    whole = rk.run(FMN(steps=30), network, x, y, norm=norm, compiled=True)
    for rows in ([0], [1, 2], [8, 7, 5, 4]):
        part = rk.run(
            FMN(steps=30), network, x[rows], y[rows], norm=norm, compiled=True
        )
        assert np.allclose(part.distance, whole.distance[rows], rtol=1e-6)


def test_a_whole_evaluation_verified(task):
    network, x, y = task
    settings = {"norm": "linf", "attacks": {"fmn": FMN(steps=20)}}
    x = x.float()
    network = copy.deepcopy(network).float()
    plain = rk.evaluate(network, (x, y), **settings)
    fast = rk.evaluate(network, (x, y), compiled=True, **settings)
    assert np.allclose(plain.distance, fast.distance, rtol=1e-4)
    assert fast.run["config"]["compiled"]
    assert not plain.run["config"]["compiled"]


def test_samples_that_leave_compile_nothing_anew(task, monkeypatch):
    network, x, y = task
    compiled, build = [], fused._unguarded

    def counting(function, data):
        compiled.append(function)
        return build(function, data)

    counts = []
    # As many samples at each step as there are left to break.
    attack = PGD(epsilon=0.45, steps=12, stepsize=0.1)
    monkeypatch.setattr(fused, "_unguarded", counting)
    wide = torch.nn.Sequential(torch.nn.Flatten(), network)
    x = x.reshape(SAMPLES, 3, 4)

    class Watched(torch.nn.Module):
        def forward(self, points):
            counts.append(len(points))
            return wide(points)

    rk.run(attack, Watched().eval(), x, y, norm="linf", compiled=True)
    assert len(set(counts) - {1}) > 2
    assert len(compiled) == 1

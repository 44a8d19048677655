"""Bounds against exact arithmetic, where rounding in double precision is seen."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from robustkit.certify.bounds import METHODS, least_values
from robustkit.certify.networks import ReluGraph, follow
from robustkit.certify.regions import NORMS, Region
from robustkit.models.torch import TorchModel

FEATURES = 30


def exactly(values):
    return [Fraction(float(v)) for v in np.ravel(values)]


def dot(a, b):
    return sum((p * q for p, q in zip(a, b, strict=True)), Fraction(0))


def least_of(row, x, norm, radius):
    """The least value of row . delta, exactly; in l2, one that is reached."""
    row, x, radius = exactly(row), exactly(x), Fraction(radius)
    room = [min(v if r > 0 else 1 - v, radius) for r, v in zip(row, x, strict=True)]
    if norm == "linf":
        return -dot(map(abs, row), room)
    if norm == "l1":
        total, left = Fraction(0), radius
        for steep, space in sorted(zip(map(abs, row), room, strict=True))[::-1]:
            moved = min(space, left)
            total, left = total - steep * moved, left - moved
        return total
    # Along the row, cut to the box, and a little shorter than the radius.
    size = Fraction(float(np.linalg.norm(np.array(row, dtype=float)))) * (1 + 2**-40)
    moved = [min(abs(r) * radius / size, s) for r, s in zip(row, room, strict=True)]
    assert dot(moved, moved) <= radius**2
    return -dot(map(abs, row), moved)


def uneven(rng, *shape):
    """Numbers in single precision, of very different sizes."""
    values = rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 3, shape)
    return values.astype(np.float32)


@pytest.mark.parametrize("norm", NORMS)
def test_least_values_of_rows(norm):
    rng = np.random.default_rng(0)
    for _ in range(60):
        x = rng.beta(0.3, 0.3, FEATURES).astype(np.float32).astype(np.float64)
        row = uneven(rng, FEATURES).astype(np.float64)
        radius = float(rng.choice([0.003, 0.07, 0.6, 3.0]))
        region = Region(torch.from_numpy(x), norm, radius, 0.0, 1.0)
        bound = float(region.least(torch.from_numpy(row[None]))[0])
        reached = least_of(row, x, norm, radius)
        assert Fraction(bound) <= reached
        if norm != "l2":
            assert bound == pytest.approx(float(reached), rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("radius", [0.0, 1e-4])
def test_values_of_a_network(method, radius):
    """At the input itself, and at the corners of a small box around it."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        layers = [nn.Linear(FEATURES, 20), nn.Linear(20, 20), nn.Linear(20, 2)]
        for layer in layers:
            for values in layer.parameters():
                values.data = torch.from_numpy(uneven(rng, *values.shape))
        between = [layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]]
        net = nn.Sequential(*between).eval()
        x = rng.random((1, FEATURES)).astype(np.float32)
        graph = follow(TorchModel(net), torch.from_numpy(x))
        region = Region(torch.from_numpy(x[0]).double(), "linf", radius, 0.0, 1.0)
        rows = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
        bound = least_values(graph, region, rows, method)
        for _ in range(1 if radius == 0 else 4):
            point = [
                min(max(v + Fraction(radius) * int(s), Fraction(0)), Fraction(1))
                for v, s in zip(exactly(x), rng.choice([-1, 1], FEATURES), strict=True)
            ]
            for place, layer in enumerate(layers):
                weights = layer.weight.detach().numpy()
                bias = exactly(layer.bias.detach().numpy())
                point = [
                    dot(exactly(row), point) + b
                    for row, b in zip(weights, bias, strict=True)
                ]
                if place < 2:
                    point = [max(v, Fraction(0)) for v in point]
            margin = point[0] - point[1]
            assert Fraction(float(bound[0])) <= margin
            assert Fraction(float(bound[1])) <= -margin
        if radius == 0:
            size = float(sum(map(abs, point)))
            assert float(bound[0]) == pytest.approx(float(margin), abs=1e-7 * size)


@pytest.mark.parametrize("account", [True, False])
def test_without_an_account_of_rounding_they_would_not_hold(monkeypatch, account):
    """Of a single layer, of which half the sums are rounded upwards."""
    if not account:
        monkeypatch.setattr(ReluGraph, "rounding", 0.0)
    rng, holds = np.random.default_rng(2), []
    for _ in range(40):
        layer = nn.Linear(FEATURES, 2)
        for values in layer.parameters():
            values.data = torch.from_numpy(uneven(rng, *values.shape))
        x = rng.random((1, FEATURES)).astype(np.float32)
        graph = follow(TorchModel(layer.eval()), torch.from_numpy(x))
        region = Region(torch.from_numpy(x[0]).double(), "linf", 0.0, 0.0, 1.0)
        rows = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
        bound = least_values(graph, region, rows, "interval")
        weights, bias = exactly(layer.weight.detach()), exactly(layer.bias.detach())
        one, other = (
            dot(weights[at : at + FEATURES], exactly(x)) for at in (0, FEATURES)
        )
        holds.append(Fraction(float(bound[0])) <= one + bias[0] - other - bias[1])
    assert all(holds) is account


def test_sizes_leave_out_all_signs():
    """What is added up, also where slopes alone do not show it."""

    def net(x):
        normal = nn.functional.batch_norm(
            x, torch.tensor([5.0, -5.0]), torch.ones(2), eps=0.0
        )
        padded = nn.functional.pad(normal - 3.0, (1, 0), value=-2.0)
        return (0.25 - padded) * -2.0

    graph = follow(TorchModel(net), torch.zeros(1, 2))
    (piece,) = graph.pieces
    (size,) = piece.size(torch.tensor([[1.0, 1.0]], dtype=torch.float64))
    assert size.tolist() == [2 * 2.25, 2 * (0.25 + 3 + 5 + 1), 2 * (0.25 + 3 + 5 + 1)]
    assert piece.roundings > 5 * 16

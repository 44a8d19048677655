"""Exact distances of small networks: against closed forms, enumeration, and files."""

import itertools
import math

import numpy as np
import pytest
import torch

from robustkit.active_tests.exact import ExactResult, exact_distance
from robustkit.active_tests.networks import ReluNetwork
from robustkit.active_tests.planted import max_of_affines, min_of_affines
from robustkit.active_tests.planted.networks import least_network
from robustkit.active_tests.regions import HalfSpace, polyhedron, size
from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds

NORMS = ("l0", "l1", "linf")


def random_network(seed, widths=(4, 5, 4, 3)):
    rng = np.random.default_rng(seed)
    return ReluNetwork(
        [
            (rng.normal(size=(outs, ins)) * 1.5 / np.sqrt(ins), rng.normal(size=outs))
            for ins, outs in itertools.pairwise(widths)
        ]
    )


def by_enumeration(network, x, y, target, norm, bounds):
    """The least distance over all linear pieces, each by a polyhedron."""
    best = np.inf
    widths = [len(bias) for _, bias in network.layers[:-1]]
    classes = len(network.layers[-1][1])
    for signs in itertools.product([0.0, 1.0], repeat=sum(widths)):
        weight, bias = np.eye(len(x)), np.zeros(len(x))
        rows, levels, at = [], [], 0
        for (w, b), width in zip(network.layers[:-1], widths, strict=True):
            on = np.array(signs[at : at + width])
            at += width
            weight, bias = w @ weight, w @ bias + b
            rows.append(weight * (1 - 2 * on)[:, None])
            levels.append(bias * (1 - 2 * on))
            weight, bias = weight * on[:, None], bias * on
        w, b = network.layers[-1]
        weight, bias = w @ weight, w @ bias + b
        if target is None:
            goals = [[(y, j)] for j in range(classes) if j != y]
        else:
            goals = [[(j, target) for j in range(classes) if j != target]]
        for goal in goals:
            lost, won = np.array(goal).T
            region = polyhedron(
                np.vstack([*rows, weight[lost] - weight[won]]),
                np.concatenate([*levels, bias[lost] - bias[won]]),
            )
            if region.at_least(x, norm, bounds) >= best:
                continue
            point = region.nearest(x, norm, bounds)
            if point is not None:
                best = min(best, size(point - x, norm))
    return best


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("seed", "targeted"), [(1, False), (2, True)])
def test_deep_networks_by_enumeration_of_all_pieces(seed, targeted, norm):
    network = random_network(seed, (3, 3, 3, 3))
    bounds = Bounds(-1, 1)
    x = np.random.default_rng(seed).uniform(-1, 1, 3)
    scores = network.logits(x[None])[0]
    y = int(scores.argmax())
    target = int(scores.argmin()) if targeted else None
    expected = by_enumeration(network, x, y, target, norm, bounds)
    result = exact_distance(network, x, y, norm, bounds=bounds, target=target)
    if expected == np.inf:
        assert (result.status, result.witness) == ("none", None)
        assert result.upper == np.inf
        return
    assert result.status == "exact"
    assert result.upper == pytest.approx(expected, rel=1e-6)
    assert result.lower <= expected * (1 + 1e-9)
    scores = network.logits(result.witness[None])[0]
    won = scores.argmax() == target if targeted else scores.argmax() != y
    assert won
    assert size(result.witness - x, norm) == result.upper


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [min_of_affines, max_of_affines])
def test_planted_networks(make, norm):
    problem = make(seed=3, samples=2, pieces=3, bounds=(-2.0, 3.0))
    sign = 1 if make is min_of_affines else -1
    union = problem.regions[0]
    if sign > 0:
        slopes = np.array([half.slope for half in union])
        offsets = np.array([half.offset for half in union])
    else:
        slopes, offsets = -union[0].slopes, -union[0].offsets
    network = least_network(slopes, offsets, sign=sign)
    for x, y, exact in zip(problem.x, problem.y, problem.exact(norm), strict=True):
        result = exact_distance(network, x, int(y), norm, bounds=(-2, 3))
        assert result.status == "exact"
        assert result.upper == pytest.approx(exact, rel=1e-6)
        assert result.lower == pytest.approx(exact, rel=1e-5)


def test_linear_networks_and_inputs_of_any_shape():
    rng = np.random.default_rng(0)
    layer = torch.nn.Linear(6, 2).double()
    net = torch.nn.Sequential(torch.nn.Flatten(), layer).eval()
    x = rng.random((1, 2, 3))
    scores = net(torch.from_numpy(x)[None]).detach().numpy()[0]
    y = int(scores.argmax())
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    half = HalfSpace(weight[y] - weight[1 - y], float(bias[y] - bias[1 - y]))
    for norm in NORMS:
        point = half.nearest(x.reshape(-1), norm, Bounds(0, 1))
        result = exact_distance(net, x, y, norm)
        if point is None:
            assert result.status == "none"
            continue
        assert result.upper == pytest.approx(size(point - x.reshape(-1), norm))
        assert result.witness.shape == (1, 2, 3)


@pytest.mark.parametrize("norm", NORMS)
def test_inputs_in_single_precision_at_a_bound_it_has_another_number_for(norm):
    """0.1 is larger there, and an input that was clipped to 0.1 holds that."""
    network = ReluNetwork([(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0.05]))])
    x = np.array([0.1, 0.0], np.float32)
    assert float(x.max()) > 0.1
    found = exact_distance(network, x, 0, norm, bounds=(0.0, 0.1))
    assert found.status == "exact"
    assert found.upper == pytest.approx({"l0": 1, "l1": 0.05, "linf": 0.025}[norm])
    with pytest.raises(BadInput, match="within the bounds"):
        exact_distance(network, x.astype(np.float64), 0, norm, bounds=(0.0, 0.1))


def test_convolutions_in_a_network_are_lowered():
    torch_rng = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 2),
        torch.nn.ReLU(),
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3)),
    ).eval()
    for parameter in net.parameters():
        parameter.data.normal_(generator=torch_rng)
    x = np.random.default_rng(1).random((1, 3, 3)).astype(np.float32)
    y = int(net(torch.from_numpy(x)[None]).argmax())
    result = exact_distance(net, x, y, "linf")
    assert result.status == "exact"
    witness = torch.from_numpy(result.witness)[None]
    scores = net.double()(witness)[0]
    assert scores.argmax() != y
    # The boundary, from its other side.
    assert (scores[y] - scores.max()).abs() < 1e-5


def test_no_adversarial_is_proven():
    # Class 1 lags by 3 and can gain 2 at most.
    layers = [(np.eye(2), np.zeros(2)), (np.array([[0.0, 0], [1, 1]]), [3.0, 0])]
    for norm in NORMS:
        result = exact_distance(layers, np.array([0.2, 0.3]), 0, norm)
        assert result.status == "none"
        assert (result.lower, result.upper, result.witness) == (np.inf, np.inf, None)


def test_ties_are_no_adversarials():
    # Both classes are level where the second feature is at its bound, and nowhere else.
    layers = [(np.array([[1.0, 1], [1, -1]]), np.zeros(2)), (np.eye(2), np.zeros(2))]
    result = exact_distance(layers, np.array([0.6, 0.4]), 0)
    assert result.status == "interval"
    assert result.lower == pytest.approx(0.4, rel=1e-5)
    assert (result.upper, result.witness) == (np.inf, None)


def test_scores_too_small_for_the_solver_leave_an_interval():
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(6, 4)), 0.3 * rng.normal(size=6))]
    layers += [(rng.normal(size=(3, 6)), 0.3 * rng.normal(size=3))]
    x = rng.random(4)
    y = int(np.argmax(ReluNetwork(layers).logits(x[None])[0]))
    tiny = [(weight * 1e-8, bias * scale) for (weight, bias), scale in zip(
        layers, (1e-8, 1e-16), strict=True
    )]  # fmt: skip
    assert exact_distance(layers, x, y, "l0").status == "none"
    assert exact_distance(tiny, x, y, "l0").status in ("none", "interval")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("sizes", [(1e-10, 1), (1e6, 1e6), (1e12, 1), (1e-5, 1e-7)])
def test_values_far_from_one_are_no_matter(monkeypatch, sizes, norm):
    """Nor does the attack know the answer already."""
    monkeypatch.setattr(
        "robustkit.active_tests.bracket.Bracket._attack", lambda *_: None
    )
    layers = random_network(1, (3, 5, 3)).layers
    x = np.random.default_rng(1).random(3)
    y = int(np.argmax(ReluNetwork(layers).logits(x[None])[0]))
    (w, b), (v, c) = layers
    first, second = sizes
    far = [(w * first, b * first), (v * second, c * first * second)]
    expected, found = (exact_distance(some, x, y, norm) for some in (layers, far))
    assert expected.status == found.status == "exact"
    assert found.lower == pytest.approx(expected.lower, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [1e-12, 1e-9, 1e9, 1e12])
def test_inputs_far_from_one_are_no_matter(monkeypatch, width, norm):
    monkeypatch.setattr(
        "robustkit.active_tests.bracket.Bracket._attack", lambda *_: None
    )
    (w, b), *rest = random_network(1, (3, 5, 3)).layers
    x = np.random.default_rng(1).random(3)
    y = int(np.argmax(ReluNetwork([(w, b), *rest]).logits(x[None])[0]))
    expected = exact_distance([(w, b), *rest], x, y, norm)
    far = [(w / width, b), *rest]
    found = exact_distance(far, x * width, y, norm, bounds=(0, width))
    assert expected.status == found.status == "exact"
    unit = 1 if norm == "l0" else width
    assert found.lower == pytest.approx(expected.lower * unit, rel=1e-5)
    scores = ReluNetwork(far).logits(found.witness[None])[0]
    assert scores.max() > scores[y]
    delta = found.witness - x * width
    assert size(delta, norm) == pytest.approx(found.upper, rel=1e-9)


def test_a_misclassified_input_is_its_own_witness():
    layers = [(np.eye(2), np.zeros(2))]
    x = np.array([0.2, 0.7])
    result = exact_distance(layers, x, 0)
    assert (result.status, result.lower, result.upper) == ("misclassified", 0, 0)
    assert (result.witness == x).all()
    assert exact_distance(layers, x[::-1], 0, target=1).status == "exact"


def test_when_time_is_up_the_bounds_hold(shared):
    with np.load(shared.HERE / "exact" / "toy20_linf.npz") as file:
        x, y, truth = (file[k][9] for k in ("x", "y", "distance"))
    net = shared.exact_model("toy20")
    result = exact_distance(net, x, int(y), "linf", timeout=1.0)
    assert result.lower <= truth <= result.upper
    assert result.status == "interval" or result.upper == pytest.approx(truth)
    assert result.seconds < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "norm", "rows"),
    [
        ("toy20", "linf", [3, 10]),
        ("toy20", "l1", [0, 1]),
        ("mlp14_std", "linf", [5, 7]),
        ("mlp14_std", "l1", [5, 4]),
    ],
)
def test_agreement_with_what_was_computed_elsewhere(shared, net, norm, rows):
    with np.load(shared.HERE / "exact" / f"{net}_{norm}.npz") as file:
        data = {k: file[k] for k in ("x", "y", "distance")}
    module = shared.exact_model(net)
    for row in rows:
        result = exact_distance(
            module, data["x"][row], int(data["y"][row]), norm, timeout=200
        )
        assert result.status == "exact"
        assert result.upper == pytest.approx(data["distance"][row], rel=1e-5)
        assert result.lower == pytest.approx(data["distance"][row], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l2"}, "not computed in the norm l2; .*known: l0, l1, linf"),
        ({"timeout": 0}, "the timeout must be more than 0; got 0"),
        ({"timeout": "x"}, "the timeout must be a number; got 'x'"),
        ({"timeout": math.nan}, "the timeout must be a finite number; got nan"),
        ({"target": 0}, "target must differ from the label; both are 0"),
        ({"target": 2}, "the target must be 0 to 1; got 2"),
        ({"y": 5}, "the label must be 0 to 1; got 5"),
        ({"y": 0.5}, "the label must be a whole number; got 0.5"),
        ({"target": "1"}, "the target must be a whole number; got '1'"),
        ({"x": np.array([0.2, 1.5])}, r"within the bounds \[0, 1\]; .* 0.2 to 1.5"),
        ({"x": np.array([0.2, np.nan])}, "within the bounds"),
        ({"network": "net.onnx"}, "need a network of affine layers"),
        ({"network": [(np.eye(2), None)]}, "as many biases as outputs"),
        ({"network": [(np.eye(2), np.zeros(2), 1)]}, "expected pairs of weights"),
        ({"network": [(np.nan * np.eye(2), np.zeros(2))]}, "not finite"),
    ],
)
def test_bad_input_is_refused(settings, message):
    given = {"network": [(np.eye(2), np.zeros(2))], "x": np.array([0.7, 0.2]), "y": 0}
    given |= settings
    with pytest.raises(BadInput, match=message):
        exact_distance(**given)


def test_results_can_be_compared_and_printed():
    assert "lower=1" in repr(ExactResult(1.0, 2.0, None, "interval", 0.1))

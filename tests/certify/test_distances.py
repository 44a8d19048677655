"""Certificates against exact distances, attacks, closed forms and known verdicts."""

import numpy as np
import pytest
import torch
from torch import nn

import robustkit as rk
from robustkit.certify.bounds import METHODS, least_values
from robustkit.certify.distances import Certifier
from robustkit.certify.networks import INPUT, follow
from robustkit.certify.regions import NORMS, Region
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.models.wrappers import Preprocessed


class Residual(nn.Module):
    """Two ways from the input to the output, and a ReLU written as a clamp."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.Conv2d(4, 2, 3, 1, 1),
        )
        self.norm, self.last = nn.BatchNorm2d(4), nn.Linear(6, 3)

    def forward(self, x):
        z = self.norm(self.first(x)).clamp(min=0)
        z = torch.relu(x - 0.5 * self.second(z))
        pooled = nn.functional.avg_pool2d(nn.functional.pad(z, (1, 1)), 2)
        return self.last(torch.cat([pooled.flatten(1), -z.mean(dim=(2, 3))], 1))


@pytest.fixture(scope="module")
def residual():
    net = Residual()
    rng = np.random.default_rng(3)
    for values in (*net.parameters(), net.norm.running_mean):
        values.data = torch.tensor(rng.normal(size=values.shape), dtype=torch.float32)
    net.norm.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(0))
    return net.eval()


def inside(region, norm, radius, rng, count):
    """Points of a region (count, d): many at its edge."""
    x = region.x.numpy()
    delta = rng.normal(size=(count, len(x)))
    if norm == "linf":
        delta = radius * np.sign(delta) * (rng.random(delta.shape) < 0.9)
    elif norm == "l2":
        delta *= radius / np.linalg.norm(delta, axis=1, keepdims=True)
    else:
        kept = rng.integers(1, 4, size=(count, 1))
        delta *= np.argsort(np.argsort(-abs(delta), axis=1), axis=1) < kept
        delta *= radius / abs(delta).sum(axis=1, keepdims=True)
    return (x + delta).clip(0, 1)


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_hold_on_networks_with_skip_connections(residual, norm):
    rng = np.random.default_rng(0)
    graph = follow(TorchModel(residual), torch.zeros(1, 2, 2, 3))
    assert [piece.sources for piece in graph.pieces] == [(INPUT,), (INPUT, 0), (1,)]
    radius = {"linf": 0.1, "l2": 0.3, "l1": 0.8}[norm]
    rows = torch.from_numpy(rng.normal(size=(5, 3)))
    for _ in range(3):
        x = rng.random(12)
        region = Region(torch.from_numpy(x), norm, radius, 0.0, 1.0)
        bound = {m: least_values(graph, region, rows, m) for m in METHODS}
        points = torch.from_numpy(inside(region, norm, radius, rng, 300))
        with torch.no_grad():
            seen = residual.double()(points.reshape(-1, 2, 2, 3)) @ rows.T
        residual.float()
        least = seen.min(dim=0).values
        assert (bound["interval"] <= bound["crown"] + 1e-12).all()
        assert (bound["crown"] <= least).all()
        # And they are not just anything.
        spread = seen.max(dim=0).values - least
        assert (bound["crown"] > least - 3 * spread).all()


def test_without_a_ball_the_bounds_are_the_scores(residual):
    x = np.random.default_rng(1).random((1, 2, 2, 3))
    graph = follow(TorchModel(residual), torch.zeros(1, 2, 2, 3))
    scores = graph.values(torch.from_numpy(x))[-1][0]
    expected = residual(torch.from_numpy(x).float())[0].detach()
    assert torch.allclose(scores.float(), expected, atol=1e-5)
    region = Region(torch.from_numpy(x.reshape(-1)), "linf", 0.0, 0.0, 1.0)
    for method in METHODS:
        found = least_values(graph, region, torch.eye(3, dtype=torch.float64), method)
        assert torch.allclose(found, scores, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_linear_networks_are_certified_up_to_the_boundary(plant, norm, targeted):
    planted = plant(samples=8, classes=2 if targeted else 3, bounds=(-1.0, 2.0))
    net = nn.Linear(8, planted.w.shape[1]).eval()
    net.weight = nn.Parameter(torch.from_numpy(planted.w.T).float())
    net.bias = nn.Parameter(torch.from_numpy(planted.b).float())
    model = TorchModel(net, (-1.0, 2.0))
    targets = 1 - planted.y if targeted else np.full(8, -1)
    exact = planted.exact(norm, targets if targeted else None)
    certifier = Certifier(model, planted.x)
    for x, y, t, distance in zip(planted.x, planted.y, targets, exact, strict=True):
        radius = certifier.radius(x, int(y), norm, target=int(t))
        if np.isinf(distance):
            assert radius == np.inf
            continue
        assert radius <= distance * (1 + 1e-6)
        assert radius > 0.97 * distance - 1e-3


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("net", ["toy20", "mlp14_std"])
def test_never_above_the_exact_distance(shared, net, norm):
    data = shared.exact(net, norm)
    model = TorchModel(shared.exact_model(net))
    certifiers = [Certifier(model, data["x"][:1], method) for method in METHODS]
    ratios = []
    for row in range(3):
        x, y, exact = data["x"][row], int(data["y"][row]), data["distance"][row]
        loose, tight = (c.radius(x, y, norm) for c in certifiers)
        assert 0 < loose <= tight <= exact
        ratios.append(tight / exact)
    # What linear bounds reached when this was written: 0.72 to 0.97.
    assert min(ratios) > 0.65
    assert np.median(ratios) > 0.75


def test_certificates_are_monotone_and_norms_in_order(shared):
    data = shared.exact("mlp14_std", "linf")
    model = TorchModel(shared.exact_model("mlp14_std"))
    x, y = data["x"][0], int(data["y"][0])
    for method in METHODS:
        certifier = Certifier(model, data["x"][:1], method)
        radii = {norm: certifier.radius(x, y, norm) for norm in NORMS}
        # Balls of one radius lie in each other.
        assert radii["linf"] <= radii["l2"] * 1.01
        assert radii["l2"] <= radii["l1"] * 1.01
        for norm, radius in radii.items():
            shares = np.linspace(0, 1, 6)
            assert all(certifier.certifies(x, y, norm, radius * s) for s in shares)
            assert not certifier.certifies(x, y, norm, radius * 1.05)


@pytest.mark.parametrize("norm", NORMS)
def test_never_above_what_an_attack_finds_on_a_convolutional_network(shared, norm):
    x, y = shared.images("cifar10")
    model = TorchModel(shared.torch_model("cifar_small_8px_kw"))
    certifier = Certifier(model, x[:1], "interval")
    found = rk.run("auto", model, x[:8], y[:8], norm=norm, budget=60).distance
    radii = [certifier.radius(a, int(b), norm) for a, b in zip(x, y[:8], strict=False)]
    assert (np.array(radii) <= found).all()
    assert (np.array(radii) > 0).sum() == (found > 0).sum() > 2


@pytest.mark.slow
def test_known_verdicts(shared):
    """What is proven is never broken, and some of it is proven here too."""
    from robustkit.models.onnx import OnnxModel

    proven = {}
    for category in ("oval21", "mnistfc", "eran_mnist", "verivital_mnist"):
        problems, folder = shared.vnncomp(category)
        mean, std = (np.atleast_1d(problems[k]).tolist() for k in ("mean", "std"))
        seen = {}
        for verdict in ("sat", "unsat"):
            rows = np.flatnonzero(problems["verdict"] == verdict)
            rows = [r for r in rows if "max" not in problems["model"][r]]
            for row in [r for r in rows if "SIGM" not in problems["model"][r]][:2]:
                name = str(problems["model"][row])
                if name not in seen:
                    network = OnnxModel(folder / name)
                    wrapped = Preprocessed(network, mean, std, axis=1)
                    seen[name] = Certifier(wrapped, problems["x"][row : row + 1])
                holds = seen[name].certifies(
                    problems["x"][row],
                    int(problems["y"][row]),
                    "linf",
                    float(problems["eps"][row]),
                    int(problems["target"][row]),
                )
                assert not (holds and verdict == "sat")
                proven[category] = proven.get(category, 0) + holds
    assert sum(proven.values()) >= 1, proven


def test_an_input_of_another_class_has_no_radius(shared):
    data = shared.exact("toy20", "linf")
    certifier = Certifier(TorchModel(shared.exact_model("toy20")), data["x"][:1])
    x, y = data["x"][0], int(data["y"][0])
    assert certifier.radius(x, (y + 1) % 10, "linf") == 0
    assert not certifier.certifies(x, (y + 1) % 10, "linf", 0.0)
    assert certifier.radius(x, (y + 1) % 10, "linf", target=y) == 0


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), "operation 'sigmoid'"),
        (nn.Sequential(nn.Linear(4, 4), nn.Hardtanh()), "operation 'hardtanh'"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), "operation '_softmax'"),
    ],
)
def test_other_networks_are_refused_and_said_why(module, words):
    with pytest.raises(BadInput, match=words):
        Certifier(TorchModel(module.eval()), np.zeros((1, 4), np.float32))


def test_products_of_two_values_are_no_affine_operation():
    model = TorchModel(lambda x: x * x)
    with pytest.raises(BadInput, match="operation 'mul' on what depends"):
        Certifier(model, np.zeros((1, 4), np.float32))


def test_a_model_that_decides_by_its_input_what_it_does_is_found_out():
    branching = TorchModel(lambda x: x[:, :2] * (3.0 if x.sum() > 1 else -3.0))
    with pytest.raises(BadInput, match="cannot be followed operation by operation"):
        Certifier(branching, np.zeros((1, 4), np.float32))
    factor = [3.0]
    changing = TorchModel(lambda x: x[:, :2] * factor[0])
    certifier = Certifier(changing, np.zeros((1, 4), np.float32))
    factor[0] = -3.0
    with pytest.raises(BadInput, match="does not compute the same for every input"):
        certifier.radius(np.full(4, 0.9, np.float32), 0, "linf")


@pytest.mark.parametrize(
    "function",
    [
        lambda z: torch.rsub(z, 0.3, alpha=4),
        lambda z: torch.sub(z, 0.5 * z, alpha=-2),
        lambda z: torch.add(-z, 2.0) / -0.5,
        lambda z: torch.stack([z, 3 - z], dim=1).sum(dim=1) - 2 * z,
        lambda z: (
            torch.cat([z[:, 1:], z[:, :1]], 1).unsqueeze(1).expand(1, 2, 3).mean(1)
        ),
        lambda z: (
            (torch.ones(3) - z.squeeze(0)).unsqueeze(0) * torch.tensor([2.0, -3, 1])
        ),
        lambda z: torch.clamp(z, min=0.0) - z.clamp_min(0),
    ],
)
def test_every_way_to_write_an_affine_function(function):
    """Bounds hold for operations that torch spells in their own way."""
    layer = nn.Linear(4, 3)
    rng = np.random.default_rng(2)
    for values in layer.parameters():
        values.data = torch.tensor(rng.normal(size=values.shape), dtype=torch.float32)

    def net(x):
        # Between two ReLUs, so that intervals have to go through it.
        return 2 * torch.relu(function(torch.relu(layer(x))))

    model = TorchModel(net)
    graph = follow(model, torch.full((1, 4), 0.5))
    x = rng.random(4)
    region = Region(torch.from_numpy(x), "linf", 0.2, 0.0, 1.0)
    points = torch.from_numpy(inside(region, "linf", 0.2, rng, 500))
    seen = torch.cat([graph.values(p[None])[-1].reshape(1, -1) for p in points])
    direct = torch.cat([net(p[None].float()) for p in points])
    assert torch.allclose(seen.float(), direct, atol=1e-5)
    unit = torch.eye(seen.shape[1], dtype=torch.float64)
    for method in METHODS:
        least = least_values(graph, region, unit, method)
        most = -least_values(graph, region, -unit, method)
        # They may be reached.
        assert (least <= seen.min(0).values + 1e-9).all()
        assert (most >= seen.max(0).values - 1e-9).all()


def test_the_other_half_of_a_clamp_is_no_relu():
    model = TorchModel(lambda x: torch.clamp(x, max=0.0))
    with pytest.raises(BadInput, match="operation 'clamp"):
        Certifier(model, np.zeros((1, 4), np.float32))


def test_batch_statistics_are_no_affine_operation():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    with pytest.raises(BadInput, match=r"operation|followed"):
        Certifier(TorchModel(net, training=True), np.zeros((1, 4), np.float32))


def test_models_that_cannot_be_seen_are_refused(plant):
    planted = plant(dtype=np.float32)
    with pytest.raises(BadInput, match="cannot be looked into"):
        Certifier(planted.model(), planted.x)
    with pytest.raises(BadInput, match="cannot be looked into"):
        Certifier(NumPyModel(planted.logits), planted.x)
    with pytest.raises(BadInput, match="unknown kind of bound 'crwn'"):
        Certifier(planted.model(), planted.x, "crwn")


class Function(nn.Module):
    """What a function makes of x (n, 2) and its two linear layers."""

    def __init__(self, function):
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
        for layer in (self.one, self.two):
            layer.weight.data, layer.bias.data = torch.eye(2), torch.zeros(2)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def radius(function, method="crown", x=(0.5, 0.25)):
    model = TorchModel(Function(function).eval())
    x = np.array(x, np.float32)
    return Certifier(model, x[None], method).radius(x, 0, "linf")


@pytest.mark.parametrize("method", METHODS)
def test_a_negative_factor_of_what_is_added_to(method):
    def falling(net, x):
        steps = torch.full((1, 2), 5.0)
        x = torch.relu(net.one(x))
        x = torch.relu(torch.addmm(x, torch.ones(1, 1), steps, beta=-1))
        return torch.addmm(x, torch.zeros(1, 1), steps, beta=-1)

    assert radius(falling, method) == pytest.approx(0.125, rel=0.01)
    assert radius(falling, method, (0.5, 0.75)) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "back",
    [
        lambda z: -z * torch.full((2,), -128, dtype=torch.int8) / 128,
        lambda z: z + torch.full((2,), -128, dtype=torch.int8) + 128,
        lambda z: z * torch.tensor([True, True]),
        lambda z: -nn.functional.avg_pool2d(z[None], 1, divisor_override=-1)[0],
        lambda z: -nn.functional.avg_pool2d(z[None], 1, 1, 0, False, True, -1)[0],
    ],
)
def test_factors_that_are_negative_or_no_floats(back, method):
    def net(net, x):
        return net.two(torch.relu(back(torch.relu(net.one(x)))))

    assert radius(net, method) == pytest.approx(0.125, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8])
def test_parameters_that_are_rounded_are_seen_as_they_are(dtype):
    """And what is computed of them is not computed in their precision."""
    weight = torch.tensor([[100.3, 90.4], [77.7, 99.6]])

    def squared(x):
        kept = weight.to(dtype).to("cpu").float()
        return nn.functional.linear(x, kept * kept) / 1e4

    graph = follow(TorchModel(squared), torch.zeros(1, 2))
    expected = weight.to(dtype).double() ** 2 / 1e4
    seen = graph.pieces[-1].weight()
    assert torch.allclose(seen, expected, rtol=1e-12, atol=0)


def test_what_is_changed_in_place():
    def skip(net, x):
        z = net.one(x)
        z += x
        z -= 0.25
        z.relu_()
        z *= 2
        return net.two(z)

    def plain(net, x):
        return net.two(2 * torch.relu(net.one(x) + x - 0.25))

    assert radius(skip) == radius(plain) == pytest.approx(0.125, rel=0.01)


@pytest.mark.parametrize("part", [torch.flatten, lambda z: z[:, :1]])
def test_what_is_changed_through_a_view_is_refused(part):
    def shared(net, x):
        z = net.one(x) - 0.25
        part(z).relu_()
        # Constant as long as the ReLU is open, as it is at the example.
        return torch.cat([(x - z)[:, :1] - 0.1, 0 * x[:, :1]], dim=1)

    with pytest.raises(BadInput, match="relu_"):
        radius(shared)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    with pytest.raises(BadInput, match="float32"):
        radius(lambda net, x: net.two(net.one(x).to(dtype).float()))


def test_random_numbers_are_refused():
    with pytest.raises(BadInput, match="random"):
        radius(lambda net, x: net.two(net.one(x) + 1e-4 * torch.randn(2)))


def test_inputs_that_cannot_be_spoken_of():
    x = np.array([0.7, 0.3], np.float32)
    certifier = Certifier(TorchModel(nn.Linear(2, 2).eval()), x[None])
    with pytest.raises(BadInput, match="shape"):
        certifier.radius(x[:1], 0, "linf")
    with pytest.raises(BadInput, match="within"):
        certifier.radius(x + 1, 0, "linf")
    with pytest.raises(BadInput, match="2 classes"):
        certifier.radius(x, 2, "linf")
    with pytest.raises(BadInput, match="2 classes"):
        certifier.radius(x, 0, "linf", target=2)
    for wrong in (-0.1, np.nan):
        with pytest.raises(BadInput, match="radius"):
            certifier.certifies(x, 0, "linf", wrong)

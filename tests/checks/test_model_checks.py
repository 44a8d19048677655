import dataclasses
import json

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit import demo
from robustkit.checks.finding import Severity
from robustkit.checks.model_checks import check_model
from robustkit.checks.probe import NothingCorrect, probe
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel

RNG = np.random.default_rng(3)


class Backward(torch.autograd.Function):
    """The identity, with a backward pass of its own."""

    @staticmethod
    def forward(context, x, change):
        context.change = change
        return x.clone()

    @staticmethod
    def backward(context, slopes):
        return context.change(slopes), None


def behind(change):
    return lambda network, x: network(Backward.apply(x, change))


def purified(network, x):
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_()
        (slopes,) = torch.autograd.grad(network(z).logsumexp(dim=1).sum(), z)
    return network(x - 0.01 * slopes.sign())


def noisy(network, x):
    return network(x + 0.3 * torch.from_numpy(RNG.normal(size=x.shape)).to(x.dtype))


SYMPTOMS = {
    "detached": (lambda n, x: n(x.detach()), {"G1": "suspicious"}),
    "quantised input": (lambda n, x: n((x * 4).round() / 4), {"G2": "invalidates"}),
    "zero gradient": (behind(torch.zeros_like), {"G2": "invalidates"}),
    "not finite": (behind(lambda g: g * float("nan")), {"G1": "suspicious"}),
    "reversed": (behind(lambda g: -g), {"G3": "invalidates"}),
    "noise for a gradient": (
        behind(lambda g: torch.from_numpy(RNG.normal(size=g.shape)).to(g.dtype)),
        {"G3": "invalidates"},
    ),
    "shattered": (
        lambda n, x: n(x + 0.01 * torch.sin(2000 * x)),
        {"G3": "invalidates"},
    ),
    "random": (noisy, {"R1": "invalidates"}),
    "batch statistics": (lambda n, x: n(x - x.mean(dim=0)), {"R1": "invalidates"}),
    "softmax": (lambda n, x: n(x).softmax(dim=1), {"O1": "suspicious"}),
    "rectified": (
        lambda n, x: (n(x) - n(x).mean(dim=1, keepdim=True)).relu(),
        {"O1": "suspicious"},
    ),
    "rounded outputs": (lambda n, x: n(x).round(), {"O1": "suspicious"}),
    "large logits": (lambda n, x: n(x) * 100, {"O1": "note"}),
    "test-time optimisation": (purified, {"O3": "suspicious"}),
}


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_a_planted_symptom_is_named(findings, symptom):
    change, expected = SYMPTOMS[symptom]
    found = findings(change)
    assert expected.items() <= found.items()
    # What rounds its outputs has no slopes either; all else has one symptom only.
    assert found.keys() - expected.keys() <= ({"G2"} if "rounded" in symptom else set())


def test_a_sound_network_has_none(findings):
    assert findings(lambda network, x: network(x), trials=32) == {}


def test_a_plane_is_not_rugged_however_near_the_boundary_its_samples_are():
    x = np.random.default_rng(0).uniform(0.45, 0.55, (64, 2)).astype(np.float32)
    weights = np.array([[-9, 9], [9, -9]], np.float32)
    label = (x @ weights).argmax(axis=1)
    plane = NumPyModel(lambda x: x @ weights, gradient=lambda x, s: s @ weights.T)
    found = rk.check(plane, (x, label), epsilon=0.1, trials=0).findings
    assert "R2" not in {f.id for f in found}
    (told,) = (
        f
        for f in rk.check(
            NumPyModel(lambda x: x @ weights), (x, label), epsilon=0.1
        ).findings
        if f.id == "R2"
    )
    assert "rugged, or steep" in told.diagnosis


def test_a_sigmoid_is_not_called_a_rectifier(digits, wrapped):
    _, x, y = digits
    for change, expected in (
        (
            lambda n, x: torch.sigmoid(100 * n(x)),
            "as behind a sigmoid that saturates, a rectifier, or where votes",
        ),
        (
            lambda n, x: (n(x) - n(x).mean(dim=1, keepdim=True)).relu(),
            "as behind a rectifier or where votes are counted",
        ),
    ):
        found = rk.check(wrapped(change), (x, y), trials=0).findings
        (told,) = (f for f in found if "exactly zero and none" in f.diagnosis)
        assert expected in told.diagnosis


@pytest.mark.parametrize("share", [True, False])
def test_votes_are_not_called_a_rectifier_on_logits(digits, share):
    """Of nearest neighbours, as shares or as numbers of votes."""
    _, x, y = digits

    def votes(points):
        apart = ((points[:, None] - x[None]) ** 2).reshape(len(points), len(x), -1)
        nearest = y[np.argsort(apart.sum(axis=2), axis=1, kind="stable")[:, :3]]
        counted = (nearest[..., None] == np.arange(10)).sum(axis=1)
        return counted / 3 if share else counted.astype(np.float32)

    model = NumPyModel(votes)
    told = [f for f in rk.check(model, (x, y)).findings if f.id == "O1"]
    first = told[0]
    if share:
        assert "probabilities" in first.diagnosis
        assert "if there is one" in first.remedy
    else:
        assert "where votes are counted" in first.diagnosis
        assert "the scores of what votes" in first.remedy
    assert sum("exactly zero" in one.diagnosis for one in told) == (not share)


def test_what_a_model_without_gradients_is_told_to_do_it_can(digits):
    _, x, _ = digits

    def corner(points):
        return points.reshape(len(points), -1)[:, 20:30]

    label = corner(x).argmax(axis=1)
    for model, instead in (
        (NumPyModel(corner), "attack by scores or decisions"),
        (
            rk.LabelModel(lambda points: corner(points).argmax(axis=1), 10),
            "attack by decisions",
        ),
    ):
        (told,) = (f for f in rk.check(model, (x, label)).findings if f.id == "G1")
        assert told.severity.name == "NOTE"
        assert told.remedy.startswith(instead)
        assert "BPDA" not in told.remedy


@pytest.mark.parametrize(
    ("far", "wrong", "said"),
    [
        (0.3, 0, "strongly curved: at half an epsilon it falls 0.30 times"),
        (0.9, 4, "at 4 of 48 samples the margin rises half an epsilon down its"),
    ],
)
def test_a_note_on_gradients_says_what_was_seen(digits, far, wrong, said):
    network, x, y = digits
    seen = probe(TorchModel(network), x, y, 0.01)
    ratio = np.full_like(seen.ratio, far)
    ratio[:wrong, -1] = -0.5
    (told,) = (
        f for f in check_model(dataclasses.replace(seen, ratio=ratio)) if f.id == "G3"
    )
    assert told.severity is Severity.NOTE
    assert said in told.diagnosis


def test_a_detector_that_never_speaks_takes_no_gradients(digits):
    """Its score, a constant just below zero, is no margin that an attack descends."""
    network, x, y = digits
    guarded = rk.Abstaining(TorchModel(network), lambda x: 0 * x.sum((1, 2, 3)) - 0.01)
    bare, found = (rk.check(m, (x, y), trials=0) for m in (network, guarded))
    assert [f.id for f in found.findings] == [f.id for f in bare.findings]


def test_losses_are_no_matter_of_models_without_gradients():
    x = np.random.default_rng(0).random((20, 4)).astype(np.float32)

    def label(points):
        return (points.sum(axis=1) > 2).astype(int)

    decisions = rk.LabelModel(label, 2)
    assert {f.id for f in rk.check(decisions, (x, label(x))).findings} == {"G1"}


def test_a_rugged_loss_is_told(findings):
    found = findings(lambda n, x: n(x + 0.5 * torch.sin(40 * x)), epsilon=0.15)
    assert found["R2"] == "suspicious"


def test_a_straight_through_gradient_is_no_symptom(findings):
    """Zero at small steps, right at large ones: what BPDA makes of quantised input."""

    def straight_through(network, x):
        return network(x + ((x * 16).round() / 16 - x).detach())

    assert findings(straight_through, trials=32, epsilon=0.25) == {}


def test_members_of_an_ensemble_that_are_rounded_are_told(findings):
    """As in EMPIR: the gradient is that of one member, and the others decide."""

    def vote(network, x):
        z = network(x)
        coarse = [3 * network((8 * x + k / 3).round() / 8 - k / 24) for k in range(3)]
        return z + sum(coarse)

    found = findings(vote, epsilon=0.15)
    assert found["G3"] == "suspicious"
    assert found.keys() <= {"G3", "O1"}


def test_winners_that_take_all_are_told(digits):
    """Few units pass of each layer, others at the next input: their slopes are lost."""

    def winners(x):
        for name, layer in demo.load_model("digits").named_children():
            x = layer(x)
            if name.startswith("relu"):
                flat = x.flatten(1)
                least = flat.topk(flat.shape[1] // 6, dim=1).values[:, -1:]
                x = (flat * (flat >= least)).reshape(x.shape)
        return x

    _, x, y = digits
    (told,) = (f for f in rk.check(winners, (x, y), trials=0).findings if f.id == "G3")
    assert told.severity is Severity.SUSPICIOUS
    assert told.evidence["wrong direction"] > 0.05
    assert "understated" in told.diagnosis


def test_rounding_by_the_size_of_a_batch_is_no_dependence_on_company(findings):
    """As of kernels that are chosen by it, in half precision."""

    def alone(network, x):
        return network(x) * (1.004 if len(x) == 1 else 1)

    assert "R1" not in findings(alone)
    assert findings(lambda n, x: alone(n, x - 0.2 * x.mean(dim=0)))["R1"]


def test_random_numbers_of_a_fixed_seed_depend_on_the_place(digits, wrapped):
    _, x, y = digits

    def seeded(network, x):
        drawn = torch.Generator().manual_seed(0)
        return network(x + 0.1 * torch.randn(x.shape, generator=drawn))

    found = rk.check(wrapped(seeded), (x, y), trials=0).findings
    (told,) = (f for f in found if f.id == "R1")
    assert told.severity is Severity.INVALIDATES
    assert "or on their place in it" in told.diagnosis
    assert "it calls randn)" in told.diagnosis
    assert "batch statistics" not in told.diagnosis
    assert "seed" in told.remedy


def test_decisions_are_no_hidden_scores(digits):
    network, x, y = digits

    def decide(x):
        with torch.no_grad():
            return network(torch.from_numpy(x)).argmax(dim=1).numpy()

    found = rk.check(rk.LabelModel(decide, classes=10), (x, y)).findings
    assert {f.id: f.severity for f in found} == {"G1": Severity.NOTE}


def test_a_gradient_that_is_not_finite_is_not_called_understated(digits, wrapped):
    _, x, y = digits

    def spoilt(slopes):
        slopes = slopes.clone()
        slopes[3] = float("nan")
        return slopes

    def vote(network, x):
        coarse = sum((8 * x + k / 3).round() / 8 - k / 24 for k in range(3)) / 3
        return network(Backward.apply(x, spoilt)) + 9 * network(coarse)

    found = rk.check(wrapped(vote), (x, y), epsilon=0.15, trials=0).findings
    by_id = {f.id: f for f in found}
    (broken,) = by_id["G1"].samples
    assert "understated" in by_id["G3"].diagnosis
    assert broken not in by_id["G3"].samples


def test_a_model_that_works_in_place_is_bad_input(findings):
    with pytest.raises(BadInput, match="modifies its input in place"):
        findings(lambda network, x: network(x.mul_(0.5)))


def test_a_model_that_never_had_gradients_is_a_note(plant):
    planted = plant(features=5, bounds=(0.0, 1.0), dtype=np.float32, samples=40)
    (found,) = (
        f for f in rk.check(NumPyModel(planted.logits), (planted.x, planted.y)).findings
        if f.id == "G1"
    )  # fmt: skip
    assert found.severity is Severity.NOTE


def test_two_classes_have_no_difference_of_logits_ratio(plant):
    planted = plant(classes=2, bounds=(0.0, 1.0), dtype=np.float32, samples=40)
    found = rk.check(planted.model(), (planted.x, planted.y))
    assert [f.id for f in found.findings if f.severity is Severity.NOTE] == ["O2"]


def test_affected_samples_are_positions_in_the_data(digits):
    network, x, y = digits
    marked = x.copy()
    marked[[3, 17], 0, 0, 0] = 0.125

    class Plateaus(torch.nn.Module):
        def forward(self, batch):
            out = network(batch)
            return torch.where(batch[:, 0, 0, :1] == 0.125, out.detach(), out)

    found = rk.check(Plateaus().eval(), (marked, y))
    (finding,) = (f for f in found.findings if f.id == "G2")
    assert finding.samples == (3, 17)
    assert finding.severity is Severity.SUSPICIOUS


def raising(out, marked):
    if marked.any():
        raise ValueError("cannot be read")
    return out


SILENT = {
    "nan": lambda out, marked: torch.where(marked[:, None], torch.nan, out),
    "infinite": lambda out, marked: torch.where(marked[:, None], torch.inf, out),
    "raising": raising,
}


@pytest.fixture
def silent(digits):
    """Makes a network without an answer where the first pixel is in a range."""
    network, _, _ = digits

    class Silent(torch.nn.Module):
        def __init__(self, silence, low, high):
            super().__init__()
            self.silence, self.low, self.high = silence, low, high

        def forward(self, x):
            first = x[:, 0, 0, 0]
            return self.silence(network(x), (self.low <= first) & (first <= self.high))

    return lambda name, low, high: Silent(SILENT[name], low, high).eval()


@pytest.mark.parametrize("name", SILENT)
def test_samples_without_an_answer_are_left_out_and_told(digits, silent, name):
    """Labelled as the first class, of which NaN is no prediction."""
    _, x, y = digits
    marked, label = x.copy(), y.copy()
    marked[[3, 17], 0, 0, 0], label[[3, 17]] = 0.125, 0
    (finding,) = rk.check(silent(name, 0.125, 0.125), (marked, label)).findings
    assert (finding.id, finding.severity) == ("O4", Severity.NOTE)
    assert finding.samples == (3, 17)
    said = "ValueError: cannot be read" if name == "raising" else "NaN, or infinite"
    assert said in finding.diagnosis


@pytest.mark.parametrize("name", SILENT)
def test_near_copies_without_an_answer_make_no_findings(digits, silent, name):
    _, x, y = digits
    marked = x.copy()
    marked[::4, 0, 0, 0] = 0.5
    model = silent(name, np.nextafter(np.float32(0.5), np.float32(1)), 1)
    found = rk.check(model, (marked, y), samples=len(x), trials=0)
    assert found.findings == ()
    ratio = np.array(found.measured["gradients"]["ratio"], dtype=float)
    assert np.isnan(ratio).any()


def test_where_nothing_has_an_answer_that_is_the_message(digits, silent):
    _, x, y = digits
    x = x.copy()
    x[1:, 0, 0, 0] = 0.125
    label = np.append(y[0] ^ 1, y[1:])
    with pytest.raises(NothingCorrect, match=r"47 have no answer: it raised ValueErr"):
        rk.check(silent("raising", 0.125, 0.125), (x, label))


@pytest.mark.parametrize("name", SILENT)
def test_a_run_with_samples_without_an_answer_has_its_report(
    digits, silent, name, tmp_path
):
    _, x, y = digits
    marked, label = x[:12].copy(), y[:12].copy()
    marked[3, 0, 0, 0], label[3] = 0.125, 0
    model, data = silent(name, 0.1, 0.2), (marked, label)
    results = rk.evaluate(model, data, attacks=["fmn"], budget=20, out=tmp_path / "run")
    found = rk.check(model, data, run=results, trials=0)
    assert not {f.id for f in found.findings} & {"R1", "R2", "G1", "G2", "O1", "S3"}
    found.save(results.path)
    assert "O4" in results.report().read_text("utf-8")


def test_scores_that_rule_a_class_out_are_answers(digits, wrapped):
    _, x, y = digits

    def without_last(network, x):
        out = network(x)
        return torch.cat([out, torch.full_like(out[:, :1], -torch.inf)], dim=1)

    assert rk.check(wrapped(without_last), (x, y), trials=0).findings == ()


def test_findings_are_plain_data(findings, digits):
    network, x, y = digits
    result = rk.check(network, (x, y))
    assert json.loads(json.dumps(result.to_json()))["worst"] is None

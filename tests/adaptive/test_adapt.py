import dataclasses
import json

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit import demo
from robustkit.adaptive.adaptation import ADAPTIVE, PLAIN
from robustkit.adaptive.catalogue import REMEDIES
from robustkit.adaptive.plain import attacks_that_run
from robustkit.adaptive.remedy import Plan, Remedy
from robustkit.cli import main
from robustkit.errors import BadInput
from robustkit.numerics.random import seeded
from robustkit.numerics.tensors import to_numpy

EPSILON = 0.2


def rounded(x):
    return (4 * x).round() / 4


class Backward(torch.autograd.Function):
    """The identity, with a backward pass of its own."""

    @staticmethod
    def forward(context, x, change):
        context.change = change
        return x.clone()

    @staticmethod
    def backward(context, slopes):
        return context.change(slopes), None


class Layer(torch.nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return Backward.apply(x, self.change)


def evaluated(model, data, attacks=("fmn",), **settings):
    chosen = {"epsilons": [0.05, EPSILON], "seed": 0} | settings
    return rk.evaluate(model, data, attacks=list(attacks), **chosen)


def adapted(model, data, budget=60, attacks=("fmn",), **settings):
    with seeded(0):
        few = {"budget": 40} if list(attacks) in (["square"], ["thompson"]) else {}
        results = evaluated(model, data, attacks, **few)
        found = rk.adapt(
            results, model, data, budget=budget, epsilon=EPSILON, **settings
        )
    return results, found


DEFENSES = {
    "rounded": ({"before": rounded}, "straight-through"),
    "detached": ({"before": lambda x: x.detach()}, "straight-through"),
    "numpy": (
        {"before": lambda x: torch.from_numpy(x.detach().numpy().round(1))},
        "straight-through",
    ),
    "reversed": ({"before": Layer(lambda g: -g)}, "straight-through"),
    "zero": ({"before": Layer(torch.zeros_like)}, "straight-through"),
    "probabilities": ({"after": lambda z: (10 * z).softmax(dim=1)}, "logarithms"),
}


@pytest.mark.parametrize("name", DEFENSES)
def test_what_hides_gradients_is_found_and_mended(name, behind, digits):
    changes, remedy = DEFENSES[name]
    model = behind(**changes)
    first = [r for r in REMEDIES if r.name == remedy]
    attacks = attacks_that_run(model, digits, ["fmn"], ["linf"])
    assert (attacks == ["thompson"]) == (name in ("detached", "numpy"))
    results, found = adapted(model, digits, attacks=attacks, remedies=first)
    plain, step = found.of()
    assert (plain.remedy, step.remedy) == ("plain", remedy)
    assert step.findings
    assert step.kept
    before, after = results.robust_accuracy(EPSILON), found.robust_accuracy(EPSILON)
    assert plain.robust_accuracy(EPSILON) == before
    assert before.estimate >= 0.5 or attacks == ["thompson"]
    assert after.estimate <= 0.1
    assert step.nearer > 0


def test_every_number_is_that_of_the_model_itself(behind, digits, tmp_path):
    """The adversarials kept are asked about by hand."""
    model = behind(before=rounded)
    results, found = adapted(model, digits)
    assert found.save(tmp_path) == tmp_path / ADAPTIVE
    kept = np.load(tmp_path / "adaptive.npz", allow_pickle=False)
    x, y = digits
    with torch.no_grad():
        answers = model(torch.from_numpy(kept["x_adversarial"])).argmax(dim=1).numpy()
    assert (answers != kept["label"]).all()
    assert (kept["label"] == y[kept["index"]]).all()
    apart = np.abs(kept["x_adversarial"] - x[kept["index"]]).reshape(len(answers), -1)
    np.testing.assert_allclose(apart.max(axis=1), kept["distance"], atol=1e-6)
    np.testing.assert_allclose(found.distances()[kept["index"]], kept["distance"])
    # No step loses what an earlier one had found.
    for earlier, later in zip(found.of(), found.of()[1:], strict=False):
        assert (later.distance <= earlier.distance).all()
    assert (found.distances() <= results.distance).all()


def test_a_wrapped_model_that_lies_is_not_believed(behind, digits):
    """A plan whose model calls everything adversarial changes no number."""
    model = behind()

    class Liar(rk.TorchModel):
        def logits(self, x):
            return -super().logits(x)

        def linearise(self, x):
            logits, pull_back = super().linearise(x)
            return -logits, lambda slopes: pull_back(-slopes)

    lie = Remedy(
        "lie",
        frozenset({"C9"}),
        "",
        lambda case: Plan(Liar(model), {"fmn": rk.FMN(steps=10)}),
    )
    results, found = adapted(model, digits, remedies=[lie])
    plain, step = found.of()
    assert step.nearer == 0
    np.testing.assert_array_equal(plain.distance, step.distance)
    assert found.robust_accuracy(0.05) == results.robust_accuracy(0.05)


def costs(found):
    """By remedy, passes taken and the most that its cost allows, over all samples."""
    allowed = {r.name: r.cost * found.budget for r in REMEDIES}
    return {
        step.remedy: (step.forwards, allowed[step.remedy] * step.attacked)
        for step in found.of()
        if step.remedy in allowed
    }


@pytest.mark.parametrize("budget", [30, 120])
def test_no_remedy_takes_more_than_its_cost_not_even_on_estimated_gradients(
    budget, behind, digits
):
    """The model's gradients are cut, and remedies build on estimates of them."""
    chosen = ("smoothed gradients", "other losses", "more passes", "no gradients")
    remedies = [r for r in REMEDIES if r.name in chosen]
    model = behind(before=lambda x: torch.from_numpy(x.detach().numpy().round(1)))
    _, found = adapted(
        model, digits, budget=budget, attacks=["square"], remedies=remedies
    )
    took = costs(found)
    assert {"smoothed gradients", "other losses", "no gradients"} <= took.keys()
    assert found.of()[1].kept
    for name, (passes, most) in took.items():
        assert 0 < passes <= most, name
    assert not any(step.failures for step in found.of())


def test_all_remedies_together_stay_within_the_total(behind, digits):
    """What has no room is left out by name, and has it with the number that is told."""
    remedies = [r for r in REMEDIES if r.name in ("straight-through", "no gradients")]
    remedies = [dataclasses.replace(r, answers=frozenset({"C9"})) for r in remedies]
    model = behind(before=lambda x: (2 * x).round() / 2 + 0.001 * x)
    settings = {"budget": 40, "epsilon": EPSILON, "remedies": remedies}
    results = evaluated(model, digits, ["fgsm"], epsilons=[0.001, EPSILON])
    said = []
    found = rk.adapt(
        results, model, digits, total=100, progress=said.append, **settings
    )
    assert "all of a norm together 100" in said[0]
    plain, remedies_took = found.spent()
    assert (
        plain == results.summary()["norms"]["linf"]["attacks"]["fgsm"]["forward_passes"]
    )
    assert remedies_took == sum(step.forwards for step in found.of()[1:])
    assert remedies_took <= 100 * len(digits[0])
    (left,) = found.left_out
    assert (left.norm, left.remedy, left.findings) == ("linf", "no gradients", ("C9",))
    # Cost 4, of a budget of 40, for those that are still attacked.
    assert left.most == 160 * int((found.distances() > 0.001).sum())
    enough = found.enough()
    assert (enough - 1) * len(digits[0]) < remedies_took + left.most
    content = found.to_json()
    assert content["total"] == 100
    assert content["norms"]["linf"]["left_out"][0]["remedy"] == "no gradients"
    assert content["norms"]["linf"]["enough"] == enough
    again = rk.adapt(results, model, digits, total=enough, **settings)
    assert not again.left_out
    assert again.enough() is None
    assert again.spent()[1] <= enough * len(digits[0])
    less = rk.adapt(results, model, digits, total=enough - 1, **settings)
    assert [one.remedy for one in less.left_out] == ["no gradients"]


def test_enough_is_enough_where_remedies_take_less_than_they_might(behind, digits):
    """The dear one is left out, takes all it may with more room, and leaves enough."""

    def takes(steps):
        return lambda case: Plan(case.current, {"fmn": rk.FMN(steps=steps)})

    answers = frozenset({"C9"})
    remedies = [
        Remedy("dear", answers, "", takes(130), cost=13),
        Remedy("cheap", answers, "", takes(2), cost=10),
    ]
    model = behind(before=rounded)
    settings = {"budget": 10, "epsilon": EPSILON, "remedies": remedies}
    results = evaluated(model, digits, samples=8)
    found = rk.adapt(results, model, digits, total=120, **settings)
    assert [one.remedy for one in found.left_out] == ["dear"]
    again = rk.adapt(results, model, digits, total=found.enough(), **settings)
    assert not again.left_out
    assert again.spent()[1] > 0.9 * 130 * 8
    less = rk.adapt(results, model, digits, total=found.enough() - 1, **settings)
    assert less.left_out


def test_an_attack_without_room_for_one_gradient_is_not_begun(behind, digits):
    chosen = ("smoothed gradients", "other losses", "no gradients")
    remedies = [r for r in REMEDIES if r.name in chosen]
    model = behind(before=lambda x: torch.from_numpy(x.detach().numpy().round(1)))
    _, found = adapted(model, digits, budget=20, attacks=["square"], remedies=remedies)
    for name, (passes, most) in costs(found).items():
        assert passes <= most, name
    steps = {step.remedy: step for step in found.of()}
    assert steps["smoothed gradients"].kept
    assert steps["other losses"].forwards == 0
    said = dict(steps["other losses"].failures)["apgd-cross-entropy"]
    assert said == "40 passes have no room for one question"
    # What follows none has room.
    assert steps["no gradients"].forwards > 0
    assert not steps["no gradients"].failures


def test_lessons_are_billed_in_passes_and_where_they_teach_nothing(behind, digits):
    network, x = behind(), digits[0]

    def decide(x):
        with torch.no_grad():
            return network(torch.from_numpy(x)).argmax(dim=1).numpy()

    def same(x):
        return np.full(len(x), 3)

    for function, useful in ((decide, True), (same, False)):
        model = rk.MajorityVote(rk.LabelModel(function, classes=10), 4)
        data = x, function(x)
        results = evaluated(model, data, ["rays"], budget=60, samples=8)
        student = [r for r in REMEDIES if r.name == "student"]
        found = rk.adapt(results, model, data, budget=40, remedies=student)
        _, step = found.of()
        assert bool(step.attacks) is useful
        lessons = 3 * 40 * 8 // 2
        assert found.spent()[1] == step.forwards
        if useful:
            assert lessons < step.forwards <= 2 * lessons
        else:
            assert step.forwards == lessons
            assert "taught a perceptron no way" in step.details


def test_what_would_not_help_is_said(behind, digits):
    nothing = Remedy("nothing", frozenset({"C9"}), "", lambda case: None)
    said = []
    adapted(behind(), digits, remedies=[nothing], progress=said.append)
    assert "nothing: does not apply, or would not help" in said


def test_a_remedy_that_fails_is_told_and_stops_nothing(behind, digits):
    def broken(case):
        raise RuntimeError("no such luck")

    def half(case):
        attacks = {"apgd": rk.APGD(0.1, loss="no"), "fmn": rk.FMN(steps=20)}
        return Plan(case.current, attacks)

    answers = frozenset({"C9"})
    remedies = [
        Remedy("first", answers, "", broken),
        Remedy("second", answers, "", half),
    ]
    _, found = adapted(behind(before=rounded), digits, remedies=remedies)
    _, first, second = found.of()
    assert first.failures == (("plan", "RuntimeError: no such luck"),)
    assert [name for name, _ in second.failures] == ["apgd"]
    assert second.attacked > 0


def test_lucky_draws_are_no_adversarials(behind, digits):
    """Noise on the logits that is wrong one time in ten fools a single draw only."""

    def fickle(logits):
        wrong = torch.rand(len(logits), 1) < 0.1
        return torch.where(wrong, -logits, logits)

    _, found = adapted(behind(after=fickle), digits, remedies=[])
    plain, again = found.of()
    assert again.remedy == "repeated confirmation"
    assert found.draws == 100
    assert again.robust_accuracy(0.05).estimate > plain.robust_accuracy(0.05).estimate
    # Adversarials of the network itself are some nine times out of ten.
    broken = np.isfinite(again.distance) & (again.distance > 0)
    assert (again.expected[broken] > 0.5).all()
    robust = again.expected_accuracy(EPSILON), again.robust_accuracy(EPSILON).estimate
    assert robust[0] >= robust[1]


def test_means_over_draws_break_a_random_model(behind, digits):
    def shaken(x):
        noise = 0.05 * torch.randn_like(x)
        return Backward.apply(x + noise, lambda g: g * (0.3 + torch.randn_like(g)))

    first = [r for r in REMEDIES if r.name == "expectation"]
    _, found = adapted(behind(before=shaken), digits, remedies=first, budget=100)
    _, held, step = found.of()
    assert step.findings == ("R1",)
    assert np.median(step.distance) <= 0.8 * np.median(held.distance)
    best = found.best["linf"]
    mine = [str(by).startswith("expectation") for by in best.by]
    assert (best.successes[mine] >= 61).all()


def with_a_mark(digits):
    """A corner of the third input, high enough for a model to see it."""
    x, y = digits
    marked = x.copy()
    marked[:, 0, 0, 0] = 0.5
    marked[2, 0, 0, 0] = 0.9
    return marked, y


def test_what_one_draw_did_not_confirm_is_attacked_again(behind, digits):
    model = behind(before=lambda x: x + 0.1 * torch.randn_like(x))
    remedies = [r for r in REMEDIES if r.name == "expectation"]
    results, found = adapted(model, digits, budget=20, remedies=remedies)
    unconfirmed = np.isnan(results.distances())
    assert unconfirmed.any()
    assert not np.isnan(found.distances()).any()
    assert np.isfinite(found.distances()[unconfirmed]).any()


def test_originals_that_a_random_model_refuses_stay_errors(behind, digits):
    x, _ = digits
    refused = torch.from_numpy(x[[0, 3]])

    def detector(x):
        apart = (x[:, None] - refused[None]).abs().flatten(2).amax(2)
        return 0.02 - apart.amin(1)

    noisy = behind(before=lambda x: x + 0.03 * torch.randn_like(x))
    model = rk.Abstaining(rk.TorchModel(noisy), detector)
    results, found = adapted(model, digits, budget=20, remedies=[])
    assert (results.distance[[0, 3]] == 0).all()
    assert (found.distances()[[0, 3]] == 0).all()
    assert (found.best["linf"].successes[[0, 3]] == found.draws).all()
    size = 1e-3
    assert found.robust_accuracy(size).estimate <= results.clean_accuracy.estimate


def test_originals_that_a_random_model_has_no_answer_for_stay_errors(behind, digits):
    marked, y = with_a_mark(digits)

    def silent(x):
        noisy = x + 0.03 * torch.randn_like(x)
        return noisy.where(x[:, :1, :1, :1] < 0.85, torch.nan)

    results, found = adapted(behind(before=silent), (marked, y), remedies=[])
    assert np.isnan(results.distance[2])
    assert np.isnan(found.distances()[2])
    assert np.isnan(found.distances()).sum() == 1


def test_a_refusal_is_got_past(behind, digits):
    """A detector of large pixel sums, which the first attack runs into."""
    network = rk.TorchModel(behind())
    usual = float(torch.from_numpy(digits[0]).sum(dim=(1, 2, 3)).max()) + 1.0

    def detector(x):
        return x.sum(dim=(1, 2, 3)) - usual

    model = rk.Abstaining(network, detector)
    _, found = adapted(model, digits, attacks=["fgsm"])
    steps = {step.remedy: step for step in found.of()}
    assert steps["second margin"].findings == ("T3",)
    assert found.robust_accuracy(EPSILON).estimate <= 0.1
    points = found.best["linf"].x[found.distances() > 0]
    assert (detector(torch.from_numpy(points)) <= 0).all()


@pytest.mark.parametrize("name", ["matching", "matching features"])
def test_outputs_and_features_are_matched(name, behind, digits):
    (remedy,) = (r for r in REMEDIES if r.name == name)
    chosen = [dataclasses.replace(remedy, answers=frozenset({"C9"}))]
    attacks = ["uniform-noise"]
    _, found = adapted(behind(), digits, attacks=attacks, remedies=chosen, budget=100)
    plain, step = found.of()
    assert step.remedy == name
    assert not step.failures
    assert np.median(step.distance) <= 0.7 * np.median(plain.distance)


@pytest.mark.parametrize("target", [3, "random"])
def test_remedies_serve_targets(target, behind):
    """A target's own samples are left out by the run, and matched all the same."""
    x, y = demo.load_data("digits")
    names = ("other losses", "matching", "matching features")
    chosen = [
        dataclasses.replace(r, answers=frozenset({"C9"}))
        for r in REMEDIES
        if r.name in names
    ]
    model, data = behind(), (x[:30], y[:30])
    results = evaluated(model, data, ["uniform-noise"], target=target)
    found = rk.adapt(results, model, data, budget=60, remedies=chosen)
    steps = {step.remedy: step for step in found.of()}
    assert set(names) < set(steps)
    assert not any(step.failures for step in steps.values())
    aimed = "apgd-targets-cross-entropy"
    assert aimed not in steps["other losses"].attacks
    before, after = (steps[name].distance for name in (PLAIN, "matching features"))
    assert np.isfinite(after).sum() > np.isfinite(before).sum()


def test_matching_of_a_target_needs_a_sample_of_its_class(behind, digits):
    (remedy,) = (r for r in REMEDIES if r.name == "matching")
    chosen = [dataclasses.replace(remedy, answers=frozenset({"C9"}))]
    x, y = digits
    kept = y != 3
    data = x[kept], y[kept]
    results = evaluated(behind(), data, ["uniform-noise"], target=3)
    found = rk.adapt(results, behind(), data, budget=60, remedies=chosen)
    assert [step.remedy for step in found.of()] == [PLAIN]


def test_a_model_of_decisions_gets_a_student(behind, digits):
    network = behind()

    def decide(x):
        with torch.no_grad():
            return network(torch.from_numpy(x)).argmax(dim=1).numpy()

    model = rk.LabelModel(decide, classes=10)
    results = evaluated(model, digits, ["rays"], budget=30)
    chosen = [r for r in REMEDIES if r.name == "student"]
    found = rk.adapt(results, model, digits, budget=200, remedies=chosen)
    plain, step = found.of()
    assert step.findings == ("G1",)
    assert step.kept
    # As many lessons as the descents may take passes, and both are billed.
    assert 1.5 * 200 * 16 < step.forwards <= 3 * 200 * 16
    assert np.median(step.distance) <= 0.95 * np.median(plain.distance)


def test_without_findings_nothing_is_done(behind, digits):
    notes = frozenset({"G2", "R1"})
    remedies = [r for r in REMEDIES if r.answers <= notes]
    assert remedies
    _, found = adapted(behind(), digits, remedies=remedies)
    assert [step.remedy for step in found.of()] == ["plain"]


def test_adversarials_are_not_written_through_a_link(behind, digits, tmp_path):
    _, found = adapted(behind(), digits, remedies=[])
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (tmp_path / "adaptive.npz").symlink_to(mine)
    found.save(tmp_path)
    assert mine.read_text() == "precious"
    assert len(np.load(tmp_path / "adaptive.npz")["index"])


def test_plain_data(behind, digits, tmp_path):
    first = [r for r in REMEDIES if r.name == "straight-through"]
    _, found = adapted(behind(before=rounded), digits, remedies=first)
    found.save(tmp_path)
    content = json.loads((tmp_path / ADAPTIVE).read_text())
    assert content["findings"] == json.loads(json.dumps(found.to_json()["findings"]))
    assert content["schema"] == 1
    steps = content["norms"]["linf"]["steps"]
    assert steps[0]["remedy"] == "plain"
    sizes = [entry["epsilon"] for entry in steps[1]["robust_accuracy"]]
    assert sizes == [0.05, EPSILON]
    assert all(step["attacks"] for step in steps)


def test_a_random_model_does_not_change_what_is_aimed_at(behind, digits):
    seen = []

    def watch(case):
        for scores in (np.arange(10.0), -np.arange(10.0)):
            logits = np.tile(scores, (len(case.x), 1))
            seen.append(to_numpy(case.criterion(case.label, logits, case.x).targets))

    noisy = behind(before=lambda x: x + 0.3 * torch.randn_like(x))
    results = evaluated(noisy, digits, target="least-likely", budget=40)
    remedy = Remedy("watch", frozenset({"R1"}), "looks on", watch)
    rk.adapt(results, noisy, digits, draws=10, remedies=[remedy])
    assert len(seen[0])
    assert (seen[0] == seen[1]).all()


def test_several_norms(behind, digits):
    model = behind(before=rounded)
    results = evaluated(model, digits, norm=["linf", "l0"], epsilons=None)
    found = rk.adapt(results, model, digits, budget=40)
    assert {step.norm for step in found.steps} == {"linf", "l0"}
    assert np.median(found.distances("l0")) <= np.median(results.distances("l0"))
    with pytest.raises(BadInput, match="say which one"):
        found.distances()
    with pytest.raises(BadInput, match="no norm 'l2'"):
        found.of("l2")


def test_what_is_found_in_one_norm_is_answered_in_that_one(behind, digits):
    seen = []

    def watch(case):
        seen.append((case.norm.name, case.findings["C9"].diagnosis))

    model = behind(before=rounded)
    results = evaluated(model, digits, norm=["linf", "l0"], epsilons=None)
    (found,) = (
        f for f in rk.check(model, digits, run=results).findings if f.id == "C2"
    )
    assert found.diagnosis.startswith("linf: ")
    remedy = Remedy("watch", frozenset({"C2"}), "looks on", watch)
    rk.adapt(results, model, digits, budget=40, remedies=[remedy])
    ((norm, variety),) = seen
    assert norm == "linf"
    assert variety.startswith("linf, l0: ")


def test_what_shows_in_every_norm_is_listed_once(behind, digits):
    model = rk.Abstaining(rk.TorchModel(behind()), lambda x: x.mean(dim=(1, 2, 3)) - 2)
    results = evaluated(model, digits, norm=["linf", "l0"], epsilons=None)
    found = rk.adapt(results, model, digits, budget=40, remedies=[])
    assert [f.id for f in found.findings].count("T3") == 1


def test_a_run_without_sizes_is_adapted_at_the_size_that_is_given(behind, digits):
    model = behind(before=rounded)
    bare = evaluated(model, digits, samples=8, epsilons=[], budget=30)
    found = rk.adapt(bare, model, digits, epsilon=EPSILON, budget=60)
    assert found.epsilons == {"linf": (EPSILON,)}
    assert found.robust_accuracy(EPSILON).estimate < 1
    found.save(bare.path)
    assert "straight-through" in bare.report().read_text()


def test_a_model_that_raises_at_some_inputs_is_adapted_to(behind, digits):
    """Of the originals it raises at one, and at the others' neighbours at will."""
    marked, y = with_a_mark(digits)

    def cautious(x):
        if (x[:, 0, 0, 0] > 0.65).any():
            raise ValueError("cannot be read")
        return x

    results, found = adapted(behind(before=cautious), (marked, y), attacks=["fmn"])
    assert 0 < np.isnan(results.distance).sum() < 8
    assert np.isnan(results.distance[2])
    assert {f.id for f in found.findings} >= {"O4", "C9"}
    assert len(found.steps) > 1
    assert not any(step.failures for step in found.steps)


def test_another_model_or_other_data_are_refused(behind, digits):
    model, other = behind(), rk.load_model("digits")
    x, y = digits
    results = rk.evaluate(model, (x, y), attacks=["fmn"], budget=20)
    with pytest.raises(BadInput, match="the model 'digits' is not what the run in"):
        rk.adapt(results, other, (x, y), budget=60)
    with pytest.raises(BadInput, match="the data 'data' is not what the run in"):
        rk.adapt(results, model, (1 - x, y), budget=60)


def test_bad_settings(behind, digits):
    model = behind()
    results = evaluated(model, digits, samples=8)
    with pytest.raises(BadInput, match="labels are not those of the run"):
        rk.adapt(results, model, (digits[0], (digits[1] + 1) % 10))
    with pytest.raises(BadInput, match="give the data that it was made on"):
        rk.adapt(results, model, (digits[0][:4], digits[1][:4]))
    with pytest.raises(BadInput, match="budget of a remedy must be at least 1"):
        rk.adapt(results, model, digits, budget=0)
    with pytest.raises(
        BadInput, match="total of all remedies must be at least 1; got 0"
    ):
        rk.adapt(results, model, digits, total=0)
    with pytest.raises(BadInput, match="number of draws must be at least 10; got 3"):
        rk.adapt(results, model, digits, draws=3)
    for name in ("budget", "total", "draws"):
        with pytest.raises(BadInput, match="must be a whole number; got 'many'"):
            rk.adapt(results, model, digits, **{name: "many"})
    with pytest.raises(BadInput, match="epsilon must be more than 0; got 0"):
        rk.adapt(results, model, digits, epsilon=0)
    bare = rk.evaluate(model, digits, attacks=["fgsm"], samples=4, epsilons=[])
    with pytest.raises(BadInput, match="at no size in the norm linf; say which"):
        rk.adapt(bare, model, digits)
    blind = evaluated(
        model, digits, ["boundary"], samples=4, access="decision", budget=9
    )
    with pytest.raises(BadInput, match="limited to decisions"):
        rk.adapt(blind, model, digits)

    def own(labels):
        return rk.Misclassification(labels)

    with_own = evaluated(model, digits, samples=4, criterion=own)
    with pytest.raises(BadInput, match="a criterion of your own"):
        rk.adapt(with_own, model, digits)
    again = rk.adapt(with_own, model, digits, criterion=own, remedies=[])
    assert len(again.of()) == 1


def test_remedies_have_names_of_their_own_and_answer_something():
    assert len({r.name for r in REMEDIES}) == len(REMEDIES)
    assert all(r.answers and r.cost > 0 for r in REMEDIES)
    assert dataclasses.is_dataclass(Remedy)
    catalogue = {
        *("G1", "G2", "G3", "R1", "R2", "O1", "O3", "S1", "S2", "S3", "S4"),
        *("C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9", "T1"),
    }
    assert catalogue <= frozenset().union(*(r.answers for r in REMEDIES))


def test_the_command(tmp_path):
    from click.testing import CliRunner

    file = tmp_path / "model.py"
    file.write_text(
        "import torch\nfrom robustkit import demo\n\n"
        "class Coarse(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = demo.load_model('digits')\n\n"
        "    def forward(self, x):\n"
        "        return self.net((4 * x).round() / 4)\n\n\n"
        "def build():\n    return Coarse().eval()\n"
    )
    out = tmp_path / "run"
    command = ["eval", f"{file}:build", "--data", "digits", "--samples", "12"]
    command += ["--attacks", "fmn", "--budget", "50", "--epsilons", "0.1,0.2"]
    done = CliRunner().invoke(main, [*command, "--adaptive", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "robust accuracy as the findings are answered" in done.stdout
    assert "straight-through" in done.stdout
    told = " ".join(done.stdout.split())
    assert "of all remedies, of 1,000 at most" in told
    content = json.loads((out / ADAPTIVE).read_text())
    assert content["samples"] == 12
    page = (out / "report.html").read_text()
    assert "the findings answered" in page
    assert "straight-through" in page
    assert "of all remedies, of 1,000 at most" in page
    tight = ["eval", "--resume", str(out), "--adaptive", "--adaptive-budget", "60"]
    done = CliRunner().invoke(main, tight)
    assert done.exit_code == 0, done.output
    (enough,) = {
        norm["enough"]
        for norm in json.loads((out / ADAPTIVE).read_text())["norms"].values()
    }
    assert f"with --adaptive-budget {enough} none of these" in " ".join(
        done.stdout.split()
    )
    assert f"--adaptive-budget {enough}" in (out / "report.html").read_text()
    refused = CliRunner().invoke(main, ["eval", "digits", "--adaptive-budget", "9"])
    assert refused.exit_code == 2
    assert "is for --adaptive" in refused.output
    refused = CliRunner().invoke(
        main, ["eval", "digits", "--adaptive", "--access", "score"]
    )
    assert refused.exit_code == 2
    assert "none to mend" in refused.output

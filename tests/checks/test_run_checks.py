from dataclasses import dataclass

import numpy as np
import pytest

import robustkit as rk
from robustkit.checks.finding import Severity
from robustkit.checks.probe import NothingCorrect
from robustkit.checks.run_checks import check_run
from robustkit.models.abstaining import Abstaining
from robustkit.models.numpy import NumPyModel


@pytest.fixture(scope="module")
def planted(plant_inside):
    return plant_inside(60)


@dataclass(frozen=True)
class Sized(rk.Attack):
    """Goes to the exact boundary's distance times a factor, or finds nothing."""

    access = rk.Access.GRADIENT
    norms = frozenset({"linf"})
    factor: float
    missed: int = 0
    steps: int = 1

    def init(self, p):
        return None

    def step(self, p, s, t):
        a = p.gradient(p.x)
        reach = p.norm.to_boundary(a.margin, a.gradient)
        delta = -a.gradient.sign() * (reach * self.factor).expand_dims(1)
        found = np.arange(p.size) >= self.missed
        p.decide(p.x + delta, type(p.x)(found))


@dataclass(frozen=True)
class Blind(Sized):
    """The same, said to need decisions only (it still asks for gradients)."""


def run(planted, attacks, labels=None, model=None, criterion=None, budget=None):
    results = rk.evaluate(
        model or planted.model(),
        (planted.x, planted.y if labels is None else labels),
        attacks=attacks,
        epsilons=(0.02, 0.05, 0.1, 0.2),
        criterion=criterion,
        budget=budget,
    )
    return results, {f.id: f for f in check_run(results)}


def told(results, **access):
    """As if attacks had needed no more than this."""
    results.run["attack_access"] |= access
    return {f.id: f for f in check_run(results)}


def test_a_sound_run_has_nothing_but_a_note_on_variety(planted):
    _, found = run(planted, ["fmn"])
    assert {id: f.severity for id, f in found.items()} == {"C9": Severity.NOTE}


def test_a_sound_run_of_several_attacks_has_nothing(planted):
    _, found = run(planted, ["auto", "fgsm", "gaussian-noise", "square"], budget=100)
    assert {id for id, f in found.items() if f.severity > Severity.NOTE} == set()


def test_an_attack_that_aims_at_the_wrong_class_is_found_out(planted):
    """FMN goes for the class with the least margin, which need not be the nearest."""
    results, found = run(planted, ["fmn", "square"])
    farther = results.distances(attack="fmn") > 1.05 * planted.exact("linf")
    assert farther.any()
    assert found["C5"].severity is Severity.SUSPICIOUS
    assert set(np.flatnonzero(farther)) <= set(found["C5"].samples)


@dataclass(frozen=True)
class Broken(Sized):
    """Ends in an error."""

    def step(self, p, s, t):
        raise RuntimeError("broken")


def test_an_attack_that_ended_in_errors_is_no_weaker_side(planted):
    attacks = {"broken": Broken(1.0), "sized": Blind(1.2)}
    results, _ = run(planted, attacks)
    assert np.isnan(results.distances(attack="broken")).all()
    assert "C5" not in told(results, sized="decision")


@pytest.mark.parametrize(
    ("missed", "severity"), [(1, Severity.SUSPICIOUS), (20, Severity.INVALIDATES)]
)
def test_samples_without_any_adversarial(planted, missed, severity):
    results, found = run(planted, {"sized": Sized(1.2, missed)})
    missing = np.flatnonzero(np.isinf(results.distance))
    assert found["S4"].samples == tuple(missing)
    assert found["S4"].severity is severity
    assert "without gradients (--attacks auto,boundary)" in found["S4"].remedy
    blind = told(results, sized="decision")["S4"].remedy
    assert blind == "give them more passes, start from other samples (--pool)"


@pytest.mark.parametrize("target", [None, 1, "least-likely"])
def test_of_a_model_that_never_answers_otherwise_no_attack_fails(planted, target):
    always = NumPyModel(
        lambda x: np.stack([0 * x[:, 0], 0 * x[:, 0] - 1, 0 * x[:, 0] - 2], axis=1),
        gradient=lambda x, s: 0 * x,
    )
    labels = np.zeros(60, dtype=np.int64)
    results = rk.evaluate(
        always, (planted.x, labels), attacks=["fmn"], budget=5, target=target
    )
    (found,) = (f for f in check_run(results) if f.id == "S4")
    assert "Unless" in found.diagnosis
    assert found.severity is Severity.SUSPICIOUS


def test_more_than_chance_at_half_the_width_is_impossible(planted):
    everything = NumPyModel(
        lambda x: np.stack([1 + 0 * x[:, 0], 0 * x[:, 0], 0 * x[:, 0]], axis=1)
    )
    labels = np.arange(60) % 3
    _, found = run(planted, ["gaussian-noise"], labels, everything)
    # A third of the labels are the constant answer: that is chance.
    assert "C2" not in found
    flat = NumPyModel(planted.logits, gradient=lambda x, s: 0 * x)
    _, found = run(planted, ["fmn"], model=flat)
    assert found["C2"].severity is Severity.INVALIDATES


def test_not_every_criterion_is_met_by_the_same_grey(planted):
    flat = NumPyModel(planted.logits, gradient=lambda x, s: 0 * x)
    never = NumPyModel(lambda x: 0 * x[:, :1] - 1, gradient=lambda x, s: 0 * x)
    _, found = run(planted, ["fmn"], model=Abstaining(flat, never))
    assert "S4" in found
    assert "C2" not in found
    _, found = run(planted, ["fmn"], model=flat, criterion=lambda y: rk.TopK(y, 2))
    assert found["S4"].severity is Severity.SUSPICIOUS
    assert "Unless" in found["S4"].diagnosis
    assert "C2" not in found


@pytest.mark.parametrize(
    ("factor", "severity"),
    [(0.999, None), (0.85, Severity.INVALIDATES)],
)
def test_attacks_that_see_less_may_not_win(planted, factor, severity):
    attacks = {"white": Sized(1.3), "black": Blind(1.3 * factor)}
    results, _ = run(planted, attacks)
    finding = told(results, black="decision").get("C5")
    assert (finding and finding.severity) is severity
    if finding:
        ratio = finding.evidence["ratio of distances there"]
        assert ratio == pytest.approx(factor, rel=1e-3)


def test_auto_tells_where_it_gave_up_gradients(planted):
    some = np.flatnonzero(planted.y == 1)

    def lying(x, slopes):
        return planted.gradient(x, slopes) * (slopes[:, 1:2] <= 0)

    model = NumPyModel(planted.logits, gradient=lying)
    _, found = run(planted, "auto", model=model, budget=60)
    finding = found["C5"]
    assert finding.severity is Severity.SUSPICIOUS
    assert finding.samples == tuple(some)
    assert finding.evidence["share"] == pytest.approx(len(some) / 60)
    assert "auto gave up following gradients at" in finding.diagnosis
    assert "C9" not in found
    _, found = run(planted, "auto", budget=60)
    assert "C5" not in found
    assert "C9" in found
    # Gradients from scores take no backward passes.
    estimated = rk.Estimated(planted.model(), 6)
    assert "C5" not in run(planted, "auto", model=estimated, budget=200)[1]


@dataclass(frozen=True)
class Step(Sized):
    """Said to be a single step."""

    baseline = "single step"


@dataclass(frozen=True)
class Noise(Blind):
    """Said to be noise."""

    baseline = "noise"


@pytest.mark.parametrize("old", [False, True])
def test_noise_and_single_steps_may_not_win(planted, old):
    step, noise = ("fgsm", "gaussian-noise") if old else ("mine", "my-noise")

    def found(attacks):
        results, _ = run(planted, attacks)
        if old:
            del results.run["attack_baseline"]
        return told(results, **{noise: "decision"})

    found_first = found({"pgd": Sized(1.5), step: Step(1.1), noise: Noise(1.2)})
    assert found_first["C3"].severity is Severity.SUSPICIOUS
    # Noise is held against all gradients, of which the single step is nearer.
    assert "C6" not in found_first
    found_second = found({"pgd": Sized(1.5), noise: Noise(1.2)})
    assert found_second["C6"].severity is Severity.INVALIDATES


def test_what_an_attack_is_does_not_depend_on_what_it_is_called(planted):
    attacks = {"fgsm": Sized(1.1), "gaussian-noise": Blind(1.2), "pgd": Sized(1.5)}
    results, found = run(planted, attacks)
    assert results.run["attack_baseline"] == dict.fromkeys(attacks)
    assert not {"C3", "C6"} & found.keys()
    found = told(results, **{"gaussian-noise": "decision"})
    assert not {"C3", "C6"} & found.keys()
    results, found = run(planted, {"strong": rk.GaussianNoise(), "fast": rk.FGSM()})
    assert results.run["attack_baseline"] == {"strong": "noise", "fast": "single step"}
    assert found["C9"].severity is Severity.SUSPICIOUS


def test_a_single_step_alone_says_little(planted):
    _, found = run(planted, ["fgsm"])
    assert found["C9"].severity is Severity.SUSPICIOUS


def test_the_least_of_means_is_not_the_mean_of_the_least(planted):
    @dataclass(frozen=True)
    class Half(Sized):
        even: bool = True

        def step(self, p, s, t):
            a = p.gradient(p.x)
            reach = p.norm.to_boundary(a.margin, a.gradient)
            mine = (p.x.numpy()[:, 0] * 1e6).astype(int) % 2 == int(self.even)
            factor = type(p.x)(np.where(mine, 1.05, 3.0).astype(np.float32))
            p.decide(p.x - a.gradient.sign() * (reach * factor).expand_dims(1))

    _, found = run(planted, {"one": Half(1.0), "two": Half(1.0, even=False)})
    assert found["C10"].severity is Severity.NOTE
    assert found["C10"].evidence["gap"] > 0.05


def test_labels_of_other_data(planted):
    wrong = np.random.default_rng(0).permutation(planted.y)
    _, found = run(planted, ["fmn"], wrong)
    assert "C11" in found or (planted.y == wrong).mean() > 0.5


@pytest.mark.parametrize(("samples", "sure"), [(1, False), (40, True)])
def test_a_few_wrong_answers_do_not_prove_the_labels_wrong(planted, samples, sure):
    data = (planted.x[:samples], (planted.y[:samples] + 1) % 3)
    results = rk.evaluate(planted.model(), data, attacks=["gaussian-noise"])
    (told,) = (f for f in check_run(results) if f.id == "C11")
    assert told.severity is Severity.INVALIDATES
    assert ("no better than chance" in told.diagnosis) == sure
    assert ("none of 1 sample is classified" in told.diagnosis) != sure


def test_more_than_chance_of_two_classes_is_no_mistake():
    """However hard they are to tell apart."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.2, 0.8, (300, 6)).astype(np.float32)
    slope = rng.normal(size=6).astype(np.float32)

    def logits(x):
        margin = (x - 0.5) @ slope
        return np.stack([margin, -margin], axis=1)

    seen = logits(x).argmax(axis=1)
    for wrong, expected in ((0.38, False), (0.5, True)):
        y = np.where(np.arange(300) < wrong * 300, 1 - seen, seen)
        results = rk.evaluate(NumPyModel(logits), (x, y), attacks=["gaussian-noise"])
        found = {f.id for f in check_run(results)}
        assert ("C11" in found) == expected


def test_what_is_nearer_by_rounding_only_beats_nothing(planted):
    """Also where the size asked about lies just in between."""
    exact = planted.exact("linf")
    sizes = tuple(np.sort(exact[exact > 0])[20:24] * 1.2 * 0.997)
    results = rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        attacks={"one": Sized(1.2), "other": Blind(1.2 * 0.995)},
        epsilons=sizes,
    )
    assert "C5" not in told(results, other="decision")


def test_a_run_is_checked_with_its_model(planted, tmp_path):
    rk.evaluate(
        planted.model(), (planted.x, planted.y), attacks=["fgsm"], out=tmp_path / "run"
    )
    found = rk.check(planted.model(), (planted.x, planted.y), run=tmp_path / "run")
    assert [f.id for f in found.findings] == ["C9", "O2"]
    assert found.worst is Severity.SUSPICIOUS
    assert not found.invalid
    assert found.save(tmp_path / "run").name == "findings.json"


def test_a_model_that_is_never_right_invalidates_its_run(planted, tmp_path):
    wrong = (planted.y + 1) % 3
    rk.evaluate(
        planted.model(), (planted.x, wrong), attacks=["fmn"], out=tmp_path / "run"
    )
    # The model alone cannot be looked at: there is nothing that it gets right.
    with pytest.raises(NothingCorrect, match="none of 60 samples"):
        rk.check(planted.model(), (planted.x, wrong))
    found = rk.check(planted.model(), (planted.x, wrong), run=tmp_path / "run")
    assert found.findings[0].id == "C11"
    assert found.invalid
    # So that no checklist ticks what was not looked at.
    assert found.samples == 0


@pytest.mark.parametrize("known", [[], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_samples_without_a_prediction_do_not_make_the_labels_wrong(
    planted, tmp_path, known
):
    out, model, data = tmp_path / "run", planted.model(), (planted.x, planted.y)
    rk.evaluate(model, data, norm="linf", attacks=["fgsm"], out=out)
    head, *rows = [row.split(",") for row in (out / "samples.csv").read_text().split()]
    column = head.index("prediction")
    for place, row in enumerate(rows):
        row[column] = row[column] if place in known else "-1"
    (out / "samples.csv").write_text("\n".join(",".join(r) for r in [head, *rows]))
    found = rk.check(model, data, run=out)
    assert "C11" not in {finding.id for finding in found.findings}


@dataclass(frozen=True)
class Useless(rk.Attack):
    """For one size, within which it finds nothing."""

    access = rk.Access.GRADIENT
    norms = frozenset({"linf"})
    epsilon: float = 0.05
    steps: int = 1

    def init(self, p):
        return None

    def step(self, p, s, t):
        p.score(p.x)


def test_attacks_for_one_size_are_not_blamed_for_what_lies_beyond(planted):
    """As AutoAttack's, whose distances say whether a sample stands its epsilon."""
    aimed = rk.APGD(0.05, steps=60, targets=2)
    attacks = {"at 0.05": rk.Cascade((aimed,), epsilon=0.05)}
    results, found = run(planted, attacks)
    assert np.isinf(results.distance).mean() > 0.1
    assert found.keys() == {"C9"}
    attacks["square"] = rk.get_attack("square").within(200)
    results, found = run(planted, attacks)
    nearer = results.distances(attack="square") < 0.9 * results.distances(
        attack="at 0.05"
    )
    assert nearer.mean() > 0.3
    assert found.keys() & {"S4", "C2", "C5"} == set()
    # Whatever comes last in a cascade, who is broken has left by then.
    last = (aimed, rk.FMN(steps=60))
    attacks["at 0.05"] = rk.Cascade(last, epsilon=0.05)
    results, found = run(planted, attacks)
    assert np.isfinite(results.distance).all()
    assert found.keys() & {"S4", "C2", "C5"} == set()
    # Of what lies within, they are.
    attacks["at 0.05"] = Useless(0.05)
    results, found = run(planted, attacks)
    assert found["C5"].severity is Severity.INVALIDATES
    near = results.distances(attack="square") <= 0.05 * (1 + 1e-5)
    assert found["C5"].samples == tuple(np.flatnonzero(near))


def test_one_note_on_variety_for_all_norms(planted):
    results = rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        norm=["linf", "l2", "l0"],
        attacks=["fmn"],
        budget=20,
    )
    (note,) = (f for f in check_run(results) if f.id == "C9")
    assert note.diagnosis.startswith("linf, l2, l0: every attack followed gradients")
    # None of them minimises all of these norms.
    assert note.remedy.endswith(
        "--norm linf --norm l2 --attacks auto,boundary; --norm l0 --attacks "
        "auto,pointwise"
    )


@pytest.mark.parametrize(("norm", "named"), [("linf", "boundary"), ("l0", "pointwise")])
def test_the_attack_that_is_advised_can_minimise_the_norm(planted, norm, named):
    results = rk.evaluate(
        planted.model(), (planted.x, planted.y), norm=norm, attacks=["fmn"], budget=30
    )
    (advice,) = (f.remedy for f in check_run(results) if f.id == "C9")
    assert advice.endswith(f"auto,{named}")
    assert norm in rk.get_attack(named).norms

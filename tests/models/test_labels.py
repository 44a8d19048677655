import csv

import numpy as np
import pytest
from click.testing import CliRunner

import robustkit as rk
from robustkit.cli import main
from robustkit.errors import BadInput
from robustkit.evaluation.goals import make_criterion
from robustkit.models.abstaining import Abstaining
from robustkit.models.base import Access
from robustkit.models.labels import LabelModel
from robustkit.models.load import as_model
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import as_tensor

NAMES = ("cat", "dog", "horse")


def named(answers):
    return LabelModel(lambda x: answers, classes=NAMES)


def scored(answers, classes=NAMES):
    return LabelModel(lambda x: answers, classes, scores=True)


def logits(model, count=1, dtype=np.float64):
    return model.logits(as_tensor(np.zeros((count, 2), dtype=dtype))).raw


def test_names_become_one_of_the_columns():
    assert logits(named(["dog", "cat"]), 2).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert logits(named(np.array(["horse"]))).tolist() == [[0, 0, 1, 0]]


def test_a_name_that_was_not_given_is_a_class_of_its_own():
    assert logits(named(["unicorn"])).tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize(
    "answers", [[2, 0], np.array([2, 0], dtype=np.uint8), np.array([[2], [0]])[:, 0]]
)
def test_numbers_become_one_of_as_many_columns(answers):
    model = LabelModel(lambda x: answers, classes=3)
    assert logits(model, 2).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert logits(model, 2, np.float32).dtype == np.float32


@pytest.mark.parametrize(
    "answer", [{"dog": 0.7, "cat": 0.2}, [("dog", 0.7), ("cat", 0.2)]]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_classes_that_were_not_listed_score_just_less_than_the_least(answer, dtype):
    (row,) = logits(scored([answer]), dtype=dtype)
    assert row[:2] == pytest.approx([0.2, 0.7])
    assert row[2] == row[3] == pytest.approx(0.2, abs=1e-5)
    assert row[2] < row[0]


@pytest.mark.parametrize("score", [0.4, 0.0, -30.0, 1e4])
def test_the_only_class_listed_is_ahead_of_all_others(score):
    (row,) = logits(scored([{1: score}], classes=4), dtype=np.float32)
    assert row.argmax() == 1
    assert (np.delete(row, 1) < row[1]).all()


@pytest.mark.parametrize(
    "answer",
    [{"cat": np.nan, "dog": 0.7}, {"dog": 0.7, "cat": np.nan}, {"unicorn": np.nan}],
)
def test_a_score_that_is_no_number_is_no_answer(answer):
    assert np.isnan(logits(scored([answer]))).all()


def test_two_names_that_were_not_given_score_as_the_higher():
    (row,) = logits(scored([{"unicorn": 0.5, "yeti": 0.3, "cat": 0.1}]))
    assert row[3] == 0.5


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (named(["dog", "dog"]), "expected 1 answers for as many inputs"),
        (named([3]), "If it returns numbers, give the number of classes"),
        (LabelModel(lambda x: ["dog"], classes=3), "from 0 to 2"),
        (LabelModel(lambda x: [3], classes=3), "from 0 to 2"),
        (LabelModel(lambda x: [1.0], classes=3), "from 0 to 2"),
        (LabelModel(lambda x: None, classes=3), "returned None"),
        (scored([{}]), "at least one"),
        (scored(["dog"]), "expected a mapping"),
        (scored([{"dog": "high"}]), "expected a mapping"),
        (scored([{"dog": 10**400}]), "expected a mapping"),
        (scored([[("cat", 0.9), ("cat", 0.05)]]), "each once"),
        (scored([[(1, 0.9), (np.int64(1), 0.05)]], classes=3), "each once"),
    ],
)
def test_other_answers_are_named(model, message):
    with pytest.raises(BadInput, match=message):
        logits(model)


def test_the_number_of_classes_may_be_numpys():
    model = LabelModel(lambda x: [1] * len(x), np.arange(3).max() + 1)
    assert logits(model).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    "classes", [1, ["cat"], ["cat", "cat"], [], None, 3.0, [["cat"], ["dog"]]]
)
def test_there_are_at_least_two_classes_each_once(classes):
    with pytest.raises(BadInput, match="at least 2"):
        LabelModel(lambda x: x, classes=classes)


def test_what_is_shown_is_what_there_is():
    assert named([]).access is Access.DECISION
    assert scored([]).access is Access.SCORE


def bright(images):
    return ["dark" if image.mean() < 0.25 else "bright" for image in images]


LABELLED = {
    "names": (LabelModel(bright, ["dark", "bright"]), 1),
    "numbers": (LabelModel(lambda x: [0] * len(x), 2), 0),
    "wrapped": (rk.MajorityVote(LabelModel(bright, ["dark", "bright"]), 3), 1),
    "guarded": (
        Abstaining(LabelModel(bright, ["dark", "bright"]), lambda x: x[:, 0] - 2),
        2,
    ),
}


@pytest.mark.parametrize("name", LABELLED)
def test_other_names_are_no_labels_and_no_targets(name):
    model, others = LABELLED[name]
    assert model.unlabelled == others
    x, y = np.full((2, 6), 0.5, np.float32), np.array([1, 1])
    logits = model.logits(as_tensor(x)).raw
    assert logits.shape[1] == 2 + others
    for target in ("random", "least-likely"):
        make = make_criterion(model, target, None, 2 + others, seed=0)
        assert make(y, logits, x).targets.raw.tolist() == [0, 0]
    with pytest.raises(BadInput, match="target must be 0 to 1"):
        make_criterion(model, 2, None, 2 + others, seed=0)
    for ask in (rk.evaluate, rk.check):
        with pytest.raises(BadInput, match="labels must be 0 to 1; sample 1"):
            ask(model, (x, np.array([0, 2])))
    with pytest.raises(BadInput, match="labels must be 0 to 1; sample 1"):
        rk.run("rays", model, x, np.array([0, 2]))


@pytest.mark.parametrize("attack", ["boundary", "rays", "pointwise"])
def test_decision_based_attacks_run_on_names_alone(attack):
    model = LabelModel(bright, ["dark", "bright"], Bounds(0, 2), name="bright")
    x, y = np.full((2, 6), 0.5), np.array([1, 1])
    norm = {"boundary": "l2", "rays": "linf"}.get(attack, "l0")
    exact = {"l2": 0.25 * np.sqrt(6), "linf": 0.25, "l0": 4}[norm]
    result = rk.run(attack, model, x, y, norm=norm, budget=400)
    assert (result.distance >= exact * (1 - 1e-9)).all()
    assert (result.distance <= exact * 1.26).all()
    with pytest.raises(BadInput, match="shows decisions only"):
        rk.run("fmn", model, x, y, norm="l2")


def test_scores_of_the_first_classes_serve_score_based_attacks():
    def best_two(images):
        corner = images[:, 0, :2, :2].mean(axis=(1, 2))
        return [{"dark": 1 - light, "bright": light} for light in corner]

    model = LabelModel(best_two, ["dark", "grey", "bright"], scores=True)
    x, y = np.full((2, 1, 6, 6), 0.6), np.array([2, 2])
    square = rk.get_attack("square").within(300)
    result = rk.run(square, model, x, y, norm="linf")
    assert (result.distance >= 0.1).all()
    assert (result.distance <= 0.15).all()


def test_a_function_that_returns_classes_is_told_what_to_do():
    with pytest.raises(BadInput, match="LabelModel"):
        as_model(lambda x: ["dog"] * len(x), example=np.zeros((2, 3)))


def test_the_command_line_attacks_a_file_that_names_classes(tmp_path):
    (tmp_path / "shop.py").write_text(
        "import robustkit as rk\n"
        "def classify(images):\n"
        "    return ['dark' if i.mean() < 0.25 else 'bright' for i in images]\n"
        "model = rk.LabelModel(classify, classes=['dark', 'bright'])\n"
    )
    x = np.random.default_rng(0).uniform(0.3, 0.6, (4, 1, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "test.npz", x=x, y=np.ones(4, dtype=np.int64))
    done = CliRunner().invoke(
        main,
        [
            "eval",
            f"{tmp_path}/shop.py:model",
            *("--data", f"{tmp_path}/test.npz", "--out", f"{tmp_path}/run"),
            *("--attacks", "rays", "--norm", "linf", "--budget", "60"),
        ],
    )
    assert done.exit_code == 0, done.output
    with open(tmp_path / "run" / "samples.csv") as file:
        distance = np.array([float(row["distance"]) for row in csv.DictReader(file)])
    exact = x.mean(axis=(1, 2, 3)) - 0.25
    assert (distance >= exact - 1e-6).all()
    assert (distance <= 1.05 * exact).all()

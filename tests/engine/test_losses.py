import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit.engine.criteria import (
    AllOf,
    Confident,
    Matching,
    Misclassification,
    OrderedTopK,
    Targeted,
    TopK,
    Undetected,
)
from robustkit.engine.losses import LOSSES, aimed_loss, get_loss
from robustkit.errors import BadInput
from robustkit.numerics.tensors import as_tensor

CLASSES = 6
GOALS = np.array([0.3, -1.0, 2.0, 0.5, 5.0, -0.4])
# Losses that not every criterion has.
LACKING = {
    "cross-entropy": ("top-2", "ordered", "both"),
    "matching": (
        *("misclassification", "targeted", "top-2", "ordered", "confident"),
        *("both", "undetected", "confident undetected"),
    ),
}


def tensor(values):
    return as_tensor(np.asarray(values))


def criteria(label):
    return {
        "misclassification": Misclassification(label),
        "targeted": Targeted(label),
        "top-2": TopK(label, 2),
        "ordered": OrderedTopK(
            as_tensor(np.stack([label.raw, (label.raw + 1) % CLASSES], axis=1))
        ),
        "confident": Confident(Misclassification(label), 0.5),
        "both": AllOf(Targeted(label), Misclassification((label + 1) % CLASSES)),
        "undetected": Undetected(label % (CLASSES - 1)),
        "confident undetected": Confident(Undetected(label % (CLASSES - 1)), 0.5),
        "matching": Matching(Misclassification(label), tensor(GOALS[None])),
        "features": Matching(Targeted(label), tensor(GOALS[None, 4:]), 4),
    }


def by_differences(loss, criterion, logits, step=1e-6):
    columns = []
    for column in range(logits.shape[1]):
        shift = np.zeros_like(logits)
        shift[:, column] = step
        above, below = (
            loss(criterion, as_tensor(logits + sign * shift))[0].raw for sign in (1, -1)
        )
        columns.append((above - below) / (2 * step))
    return np.stack(columns, axis=1)


# Far enough apart that a small step passes no kink, and no two gaps are alike.
spread_logits = st.tuples(
    st.permutations([-2.0137, -0.7071, 0.1234, 0.9461, 2.2361, 3.9917]),
    st.lists(st.floats(-0.2, 0.2), min_size=CLASSES, max_size=CLASSES),
    st.integers(0, CLASSES - 1),
)


@pytest.mark.parametrize("name", criteria(tensor([0])))
@pytest.mark.parametrize("loss", LOSSES)
@settings(deadline=None, max_examples=15)
@given(row=spread_logits)
def test_slopes_are_the_differences_of_the_values(loss, name, row):
    logits = np.array([row[0]]) + np.array([row[1]])
    label = row[2] % 4 if name == "features" else row[2]
    criterion = criteria(tensor([label]))[name]
    if name in LACKING.get(loss, ()):
        why = "cross-entropy is not defined|says of no outputs"
        with pytest.raises(BadInput, match=why):
            LOSSES[loss](criterion, as_tensor(logits))
        return
    value, slopes = LOSSES[loss](criterion, as_tensor(logits))
    expected = by_differences(LOSSES[loss], criterion, logits)
    if np.abs(expected).max() < 1e-7:
        assert loss == "dlr"
        assert abs(value.item()) == pytest.approx(1.0)
        margin, direction = criterion.slopes(as_tensor(logits))
        assert np.allclose(
            slopes.raw, direction.raw * np.abs(value.item() / margin.item())
        )
    else:
        assert np.allclose(slopes.raw, expected, atol=1e-6)


@pytest.mark.parametrize("loss", ["margin", "dlr", "cross-entropy"])
@settings(deadline=None, max_examples=40)
@given(row=spread_logits, way=st.integers(1, CLASSES - 1))
def test_slopes_of_a_single_way(loss, row, way):
    logits = np.array([row[0]]) + np.array([row[1]])
    label = row[2]
    target = (label + way) % CLASSES
    criterion = Misclassification(tensor([label]))
    aimed = aimed_loss(loss, tensor([target]))
    value, slopes = aimed(criterion, as_tensor(logits))
    expected = by_differences(aimed, criterion, logits)
    assert np.allclose(slopes.raw, expected, atol=1e-6)
    if loss == "cross-entropy":
        chance = np.exp(logits[0]) / np.exp(logits[0]).sum()
        assert value.item() == pytest.approx(-np.log(chance[target]))
        return
    first, _, third, fourth, *_ = np.sort(logits[0])[::-1]
    gap = logits[0, label] - logits[0, target]
    spread = 1.0 if loss == "margin" else first - (third + fourth) / 2
    assert value.item() == pytest.approx(gap / spread)


@pytest.mark.parametrize("kind", [Misclassification, Targeted])
def test_dlr_is_the_margin_where_too_few_classes_have_a_chance(kind):
    logits = tensor([[1.0, 3.0, -np.inf, -np.inf]])
    criterion = kind(tensor([0]))
    margin, slopes = criterion.slopes(logits)
    for loss in (get_loss("dlr"), aimed_loss("dlr", tensor([1]))):
        if kind is Targeted and loss is not LOSSES["dlr"]:
            continue
        value, found = loss(criterion, logits)
        assert value.item() == margin.item()
        assert found.numpy().tolist() == slopes.numpy().tolist()


@pytest.mark.filterwarnings("error")
def test_dlr_is_the_margin_where_the_target_has_no_chance():
    logits = tensor([[1.0, 3.0, 2.0, 0.0, -np.inf]])
    criterion = Targeted(tensor([4]))
    for loss in (get_loss("dlr"), aimed_loss("dlr", tensor([0]))):
        value, slopes = loss(criterion, logits)
        assert value.item() == np.inf
        assert slopes.numpy().tolist() == [[0.0, 1.0, 0.0, 0.0, -1.0]]


def test_dlr_by_hand():
    logits = tensor([[5.0, 3.0, 1.0, -1.0]])
    dlr = get_loss("dlr")
    assert dlr(Misclassification(tensor([0])), logits)[0].item() == 2 / 4
    assert dlr(Misclassification(tensor([1])), logits)[0].item() == -2 / 4
    assert dlr(Targeted(tensor([1])), logits)[0].item() == 2 / 5
    assert dlr(Targeted(tensor([0])), logits)[0].item() == -2 / 5
    assert dlr(TopK(tensor([0]), 2), logits)[0].item() == 1.0


@settings(deadline=None, max_examples=30)
@given(row=spread_logits, scale=st.floats(0.1, 100.0), shift=st.floats(-50.0, 50.0))
def test_dlr_knows_neither_scale_nor_shift(row, scale, shift):
    logits = np.array([row[0]])
    for criterion in (Misclassification, Targeted):
        values = [
            get_loss("dlr")(criterion(tensor([row[2]])), as_tensor(z))[0].item()
            for z in (logits, scale * logits + shift)
        ]
        assert values[0] == pytest.approx(values[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dlr_has_slopes_where_it_is_constant(dtype):
    logits = tensor(np.array([[3.1, 0.3, 1.7, -2.0], [3.1, 0.3, 1.7, -2.0]], dtype))
    own_is_third = Misclassification(tensor([1, 1]))
    value, slopes = get_loss("dlr")(own_is_third, logits)
    assert (value.raw == -1).all()
    assert slopes.raw[0] == pytest.approx([-1 / 2.8, 1 / 2.8, 0, 0], rel=1e-6)
    # The own class is first, but has to fall to the third place.
    value, slopes = get_loss("dlr")(TopK(tensor([0, 0]), 2), logits)
    assert (value.raw == 1).all()
    assert slopes.raw[0] == pytest.approx([1 / 2.8, -1 / 2.8, 0, 0], rel=1e-6)


def test_dlr_of_equal_logits_is_finite():
    value, slopes = get_loss("dlr")(Misclassification(tensor([1])), tensor([[2.0] * 4]))
    assert value.item() == 0
    assert np.isfinite(slopes.raw).all()
    assert slopes.raw[0, 1] > 0


def test_losses_by_name():
    logits, criterion = tensor([[1.0, 2.0, 4.0]]), Misclassification(tensor([1]))
    assert set(LOSSES) == {"margin", "cross-entropy", "dlr", "joint", "matching"}
    assert get_loss("margin")(criterion, logits)[0].item() == -2
    value, _ = get_loss("cross-entropy")(criterion, logits)
    assert value.item() == criterion.cross_entropy(logits)[0].item()


def test_bad_settings():
    with pytest.raises(BadInput, match="unknown loss 'margni'; did you mean 'margin'"):
        get_loss("margni")
    with pytest.raises(BadInput, match="'matching' cannot aim"):
        aimed_loss("matching", tensor([0]))
    with pytest.raises(BadInput, match="lead to no class"):
        aimed_loss("cross-entropy", tensor([0]))(
            TopK(tensor([0]), 2), tensor([[1.0, 2.0, 3.0]])
        )
    goals = Matching(Misclassification(tensor([0])), tensor([[1.0, 2.0]]))
    with pytest.raises(BadInput, match=r"\(1, 2\), those of the model \(1, 3\)"):
        get_loss("matching")(goals, tensor([[1.0, 2.0, 3.0]]))
    with pytest.raises(BadInput, match="3 outputs; it has 2"):
        Undetected(tensor([0])).margin(tensor([[1.0, 2.0]]))


def test_dlr_of_few_classes():
    dlr, aimed = get_loss("dlr"), aimed_loss("dlr", tensor([1]))
    three = tensor([[5.0, 3.0, 1.0]])
    # The targeted gap of three logits is the plain one.
    for value, slopes in (
        dlr(Targeted(tensor([1])), three),
        aimed(Misclassification(tensor([0])), three),
    ):
        assert value.item() == 2 / 4
        assert slopes.raw[0] == pytest.approx([1 / 8, -1 / 4, 1 / 8])
    # No ratio of two logits would not be constant.
    two = tensor([[5.0, 3.0]])
    for value, slopes in (
        dlr(Misclassification(tensor([0])), two),
        aimed(Misclassification(tensor([0])), two),
    ):
        assert value.item() == 2
        assert slopes.raw[0].tolist() == [1, -1]


def test_a_joint_loss_is_the_sum_of_what_is_missing():
    joint = get_loss("joint")
    # Label 0, the last class is the refusal: two are missing of another class, three
    # of the refusal's end.
    value, slopes = joint(Undetected(tensor([0])), tensor([[4.0, 2.0, 1.0, 7.0]]))
    assert value.item() == 5
    assert slopes.raw[0].tolist() == [0, -1, 0, 1]
    # Misclassified, but refused: only that is left.
    value, slopes = joint(Undetected(tensor([0])), tensor([[1.0, 2.0, 0.0, 3.0]]))
    assert value.item() == 1
    assert slopes.raw[0].tolist() == [0, -1, 0, 1]
    # Met: the margin.
    criterion = Undetected(tensor([0]))
    met = tensor([[1.0, 6.0, 0.0, 3.0]])
    assert joint(criterion, met)[0].item() == criterion.margin(met).item() == -3


def test_refused_is_not_adversarial():
    outputs = tensor([[1.0, 2.0, 0.0, 3.0], [1.0, 2.0, 0.0, 0.5], [2.0, 1.0, 0.0, 0.5]])
    margin = Undetected(tensor([0, 0, 0])).margin(outputs)
    assert margin.raw.tolist() == [1.0, -1.0, 1.0]
    ways = Undetected(tensor([0, 0, 0])).ways(outputs).raw
    assert ways[0].tolist() == [np.inf, 1.0, 3.0, np.inf]


def test_matching_by_hand():
    criterion = Matching(Targeted(tensor([1])), tensor([[0.0, 4.0]]), classes=2)
    outputs = tensor([[3.0, 1.0, 2.0, 2.0]])
    assert criterion.margin(outputs).item() == 2
    value, slopes = get_loss("matching")(criterion, outputs)
    assert value.item() == (4 + 4) / 2
    assert slopes.raw[0].tolist() == [0, 0, 2, -2]


def test_losses_of_what_decides_behind_matching():
    logits, features = np.array([[3.0, 1.0, 2.0, 0.5]]), np.array([[7.0, 8.0]])
    inner = Undetected(tensor([0]))
    criterion = Matching(inner, tensor([[0.0, 4.0]]), classes=4)
    outputs = as_tensor(np.concatenate([logits, features], axis=1))
    for loss in (get_loss("joint"), aimed_loss("cross-entropy", tensor([1]))):
        value, slopes = loss(criterion, outputs)
        expected, expected_slopes = loss(inner, as_tensor(logits))
        assert value.raw == expected.raw
        assert slopes.raw[0].tolist() == [*expected_slopes.raw[0], 0, 0]


def test_matching_of_classes_that_are_never_given():
    goals = tensor([[1.0, 3.0, -np.inf]])
    criterion = Matching(Targeted(tensor([1])), goals)
    value, slopes = get_loss("matching")(criterion, tensor([[4.0, 0.0, -np.inf]]))
    assert value.item() == 6
    assert slopes.raw[0].tolist() == [2, -2, 0]

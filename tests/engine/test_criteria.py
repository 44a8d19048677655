import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from eagerpy.astensor import astensor
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit.engine.criteria import (
    AllOf,
    AnyOf,
    Confident,
    Custom,
    Matching,
    Misclassification,
    OrderedTopK,
    Targeted,
    TopK,
    Undetected,
)
from robustkit.errors import BadInput
from robustkit.numerics.logits import at_label
from robustkit.numerics.tensors import as_tensor, take


def tensor(values):
    return as_tensor(np.asarray(values))


# Whole numbers, so that ties are common: a tie is never adversarial.
rows = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        st.lists(st.integers(-3, 3), min_size=classes, max_size=classes),
        st.permutations(range(classes)),
        st.integers(1, classes),
    )
)


def by_hand(name, scores, order, k):
    """Whether the criterion's set holds the scores, and the criterion itself."""
    label, classes = order[0], len(scores)
    others = [score for j, score in enumerate(scores) if j != label]
    labels = tensor([label])
    if name == "misclassification":
        return any(o > scores[label] for o in others), Misclassification(labels)
    if name == "targeted":
        return all(o < scores[label] for o in others), Targeted(labels)
    if name == "top-k":
        k = min(k, classes - 1)
        return sum(o > scores[label] for o in others) >= k, TopK(labels, k)
    if name == "ordered top-k":
        k = max(k, 2) if k == classes else k
        wanted = [scores[j] for j in order[:k]]
        rest = [scores[j] for j in order[k:]]
        descending = all(a > b for a, b in pairwise(wanted))
        above = all(wanted[-1] > r for r in rest)
        return descending and above, OrderedTopK(tensor([order[:k]]))
    if name == "confident":
        margin = scores[label] - max(others)
        return margin + 2 < 0, Confident(Misclassification(labels), 2.0)
    first, one = by_hand("misclassification", scores, order, k)
    second, two = by_hand("targeted", scores, order[::-1], k)
    if name == "and":
        return first and second, AllOf(one, two)
    if name == "or":
        return first or second, AnyOf(one, two)
    total = sum(scores)
    return total < 1, Custom(lambda z: z.sum(axis=1) - 1)


CRITERIA = [
    "misclassification",
    "targeted",
    "top-k",
    "ordered top-k",
    "confident",
    "and",
    "or",
    "custom",
]


@pytest.mark.parametrize("name", CRITERIA)
@settings(max_examples=60, deadline=None)
@given(row=rows)
def test_margin_is_below_zero_exactly_when_adversarial(name, row):
    expected, criterion = by_hand(name, *row)
    logits = tensor([row[0]]).astype(np.float64)
    margin, slopes = criterion.slopes(logits)
    assert (margin.item() < 0) == expected
    assert criterion.margin(logits).item() == margin.item()
    assert slopes.shape == logits.shape


@pytest.mark.parametrize("name", CRITERIA)
@settings(max_examples=30, deadline=None)
@given(row=rows, seed=st.integers(0, 10**6))
def test_slopes_are_those_of_the_margin(name, row, seed):
    _, criterion = by_hand(name, *row)
    # No two differences are the same, so that no kink is near.
    scores = np.random.default_rng(seed).permutation(len(row[0])) ** 2 * 1.7
    assert_slopes(criterion.slopes, criterion.margin, scores)


@pytest.mark.parametrize("name", CRITERIA)
@settings(max_examples=30, deadline=None)
@given(row=rows, seed=st.integers(0, 10**6))
def test_the_margin_is_the_least_of_the_ways(name, row, seed):
    _, criterion = by_hand(name, *row)
    # No two differences are the same, so that no kink is near.
    scores = np.random.default_rng(seed).permutation(len(row[0])) ** 2 * 1.7
    logits = tensor([scores])
    ways = criterion.ways(logits)
    assert ways.min(axis=1).item() == criterion.margin(logits).item()
    for way in np.flatnonzero(np.isfinite(ways.numpy()[0])):
        aimed = tensor([way])
        value = criterion.slopes_of(logits, aimed)[0]
        assert value.item() == ways[0, int(way)].item()
        assert_slopes(
            lambda z, aimed=aimed: criterion.slopes_of(z, aimed),
            lambda z, way=int(way): criterion.ways(z)[:, way],
            scores,
        )


@pytest.mark.parametrize("criterion", [Misclassification, Targeted])
@settings(max_examples=30, deadline=None)
@given(row=rows)
def test_cross_entropy_and_its_slopes(criterion, row):
    scores, order, _ = row
    chosen = criterion(tensor([order[0]]))
    logits = tensor([scores]).astype(np.float64)
    odds = np.exp(scores)
    expected = math.log(odds[order[0]] / odds.sum())
    sign = 1 if criterion is Misclassification else -1
    assert chosen.cross_entropy(logits)[0].item() == pytest.approx(sign * expected)
    confident = Confident(chosen, 1.0).cross_entropy(logits)[0].item()
    assert confident == chosen.cross_entropy(logits)[0].item()
    assert_slopes(
        chosen.cross_entropy, lambda z: chosen.cross_entropy(z)[0], np.array(scores)
    )


def assert_slopes(slopes, value, scores):
    scores = scores.astype(np.float64)
    for column, slope in enumerate(slopes(tensor([scores]))[1].numpy()[0]):
        shift = np.zeros_like(scores)
        shift[column] = 1e-5
        rise = value(tensor([scores + shift])) - value(tensor([scores - shift]))
        assert rise.item() / 2e-5 == pytest.approx(slope, abs=1e-6)


def frameworks():
    yield lambda values: as_tensor(torch.tensor(values))
    yield lambda values: as_tensor(np.asarray(values))
    jax = pytest.importorskip("jax.numpy")
    yield lambda values: as_tensor(jax.asarray(values))
    yield lambda values: astensor(jax.asarray(values))


@pytest.mark.parametrize("kind", [Misclassification, Targeted])
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_cross_entropy_where_a_class_has_no_chance(kind, convert):
    labels = as_tensor(convert([0]))
    scores = [[1.0, 2.0, -math.inf]]
    value, slopes = kind(labels).cross_entropy(as_tensor(convert(scores)))
    fewer = as_tensor(convert([scores[0][:2]]))
    expected, other = kind(labels).cross_entropy(fewer)
    assert value.item() == pytest.approx(expected.item())
    assert slopes.numpy()[0].tolist() == pytest.approx([*other.numpy()[0], 0.0])


@pytest.mark.filterwarnings("error")
def test_either_decides_where_the_other_is_no_number():
    scores = [[5.0, -math.inf, -math.inf]]
    for convert in frameworks():
        logits = convert(np.array(scores, np.float32))
        unknown = OrderedTopK(convert(np.array([[1, 2]])))
        known = Targeted(convert(np.array([0])))
        assert np.isnan(unknown.margin(logits).numpy()).all()
        for either in (AnyOf(unknown, known), AnyOf(known, unknown)):
            margin, slopes = either.slopes(logits)
            assert margin.numpy().tolist() == [-math.inf]
            assert slopes.numpy().tolist() == known.slopes(logits)[1].numpy().tolist()
        assert np.isnan(AnyOf(unknown, unknown).margin(logits).numpy()).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [Misclassification, Undetected])
def test_ways_where_the_own_class_is_ruled_out(kind):
    logits = tensor([[-math.inf, -math.inf, 1.0, -math.inf]])
    ways = kind(tensor([0])).ways(logits).numpy()[0]
    assert ways[2] == -math.inf
    assert not (ways[[0, 1, 3]] < math.inf).any()


def test_custom_margins_in_every_framework():
    """The label's probability against one half, with labels as per-sample data."""
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0, 1])

    def below_half(z, y):
        return at_label(z.softmax(axis=-1), y) - 0.5

    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = chance[np.arange(6), labels]
    slopes = own[:, None] * (np.eye(4)[labels] - chance)
    for convert in frameworks():
        criterion = Custom(below_half, (convert(labels),))
        margin, found = criterion.slopes(convert(logits))
        assert np.allclose(margin.numpy(), own - 0.5, atol=1e-6)
        assert np.allclose(found.numpy(), slopes, atol=1e-6)
        assert found.dtype == convert(logits).dtype
        some = take(criterion, np.array([4, 1]))
        part = some.margin(convert(logits[[4, 1]]))
        assert np.allclose(part.numpy(), own[[4, 1]] - 0.5, atol=1e-6)


@pytest.mark.parametrize("count", [2, 200])
@pytest.mark.parametrize("kind", [Misclassification, Targeted])
def test_custom_margins_may_be_made_of_others(kind, count):
    """However many samples there are, and so however their margins are computed."""
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(count, 4)).astype(np.float32)
    labels = rng.integers(4, size=count)
    for convert in frameworks():
        criterion = Custom(lambda z, y: 2 * kind(y).margin(z), (convert(labels),))
        margin, slopes = criterion.slopes(convert(logits))
        expected_margin, expected = kind(convert(labels)).slopes(convert(logits))
        assert np.allclose(margin.numpy(), 2 * expected_margin.numpy(), atol=1e-5)
        # NumPy's are by differences.
        assert np.allclose(slopes.numpy(), 2 * expected.numpy(), atol=1e-3)


@pytest.mark.parametrize("name", CRITERIA[:-1])
def test_the_same_in_every_framework(name):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5, 4)).astype(np.float32)
    orders = np.array([rng.permutation(4) for _ in range(5)])

    def build(convert):
        first, last = convert(orders[:, 0]), convert(orders[:, 3])
        return {
            "misclassification": Misclassification(first),
            "targeted": Targeted(first),
            "top-k": TopK(first, 2),
            "ordered top-k": OrderedTopK(convert(orders[:, :2])),
            "confident": Confident(Misclassification(first), 0.5),
            "and": AllOf(Misclassification(first), Targeted(last)),
            "or": AnyOf(Misclassification(first), Targeted(last)),
        }[name]

    answers = [build(convert).slopes(convert(logits)) for convert in frameworks()]
    for margin, slopes in answers[1:]:
        assert np.array_equal(margin.numpy(), answers[0][0].numpy())
        assert np.array_equal(slopes.numpy(), answers[0][1].numpy())


@pytest.mark.parametrize("name", CRITERIA)
def test_nan_scores_are_not_adversarial_and_touch_no_other_row(name):
    row = ([0, 2, 1], [1, 0, 2], 1)
    _, criterion = by_hand(name, *row)
    if name != "custom":
        criterion = take(criterion, np.zeros(2, dtype=np.int64))
    logits = np.array([[np.nan] * 3, row[0]])
    margin, slopes = criterion.slopes(tensor(logits))
    assert not margin.numpy()[0] < 0
    alone, alone_slopes = by_hand(name, *row)[1].slopes(tensor(logits[1:]))
    assert margin.numpy()[1] == alone.item()
    assert np.array_equal(slopes.numpy()[1], alone_slopes.numpy()[0])


def test_ordered_top_k_may_name_every_class():
    criterion = OrderedTopK(tensor([[2, 0, 1]]))
    assert criterion.margin(tensor([[2.0, 1.0, 3.0]])).item() == -1
    assert criterion.margin(tensor([[1.0, 2.0, 3.0]])).item() == 1


def test_which_classes_suit_a_criterion():
    classes, own = np.array([0, 1, 2]), tensor([1, 2])
    others = [[True, False, True], [True, True, False]]
    same = np.logical_not(others).tolist()
    assert Misclassification(own).suits(classes).tolist() == others
    assert Undetected(own).suits(classes).tolist() == others
    assert TopK(own, 2).suits(classes).tolist() == others
    assert Confident(Targeted(own), 1.0).suits(classes).tolist() == same
    assert Matching(Targeted(own), tensor([[0.0]] * 2)).suits(classes).tolist() == same
    ordered = OrderedTopK(tensor([[1, 0], [2, 1]]))
    assert ordered.suits(classes).tolist() == same
    assert AnyOf(Targeted(own), ordered).suits(classes) is None


def test_all_of_suits_what_suits_both_and_aims_as_either_does():
    classes, own = np.array([0, 1, 2]), tensor([1, 2])
    unknown, aimed = Custom(lambda z: z[:, 0]), Targeted(own)
    other = Misclassification(tensor([0, 0]))
    for pair in ((aimed, unknown), (unknown, aimed), (aimed, other)):
        both = AllOf(*pair)
        assert both.aims
        assert both.suits(classes).tolist() == aimed.suits(classes).tolist()
    assert not AllOf(aimed, Misclassification(own)).suits(classes).any()
    assert not AllOf(other, unknown).aims
    assert AllOf(unknown, unknown).suits(classes) is None


def test_bad_settings():
    logits, labels = tensor([[1.0, 2.0, 3.0]]), tensor([0])
    with pytest.raises(BadInput, match=r"1 <= k < number of classes \(3\); got k = 3"):
        TopK(labels, 3).margin(logits)
    with pytest.raises(BadInput, match="got k = 0"):
        TopK(labels, 0).margin(logits)
    with pytest.raises(BadInput, match=r"4 ordered targets .* 3 classes"):
        OrderedTopK(tensor([[0, 1, 2, 3]])).margin(logits)
    for kappa in (-1.0, math.nan, "a", None, True, np.ones(2)):
        with pytest.raises(BadInput, match="confidence kappa must be"):
            Confident(Misclassification(labels), kappa)
    for k in (1.5, 2.0, "2", None, True, np.ones(2)):
        with pytest.raises(BadInput, match="the k of TopK must be a whole number"):
            TopK(labels, k)
    with pytest.raises(BadInput, match="the classes of Matching must be"):
        Matching(Misclassification(labels), logits, "a")
    with pytest.raises(BadInput, match="cross-entropy is not defined for TopK"):
        TopK(labels, 1).cross_entropy(logits)


def test_numbers_of_any_kind_are_settings():
    logits, labels = tensor([[1.0, 2.0, 3.0]]), tensor([2])
    assert TopK(labels, np.int64(2)).margin(logits).item() == 2
    sure = Confident(Misclassification(labels), torch.tensor(0.5))
    assert sure.margin(logits).item() == 1.5


@pytest.mark.parametrize("part", [None, "x", np.array([0])])
def test_what_is_made_of_criteria_takes_nothing_else(part):
    other = Misclassification(tensor([0]))
    for build in (
        lambda: AllOf(part, other),
        lambda: AnyOf(other, part),
        lambda: Confident(part, 0.5),
        lambda: Matching(part, tensor([[0.0, 1.0]])),
    ):
        with pytest.raises(BadInput, match=r"is made of criteria, such as .*; got a"):
            build()


def test_custom_settings():
    with pytest.raises(BadInput, match="the function of Custom must be a function"):
        Custom(None)
    with pytest.raises(BadInput, match="the data of Custom must be a tuple"):
        Custom(lambda z, y: z[:, 0] - y, np.ones(1))
    listed = Custom(lambda z, y: z[:, 0] - y, [tensor([1.0])])
    assert listed.margin(tensor([[3.0, 0.0]])).item() == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda z: None,
        lambda z: 1.0,
        lambda z: z.raw[:, 0],
        lambda z: z[:, :1],
        lambda z: z[0, 0],
        lambda z: z[:, 0] < 0,
    ],
)
def test_what_is_no_margin_is_refused(function):
    for convert in frameworks():
        criterion = Custom(function)
        logits = convert(np.ones((2, 3), dtype=np.float32))
        for ask in (criterion.margin, criterion.slopes):
            with pytest.raises(BadInput, match=r"must return a margin \(2,\)"):
                ask(logits)


def test_custom_margins_without_slopes():
    """Such as whole numbers, which attacks by decisions may work with."""
    for convert in frameworks():
        criterion = Custom(lambda z: z.argmax(axis=1) - 1)
        margin, slopes = criterion.slopes(convert(np.eye(3, dtype=np.float32)))
        assert margin.numpy().tolist() == [-1, 0, 1]
        assert not slopes.numpy().any()


def test_ordered_targets_may_be_arrays_of_any_kind():
    for targets in (np.array([[1, 2]]), torch.tensor([[1, 2]]), [[1, 2]]):
        OrderedTopK(targets)
    for targets in (np.array([1, 2]), np.zeros((1, 0), int), [[0.5, 1.0]]):
        with pytest.raises(BadInput, match=r"\(n, k\) integers"):
            OrderedTopK(targets)


def test_ordered_targets_must_differ():
    with pytest.raises(BadInput, match="twice"):
        OrderedTopK(as_tensor(np.array([[1, 2], [1, 1]])))

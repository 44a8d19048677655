import numpy as np
import pytest

from robustkit.engine.criteria import Misclassification
from robustkit.engine.planes import Linearised, cross
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


@pytest.fixture
def planted(plant):
    planted = plant(seed=3, samples=9, classes=5)
    planted.lower, planted.upper = -50.0, 50.0
    return planted


def problem_of(planted, norm="l2", model=None):
    criterion = Misclassification(as_tensor(planted.y))
    x = as_tensor(planted.x)
    return Problem(model or planted.model(), x, criterion, get_norm(norm))


def gaps(planted):
    """(n, 5) by how much the label is above each class; infinite for itself."""
    scores = planted.logits(planted.x)
    own = np.eye(5, dtype=bool)[planted.y]
    return np.where(own, np.inf, scores[own][:, None] - scores)


def test_planes_come_in_the_order_of_their_margins_and_are_billed(planted):
    p = problem_of(planted)
    here = Linearised(p, p.x)
    assert (p.ledger.forwards == 1).all()
    assert (p.ledger.backwards == 0).all()
    planes = list(here.likeliest(9))
    # The label's own way is closed.
    assert len(planes) == 4
    assert (p.ledger.backwards == 4).all()
    expected = np.sort(gaps(planted), axis=1)[:, :4]
    margins = np.stack([plane.margin.numpy() for plane in planes], axis=1)
    assert np.allclose(margins, expected)
    rows = np.arange(9)
    for plane in planes:
        way = plane.way.numpy()
        assert np.allclose(plane.margin.numpy(), gaps(planted)[rows, way])
        slope = planted.w[:, planted.y] - planted.w[:, way]
        assert np.allclose(plane.gradient.numpy(), slope.T)
    assert not here.adversarial.numpy().any()


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_the_nearest_plane_is_the_nearest_boundary(planted, norm):
    # The likeliest class may have a far boundary: its score hardly changes.
    planted.w[:, ::2] *= 0.1
    planted.y = planted.logits(planted.x).argmax(axis=1)
    p = problem_of(planted, norm)
    plane = Linearised(p, p.x).nearest(4)
    reach = p.norm.to_boundary(plane.margin, plane.gradient).numpy()
    assert np.allclose(reach, planted.exact(norm))
    likeliest = Linearised(p, p.x).nearest(1)
    farther = p.norm.to_boundary(likeliest.margin, likeliest.gradient).numpy()
    assert (farther >= reach * (1 - 1e-12)).all()
    assert (farther > reach * 1.01).any()


def test_where_adversarial_the_nearest_plane_is_that_of_the_least_margin(planted):
    p = problem_of(planted)
    planted.y[:] = planted.logits(planted.x).argmin(axis=1)
    p = problem_of(planted)
    here = Linearised(p, p.x)
    assert here.adversarial.numpy().all()
    assert np.allclose(here.nearest(4).margin.numpy(), gaps(planted).min(axis=1))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("late", [False, True])
def test_a_step_crosses_and_no_more(planted, norm, late):
    p = problem_of(planted, norm)
    here = Linearised(p, p.x)
    plane = here.nearest(4)
    delta = cross(p, here, plane, 0.01, late=late)
    # A ten-thousandth of the width, 100, besides.
    expected = 1.01 * (planted.exact(norm) + 0.01)
    assert np.allclose(p.norm(delta).numpy(), expected)
    assert p.score(p.x + delta).adversarial.numpy().all()
    short = cross(p, here, plane, 0.01, longest=0.01, late=late)
    assert np.allclose(p.norm(short).numpy(), 1.01 * 0.02)


def test_answers_that_are_no_numbers_close_their_ways(planted):
    def logits(x):
        scores = planted.logits(x)
        scores[0, :], scores[1, (planted.y[1] + 1) % 5] = np.nan, np.nan
        return scores

    model = NumPyModel(logits, Bounds(-50.0, 50.0), gradient=planted.gradient)
    p = problem_of(planted, model=model)
    here = Linearised(p, p.x)
    plane = here.nearest(4)
    assert np.isinf(plane.margin.numpy()[0])
    assert (plane.gradient.numpy()[0] == 0).all()
    assert np.isfinite(plane.margin.numpy()[1:]).all()
    assert plane.way.numpy()[1] != (planted.y[1] + 1) % 5
    assert np.isfinite(cross(p, here, plane, 0.1).numpy()).all()
    assert p.ledger.unknown[0] == 1


def test_passes_do_not_depend_on_what_is_ruled_out_for_others(planted):
    first = planted.x[:1]

    def logits(x):
        scores = planted.logits(x)
        scores[(x == first).all(axis=1), (planted.y[0] + 1) % 5] = -np.inf
        return scores

    model = NumPyModel(logits, Bounds(-50.0, 50.0), gradient=planted.gradient)
    whole = problem_of(planted, model=model)
    planted.x, planted.y = first, planted.y[:1]
    alone = problem_of(planted, model=model)
    for p in (whole, alone):
        assert len(list(Linearised(p, p.x).likeliest(9))) == 4
    assert alone.ledger.backwards.tolist() == whole.ledger.backwards[:1].tolist()


def test_no_way_at_all_is_a_mistake(planted):
    p = problem_of(planted)
    with pytest.raises(BadInput, match="at least 1 way"):
        Linearised(p, p.x).nearest(0)

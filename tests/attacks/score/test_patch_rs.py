import numpy as np
import pytest

from robustkit.attacks.score.patch_rs import PatchRS
from robustkit.combine import Minimise
from robustkit.engine.loop import run
from robustkit.errors import BadInput


def boxes(points, x):
    """Height and width of what changed, for each sample."""
    changed = (points != x).any(axis=1)
    sizes = []
    for image in changed:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(0))
        sizes.append((np.ptp(rows) + 1, np.ptp(columns) + 1))
    return np.array(sizes)


@pytest.mark.parametrize(("norm", "side"), [("l0", 2), ("l0-pixels", 3)])
def test_every_question_changes_one_square(watched, norm, side):
    images = watched((2, 7, 6))
    images.offset = -1e9
    places = set()
    run(PatchRS(10, steps=60), images.problem(norm))
    for point in images.asked:
        assert (boxes(point, images.x) == side).all()
        assert np.isin(point[point != images.x], (-1.0, 3.0)).all()
        places |= {tuple(np.argwhere(point[0] != images.x[0])[0][1:])}
    assert len(places) > 2


def test_keeps_what_lowers_the_margin(watched):
    images = watched((1, 6, 6))
    images.offset = -1e9
    problem, attack = images.problem("l0"), PatchRS(9, steps=200)
    state, margins = attack.init(problem), []
    for t in range(attack.steps):
        state = attack.step(problem, state, t)
        margins.append(state.margin.numpy())
    assert (np.diff(margins, axis=0) <= 0).all()
    # The best patch of a linear model is the best place with the best corner there.
    best = np.full(5, np.inf)
    change = np.minimum((-1 - images.x) * images.w, (3 - images.x) * images.w)[:, 0]
    for row in range(4):
        for column in range(4):
            total = change[:, row : row + 3, column : column + 3].sum(axis=(1, 2))
            best = np.minimum(best, images.margin(images.x) + total)
    assert (margins[-1] >= best - 1e-12).all()
    drop = images.margin(images.x) - margins[-1]
    assert (drop >= 0.5 * (images.margin(images.x) - best)).all()


def test_minimised_it_finds_the_smallest_square_that_does(watched):
    images = watched((1, 8, 8), samples=6)
    # Every pixel counts alike, and nine of them are needed.
    images.w[:] = 1.0
    images.x[:] = 1.0
    images.offset = 64.0 - 2 * 8.5
    ledger = run(Minimise(PatchRS(1, steps=300), steps=1500), images.problem("l0"))
    assert (ledger.distance.numpy() == 9).all()


def test_depends_on_the_sample_and_the_seed_alone(watched):
    images, attack = watched(), Minimise(PatchRS(1, steps=30), steps=150)

    def distance(rows, seed=0):
        ledger = run(attack, images.problem("l0", rows, seed))
        return ledger.best.numpy()

    whole = distance(np.arange(5))
    np.testing.assert_array_equal(distance(np.arange(5)[::-1]), whole[::-1])
    np.testing.assert_array_equal(distance(np.array([3])), whole[3:4])
    assert not np.array_equal(distance(np.arange(5), seed=1), whole)


def test_bad_input(watched):
    with pytest.raises(BadInput, match="share above 0 and at most 1"):
        run(PatchRS(3, share=0.0), watched().problem("l0"))
    with pytest.raises(BadInput, match=r"needs images .*\(5, 12\)"):
        run(PatchRS(3), watched((12,)).problem("l0"))

"""What holds of every family: the model is adversarial where, and only where, said."""

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.active_tests.planted import (
    FAMILIES,
    affine,
    decision_tree,
    hypercube,
    max_of_affines,
    min_of_affines,
    nearest_neighbour,
    permuted,
    quadratic,
    sphere,
    trigger,
)
from robustkit.active_tests.regions import size
from robustkit.errors import BadInput
from robustkit.numerics.tensors import to_numpy

BOUNDS = [(0.0, 1.0), (-3.0, 5.0)]
every_family = pytest.mark.parametrize("name", FAMILIES)
# Where scores jump, no margin comes near zero.
STEPS = {n for n in FAMILIES if n.startswith(("decision-tree", "trigger-step"))}
FLAT = {"decision-tree", "decision-tree-targeted"}


def margin(problem, x):
    """(n,) in double precision, sample by sample."""
    logits = problem.model.logits(problem.model.to_tensor(x))
    return to_numpy(problem.criterion().margin(logits))


def inside(problem, row, point):
    """Whether one of the sample's regions holds the point (d,)."""
    norm = min(problem.norms, key=("l2", "linf", "l1", "l0").index)
    for region in problem.regions[row]:
        try:
            nearest = region.nearest(point, norm, problem.bounds)
        except BadInput:
            continue
        if nearest is not None and size(nearest - point, norm) == 0:
            return True
    return False


@every_family
def test_no_input_is_adversarial_and_all_are_valid(name):
    for bounds in BOUNDS:
        problem = FAMILIES[name](3, samples=10, bounds=bounds)
        assert problem.x.shape == (10, 8)
        assert problem.x.min() >= bounds[0]
        assert problem.x.max() <= bounds[1]
        assert (margin(problem, problem.x) > 0).all()
        logits = to_numpy(problem.model.logits(problem.model.to_tensor(problem.x)))
        assert (logits.argmax(axis=1) == problem.y).all()
        assert (problem.targets is None) == ("targeted" not in name)


@every_family
def test_the_model_is_adversarial_in_the_regions_and_nowhere_else(name):
    problem = FAMILIES[name](5, samples=6)
    rng = np.random.default_rng(0)
    checked = {True: 0, False: 0}
    points = problem.nearest(max(problem.norms))
    for turn in range(8):
        # Around the boundary, and anywhere.
        scale = 0.05 if turn % 2 else 1.0
        start = points if turn % 2 else problem.x
        z = start + rng.normal(size=start.shape) * scale * problem.bounds.width
        z = z.clip(problem.bounds.lower, problem.bounds.upper)
        for row, value in enumerate(margin(problem, z)):
            if abs(value) < 1e-9:
                continue
            assert inside(problem, row, z[row]) == (value < 0)
            checked[bool(value < 0)] += 1
    assert checked[False] > 0
    assert checked[True] > 0 or not np.isfinite(problem.exact(min(problem.norms))).any()


@every_family
def test_nearest_points_are_on_the_boundary_at_the_exact_distance(name):
    problem = FAMILIES[name](7, samples=6, bounds=(-3.0, 5.0))
    rng = np.random.default_rng(1)
    for norm in sorted(problem.norms):
        exact, points = problem.exact(norm), problem.nearest(norm)
        found = np.isfinite(exact)
        assert points.min() >= -3
        assert points.max() <= 5
        for row in range(6):
            assert size(points[row] - problem.x[row], norm) == (
                exact[row] if found[row] else 0
            )
        if name in STEPS:
            # Somewhere just beyond, since on the boundary itself it is either way.
            near = points[None] + rng.uniform(-1e-7, 1e-7, (400, *points.shape))
            near = near.clip(-3, 5)
            lowest = np.min([margin(problem, z) for z in near], axis=0)
            assert (lowest[found] < 0).all()
        else:
            assert (margin(problem, points)[found] < 1e-9).all()
            if norm != "l0":
                assert (margin(problem, points)[found] > -1e-9).all()


@every_family
def test_gradients_are_those_of_the_scores(name):
    problem = FAMILIES[name](11, samples=5)
    rng = np.random.default_rng(2)
    # Away from kinks, as inputs drawn at random are.
    x = rng.uniform(0.05, 0.95, problem.x.shape)
    tensor = problem.model.to_tensor(x)
    logits, pull_back = problem.model.linearise(tensor)
    slopes = rng.normal(size=logits.shape)
    gradient = to_numpy(pull_back(problem.model.to_tensor(slopes)))
    way = rng.normal(size=x.shape)
    h = 1e-6
    moved = [
        to_numpy(problem.model.logits(problem.model.to_tensor(x + s * h * way)))
        for s in (1, -1)
    ]
    rise = ((moved[0] - moved[1]) * slopes).sum(axis=1) / (2 * h)
    np.testing.assert_allclose((gradient * way).sum(axis=1), rise, rtol=1e-5, atol=1e-6)
    assert (np.abs(gradient).max() == 0) == (name in FLAT)


@every_family
def test_rows_depend_on_themselves_and_problems_on_their_seed(name):
    problem = FAMILIES[name](2, samples=6)
    x = problem.model.to_tensor(problem.x)
    together = to_numpy(problem.model.logits(x))
    alone = np.concatenate(
        [to_numpy(problem.model.logits(x[i : i + 1])) for i in range(6)]
    )
    assert (together == alone).all()
    again, other = FAMILIES[name](2, samples=6), FAMILIES[name](3, samples=6)
    assert (again.x == problem.x).all()
    assert (other.x != problem.x).any()


@every_family
def test_inputs_of_any_shape_and_both_dtypes_are_served(name):
    problem = FAMILIES[name](4, samples=3, features=(2, 2, 2), dtype=np.float32)
    assert problem.x.shape == (3, 2, 2, 2)
    assert problem.x.dtype == np.float32
    logits, pull_back = problem.model.linearise(problem.model.to_tensor(problem.x))
    assert to_numpy(logits).dtype == np.float32
    gradient = to_numpy(pull_back(logits))
    assert gradient.shape == problem.x.shape
    assert gradient.dtype == np.float32
    norm = min(problem.norms)
    assert problem.nearest(norm).shape == problem.x.shape
    assert problem.exact(norm).dtype == np.float64


@pytest.mark.parametrize(
    "name", ["affine", "sphere-boxed", "max-of-affines", "trigger"]
)
def test_a_box_ten_times_as_wide_makes_distances_ten_times_as_long(name):
    narrow, wide = (FAMILIES[name](6, bounds=(0.0, w)) for w in (1.0, 10.0))
    for norm in narrow.norms:
        factor = 1 if norm == "l0" else 10
        np.testing.assert_allclose(
            wide.exact(norm), narrow.exact(norm) * factor, rtol=1e-9
        )


@pytest.mark.parametrize(
    "name", ["affine", "hypercube-inward", "quadratic-saddle", "decision-tree-targeted"]
)
def test_a_permutation_of_features_changes_no_distance(name):
    problem = FAMILIES[name](8, features=(1, 2, 4), bounds=(-1.0, 2.0))
    turned = permuted(problem, seed=3)
    assert (turned.x != problem.x).any()
    for norm in problem.norms:
        np.testing.assert_allclose(
            turned.exact(norm), problem.exact(norm), rtol=0, atol=1e-12
        )
    logits, pull_back = turned.model.linearise(turned.model.to_tensor(turned.x))
    plain, back = problem.model.linearise(problem.model.to_tensor(problem.x))
    np.testing.assert_allclose(to_numpy(logits), to_numpy(plain), atol=1e-12)
    found, expected = to_numpy(pull_back(logits)), to_numpy(back(plain))
    # The same slopes, in another order and up to sign.
    np.testing.assert_allclose(
        np.sort(np.abs(found).reshape(8, -1)), np.sort(np.abs(expected).reshape(8, -1)),
        atol=1e-12,
    )  # fmt: skip


def test_the_torch_module_is_the_model():
    problem = min_of_affines(seed=1, samples=4, features=(1, 2, 4), dtype=np.float32)
    module = problem.module()
    x = torch.from_numpy(problem.x).requires_grad_()
    out = module(x)
    assert (out.detach().numpy() == to_numpy(
        problem.model.logits(problem.model.to_tensor(problem.x))
    )).all()  # fmt: skip
    slopes = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(out, x, slopes)
    _, pull_back = problem.model.linearise(problem.model.to_tensor(problem.x))
    expected = to_numpy(pull_back(problem.model.to_tensor(slopes.numpy())))
    assert (gradient.numpy() == expected).all()
    with torch.no_grad():
        assert not module(x).requires_grad
    assert not module.training
    assert list(module.parameters()) == []


def test_a_module_without_gradients_still_answers():
    def logits(x):
        return x[:, :2]

    from robustkit.active_tests.modules import ModelModule

    module = ModelModule(rk.NumPyModel(logits))
    out = module(torch.ones(2, 3, requires_grad=True))
    assert not out.requires_grad
    assert out.tolist() == [[1, 1], [1, 1]]


def test_norms_without_an_answer_are_refused():
    with pytest.raises(BadInput, match=r"quadratic-saddle.*l1; they are in l2"):
        quadratic().exact("l1")
    with pytest.raises(BadInput, match="l0-pixels"):
        affine(features=(1, 2, 2)).exact("l0-pixels")
    assert sphere(boxed=True).norms == {"l0", "l2", "linf"}


def test_answers_are_copies():
    problem = affine(samples=2)
    problem.exact("l2")[:] = 0
    problem.nearest("l2")[:] = 0
    assert (problem.exact("l2") > 0).all()
    assert np.abs(problem.nearest("l2")).max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: affine(classes=1), "at least 2 classes; got 1"),
        (lambda: affine(samples=0), "at least 1 sample; got 0"),
        (lambda: affine(features=0), r"at least one feature; got the shape \(0,\)"),
        (lambda: min_of_affines(pieces=0), "at least 1 affine function; got 0"),
        (lambda: decision_tree(depth=1, classes=3), "depth 1 tells 2 to 2 classes"),
        (lambda: trigger(size=9), "a patch of 1 to 8 features; got 3 classes and 9"),
        (lambda: sphere(inward=True, boxed=True), "not inward"),
        (lambda: quadratic(form="vally"), "did you mean 'valley'"),
        (lambda: nearest_neighbour(per_class=0), "3 classes of 0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_hopeless_classes_are_out_of_reach_and_others_are_not():
    problem = affine(seed=3, samples=10, targeted=True, hopeless=True)
    out_of_reach = problem.targets == 2
    for norm in problem.norms:
        assert (np.isinf(problem.exact(norm)) == out_of_reach).all()
    assert 0 < out_of_reach.sum() < 10
    assert np.isinf(affine(classes=2, hopeless=True).exact("l0")).all()


def test_the_patch_of_a_trigger_matters():
    problem = trigger(seed=1, samples=40, features=20)
    worn = np.array([
        size(union[0].nearest(x, "l2", problem.bounds) - x, "l2")
        for x, union in zip(problem.x, problem.regions, strict=True)
    ])  # fmt: skip
    exact = problem.exact("l2")
    assert 0.05 < (worn == exact).mean() < 1


@pytest.mark.parametrize("step", [False, True])
def test_near_the_patch_its_own_gradient_shows(step):
    problem = trigger(seed=1, samples=6, step=step)
    patch = problem.regions[0][0]
    worn = np.isfinite(patch.lower)
    x = problem.x.copy()
    x[:, worn] = (patch.upper + 0.01)[worn]
    model, slopes = problem.model, np.ones((6, 3)) * [1.0, -0.5, 0.2]
    _, pull_back = model.linearise(model.to_tensor(x))
    gradient = to_numpy(pull_back(model.to_tensor(slopes)))
    h = 1e-7
    for feature in range(8):
        way = np.eye(8)[feature] * h * np.arange(1, 3)[:, None, None]
        ahead = to_numpy(model.logits(model.to_tensor(x + way[0])))
        behind = to_numpy(model.logits(model.to_tensor(x - way[0])))
        rise = ((ahead - behind) * slopes).sum(axis=1) / (2 * h)
        if not worn[feature]:
            np.testing.assert_allclose(gradient[:, feature], rise, atol=1e-5)
    # Where the first class is lifted, moving towards the patch lifts it more.
    lifted = gradient[:, worn].sum(axis=1)
    plain = affine_part(problem, x, slopes)[:, worn].sum(axis=1)
    if step:
        np.testing.assert_allclose(lifted, plain)
    else:
        assert (lifted < plain - 1).any()


def affine_part(problem, x, slopes):
    """The gradient of the linear classifier behind a trigger, far from the patch."""
    far = np.where(x < 0.5, 1.0, 0.0)
    _, pull_back = problem.model.linearise(problem.model.to_tensor(far))
    return to_numpy(pull_back(problem.model.to_tensor(slopes)))


def test_a_prototype_for_each_class_is_a_linear_classifier():
    problem = nearest_neighbour(seed=2, per_class=1, classes=4)
    kinds = {type(region).__name__ for union in problem.regions for region in union}
    assert kinds == {"HalfSpace"}


@pytest.mark.parametrize("pieces", [1, 2, 3, 5, 8])
def test_networks_compute_the_least_and_the_largest(pieces):
    for make, pick in ((min_of_affines, np.min), (max_of_affines, np.max)):
        problem = make(seed=pieces, pieces=pieces, samples=3)
        union = problem.regions[0]
        if make is min_of_affines:
            slopes = np.array([half.slope for half in union])
            offsets = np.array([half.offset for half in union])
        else:
            slopes = np.atleast_2d(getattr(union[0], "slopes", None)
                                   if pieces > 1 else union[0].slope)  # fmt: skip
            offsets = union[0].offsets if pieces > 1 else union[0].offset
        x = np.random.default_rng(0).random((20, 8))
        values = pick(x @ slopes.T + offsets, axis=1)
        logits = to_numpy(problem.model.logits(problem.model.to_tensor(x)))
        if make is min_of_affines or pieces == 1:
            np.testing.assert_allclose(logits[:, 0], values, atol=1e-12)
        # The rows of a polyhedron have length one: signs only.
        assert ((logits[:, 0] > 0) == (values > 0)).all()
        assert (logits[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("name", "norm", "factor"),
    [
        ("affine", "linf", 1.01),
        ("affine-targeted", "l2", 1.1),
        ("min-of-affines", "l1", 1.3),
        ("sphere", "l2", 1.01),
        ("nearest-neighbour", "linf", 1.2),
    ],
)
def test_a_good_attack_comes_near_and_never_below(name, norm, factor):
    problem = FAMILIES[name](9, samples=8)
    result = rk.run(
        rk.auto(norm, budget=150), problem.model, problem.x, problem.criterion(),
        norm=norm,
    )  # fmt: skip
    exact = problem.exact(norm)
    assert (result.distance >= exact * (1 - 1e-9)).all()
    assert (result.distance <= exact * factor).all()
    assert np.median(result.distance / exact) < 1.01


def test_what_cannot_be_reached_is_not_found():
    problem = affine(seed=3, samples=6, targeted=True, hopeless=True)
    result = rk.run(
        "fmn", problem.model, problem.x, problem.criterion(), norm="linf", budget=40
    )
    assert not result.found[np.isinf(problem.exact("linf"))].any()


def test_rows_of_float32_problems_are_solved_for_their_own_weights():
    exact = affine(seed=4, dtype=np.float32).exact("l2")
    close = affine(seed=4, dtype=np.float64).exact("l2")
    np.testing.assert_allclose(exact, close, rtol=1e-5)
    assert (exact != close).any()


def test_trees_fill_all_space():
    problem = decision_tree(seed=1, samples=2, depth=5)
    x = np.random.default_rng(0).uniform(-1, 2, (200, 8))
    scores = to_numpy(problem.model.logits(problem.model.to_tensor(x)))
    assert (scores.sum(axis=1) == 1).all()


def test_the_way_out_of_a_cube_is_one_feature():
    problem = hypercube(seed=1)
    moved = (problem.nearest("l2") != problem.x).sum(axis=1)
    assert (moved == 1).all()


@pytest.mark.parametrize(
    ("name", "seed", "settings"),
    [
        # Pieces that meet in a point; a class that wins where three lines cross.
        ("max-of-affines", 311, {"features": 1, "pieces": 4}),
        ("max-of-affines", 169, {"features": 2, "pieces": 6}),
        ("affine-targeted", 1, {"features": 1, "classes": 3}),
        # A piece that is zero at an end of the box.
        ("min-of-affines", 3, {"features": 1}),
        ("min-of-affines-rotated", 3, {"features": 1}),
        # Prototypes of two classes in one place.
        ("nearest-neighbour", 47, {"features": 2}),
        ("nearest-neighbour", 1, {"features": 1}),
        ("nearest-prototype", 1, {"features": 1, "classes": 2}),
    ],
)
def test_where_there_are_ties_only_nothing_is_adversarial(name, seed, settings):
    problem = FAMILIES[name](seed, samples=4, **settings)
    rng = np.random.default_rng(0)
    assert (margin(problem, problem.x) > 0).all()
    every = [problem.exact(norm) for norm in sorted(problem.norms)]
    assert (np.array(every) > 0).all()
    found = np.isfinite(every[-1])
    # All over the box, and around the points that are said to be the nearest.
    points = problem.nearest("linf")
    tried = [rng.random(points.shape) for _ in range(2000)]
    near = [points + rng.normal(size=points.shape) * 1e-3 for _ in range(2000)]
    lowest = np.min([margin(problem, z.clip(0, 1)) for z in tried + near], axis=0)
    assert ((lowest < 0) == found).all()


@every_family
def test_bounds_that_single_precision_has_other_numbers_for(name):
    """-0.1 and 0.7 are, there, a little outside and inside of what they are here."""
    problem = FAMILIES[name](4, samples=4, bounds=(-0.1, 0.7), dtype=np.float32)
    alike = problem.with_model(problem.model, "in double precision")
    object.__setattr__(alike, "x", problem.x.astype(np.float64).clip(-0.1, 0.7))
    for norm in sorted(problem.norms):
        assert problem.exact(norm) == pytest.approx(alike.exact(norm), rel=1e-4)

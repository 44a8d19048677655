import warnings

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jnp = jax.numpy

from robustkit.attacks.gradient.pgd import PGD  # noqa: E402
from robustkit.engine.criteria import Misclassification  # noqa: E402
from robustkit.engine.loop import run  # noqa: E402
from robustkit.engine.problem import Problem  # noqa: E402
from robustkit.errors import BadInput, MissingPackage  # noqa: E402
from robustkit.models.base import NoGradient  # noqa: E402
from robustkit.models.jax import JaxModel, _compiled_pull_back  # noqa: E402
from robustkit.models.numpy import NumPyModel  # noqa: E402
from robustkit.numerics.bounds import Bounds  # noqa: E402
from robustkit.numerics.norms import get_norm  # noqa: E402
from robustkit.numerics.tensors import as_tensor, like, to_numpy  # noqa: E402

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


class Counted:
    """tanh(x) W: its Python runs once per compilation, and twice before the first."""

    def __init__(self):
        self.runs = []

    def __call__(self, x):
        self.runs.append(x.shape)
        return jnp.tanh(x) @ WEIGHTS

    @property
    def shapes(self):
        return self.runs[2:]


def inputs(count):
    return np.random.default_rng(count).random((count, 4), dtype=np.float32)


def ask(model, x):
    x = model.to_tensor(x)
    logits, pull_back = model.linearise(x)
    return to_numpy(model.logits(x)), to_numpy(pull_back(logits.ones_like()))


def exact(x):
    return np.tanh(x) @ WEIGHTS


def exact_gradient(x, slopes):
    return slopes @ WEIGHTS.T * (1 - np.tanh(x) ** 2)


def test_shrinking_batches_compile_a_few_sizes():
    function, before = Counted(), _compiled_pull_back._cache_size()
    model = JaxModel(function)
    for count in (20, 19, 17, 16, 15, 5, 4, 3, 2):
        x = inputs(count)
        logits, gradient = ask(model, x)
        np.testing.assert_allclose(logits, np.tanh(x) @ WEIGHTS, atol=1e-5)
        expected = (1 - np.tanh(x) ** 2) * WEIGHTS.sum(axis=1)
        np.testing.assert_allclose(gradient, expected, atol=1e-5)
    # For scores and for gradients: 20, 5 and 2 rows.
    assert sorted(function.shapes) == sorted(2 * [(size, 4) for size in (20, 5, 2)])
    assert _compiled_pull_back._cache_size() - before == 3


@pytest.mark.parametrize("largest", [1, 3, 128, 257])
def test_no_batch_is_compiled_in_more_than_four_sizes(largest):
    function = Counted()
    model = JaxModel(function)
    for count in (*range(largest, 1, -max(largest // 20, 1)), 1):
        model.logits(model.to_tensor(inputs(count)))
    assert 1 <= len(function.shapes) <= 4


def test_a_run_whose_samples_leave_one_by_one_compiles_four_times():
    x = inputs(8)
    labels = exact(x).argmax(axis=1)
    function, before = Counted(), _compiled_pull_back._cache_size()
    sizes = set()

    class Watch:
        def after_step(self, p, step):
            sizes.add(p.size)

    results = []
    for model in (JaxModel(function), NumPyModel(exact, gradient=exact_gradient)):
        tensors = (model.to_tensor(x), model.to_tensor(labels))
        problem = Problem(
            model, tensors[0], Misclassification(tensors[1]), get_norm("linf")
        )
        # Small steps, so that each sample needs as many as it is far off.
        attack = PGD(epsilon=0.5, steps=9, stepsize=0.1)
        results.append(run(attack, problem, observers=[Watch()]))
    assert len(sizes) > 4
    found, expected = (to_numpy(ledger.distance) for ledger in results)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for name in ("forwards", "backwards"):
        np.testing.assert_array_equal(*(getattr(ledger, name) for ledger in results))
    # Gradients in at most 4 sizes, and scores, which are asked for once at the end.
    gradients = _compiled_pull_back._cache_size() - before
    assert 1 < gradients <= 4
    assert len(function.shapes) <= gradients + 1


def test_the_same_batch_size_compiles_once():
    function, before = Counted(), _compiled_pull_back._cache_size()
    model = JaxModel(function)
    for _ in range(20):
        ask(model, inputs(8))
    assert function.shapes == [(8, 4), (8, 4)]
    assert _compiled_pull_back._cache_size() - before == 1


def test_empty_batches_stay_empty():
    model = JaxModel(Counted())
    ask(model, inputs(20))
    logits, gradient = ask(model, inputs(0))
    assert (logits.shape, gradient.shape) == ((0, 3), (0, 4))


def test_single_samples_are_not_filled_up():
    function = Counted()
    ask(JaxModel(function), inputs(1))
    assert set(function.shapes) == {(1, 4)}


@pytest.mark.parametrize("ask", ["logits", "linearise"])
@pytest.mark.parametrize(
    "drawn",
    [
        lambda generator, x: x + generator.normal(size=x.shape).astype(np.float32),
        lambda generator, x: x * generator.random(),
        lambda generator, x: (
            x + jax.random.normal(jax.random.key(generator.integers(2**30)), x.shape)
        ),
    ],
)
def test_python_that_is_random_stays_random_with_one_warning(drawn, ask):
    generator = np.random.default_rng(0)
    model = JaxModel(lambda x: drawn(generator, x), name="noisy")
    x = model.to_tensor(inputs(3))
    with pytest.warns(UserWarning, match="'noisy' must not be compiled") as caught:
        answers = [getattr(model, ask)(x) for _ in range(2)]
    assert len(caught) == 1
    one, other = (a if ask == "logits" else a[0] for a in answers)
    assert (to_numpy(one) != to_numpy(other)).all()


def test_randomness_of_a_key_is_compiled():
    def noisy(x):
        return jax.nn.relu(x + jax.random.normal(jax.random.key(0), x.shape))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(JaxModel(noisy), inputs(3))


def test_python_that_depends_on_values_runs_uncompiled_with_one_warning():
    def branching(x):
        return jnp.tanh(x) @ WEIGHTS if x.sum() > 0 else x @ WEIGHTS

    model = JaxModel(branching)
    with pytest.warns(UserWarning, match="'branching' cannot be compiled") as caught:
        answers = {count: ask(model, inputs(count)) for count in (5, 3)}
    assert len(caught) == 1
    for count, (logits, gradient) in answers.items():
        x = inputs(count)
        np.testing.assert_allclose(logits, np.tanh(x) @ WEIGHTS, atol=1e-5)
        expected = (1 - np.tanh(x) ** 2) * WEIGHTS.sum(axis=1)
        np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_a_way_back_outlives_the_fall_back_to_uncompiled():
    moody = {"branches": False}

    def function(x):
        if moody["branches"] and x.sum() > -1:
            return 2 * x
        return 2 * x

    model = JaxModel(function)
    x = model.to_tensor(inputs(3))
    _, pull_back = model.linearise(x)
    moody["branches"] = True
    with pytest.warns(UserWarning, match="cannot be compiled"):
        model.logits(model.to_tensor(inputs(7)))
    assert (to_numpy(pull_back(like(x, np.ones((3, 4), np.float32)))) == 2).all()


def test_numpy_inside_gives_scores_but_no_gradient():
    model = JaxModel(lambda x: jnp.asarray(np.asarray(x) @ WEIGHTS))
    x = inputs(3)
    with pytest.warns(UserWarning, match="cannot be compiled"):
        logits = model.logits(model.to_tensor(x))
    np.testing.assert_allclose(to_numpy(logits), x @ WEIGHTS, atol=1e-5)
    with pytest.raises(NoGradient, match="NumPy"):
        model.linearise(model.to_tensor(x))


def _called_back(x):
    shape = jax.ShapeDtypeStruct((len(x), 3), x.dtype)
    return jax.pure_callback(lambda x: np.asarray(x) @ WEIGHTS, shape, x)


def _in_a_loop(x):
    return jax.lax.while_loop(
        lambda state: state[0] < 1,
        lambda state: (state[0] + 1, 2 * state[1]),
        (0, x @ WEIGHTS / 2),
    )[1]


@pytest.mark.parametrize("function", [_called_back, _in_a_loop])
def test_what_jax_cannot_differentiate_gives_scores_but_no_gradient(function):
    model = JaxModel(function)
    x = model.to_tensor(inputs(3))
    np.testing.assert_allclose(
        to_numpy(model.logits(x)), inputs(3) @ WEIGHTS, atol=1e-5
    )
    with pytest.raises(NoGradient, match=r"JAX cannot differentiate .*score-"):
        model.linearise(x)[1](like(x, np.ones((3, 3), np.float32)))


def test_other_errors_of_a_way_back_are_passed_on():
    def fails(x):
        if isinstance(x, jax.core.Tracer):
            raise ValueError("of its own")
        return x @ WEIGHTS

    model = JaxModel(fails)
    with pytest.raises(ValueError, match="of its own"):
        model.linearise(model.to_tensor(inputs(3)))


def test_integers_have_no_gradient():
    model = JaxModel(lambda x: (x > 0).astype(int))
    x = model.to_tensor(inputs(3))
    assert to_numpy(model.logits(x)).dtype == np.float32
    with pytest.raises(NoGradient, match="int32"):
        model.linearise(x)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: x.sum(), r"returned the shape \(\)"),
        (lambda x: x.reshape(-1, 2), "expected one row of logits for each input"),
        (lambda x: [x], "returned a list"),
        (lambda x: x + 0j, "complex64; expected numbers"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(function, match):
    model = JaxModel(function, name="mine")
    for question in (model.logits, model.linearise):
        with pytest.raises(BadInput, match=match):
            question(model.to_tensor(inputs(3)))


def test_compiled_functions_and_outputs_with_logits():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    x = inputs(3)
    for function in (jax.jit(Counted()), lambda x: Output(jnp.tanh(x) @ WEIGHTS)):
        logits, _ = ask(JaxModel(function), x)
        np.testing.assert_allclose(logits, np.tanh(x) @ WEIGHTS, atol=1e-5)


def test_bounds_and_name():
    model = JaxModel(jnp.tanh, Bounds(-1, 1))
    assert (model.bounds, model.name) == (Bounds(-1, 1), "tanh")
    assert JaxModel(Counted(), name="mine").name == "mine"
    assert model.logits(as_tensor(jnp.zeros((2, 3)))).shape == (2, 3)


def test_without_jax_it_says_what_to_install(without):
    without("jax", "robustkit.models.jax")
    with pytest.raises(MissingPackage, match=r"robustkit\[jax\]"):
        import robustkit.models.jax  # noqa: F401

"""Models that differentiate while they answer, in whatever framework."""

import numpy as np
import pytest
import torch
from torch.autograd import grad as imported_before

import robustkit as rk
from robustkit.checks.inner import differentiations, inner_gradients

jax = pytest.importorskip("jax")
jnp = jax.numpy
JaxModel = pytest.importorskip("robustkit.models.jax").JaxModel

W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(1).uniform(size=(40, 4)).astype(np.float32)


def scores(x):
    return jax.nn.relu(x) @ jnp.asarray(W)


# Made long before anybody looks.
slope = jax.grad(lambda z: jax.nn.logsumexp(scores(z), axis=1).sum())


def purified(x):
    return scores(x - 0.01 * jnp.sign(slope(x)))


def in_a_loop(x):
    return scores(jax.lax.fori_loop(0, 3, lambda i, z: z - 0.01 * slope(z), x))


def compiled(x):
    return jax.jit(purified)(x)


def adapting(x):
    return jax.vmap(lambda one: purified(one[None])[0])(x)


@pytest.mark.parametrize("function", [purified, in_a_loop, compiled, adapting])
def test_a_jax_function_that_differentiates_is_found_out(function):
    model = JaxModel(function)
    assert differentiations(model, X) > 0


def test_what_is_found_is_told_also_of_what_is_wrapped():
    model = JaxModel(purified)
    assert differentiations(rk.Estimated(model, 4), X) > 0
    y = np.asarray(purified(X)).argmax(axis=1)
    found = {f.id: f for f in rk.check(model, (X, y), trials=0).findings}
    assert "at test time" in found["O3"].diagnosis


def test_other_jax_functions_are_not():
    smooth = jax.custom_vjp(lambda x: x)
    smooth.defvjp(lambda x: (x, None), lambda kept, slopes: (slopes,))

    def values(x):
        if float(x.sum()) > 0:
            return scores(x)
        return -scores(x)

    for function in (scores, lambda x: scores(smooth(x)), jax.jit(scores), values):
        assert differentiations(JaxModel(function), X) == 0
    assert differentiations(rk.NumPyModel(lambda x: x @ W), X) == 0


def by_backward(z):
    z = z.clone().requires_grad_()
    (z @ torch.from_numpy(W)).logsumexp(dim=1).sum().backward()
    return z.grad


def by_name(z):
    z = z.clone().requires_grad_()
    loss = (z @ torch.from_numpy(W)).logsumexp(dim=1).sum()
    return imported_before(loss, z)[0]


def by_function(z):
    return torch.func.grad(lambda v: (v @ torch.from_numpy(W)).logsumexp(1).sum())(z)


@pytest.mark.parametrize("way", [by_backward, by_name, by_function])
def test_a_function_of_arrays_that_uses_torch_inside_is_found_out(way):
    def function(x):
        with torch.enable_grad():
            slopes = way(torch.from_numpy(np.array(x)))
        return (x - 0.01 * slopes.numpy()) @ W

    with inner_gradients() as count:
        function(X)
    assert count == [1]
    y = function(X).argmax(axis=1)
    found = rk.check(rk.NumPyModel(function), (X, y), trials=0).findings
    assert "O3" in {f.id for f in found}
    before = torch.autograd.grad, torch.Tensor.backward
    assert before == (torch.autograd.grad, torch.Tensor.backward)

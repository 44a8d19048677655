import numpy as np
import pytest
import torch

from robustkit.errors import BadInput
from robustkit.models.load import as_model


def test_functions_are_recognised_by_what_they_return(weights, batch, slopes):
    jax_function, module = weights.jax_function(), weights.module()
    found = {
        "numpy": as_model(weights.logits, example=batch),
        "list": as_model(lambda x: weights.logits(x).tolist(), example=batch),
        "jax": as_model(jax_function, example=batch),
        "torch": as_model(lambda x: module(x), example=batch),
        "torch from NumPy": as_model(
            lambda x: module(torch.as_tensor(x)), example=batch
        ),
    }
    kinds = [type(model).__name__ for model in found.values()]
    assert kinds == ["NumPyModel"] * 2 + ["JaxModel"] + ["TorchModel"] * 2
    for model in found.values():
        weights.check(model, slopes)


def test_functions_from_numpy_alone_to_torch(weights, batch, slopes):
    module = weights.module()

    def convert(x):
        return module(torch.from_numpy(x))

    for function in (torch.no_grad()(convert), convert):
        model = as_model(function, example=batch)
        assert (type(model).__name__, model.name) == ("NumPyModel", "convert")
        weights.check(model, slopes)


def test_functions_from_numpy_alone_are_not_those_of_jax(weights, batch, slopes):
    """What arrays of JAX share with NumPy's makes no torch function of it."""
    weights.jax_function()
    module = weights.module()

    def convert(x):
        return module(torch.from_numpy(np.array(x.astype("float32"))))

    model = as_model(convert, example=batch)
    assert type(model).__name__ == "NumPyModel"
    weights.check(model, slopes)


def test_functions_that_need_jax_arrays(weights, batch):
    weights.jax_function()
    model = as_model(lambda x: x.at[0].add(0).reshape(len(x), -1), example=batch)
    assert type(model).__name__ == "JaxModel"
    assert model.logits(model.to_tensor(batch)).shape == (5, 6)


def test_the_example_is_not_written_to(batch):
    def careless(x):
        x *= 0
        return x[:, 0]

    before = batch.copy()
    as_model(careless, example=batch)
    np.testing.assert_array_equal(batch, before)


@pytest.mark.parametrize(
    "more", [np.zeros((5, 7)), None, torch.ones(1).requires_grad_()]
)
def test_several_outputs_are_told(batch, more):
    with pytest.raises(BadInput, match="returned a tuple"):
        as_model(lambda x: (x.reshape(5, -1), more), example=batch)

"""One network in three frameworks: the same attack finds the same distances."""

import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.pgd import PGD
from robustkit.combine import minimum_norm_pgd
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm

RNG = np.random.default_rng(0)
W1, B1 = RNG.normal(size=(10, 16)), RNG.normal(size=16)
W2, B2 = RNG.normal(size=(16, 4)), RNG.normal(size=4)
W1, B1, W2, B2 = (values.astype(np.float32) for values in (W1, B1, W2, B2))
X = RNG.random((16, 10), dtype=np.float32)
SCORES = np.sort((X @ W1 + B1).clip(0) @ W2 + B2)
# Where the margin is next to nothing, so is the distance, and rounding decides it.
X = X[SCORES[:, -1] - SCORES[:, -2] > 0.5]


def in_numpy():
    def logits(x):
        return (x @ W1 + B1).clip(0) @ W2 + B2

    def gradient(x, slopes):
        return ((slopes @ W2.T) * (x @ W1 + B1 > 0)) @ W1.T

    return NumPyModel(logits, gradient=gradient)


def in_torch():
    w1, b1, w2, b2 = map(torch.tensor, (W1, B1, W2, B2))
    return TorchModel(lambda x: (x @ w1 + b1).clamp(min=0) @ w2 + b2)


def in_jax():
    pytest.importorskip("jax")
    import jax.numpy as jnp

    from robustkit.models.jax import JaxModel

    return JaxModel(lambda x: jnp.maximum(x @ W1 + B1, 0) @ W2 + B2)


@pytest.mark.parametrize("build", [in_torch, in_jax])
@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        *((FMN(steps=60), norm) for norm in ("l0", "l1", "l2", "linf")),
        *((minimum_norm_pgd().within(60), norm) for norm in ("l1", "l2", "linf")),
        (PGD(epsilon=0.3, random_start=True, stop=False), "linf"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_frameworks_agree(build, attack, norm):
    def distances(model):
        x = model.to_tensor(X)
        labels = model.to_tensor(
            in_numpy().logits(in_numpy().to_tensor(X)).argmax(1).raw
        )
        ledger = run(
            attack, Problem(model, x, Misclassification(labels), get_norm(norm))
        )
        return ledger.distance.numpy(), ledger.forwards

    expected, passes = distances(in_numpy())
    found, same_passes = distances(build())
    assert np.isfinite(expected).sum() > 6
    assert np.allclose(found, expected, rtol=1e-4, atol=0)
    assert np.array_equal(passes, same_passes)

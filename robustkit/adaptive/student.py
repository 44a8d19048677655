"""A differentiable network that learns a model's answers, to attack it by."""

import math

import numpy as np
import torch

from robustkit.errors import BadInput
from robustkit.models.base import Model
from robustkit.models.torch import TorchModel
from robustkit.numerics.random import seeded
from robustkit.numerics.tensors import Array, to_numpy

__all__ = ["student"]

_WIDTH, _STEPS, _BATCH = 256, 400, 256


def student(
    model: Model, x: Array, reach: float, questions: int, seed: int = 0
) -> TorchModel:
    """Train a perceptron on a model's answers at inputs, near them, and between them.

    Args:
        model: To be learned: its scores, or its decisions if it shows no more.
        x: (n, ...) inputs.
        reach: How far from them to ask, as a change of every feature, in input units.
        questions: How many passes of the model that may take.
        seed: Of all randomness.

    Returns:
        A model of the same inputs and classes, with gradients, whose answers are the
        model's but for a shift and a scale.

    Raises:
        BadInput: The model gives no numbers for any input.
    """
    rng = np.random.default_rng(seed)
    points = _points(x, reach, questions, rng)
    points = points.clip(model.bounds.lower, model.bounds.upper).astype(np.float32)
    with model.session():
        answers = np.concatenate(
            [
                to_numpy(model.logits(model.to_tensor(points[i : i + _BATCH])))
                for i in range(0, len(points), _BATCH)
            ]
        ).astype(np.float32)
    # That a class which is ruled out is last is all that there is to learn of it.
    last = np.isneginf(answers)
    least = np.where(last, np.inf, answers).min(axis=1, keepdims=True)
    answers = np.where(last, least - 1, answers)
    known = np.isfinite(answers).all(axis=1)
    if not known.any():
        raise BadInput(f"the model '{model.name}' gives no answer to learn from")
    points, answers = points[known], answers[known]
    answers = answers - answers.mean(axis=1, keepdims=True)
    answers = answers / (answers.std() + 1e-12)
    features, classes = math.prod(x.shape[1:]), answers.shape[1]
    with seeded(seed), torch.enable_grad():
        network = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(features, _WIDTH),
            torch.nn.SiLU(),
            torch.nn.Linear(_WIDTH, _WIDTH),
            torch.nn.SiLU(),
            torch.nn.Linear(_WIDTH, classes),
        )
        optimiser = torch.optim.Adam(network.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
        inputs, wanted = torch.from_numpy(points), torch.from_numpy(answers)
        for _ in range(_STEPS):
            rows = torch.randint(len(inputs), (_BATCH,))
            optimiser.zero_grad()
            loss = torch.nn.functional.mse_loss(network(inputs[rows]), wanted[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return TorchModel(network.eval(), model.bounds, name=f"a student of {model.name}")


def _points(x: Array, reach: float, questions: int, rng: np.random.Generator) -> Array:
    """(questions, ...): the inputs, uniform noise around them, and points between."""
    first = x[:questions]
    left = questions - len(first)
    around = x[rng.integers(len(x), size=left)]
    noise = rng.uniform(-reach, reach, size=around.shape)
    # Noise of all lengths, and a quarter of the points on the way to another input.
    noise *= rng.uniform(size=(left,) + (1,) * (x.ndim - 1))
    others = x[rng.integers(len(x), size=left)]
    share = rng.uniform(0, 0.7, size=(left,) + (1,) * (x.ndim - 1))
    share *= (np.arange(left) % 4 == 0).reshape(share.shape)
    return np.concatenate([first, around + share * (others - around) + noise])

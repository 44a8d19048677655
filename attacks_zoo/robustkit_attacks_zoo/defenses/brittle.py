"""Digits of 24 by 24 pixels, and a network that is brittle as large ones are.

On 8 by 8 pixels an attack reaches what natural images look like, and little more. What
detectors of the odds of noise and of distances live on, adversarials far more confident
than any natural image, takes many features that the data leaves alone. So the images
are enlarged, and the network's first weights begin large: training does not touch them
where all images are smooth.
"""

from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.defense import digits
from robustkit_attacks_zoo.defenses.networks import (
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["enlarged", "network", "test_digits", "train", "trained"]


def enlarged(x: Tensor) -> Tensor:
    """(n, 1, 8, 8) to (n, 1, 24, 24): every pixel a square of nine."""
    return x.repeat_interleave(3, 2).repeat_interleave(3, 3)


def test_digits() -> tuple[Tensor, Tensor]:
    """The test images, enlarged, and their labels."""
    x, y = digits()
    return enlarged(x), y


def network() -> nn.Sequential:
    """(n, 1, 24, 24) to logits (n, 10)."""
    return perceptron(24 * 24, 48, 48, 10)


def train() -> nn.Module:
    """The network, from first weights that are 64 times as large as usual."""
    x, y = training_digits()
    net = network()
    first = net[1]
    assert isinstance(first, nn.Linear)
    first.weight.data *= 64
    return fit(net, enlarged(x), y, epochs=15)


def trained() -> nn.Module:
    """The network with its weights."""
    return load(network(), "brittle")

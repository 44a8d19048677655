"""Train the demo networks: ``python -m robustkit.demo.train_digits [--out DIR]``.

Writes ``digits.npz``, ``digits_robust.npz`` and ``digits_images.npz``, and prints
how accurate both networks are on the test images, clean and under attack. Needs
scikit-learn, which brings the images, and one to two minutes.

The result is the same on every run. One thread and deterministic kernels make it
so on one machine. On another one the last bit of a sum may differ, and training
amplifies such differences; in float64 they stay below what the weights, which are
rounded to float32 in the end, can show.

The robust network is trained on adversarial images alone, as in Madry et al.,
"Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018),
equation 2.1.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robustkit.demo import _IMAGES, _WEIGHTS, _network

__all__ = ["attack", "evaluate", "images", "main", "train"]

_Images = tuple[NDArray[np.float32], NDArray[np.int64]]

_SEED = 0
_EPOCHS = 40
_BATCH = 64
_LEARNING_RATE = 4e-3
_TRAINING_EPSILON = 0.2
_TRAINING_STEPS = 7
_TEST_EPSILONS = (0.1, 0.2)
_TEST_STEPS = 100


def images() -> tuple[_Images, _Images]:
    """Split the digits of scikit-learn into training and test images.

    Every fifth image of each class is a test image, so that both parts have the
    same share of each class and the split needs no random numbers.

    Returns:
        Training and test part, each as images of shape (n, 1, 8, 8) in [0, 1]
        and labels of shape (n,).

    Raises:
        SystemExit: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit(
            "training the demo networks needs scikit-learn, which is not "
            "installed: run `pip install scikit-learn`"
        ) from None
    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    y = digits.target.astype(np.int64)
    test = np.zeros(len(y), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(y == label)[4::5]] = True
    return (x[~test], y[~test]), (x[test], y[test])


def attack(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Raise the loss by projected gradient ascent (PGD) in the Linf ball.

    Args:
        network: Returns logits of shape (n, 10).
        x: Images of shape (n, 1, 8, 8) in [0, 1].
        y: Labels of shape (n,).
        epsilon: Radius of the ball, in input units.
        steps: Number of gradient steps, one forward and backward pass each.
        generator: Draws the starting points, uniformly in the ball.

    Returns:
        Images of the shape of `x`, in the ball and in [0, 1].
    """
    stepsize = 2.5 * epsilon / steps
    low, high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype)
    adversarial = (x + epsilon * (2 * noise - 1)).clamp(low, high)
    for _ in range(steps):
        adversarial.requires_grad_()
        loss = cross_entropy(network(adversarial), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial.detach() + stepsize * gradient.sign()
        adversarial = adversarial.clamp(low, high)
    return adversarial


def train(
    x: Tensor, y: Tensor, *, epsilon: float = 0.0, epochs: int = _EPOCHS
) -> nn.Module:
    """Train a network, on adversarial images when `epsilon` is positive.

    Args:
        x: Training images of shape (n, 1, 8, 8) in [0, 1].
        y: Training labels of shape (n,).
        epsilon: Linf radius of the training attack, in input units.
        epochs: Passes over the training images.

    Returns:
        The network, with float32 weights, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(_SEED)
    with _deterministic():
        network = _initialised(generator)
        optimiser = torch.optim.Adam(network.parameters(), weight_decay=1e-4)
        batches = -(-len(x) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=_LEARNING_RATE, total_steps=epochs * batches
        )
        x = x.double()
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            for rows in torch.split(order, _BATCH):
                batch, labels = x[rows], y[rows]
                if epsilon > 0:
                    batch = attack(
                        network,
                        batch,
                        labels,
                        epsilon=epsilon,
                        steps=_TRAINING_STEPS,
                        generator=generator,
                    )
                optimiser.zero_grad()
                torch.autograd.backward(cross_entropy(network(batch), labels))
                optimiser.step()
                schedule.step()
    return network.float().eval()


def evaluate(network: nn.Module, x: Tensor, y: Tensor) -> dict[float, float]:
    """Measure accuracy on clean images and under PGD of several sizes.

    Args:
        network: Returns logits of shape (n, 10).
        x: Images of shape (n, 1, 8, 8) in [0, 1].
        y: Labels of shape (n,).

    Returns:
        Accuracy in [0, 1] for each Linf radius in input units; 0 is clean.
    """
    accuracy = {0.0: _accuracy(network, x, y)}
    for epsilon in _TEST_EPSILONS:
        adversarial = attack(
            network,
            x,
            y,
            epsilon=epsilon,
            steps=_TEST_STEPS,
            generator=torch.Generator().manual_seed(_SEED),
        )
        accuracy[epsilon] = _accuracy(network, adversarial, y)
    return accuracy


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the weights and the test images, and print the accuracies.

    Args:
        arguments: Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m robustkit.demo.train_digits",
        description="Train the demo networks of robustkit again.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent,
        help="existing folder for the files (default: the package itself)",
    )
    out: Path = parser.parse_args(arguments).out
    if not out.is_dir():
        parser.error(f"--out wants an existing folder, and {out} is none: create it")
    training, (x, y) = images()
    np.savez_compressed(out / _IMAGES["digits"], x=x, y=y)
    for name, epsilon in (("digits", 0.0), ("digits-robust", _TRAINING_EPSILON)):
        network = train(*map(torch.from_numpy, training), epsilon=epsilon)
        weights = {key: value.numpy() for key, value in network.state_dict().items()}
        np.savez_compressed(out / _WEIGHTS[name], **weights)
        for size, accuracy in evaluate(
            network, torch.from_numpy(x), torch.from_numpy(y)
        ).items():
            print(f"{name}: accuracy {accuracy:.1%} at Linf {size:g}")


def _accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((network(x).argmax(dim=1) == y).double().mean())


def _initialised(generator: torch.Generator) -> nn.Module:
    with torch.device("meta"):
        network = _network()
    network = network.double().to_empty(device="cpu")
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
    return network


@contextmanager
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


if __name__ == "__main__":
    main()

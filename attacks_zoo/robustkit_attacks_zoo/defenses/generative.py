"""A generative classifier: how likely are the features, class by class?"""

import math

import torch
from robustkit import demo
from torch import Tensor, nn
from torch.nn import functional

from robustkit_attacks_zoo.defenses.attacks import descend, in_turn, over, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.naturals import naturals
from robustkit_attacks_zoo.defenses.networks import (
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["DeepBayes", "Divergence", "make", "train"]

_LATENT = 6


class DeepBayes(nn.Module):
    """Bayes' rule on features, with a conditional variational autoencoder.

    The logit of a class is a lower bound of log p(features, class) by importance
    sampling.

    Args:
        draws: Of the latent variable per bound.
    """

    scale: Tensor

    def __init__(self, draws: int = 10) -> None:
        super().__init__()
        whole = demo.load_model("digits")
        self.features = [nn.Sequential(*list(whole.children())[:-1]).eval()]
        self.draws = draws
        self.encoder = perceptron(42, 64, 2 * _LATENT)
        self.decoder = perceptron(_LATENT + 10, 64, 32)
        self.register_buffer("scale", torch.ones(32))

    def seen(self, x: Tensor) -> Tensor:
        """(n, ...) to features (n, 32) of unit spread."""
        features: Tensor = self.features[0](x) / self.scale
        return features

    def bounds(self, x: Tensor, draws: int) -> Tensor:
        """(n, draws, 10) single-draw bounds of log p(features, class)."""
        own, spread, features, label = self.latent(x)
        noise = torch.randn(draws, *own.shape)
        z = own + spread.exp() * noise
        prior = -0.5 * z.square().sum(-1)
        posterior = -0.5 * noise.square().sum(-1) - spread.sum(-1)
        bound = self.likelihood(z, features, label) + prior - posterior
        ordered: Tensor = bound.permute(1, 0, 2)
        return ordered

    def latent(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and log-spread of z (n, 10, latent), features (n, 10, 32) and labels."""
        features = self.seen(x)[:, None].expand(-1, 10, -1)
        label = torch.eye(10).expand(len(x), -1, -1)
        both = torch.cat([features, label], -1).flatten(0, 1)
        mean, spread = self.encoder(both).view(len(x), 10, -1).chunk(2, -1)
        return mean, spread, features, label

    def likelihood(self, z: Tensor, features: Tensor, label: Tensor) -> Tensor:
        """(..., 10) log p(features | z, class), up to a constant."""
        label = label.expand(*z.shape[:-1], -1)
        inner = torch.cat([z, label], -1)
        mean = self.decoder(inner.flatten(0, -2)).view(*inner.shape[:-1], -1)
        values: Tensor = -(mean - features).square().sum(-1) / (2 * 0.3**2)
        return values

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, 10) lower bounds of log p(features, class)."""
        bounds = self.bounds(x, self.draws)
        return bounds.logsumexp(1) - math.log(self.draws)


class Divergence(nn.Module):
    """Rejects what is not classified as images of the same prediction usually are.

    By the divergence of the answer from their mean one, or because the features are
    too unlikely for the class.

    Args:
        net: To logits (n, 10).
    """

    usual: Tensor
    threshold: Tensor
    least: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("usual", torch.full((10, 10), 0.1))
        self.register_buffer("threshold", torch.zeros(10))
        self.register_buffer("least", torch.zeros(10))

    def divergence(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions (n,), and (n,) how far the answer is from theirs (KL)."""
        likely = (logits / 10).log_softmax(1)
        label = logits.argmax(1)
        usual = self.usual[label]
        return label, (usual * (usual.clamp(min=1e-6).log() - likely)).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to scores (n,), above 0 where an input is rejected."""
        logits = self.net(x)
        label, apart = self.divergence(logits)
        unlikely = self.least[label] - logits.amax(1)
        return torch.maximum(unlikely / 10, apart - self.threshold[label])


def train() -> nn.Module:
    """The autoencoder on the features of the demo network, then the detector."""
    net = DeepBayes()
    x, y = training_digits()
    with torch.no_grad():
        net.scale.copy_(net.seen(x).std(0).clamp(min=0.1))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        joint = net(x)
        values: Tensor = (
            functional.cross_entropy(joint, y) - joint.gather(1, y[:, None]).mean()
        )
        return values

    detector = Divergence(fit(net, x, y, loss, epochs=25))
    with torch.no_grad():
        logits = detector.net(x)
        for known in range(10):
            rows = (logits[y == known] / 10).softmax(1)
            detector.usual[known] = rows.mean(0)
        label, apart = detector.divergence(logits)
        for known in range(10):
            detector.threshold[known] = apart[label == known].quantile(0.97)
            detector.least[known] = logits.amax(1)[label == known].quantile(0.03)
    return detector


def make() -> Defense:
    """Weak: PGD on the noisy bound. By hand: only log p(features | z), and matching."""
    detector = load(Divergence(DeepBayes()), "generative")
    model = detector.net
    assert isinstance(model, DeepBayes)
    epsilon = 0.15

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        def match(x: Tensor, y: Tensor, wanted: Tensor) -> Tensor:
            with torch.no_grad():
                goal, target = model.seen(images[wanted]), model(images[wanted])

            def likely(z: Tensor) -> Tensor:
                mean, _, features, label = model.latent(z)
                joint = model.likelihood(mean, features, label)
                return over(joint, target.argmax(1))

            def imitate(z: Tensor) -> Tensor:
                return (model.seen(z) - goal).square().sum(1)

            def ended(z: Tensor) -> Tensor:
                return defense.broken(z, y)

            first = descend(slopes(imitate), x, epsilon, ended, every=10, steps=50)
            return descend(
                slopes(lambda z: likely(z) + 10 * detector(z).relu()),
                x, epsilon, ended, every=10, start=first,
            )  # fmt: skip

        images, _ = defense.data()
        order = naturals(model, images, x, y)
        return in_turn(x, y, order, defense.broken, match)

    defense = Defense(
        name="generative",
        title="generative classifier",
        source="Li, Bradshaw, Sharma: Are Generative Classifiers More Robust to "
        "Adversarial Attacks?, ICML 2019",
        model=model,
        detector=detector,
        weak=pgd(epsilon),
        weak_title="PGD, 40 steps, cross-entropy of the noisy bound",
        adaptive=adaptive,
        adaptive_title="feature matching, then log p(features given z) and detector",
        epsilon=epsilon,
        votes=5,
        test={"votes": 15},
    )
    return defense

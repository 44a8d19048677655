"""DDN, DeepFool, SuperDeepFool, FAB and trust region against others' of the name."""

import warnings

import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.ddn import DDN
from robustkit.attacks.gradient.deepfool import DeepFool
from robustkit.attacks.gradient.fab import FAB, TargetedFAB
from robustkit.attacks.gradient.super_deepfool import SuperDeepFool
from robustkit.attacks.gradient.trust_region import TrustRegion
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

pytestmark = pytest.mark.slow

ORDERS = {"l1": 1.0, "l2": 2.0, "linf": float("inf")}
NETWORKS = {"mnist_conv_small_nat": "mnist", "cifar_cnn_a_adv": "cifar10"}
networks = pytest.mark.parametrize("name", NETWORKS)


class Counted(torch.nn.Module):
    """Counts the forward and backward passes of each sample."""

    def __init__(self, module):
        super().__init__()
        self.module, self.passes = module, 0

    def forward(self, x):
        self.passes += len(x)
        logits = self.module(x)
        if logits.requires_grad:
            logits.register_hook(self._backward)
        return logits

    def _backward(self, gradient):
        self.passes += len(gradient)


class Duel:
    """Both attacks on the same network and images, counted in passes per sample."""

    def __init__(self, shared, beside, name, count=16):
        self.name, self.beside = name, beside
        self.module = shared.torch_model(name)
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        images, labels = map(torch.tensor, shared.images(NETWORKS[name]))
        right = (self.module(images).argmax(dim=1) == labels).nonzero()[:count, 0]
        self.x, self.labels = images[right], labels[right]

    def theirs(self, attack, norm):
        """Distances (n,), and passes per sample."""
        model = Counted(self.module).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = attack(model, self.x.clone(), self.labels.clone()).detach()
        delta = (found - self.x).flatten(1)
        distance = torch.linalg.vector_norm(delta, ORDERS[norm], dim=1)
        missed = self.module(found).argmax(dim=1) == self.labels
        distance[missed] = torch.inf
        return distance.numpy(), model.passes / len(self.x)

    def ours(self, attack, norm):
        criterion = Misclassification(as_tensor(self.labels))
        model = TorchModel(self.module)
        problem = Problem(model, as_tensor(self.x), criterion, get_norm(norm))
        ledger = run(attack, problem)
        passes = (ledger.forwards + ledger.backwards).mean()
        return ledger.distance.numpy(), passes


def not_worse(duel, peer, plan, theirs, norm, spare=0):
    """`plan` makes our attack from the passes per sample that theirs took."""
    expected, allowed = duel.theirs(theirs, norm)
    attack = plan(allowed)
    distance, passes = duel.ours(attack, norm)
    ratio = np.median(distance) / np.median(expected)
    duel.beside(type(attack).__name__, peer, norm, duel.name, f"{ratio:.3f}")
    assert np.isfinite(expected).any()
    assert np.isfinite(distance).mean() >= np.isfinite(expected).mean()
    assert passes <= 1.02 * allowed + spare
    assert ratio <= 1.02


def converges(duel, peer, ours, theirs, norm, spare=0):
    """For attacks that end by themselves, whatever passes they may take."""
    not_worse(duel, peer, lambda passes: ours, theirs, norm, spare)


def of_foolbox(attack):
    foolbox = pytest.importorskip("foolbox")

    def perturbed(module, x, labels):
        model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
        return attack(foolbox.attacks).run(model, x, labels)

    return perturbed


@networks
def test_ddn(shared, peer, beside, name):
    adv_lib, duel = peer("adv_lib.attacks"), Duel(shared, beside, name)
    for library, theirs in {
        "adv-lib": lambda *args: adv_lib.ddn(*args, steps=100, levels=None),
        "foolbox": of_foolbox(lambda attacks: attacks.DDNAttack(steps=100)),
    }.items():
        not_worse(
            duel, library, lambda passes: DDN(steps=int(passes / 2)), theirs, "l2"
        )


@networks
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool(shared, peer, beside, name, norm):
    adv_lib, duel = peer("adv_lib.attacks"), Duel(shared, beside, name)
    for library, theirs in {
        "adv-lib": lambda *args: adv_lib.df(*args, norm=ORDERS[norm]),
        "foolbox": of_foolbox(
            lambda attacks: (
                attacks.L2DeepFoolAttack()
                if norm == "l2"
                else attacks.LinfDeepFoolAttack()
            )
        ),
    }.items():
        # Who leaves the batch last goes without the 9 backward passes there.
        converges(duel, library, DeepFool(), theirs, norm, spare=10)


@networks
def test_deepfool_of_torchattacks(shared, peer, beside, name):
    torchattacks, duel = peer("torchattacks"), Duel(shared, beside, name, count=8)

    def theirs(model, x, labels):
        return torchattacks.DeepFool(model, steps=50)(x, labels)

    converges(duel, "torchattacks", DeepFool(), theirs, "l2")


@networks
def test_super_deepfool(shared, peer, beside, name):
    adv_lib, duel = peer("adv_lib.attacks"), Duel(shared, beside, name)
    not_worse(
        duel,
        "adv-lib",
        lambda passes: SuperDeepFool().within(int(passes / 4)),
        adv_lib.sdf,
        "l2",
    )


@networks
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_fab(shared, peer, beside, name, norm):
    adv_lib, duel = peer("adv_lib.attacks"), Duel(shared, beside, name)

    def theirs(*args):
        return adv_lib.fab(*args, norm=ORDERS[norm], n_iter=20)

    def targeted(passes):
        return TargetedFAB(steps=int(passes / 2) - 6)

    not_worse(
        duel, "adv-lib", lambda passes: FAB().within(int(passes / 4)), theirs, norm
    )
    not_worse(duel, "adv-lib, untargeted", targeted, theirs, norm)


@networks
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("targets", [3, 9])
def test_targeted_fab(shared, peer, beside, name, norm, targets):
    adv_lib, duel = peer("adv_lib.attacks"), Duel(shared, beside, name)

    def theirs(*args):
        return adv_lib.fab(
            *args,
            norm=ORDERS[norm],
            n_iter=15,
            restarts=targets,
            targeted_restarts=True,
        )

    def plan(passes):
        return TargetedFAB(steps=int(passes / 2) - 6)

    not_worse(duel, f"adv-lib, {targets} targets", plan, theirs, norm)


@networks
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_trust_region(shared, peer, beside, name, norm):
    adv_lib, duel = peer("adv_lib.attacks"), Duel(shared, beside, name)
    first = {"l2": 0.02, "linf": 0.001}[norm]

    def theirs(model, x, labels):
        return adv_lib.tr(
            model, x, labels, p=ORDERS[norm], eps=first, adaptive=True, iter=200
        )

    converges(duel, "adv-lib", TrustRegion(radius=0.02), theirs, norm)

"""Attacks of other packages as plain functions, and what is known to be wrong."""

import warnings

import foolbox
import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox.attacks as fa


def on_foolbox(attack):
    """A foolbox attack that minimises."""

    def function(model, x, y):
        native = foolbox.PyTorchModel(model, bounds=model.bounds, device="cpu")
        _, points, found = attack(native, x, y, epsilons=None)
        return points, found

    return function


def on_foolbox_with_starts(attack):
    """A foolbox attack that minimises, from given starting points."""

    def function(model, x, y, starts=None):
        native = foolbox.PyTorchModel(model, bounds=model.bounds, device="cpu")
        given = {} if starts is None else {"starting_points": starts}
        _, points, found = attack(native, x, y, epsilons=None, **given)
        return points, found

    return function


def on_foolbox_within(attack):
    """A foolbox attack that searches within an epsilon."""

    def function(model, x, y, epsilon):
        native = foolbox.PyTorchModel(model, bounds=model.bounds, device="cpu")
        _, points, found = attack(native, x, y, epsilons=epsilon)
        return points, found

    return function


def torchattacks_pgd(model, x, y, epsilon):
    import torchattacks

    attack = torchattacks.PGD(model, eps=epsilon, alpha=epsilon / 5, steps=20)
    return attack(x, y)


def adv_lib_fmn(model, x, y):
    from adv_lib.attacks import fmn

    return fmn(model, x, y, norm=2, steps=100)


def adv_lib_ddn(model, x, y):
    from adv_lib.attacks import ddn

    return ddn(model, x, y, steps=100)


FOREIGN = {
    "l2fmn": (on_foolbox(fa.L2FMNAttack(steps=100)), "l2", {}),
    "linffmn": (on_foolbox(fa.LInfFMNAttack(steps=100)), "linf", {}),
    "l1fmn": (on_foolbox(fa.L1FMNAttack(steps=100)), "l1", {}),
    "newtonfool": (
        on_foolbox(fa.NewtonFoolAttack(steps=50)),
        "l2",
        dict(factor=np.inf),
    ),
    "l2deepfool": (on_foolbox(fa.L2DeepFoolAttack()), "l2", dict()),
    "linfdeepfool": (on_foolbox(fa.LinfDeepFoolAttack()), "linf", dict()),
    "ddn": (on_foolbox(fa.DDNAttack(steps=100)), "l2", dict()),
    "cw": (
        on_foolbox(fa.L2CarliniWagnerAttack(steps=100, binary_search_steps=5)),
        "l2",
        dict(),
    ),
    "ead": (on_foolbox(fa.EADAttack(steps=100, binary_search_steps=5)), "l1", dict()),
    "boundary": (
        on_foolbox_with_starts(fa.BoundaryAttack(steps=400)),
        "l2",
        dict(access="decision"),
    ),
    "hsj": (
        on_foolbox_with_starts(
            fa.HopSkipJumpAttack(steps=8, max_gradient_eval_steps=200)
        ),
        "l2",
        dict(access="decision"),
    ),
    "hsjinf": (
        on_foolbox_with_starts(
            fa.HopSkipJumpAttack(
                steps=8, max_gradient_eval_steps=200, constraint="linf"
            )
        ),
        "linf",
        dict(access="decision"),
    ),
    "linfpgd": (
        on_foolbox_within(fa.LinfPGD(steps=20, rel_stepsize=0.1)),
        "linf",
        dict(),
    ),
    "l2pgd": (on_foolbox_within(fa.L2PGD(steps=20, rel_stepsize=0.1)), "l2", dict()),
    "linfbim": (
        on_foolbox_within(fa.LinfBasicIterativeAttack(steps=20)),
        "linf",
        dict(),
    ),
    "fgsm": (on_foolbox_within(fa.LinfFastGradientAttack()), "linf", dict()),
    "ta-pgd": (torchattacks_pgd, "linf", dict()),
    "al-fmn": (adv_lib_fmn, "l2", {}),
    "al-ddn": (adv_lib_ddn, "l2", {}),
}

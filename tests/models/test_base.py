import importlib
import pkgutil
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch

import robustkit
from robustkit.active_tests.features import WithDetector
from robustkit.active_tests.masks import MASKS
from robustkit.active_tests.planted import affine, permuted
from robustkit.checks.fixed import Fixed
from robustkit.errors import BadInput, MissingPackage
from robustkit.models.abstaining import Abstaining
from robustkit.models.base import Access, Model, Wrapper
from robustkit.models.bpda import BPDA
from robustkit.models.eot import EOT
from robustkit.models.estimated import Estimated
from robustkit.models.foreign import Foreign
from robustkit.models.isolated import Isolated
from robustkit.models.logarithms import Logarithms
from robustkit.models.surrogate import Surrogate, WithFeatures
from robustkit.models.wrappers import MajorityVote, Preprocessed, WithStrategy
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import as_tensor, like, to_numpy
from robustkit.testing.models import Altered, Watched


class Odd(Model):
    """Of which nothing is as it mostly is."""

    bounds, access, name, notes = Bounds(-3, 7), Access.GRADIENT, "odd", ("beware",)
    passes_per_question, abstains = 3, True

    def __init__(self, rough=True, passes_per_gradient=5):
        self.opened, self.rough = 0, rough
        self.passes_per_gradient = passes_per_gradient

    @property
    def unlabelled(self):
        return 2

    def logits(self, x):
        return x.square()

    def linearise(self, x):
        return self.logits(x), lambda slopes: 2 * x * slopes

    def at_layer(self, layer):
        return Odd(self.rough)

    def shown(self, x):
        return like(x, np.round(to_numpy(x)))

    def to_tensor(self, x):
        return as_tensor(x.astype(np.float32))

    def precise(self):
        return type(self)(False, self.passes_per_gradient) if self.rough else self

    @contextmanager
    def session(self):
        self.opened += 1
        yield

    def fingerprint(self):
        return "odd"


class OneScore(Odd):
    abstains, unlabelled = False, 0

    def logits(self, x):
        return x.square()[:, :1]


WRAPPERS = {
    Abstaining: lambda model: Abstaining(model, OneScore()),
    Altered: lambda model: Altered(model, lambda x, logits: logits),
    BPDA: lambda model: BPDA(model, layer=lambda x: x),
    EOT: lambda model: EOT(model, 4),
    Estimated: lambda model: Estimated(model, 6),
    Fixed: Fixed,
    Foreign: Foreign,
    Isolated: Isolated,
    Logarithms: Logarithms,
    MajorityVote: lambda model: MajorityVote(model, 4),
    Preprocessed: lambda model: Preprocessed(model, [1.0], [2.0]),
    Surrogate: lambda model: Surrogate(model, Odd()),
    Watched: Watched,
    WithDetector: lambda model: WithDetector(model, OneScore()),
    WithFeatures: lambda model: WithFeatures(model, "layer"),
    WithStrategy: lambda model: WithStrategy(model, lambda ask, x: ask(x)),
}
PASSES_PER_GRADIENT = {
    EOT: 4 * 5,
    Estimated: 6 * 3,
    MajorityVote: 0,
    Preprocessed: 0,
    Surrogate: 0,
    WithFeatures: 2 * 5,
    WithStrategy: 0,
}
MASKED = {name: MASKS[name] for name in ("detached", "scaled-up")}
MASKED["permuted"] = lambda model: (
    permuted(affine(samples=2).with_model(model, "odd")).model
)


def wrapped(name):
    # The others' are not estimated within the bounds of what is given.
    inner = Odd(passes_per_gradient=0 if name is Preprocessed else 5)
    return inner, {**WRAPPERS, **MASKED}[name](inner)


def test_every_wrapper_there_is_stands_below():
    for module in pkgutil.walk_packages(robustkit.__path__, "robustkit."):
        if not module.name.endswith("__main__"):
            with suppress(MissingPackage, ImportError):
                importlib.import_module(module.name)
    found, heirs = set(), [Wrapper]
    while heirs:
        heirs += (new := heirs.pop().__subclasses__())
        found |= {heir for heir in new if not heir.__name__.startswith("_")}
    assert {heir for heir in found if heir.__module__.startswith("robustkit.")} == set(
        WRAPPERS
    )


@pytest.mark.parametrize("name", [*WRAPPERS, *MASKED])
def test_a_wrapper_forgets_nothing_of_what_it_asks(name):
    inner, model = wrapped(name)
    assert model.wraps is inner
    assert model.bounds == inner.bounds
    assert model.name.startswith("odd")
    assert model.notes[0] == "beware"
    assert model.unlabelled >= 2
    assert model.passes_per_question >= 3
    assert model.passes_per_gradient == PASSES_PER_GRADIENT.get(name, 5)
    x = model.to_tensor(np.array([[0.25, 0.75]]))
    assert x.dtype == np.float32
    assert (to_numpy(model.shown(x)) != to_numpy(x)).all()
    with model.session():
        assert inner.opened == 1


@pytest.mark.parametrize("native", [torch.nn.Linear(2, 2).eval(), lambda x: x, "odd"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_asks_models_only(wrapper, native):
    with pytest.raises(BadInput, match=rf"{wrapper.__name__} asks.*as_model"):
        WRAPPERS[wrapper](native)


def test_so_does_what_is_measured_or_looked_for_in_a_model_and_what_lends_gradients():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2)).eval()
    for make in (
        lambda: EOT(module, example=np.zeros((1, 2))),
        lambda: BPDA(module, layer="0"),
        lambda: BPDA(module, before="0"),
        lambda: Surrogate(Odd(), module),
    ):
        with pytest.raises(BadInput, match="got a Sequential; adapt it first"):
            make()


@pytest.mark.parametrize("name", [*WRAPPERS, *MASKED])
def test_a_precise_wrapper_is_one_of_what_is_precise(name):
    _, model = wrapped(name)
    precise = model.precise()
    assert type(precise) is type(model)
    assert not precise.wraps.rough
    assert precise.name == model.name
    assert precise.passes_per_gradient == model.passes_per_gradient
    assert precise.fingerprint() == model.fingerprint()
    assert precise.precise() is precise

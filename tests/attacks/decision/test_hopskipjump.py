import numpy as np
import pytest
import torch

from robustkit.attacks.decision.hopskipjump import HopSkipJump
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


class Spent(Exception):
    pass


class Watched(torch.nn.Module):
    """Keeps the nearest adversarial of the first 2,000 queries about one image."""

    def __init__(self, model, x, y, order):
        super().__init__()
        self.model, self.x, self.y, self.order = model, x, y, order
        self.best, self.queries = np.inf, 0
        self.eval()

    def forward(self, points):
        if self.queries + len(points) > 2000:
            raise Spent
        self.queries += len(points)
        logits = self.model(points)
        distance = (points - self.x).flatten(1).norm(self.order, dim=1)
        wrong = logits.argmax(dim=1) != self.y
        nearest = torch.where(wrong, distance, torch.inf).min()
        self.best = min(self.best, float(nearest))
        return logits


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("linf", torch.inf)])
def test_at_least_as_good_as_foolbox_after_2000_questions(shared, norm, order):
    """Foolbox takes one image at a time, where it is much better than in a batch."""
    foolbox = pytest.importorskip("foolbox")
    model = shared.torch_model("mnist_conv_small_nat").requires_grad_(False)
    images, labels = map(torch.tensor, shared.images("mnist"))
    rows = (model(images[:100]).argmax(1) == labels[:100]).nonzero()[:6, 0]
    x, y = images[rows], labels[rows]
    p = Problem(
        TorchModel(model), as_tensor(x), Misclassification(as_tensor(y)), get_norm(norm)
    )
    ours = run(HopSkipJump(), p, budget=2000).distance.numpy()

    theirs = []
    # Foolbox draws from global generators, which are given back as they were.
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(), torch.no_grad():
        torch.random.default_generator.manual_seed(0)
        for one, label in zip(x[:, None], y[:, None], strict=True):
            watched = Watched(model, one, label, order)
            with pytest.raises(Spent):
                foolbox.attacks.HopSkipJumpAttack(steps=200, constraint=norm).run(
                    foolbox.PyTorchModel(watched, bounds=(0, 1)),
                    one,
                    foolbox.criteria.Misclassification(label),
                )
            theirs.append(watched.best)
    np.random.set_state(state)  # noqa: NPY002
    assert np.median(ours / np.array(theirs)) <= 1.02

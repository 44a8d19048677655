import numpy as np
import torch

from robustkit.numerics.optimisers import Adam
from robustkit.numerics.tensors import as_tensor, take


def test_walks_the_same_way_as_the_optimiser_of_torch():
    gradients = torch.randn(20, 3, 5, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.Parameter(torch.zeros(3, 5))
    optimiser = torch.optim.Adam([theirs], lr=0.1)
    ours = as_tensor(torch.zeros(3, 5))
    adam = Adam.at(ours)
    for gradient in gradients:
        theirs.grad = gradient.clone()
        optimiser.step()
        adam = adam.after(as_tensor(gradient))
        ours = ours - 0.1 * adam.direction
    torch.testing.assert_close(ours.raw, theirs.detach())


def test_samples_can_be_dropped_on_the_way():
    gradients = np.random.default_rng(0).normal(size=(6, 4, 2))
    kept = np.array([0, 3])
    whole = part = Adam.at(as_tensor(np.zeros((4, 2))))
    for step, gradient in enumerate(gradients):
        whole = whole.after(as_tensor(gradient))
        if step == 3:
            part = take(part, kept)
        part = part.after(as_tensor(gradient if step < 3 else gradient[kept]))
    np.testing.assert_array_equal(part.direction.numpy(), whole.direction.numpy()[kept])


def test_a_feature_without_gradient_stays():
    zero = as_tensor(np.zeros((2, 3)))
    assert (Adam.at(zero).after(zero).direction.numpy() == 0).all()

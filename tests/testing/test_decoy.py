import numpy as np
import pytest

from robustkit.numerics.tensors import to_numpy
from robustkit.testing.decoy import with_decoy


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("swapped", [False, True])
def test_what_scores_second_is_twice_as_far_as_the_nearest(swapped, dtype):
    task = with_decoy(12, (1, 4, 4), dtype, swapped=swapped)
    ranked = to_numpy(task.model.logits(task.model.to_tensor(task.x))).argsort(axis=1)
    decoy = 2 if swapped else 1
    assert task.x.dtype == dtype
    assert (ranked[:, ::-1] == [0, decoy, 3 - decoy, 3]).all()
    for norm in ("l0", "l1", "l2", "linf"):
        for x, regions, exact in zip(
            task.x, task.regions, task.exact(norm), strict=True
        ):
            flat = x.reshape(-1).astype(np.float64)
            far = regions[decoy - 1].at_least(flat, norm, task.bounds)
            assert far >= 2 * exact

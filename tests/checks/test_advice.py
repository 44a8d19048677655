import re

import pytest

from robustkit.checks.advice import beside_auto
from robustkit.models.base import Access
from robustkit.numerics.norms import get_norm
from robustkit.registry import choose_attacks

NORMS = ["linf", "l2", "l1", "l0", "l0-pixels"]


@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("noise", [False, True])
def test_what_is_advised_can_be_run(access, blind, noise):
    advice = beside_auto(NORMS, blind=blind, noise=noise, access=access)
    for part in advice.split("; "):
        _, names = part.split("--attacks ")
        norms = re.findall(r"--norm (\S+)", part) or NORMS
        assert (("boundary" in names) or ("pointwise" in names)) == blind
        assert ("gaussian-noise" in names) == noise
        for norm in norms:
            for name in names.split(","):
                assert choose_attacks(name, get_norm(norm), access)


def test_a_single_step_needs_gradients():
    assert beside_auto(["l2"], noise=True).endswith(",fgsm")
    assert "fgsm" not in beside_auto(["l2"], noise=True, access=Access.SCORE)
    assert "fgsm" not in beside_auto(["l0"], noise=True)

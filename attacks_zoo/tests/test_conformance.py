import math

from robustkit.testing import conformance_suite

from robustkit_attacks_zoo import Inversion


# It walks in one direction only, so it promises neither nearness nor success.
@conformance_suite(Inversion(), factor=math.inf, complete=False, samples=4)
def test_inversion_keeps_the_laws(check):
    check()

import signal

import numpy as np
import pytest


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, which the engine uses as it is."""
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    before = signal.getsignal(signal.SIGTERM)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    signal.signal(signal.SIGTERM, before)
    yield
    ray.shutdown()


@pytest.fixture
def planted(plant):
    """24 inputs well inside [0, 1] and a linear classifier without a bias."""
    planted = plant(samples=24, features=6, bounds=(0.0, 1.0), dtype=np.float32)
    planted.b = np.zeros(3, dtype=np.float32)
    planted.x = planted.x * np.float32(0.4) + np.float32(0.3)
    planted.y = planted.logits(planted.x).argmax(axis=1)
    return planted

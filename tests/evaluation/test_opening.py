import numpy as np
import pytest
import torch
from PIL import Image

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.evaluation.data import as_data, load_data
from robustkit.evaluation.opening import open_pool, reopened
from robustkit.models.numpy import NumPyModel
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.bounds import Bounds


def counted(opened):
    model, data = opened
    return model, sum(len(x) for x, _ in data.batches(8))


def test_model_and_data_are_opened_with_the_settings_of_the_run():
    net = rk.load_model("digits").module
    run = rk.evaluate(
        net,
        "digits",
        samples=3,
        attacks=["fgsm"],
        bounds=(0, 2),
        mean=0.1,
        device="cpu",
    )
    model, samples = counted(reopened(run, net, "digits"))
    assert samples == 3
    assert isinstance(model, Preprocessed)
    assert model.bounds == Bounds(0, 2)
    model, samples = counted(reopened(run, net, "digits", samples=2, mean=None))
    assert samples == 2
    assert not isinstance(model, Preprocessed)


def test_headers_and_caches_of_a_run_are_not_used_unless_they_are_given():
    run = rk.evaluate("digits", "digits", samples=2, attacks=["fgsm"])
    own = {"headers": {"Authorization": "ENV:SECRET"}, "cache": "answers.db"}
    run.run["config"] |= own
    reopened(run, "digits", "digits")
    for name, value in own.items():
        with pytest.raises(BadInput, match="for models at an address"):
            reopened(run, "digits", "digits", **{name: value})


@pytest.fixture
def folders(tmp_path):
    """Of data and a pool, one image of each class."""
    of = {"data": ("cat", "dog", "eel"), "pool": ("bee", "dog", "eel")}
    for name, classes in of.items():
        for level, one in enumerate(classes):
            folder = tmp_path / name / one
            folder.mkdir(parents=True)
            Image.fromarray(np.full((2, 2), level, np.uint8)).save(folder / "1.png")
    return tmp_path


def test_classes_that_pool_and_data_name_are_known_by_their_names(folders):
    model, data = NumPyModel(lambda x: x), load_data(folders / "data")
    _, classes = open_pool(folders / "pool", model, data)
    assert classes.tolist() == [-1, 1, 2]
    (folders / "pool" / "dog" / "1.png").unlink()
    (folders / "pool" / "dog").rmdir()
    _, classes = open_pool(folders / "pool", model, data)
    assert classes.tolist() == [-1, 2]


@pytest.mark.parametrize(
    ("count", "labels", "match"),
    [(0, 0, "is empty"), (3, 2, "one label for each of 3 inputs")],
)
def test_of_a_pool_it_is_said_that_it_is_the_pool(folders, count, labels, match):
    data, model = load_data(folders / "data"), NumPyModel(lambda x: x)
    x, y = np.zeros((count, *data.example.shape[1:])), np.zeros(labels, int)
    with pytest.raises(BadInput, match=f"the pool cannot be taken: .*{match}"):
        open_pool((x, y), model, data)


def test_classes_of_a_pool_without_names_are_numbers(folders):
    model, data = NumPyModel(lambda x: x), load_data(folders / "data")
    x, y = np.zeros((2, 1, 2, 2), np.float32), np.array([2, 0])
    assert open_pool((x, y), model, data)[1].tolist() == [2, 0]
    assert open_pool(folders / "pool", model, as_data((x, y)))[1].tolist() == [0, 1, 2]
    assert open_pool(x, model, data)[1] is None


class Counting(torch.nn.Module):
    """Keeps how often it was asked, as batch statistics keep their averages."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.inner, self.noise = rk.load_model("digits").module, noise
        self.register_buffer("calls", torch.zeros(()))
        self.draws = torch.Generator().manual_seed(0)

    def forward(self, x):
        self.calls += 1
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, generator=self.draws)
        return self.inner(x)


def test_a_model_is_known_again_by_what_it_was_before_it_was_asked(tmp_path):
    rk.evaluate(
        Counting().eval(), "digits", samples=3, attacks=["fgsm"], out=tmp_path / "run"
    )
    bounded = rk.bound_below(tmp_path / "run", Counting().eval(), "digits", "interval")
    assert (bounded.lower() <= bounded.distance).all()
    assert rk.verify(tmp_path / "run", Counting().eval(), "digits").holds


def test_lucky_draws_of_a_model_that_changes_are_not_said_to_be_another_s():
    noisy = {"samples": 12, "attacks": ["fmn"], "budget": 40}
    results = rk.evaluate(Counting(0.1).eval(), "digits", **noisy)
    found = rk.check(Counting(0.1).eval(), "digits", run=results, samples=12, trials=0)
    said = [f.diagnosis for f in found.findings if f.id == "S3"]
    assert any("lucky draws" in text for text in said)
    assert not any("another model" in text for text in said)

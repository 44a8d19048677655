import pytest

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.evaluation.opening import reopened
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

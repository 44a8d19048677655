import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.evaluation import preflight
from robustkit.evaluation.preflight import check_labels, examine, no_compiler
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel

X = np.full((2, 3), 0.5, dtype=np.float32)


def examined(function, x=X):
    return examine(NumPyModel(function), x)


def test_a_sound_model_passes_without_notes():
    found = examined(lambda x: x @ np.eye(3) * 5)
    assert (found.classes, found.notes) == (3, ())


def softmax(x):
    e = np.exp(x * np.array([1.0, 2.0, 3.0]))
    return e / e.sum(axis=1, keepdims=True)


def test_probabilities_are_recognised_with_evidence():
    (note,) = examined(softmax).notes
    assert "probabilities" in note
    assert "sum to 1 within" in note
    # There are no gradients that could vanish.
    assert "gradient" not in note
    assert "the softmax" not in note
    (note,) = examine(TorchModel(lambda x: torch.softmax(x, 1)), X).notes
    assert "gradients vanish" in note


@pytest.mark.parametrize("last", [np.s_[:1], 0], ids=["column", "flat"])
def test_what_is_advised_for_one_output_decides_as_it_did(last):
    """The columns (0, p) of a probability p name the second class for every input."""
    with pytest.raises(BadInput) as raised:
        examined(lambda x: 1 / (1 + np.exp(-x[:, last])))
    assert "(0, s) of a score s" in str(raised.value)
    assert "(1 - p, p) of a probability p" in str(raised.value)


def _raises(x):
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x12 and 3x4)")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (_raises, "mat1 and mat2"),
        (lambda x: 1.0, "one row per sample"),
        (lambda x: x[0], "one row per sample"),
        (lambda x: x[:, :1], r"columns \(0, s\)"),
        (lambda x: np.full((len(x), 3), np.nan), "NaN"),
        (lambda x: np.zeros((len(x), 2, 2)), "one row per sample"),
        (lambda x: np.array([["cat", "dog"]] * len(x)), "expected numbers"),
        (lambda x: x[:1], "one input at a time"),
    ],
)
def test_what_is_no_classifier_is_refused_with_the_reason(function, expected):
    with pytest.raises(BadInput, match=expected):
        examined(function)


def test_a_single_bad_sample_does_not_condemn_the_model():
    def model(x):
        if len(x) == 1 and x[0, 0] == 0:
            raise RuntimeError("broken")
        return x

    x = np.array([[0, 0.5, 0.5], [0.5, 0.5, 0.5]], dtype=np.float32)
    assert examined(model, x).classes == 3


def test_images_get_a_hint_about_the_order_of_channels():
    with pytest.raises(BadInput, match="channels first"):
        examined(_raises, np.zeros((1, 8, 8, 3), dtype=np.float32))


def test_labels_must_be_classes():
    check_labels(np.array([0, 2]), 3, 0)
    with pytest.raises(BadInput, match="sample 101 has the label 3"):
        check_labels(np.array([0, 3]), 3, 100)


def test_labels_are_no_probabilities_to_be_complained_of():
    named = rk.LabelModel(lambda x: ["a"] * len(x), classes=["a", "b"])
    assert examine(named, np.zeros((2, 3), np.float32)).notes == ()


def test_why_nothing_is_compiled(monkeypatch):
    x = np.zeros((1, 4), np.float32)
    torch_model = TorchModel(torch.nn.Linear(4, 3).eval())
    monkeypatch.setattr(preflight, "compiler_missing", lambda: None)
    assert no_compiler(torch_model, x) is None
    monkeypatch.setattr(preflight, "compiler_missing", lambda: "no g++")
    with pytest.warns(UserWarning, match=r"no compiler that works \(no g\+\+"):
        assert "not compiled" in no_compiler(torch_model, x)
    plain = NumPyModel(lambda x: x @ np.ones((4, 3)))
    with pytest.warns(UserWarning, match="works in numpy"):
        assert "not compiled" in no_compiler(plain, x)


def test_jax_compiles_on_devices_only(request):
    jnp = pytest.importorskip("jax.numpy")
    from robustkit.models.jax import JaxModel

    x, model = np.zeros((1, 4), np.float32), JaxModel(lambda x: x @ jnp.ones((4, 3)))
    with pytest.warns(UserWarning, match="work in NumPy on a processor"):
        assert "not compiled" in no_compiler(model, x)
    request.getfixturevalue("jax_on_a_device")
    assert no_compiler(model, x) is None


@pytest.mark.parametrize(
    ("norm", "attacks", "expected"),
    [
        (["l2", "l0-pixels"], "auto", r"l0-pixels counts .* shape \(2, 3\)"),
        ("linf", ["fmn", "spatial"], r"Spatial needs images .* shape \(2, 3\)"),
        ("l0-pixels", ["boundary"], "cannot minimise the norm l0-pixels; it can"),
    ],
)
def test_what_cannot_work_on_such_inputs_is_said_before_there_is_a_run(
    norm, attacks, expected, tmp_path
):
    net = torch.nn.Linear(3, 2).eval()
    data = (X, np.array([0, 1]))
    with pytest.raises(BadInput, match=expected):
        rk.evaluate(net, data, norm=norm, attacks=attacks, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

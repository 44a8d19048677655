import importlib.resources
import re
import sys

import numpy as np
import pytest
import torch

from robustkit import demo
from robustkit.demo import train_digits

FILES = ("digits.npz", "digits_robust.npz", "digits_images.npz")


def read(file, folder=None):
    folder = folder or importlib.resources.files(demo)
    with (folder / file).open("rb") as stream:
        return dict(np.load(stream, allow_pickle=False))


def numpy_convolution(x, weight, bias, stride):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]


def numpy_logits(weights, x):
    w = {key: value.astype(np.float64) for key, value in weights.items()}
    x = numpy_convolution(x, w["conv1.weight"], w["conv1.bias"], 1).clip(min=0)
    x = numpy_convolution(x, w["conv2.weight"], w["conv2.bias"], 2).clip(min=0)
    x = x.reshape(len(x), -1) @ w["hidden.weight"].T + w["hidden.bias"]
    return x.clip(min=0) @ w["output.weight"].T + w["output.bias"]


@pytest.fixture(scope="module")
def test_set():
    x, y = demo.load_data("digits")
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.fixture(scope="module")
def accuracy(test_set):
    return {
        name: train_digits.evaluate(demo.load_model(name), *test_set)
        for name in demo.MODELS
    }


def test_every_name_loads_and_is_described():
    assert set(demo.MODELS) == {"digits", "digits-robust"}
    assert set(demo.DATA) == {"digits"}
    for name, description in demo.MODELS.items():
        assert isinstance(demo.load_model(name), torch.nn.Module)
        assert description
        assert "\n" not in description
    for name, description in demo.DATA.items():
        x, y = demo.load_data(name)
        assert len(x) == len(y)
        assert str(len(x)) in description


@pytest.mark.parametrize("load", [demo.load_model, demo.load_data])
@pytest.mark.parametrize("name", ["", "mnist", "digits.npz", "digits_robust"])
def test_an_unknown_name_is_refused_and_the_known_ones_are_named(load, name):
    known = demo.MODELS if load is demo.load_model else demo.DATA
    with pytest.raises(ValueError, match=re.escape(", ".join(known))) as error:
        load(name)
    assert repr(name) in str(error.value)


def test_images_are_grey_levels_in_sixteenths():
    x, y = demo.load_data("digits")
    assert x.shape == (355, 1, 8, 8)
    assert x.dtype == np.float32
    assert x.min() == 0
    assert x.max() == 1
    np.testing.assert_array_equal(x * 16, np.round(x * 16))
    assert y.shape == (355,)
    assert y.dtype == np.int64
    assert np.bincount(y).shape == (10,)
    assert np.bincount(y).min() >= 34


def test_loaded_data_belongs_to_the_caller():
    x, y = demo.load_data("digits")
    x[:], y[:] = 7, 7
    again = demo.load_data("digits")
    assert again[0].max() == 1
    assert again[1].min() == 0


@pytest.mark.parametrize("name", demo.MODELS)
def test_models_are_in_evaluation_mode_and_return_float32_logits(name, test_set):
    network = demo.load_model(name)
    assert not any(module.training for module in network.modules())
    logits = network(test_set[0][:5])
    assert logits.shape == (5, 10)
    assert logits.dtype == torch.float32
    assert logits.min() < 0  # not probabilities


def test_loading_draws_no_random_numbers():
    before = torch.get_rng_state()
    demo.load_model("digits")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", demo.MODELS)
def test_numpy_computes_the_same_logits_from_the_weight_file(name, test_set):
    expected = numpy_logits(read(demo._WEIGHTS[name]), test_set[0].double().numpy())
    with torch.no_grad():
        actual = demo.load_model(name)(test_set[0]).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


def test_the_two_models_differ_in_weights_only():
    plain, robust = read("digits.npz"), read("digits_robust.npz")
    assert plain.keys() == robust.keys()
    for key in plain:
        assert plain[key].shape == robust[key].shape
        assert plain[key].dtype == robust[key].dtype == np.float32
        assert not np.array_equal(plain[key], robust[key])


@pytest.mark.parametrize("file", FILES)
def test_files_are_small(file):
    assert len((importlib.resources.files(demo) / file).read_bytes()) < 100_000


def test_the_licence_names_source_authors_and_terms():
    path = importlib.resources.files(demo) / "LICENSE-digits.txt"
    text = path.read_text(encoding="utf-8")
    for expected in ("Alpaydin", "Kaynak", "UCI", "CC BY 4.0", "MIT", *FILES):
        assert expected in text


@pytest.mark.parametrize("name", demo.MODELS)
def test_models_read_clean_digits(accuracy, name):
    assert accuracy[name][0.0] >= 0.97


def test_only_the_robust_model_resists_an_attack(accuracy):
    assert accuracy["digits-robust"][0.1] >= 0.85
    assert accuracy["digits-robust"][0.2] >= 0.6
    assert accuracy["digits"][0.1] <= 0.6
    assert accuracy["digits"][0.2] <= 0.05


def test_the_training_attack_stays_in_the_ball_and_in_the_box(test_set):
    x, y = test_set
    adversarial = train_digits.attack(
        demo.load_model("digits"),
        x,
        y,
        epsilon=0.1,
        steps=5,
        generator=torch.Generator().manual_seed(1),
    )
    assert 0.09 < (adversarial - x).abs().max() <= 0.1 + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


def test_no_test_image_is_a_training_image():
    pytest.importorskip("sklearn", reason="scikit-learn brings the training images")
    (x_train, y_train), (x_test, y_test) = train_digits.images()
    assert len(y_train) + len(y_test) == 1797
    shipped = demo.load_data("digits")
    np.testing.assert_array_equal(shipped[0], x_test)
    np.testing.assert_array_equal(shipped[1], y_test)
    training = {image.tobytes() for image in x_train}
    assert not any(image.tobytes() in training for image in x_test)


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match="pip install scikit-learn"):
        train_digits.images()


def test_a_missing_output_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train_digits.main(["--out", str(tmp_path / "missing")])
    assert stop.value.code == 2
    assert "existing folder" in capsys.readouterr().err


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_training_is_repeatable_and_leaves_global_state_alone(test_set, epsilon):
    x, y = test_set[0][:150], test_set[1][:150]
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    first = train_digits.train(x, y, epsilon=epsilon, epochs=2).state_dict()
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    second = train_digits.train(x, y, epsilon=epsilon, epochs=2).state_dict()
    for key in first:
        assert torch.equal(first[key], second[key])


@pytest.mark.slow
def test_the_script_reproduces_the_files(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn brings the training images")
    train_digits.main(["--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    for file in FILES:
        shipped, made = read(file), read(file, tmp_path)
        assert shipped.keys() == made.keys()
        for key in shipped:
            # A relative error of 1e-15 in the initial weights, the rounding error
            # of float64 that another machine may make, moves the trained weights
            # by one unit in the last place of float32: at most 1.2e-7 for weights
            # below 2. Another seed moves them by more than 1.
            np.testing.assert_allclose(made[key], shipped[key], rtol=0, atol=1e-6)

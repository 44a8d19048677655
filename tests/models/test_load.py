import importlib
import sys
import warnings
import zipfile
from unittest import mock

import numpy as np
import pytest
import torch

from robustkit import demo
from robustkit.errors import BadInput
from robustkit.models import load
from robustkit.models.base import Access
from robustkit.models.load import as_model, load_model, register_adapter
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.models.user_code import import_object
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import to_numpy


class TestAsModel:
    def test_a_model_stays_itself(self):
        model = NumPyModel(lambda x: x, Bounds(0, 2))
        assert as_model(model) is model
        assert as_model(model, Bounds(0, 2)) is as_model(model, (0, 2)) is model
        with pytest.raises(BadInput, match="Leave the bounds out"):
            as_model(model, Bounds(0, 1))
        with pytest.raises(BadInput, match="only torch models can be moved"):
            as_model(model, device="cpu")

    def test_torch_modules(self, weights, slopes):
        module = weights.module()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            scripted = torch.jit.script(module)
        for native in (module, scripted):
            model = as_model(native, Bounds(-1, 2), name="mine", device="cpu")
            assert isinstance(model, TorchModel)
            assert (model.bounds, model.name) == (Bounds(-1, 2), "mine")
            assert model.fingerprint() is not None
            weights.check(model, slopes)

    def test_functions_and_classes_without_arguments_are_called(
        self, weights, batch, slopes
    ):
        class Net(torch.nn.Sequential):
            def __init__(self, layers=tuple(weights.module())):  # noqa: B008
                super().__init__(*layers)
                self.eval()

        def make(kind="numpy"):
            return weights.logits

        weights.check(as_model(weights.module), slopes)
        weights.check(as_model(Net), slopes)
        model = as_model(make, example=batch)
        assert (type(model), model.name) == (NumPyModel, "make")
        weights.check(model, slopes)

    def test_makers_that_do_not_make_models_are_refused(self):
        class Needy:
            def __init__(self, depth):
                pass

        def twice():
            return lambda: None

        def broken():
            raise KeyError("lost")

        with pytest.raises(BadInput, match=r"'Needy' needs arguments.*depth"):
            as_model(Needy)
        with pytest.raises(BadInput, match=r"'twice' was called.*return the model"):
            as_model(twice)
        with pytest.raises(
            BadInput, match=r"'broken' failed.*KeyError.*test_load.*line"
        ):
            as_model(broken)

    @pytest.mark.parametrize(
        ("native", "match"),
        [
            (3, "got a int"),
            ({"weight": 1}, "got a dict"),
            (lambda x: x.sum(), r"expected logits of shape \(5, classes\).*shape \(\)"),
            (lambda x: x, r"returned the shape \(5, 2, 3\)"),
            (lambda x: x[:2, 0], r"returned the shape \(2, 3\)"),
            (lambda x: "cat", "returned a str"),
            (lambda x: None, "returned a NoneType"),
            (lambda x, y: x, "fails on an example batch.*NumPy batch.*torch batch"),
            (lambda x: x.nothing, r"AttributeError.*test_load.py, line \d+"),
        ],
    )
    def test_anything_else_is_refused(self, native, match, batch):
        with pytest.raises(BadInput, match=match):
            as_model(native, example=batch)

    def test_functions_without_an_example_are_refused(self):
        with pytest.raises(BadInput, match=r"'tanh'.*give an example"):
            as_model(np.tanh)

    @pytest.mark.parametrize(
        ("shape", "axis"), [((4, 3, 8, 8), 1), ((4, 8, 8, 3), 3), ((4, 3), 1)]
    )
    def test_channels_are_found(self, shape, axis):
        x = np.random.default_rng(0).random(shape, dtype=np.float32)
        mean, std = [0.1, 0.2, 0.3], [1.0, 2.0, 4.0]
        model = as_model(lambda x: x.reshape(len(x), -1), example=x, mean=mean, std=std)
        assert isinstance(model, Preprocessed)
        wide = [1] * len(shape)
        wide[axis] = 3
        expected = (x - np.reshape(mean, wide)) / np.reshape(std, wide)
        np.testing.assert_allclose(
            to_numpy(model.logits(model.to_tensor(x))),
            expected.reshape(4, -1),
            atol=1e-6,
        )

    @pytest.mark.parametrize("shape", [(4, 3, 8, 3), (4, 1, 8, 8)])
    def test_channels_that_cannot_be_found_are_asked_for(self, shape):
        with pytest.raises(BadInput, match=r"3 channels.*that size"):
            as_model(
                lambda x: x.reshape(len(x), -1),
                example=np.zeros(shape, np.float32),
                mean=[0, 0, 0],
                std=[1, 1, 1],
            )

    def test_mean_or_std_alone(self):
        x = np.full((2, 3), 8, np.float32)
        for options, value in (({"mean": [2.0]}, 6), ({"std": [2.0]}, 4)):
            model = as_model(NumPyModel(lambda x: x), example=x, **options)
            assert (to_numpy(model.logits(model.to_tensor(x))) == value).all()


class TestAdapters:
    @pytest.fixture(autouse=True)
    def restore(self, monkeypatch):
        monkeypatch.setattr(load, "_ADAPTERS", dict(load._ADAPTERS))

    def test_a_registered_package_is_recognised_by_its_base_class(self):
        base = type("Base", (), {"__module__": "zoo.models"})
        native = type("Mine", (base,), {"__module__": "__main__"})()
        calls = []

        def adapter(native, bounds, *, name):
            calls.append((native, bounds, name))
            return NumPyModel(lambda x: x)

        register_adapter("zoo", adapter)
        assert isinstance(as_model(native, Bounds(0, 3), name="mine"), NumPyModel)
        assert calls == [(native, Bounds(0, 3), "mine")]

    def test_an_adapter_may_be_imported_when_needed(self, monkeypatch):
        members = {"__module__": "zoo", "__call__": lambda self, x: x}
        native = type("Native", (), members)()
        register_adapter("zoo", "robustkit.models.numpy:NumPyModel")
        assert isinstance(as_model(native), NumPyModel)

    def test_foolbox_is_registered_and_not_imported(self):
        optional = dict.fromkeys(("foolbox", "jax", "onnxruntime"))
        with mock.patch.dict(sys.modules, optional):
            for name in list(sys.modules):
                if name.partition(".")[0] == "robustkit":
                    del sys.modules[name]
            fresh = importlib.import_module("robustkit.models.load")
            assert fresh is not load
        assert fresh._ADAPTERS["foolbox"] == "robustkit.interop.foolbox:FoolboxModel"


class TestLoadModel:
    def test_demo_names(self):
        x, y = demo.load_data("digits")
        for name in demo.MODELS:
            model = load_model(name)
            logits = to_numpy(model.logits(model.to_tensor(x)))
            assert (logits.argmax(axis=1) == y).mean() > 0.9
            assert (model.name, model.bounds) == (name, Bounds(0, 1))

    def test_options_reach_the_model(self):
        x, _ = demo.load_data("digits")
        plain = load_model("digits", device="cpu")
        scaled = load_model("digits", Bounds(0, 255), mean=[0.0], std=[255.0])
        assert scaled.bounds == Bounds(0, 255)
        np.testing.assert_allclose(
            to_numpy(scaled.logits(scaled.to_tensor(255 * x[:9]))),
            to_numpy(plain.logits(plain.to_tensor(x[:9]))),
            atol=1e-4,
        )

    @pytest.mark.parametrize("size", [4, "dynamic"])
    def test_onnx(self, size, weights, batch, slopes, tmp_path):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        file = tmp_path / "small.onnx"
        axes = {"x": {0: "n"}} if size == "dynamic" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                weights.module(),
                (torch.from_numpy(batch[:4]),),
                file,
                input_names=["x"],
                dynamic_axes=axes,
                dynamo=False,
            )
        model = load_model(file)
        assert (model.name, model.access) == ("small", Access.GRADIENT)
        weights.check(model, slopes)
        with pytest.raises(BadInput, match="only torch models can be moved"):
            load_model(file, device="cpu")

    @pytest.mark.parametrize("suffix", ["onnx", "pt2", "pt", "torchscript"])
    def test_files_that_are_absent_or_hold_something_else(self, suffix, tmp_path):
        pytest.importorskip("onnxruntime")
        file = tmp_path / f"model.{suffix}"
        with pytest.raises(BadInput, match=r"there is no file.*model"):
            load_model(file)
        file.write_bytes(b"hello")
        with pytest.raises(BadInput, match=r"not a|expected a file that torch.export"):
            load_model(file)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(BadInput, match=r"not a|cannot load"):
            load_model(file)

    @pytest.mark.parametrize(
        ("spec", "match"),
        [
            ("digit", "unknown model 'digit'; did you mean 'digits'.*file.onnx"),
            ("model.py", "expected 'model.py:NAME'"),
            ("nowhere.py:model", "no file 'nowhere.py'"),
            ("no.such.module:model", "no module 'no'.*for a file"),
            ("robustkit.nothing:model", "no module 'robustkit.nothing'"),
            ("math:pie", "'math' has no 'pie'; did you mean 'pi'"),
            (":model", "expected 'path/to/file.py:name'"),
            ("math:", "expected 'path/to/file.py:name'"),
            ("math:pi", "got a float"),
            (".", "cannot tell from its name"),
        ],
    )
    def test_unknown_names(self, spec, match):
        with pytest.raises(BadInput, match=match):
            load_model(spec)


class TestPythonFiles:
    def test_models_of_every_kind(self, write, batch):
        file = write(
            "mine.py",
            """
            import torch, numpy as np
            from robustkit.models.numpy import NumPyModel
            from robustkit.numerics.bounds import Bounds

            net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 4)).eval()
            ours = NumPyModel(lambda x: x[:, 0], Bounds(0, 9))

            def function(x):
                return np.asarray(x)[:, 0]

            def make():
                return net

            class holder:
                inner = net
            """,
        )
        names = ["net", "ours", "function", "make", "holder.inner"]
        models = [load_model(f"{file}:{name}", example=batch) for name in names]
        assert [type(model).__name__ for model in models] == [
            *("TorchModel", "NumPyModel", "NumPyModel", "TorchModel", "TorchModel")
        ]
        assert [model.name for model in models] == [
            *("mine.net", "<lambda>", "mine.function", "mine.make", "mine.holder.inner")
        ]
        for model in models:
            assert model.logits(model.to_tensor(batch)).shape[0] == 5

    def test_neighbours_of_the_same_name_do_not_mix(self, write, tmp_path):
        for folder in ("a", "b"):
            write(f"{folder}/neighbour.py", f"value = '{folder}'")
            write(
                f"{folder}/mine.py",
                """
                import neighbour
                early = neighbour.value

                def late():
                    import neighbour
                    return lambda x: x[:, :len(neighbour.value)]
                """,
            )
        path = list(sys.path)
        for folder in ("a", "b", "a"):
            file = tmp_path / folder / "mine.py"
            assert import_object(f"{file}:early") == folder
            model = load_model(f"{file}:late", example=np.zeros((2, 3)))
            assert model.name == "mine.late"
        assert "neighbour" not in sys.modules
        assert sys.path == path

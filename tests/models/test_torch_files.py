import io
import json
import warnings
import zipfile

import pytest
import torch

from robustkit.errors import BadInput
from robustkit.models.load import as_model, load_model
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds


@pytest.mark.parametrize("dynamic", [False, True])
def test_exported_programs(dynamic, exported, weights, slopes, tmp_path):
    program, file = exported(dynamic), tmp_path / "small.pt2"
    torch.export.save(program, file)
    given = as_model(program, Bounds(-1, 1), name="small", device="cpu")
    loaded = load_model(file, Bounds(-1, 1))
    for model in (given, loaded):
        assert isinstance(model, TorchModel)
        assert (model.name, model.bounds) == ("small", Bounds(-1, 1))
        assert model.fingerprint() is not None
        weights.check(model, slopes)
    assert loaded.fingerprint() == load_model(str(file)).fingerprint()
    assert isinstance(as_model(program.module()), TorchModel)


@pytest.mark.parametrize("suffix", ["pt", "pth", "ts", "torchscript"])
def test_torchscript(suffix, weights, slopes, tmp_path):
    file = tmp_path / f"small.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(weights.module()).save(file)
    model = load_model(file)
    assert model.name == "small"
    weights.check(model, slopes)


@pytest.mark.parametrize("old", [False, True])
def test_checkpoints_are_refused_and_explained(old, weights, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(
        weights.module().state_dict(),
        file,
        _use_new_zipfile_serialization=not old,
    )
    with pytest.raises(BadInput, match=r"(?s)checkpoint.*weights_only=True.*file\.py:"):
        load_model(file)


def test_pickles_are_never_run(exported, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    checkpoint = tmp_path / "model.pt"
    torch.save(Trap(), checkpoint)
    clean, trapped = tmp_path / "clean.pt2", tmp_path / "trapped.pt2"
    torch.export.save(exported(False), clean)
    pickled = io.BytesIO()
    torch.save(Trap(), pickled)
    with zipfile.ZipFile(clean) as source, zipfile.ZipFile(trapped, "w") as target:
        for entry in source.namelist():
            inputs = entry.endswith("sample_inputs/model.pt")
            target.writestr(entry, pickled.getvalue() if inputs else source.read(entry))
    for file, match in ((checkpoint, "any code"), (trapped, "pickled objects")):
        with pytest.raises(BadInput, match=match):
            load_model(file)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("entry", "content"),
    [
        ("data/weights/model_weights_config.json", {"use_pickle": True}),
        (
            "data/constants/model_constants_config.json",
            {"path_name": "opaque_obj_0"},
        ),
    ],
)
def test_exported_programs_that_ask_for_pickle_are_refused(entry, content, tmp_path):
    file = tmp_path / "model.pt2"
    payload = {"path_name": "weight_0", "use_pickle": False} | content
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"model/{entry}", json.dumps({"config": {"w": payload}}))
    with pytest.raises(BadInput, match="pickled objects"):
        load_model(file)


@pytest.mark.parametrize("name", ["net.pt", "net.pt2"])
def test_damaged_files_are_told(name, exported, weights, tmp_path):
    file = tmp_path / name
    if name == "net.pt2":
        torch.export.save(exported(False), file)
    else:
        net = torch.nn.Linear(2, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.trace(net, torch.zeros(1, 2)).save(file)
    content = bytearray(file.read_bytes())
    # The table of contents, at its first entry.
    content[content.index(b"PK\x01\x02")] ^= 255
    file.write_bytes(content)
    with pytest.raises(BadInput, match=rf"{name}' is damaged: BadZipFile"):
        load_model(file)


def test_compiled_code_is_refused(tmp_path):
    file = tmp_path / "model.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data/aotinductor/model/code.so", b"")
    with pytest.raises(BadInput, match="compiled code"):
        load_model(file)


def test_frozen_torchscript(weights, slopes, tmp_path):
    file = tmp_path / "frozen.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.freeze(torch.jit.script(weights.module().eval())).save(file)
    weights.check(load_model(file), slopes)


class _Pair(torch.nn.Module):
    def forward(self, x):
        return x[:, :2], x


class _Bytes(torch.nn.Module):
    def forward(self, x):
        return x.float()[:, :2]


@pytest.mark.parametrize(
    ("module", "dtype", "match"),
    [
        (_Pair(), torch.float32, "returned a tuple"),
        (_Bytes(), torch.uint8, "dtype mismatch"),
    ],
)
def test_why_an_exported_program_of_a_fixed_size_fails(module, dtype, match):
    program = torch.export.export(module, (torch.zeros(2, 6, dtype=dtype),))
    model = as_model(program)
    with pytest.raises((BadInput, RuntimeError), match=match):
        model.logits(model.to_tensor(torch.zeros(1, 6).numpy()))

"""On a GPU everything finds what it finds on the processor."""

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.demo import load_data, load_model
from robustkit.models.base import Access
from robustkit.models.torch import TorchModel
from robustkit.presets import auto
from robustkit.registry import attack_names, get_attack

pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a GPU that torch can use"
    ),
    # Of torch about its own beginnings, once per process.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),
    pytest.mark.filterwarnings("ignore:TensorFloat32"),
    pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning"),
]

CASES = [
    (name, norm) for name in attack_names() for norm in sorted(get_attack(name).norms)
]
POOL = load_data("digits")[0][-20:]


@pytest.fixture
def classified():
    """Images and labels that the network tells right."""
    x, y = (torch.from_numpy(values) for values in load_data("digits"))
    right = load_model("digits")(x).argmax(dim=1) == y
    return x[right][:8], y[right][:8]


def test_a_surrogate_on_the_processor_lends_its_gradients():
    model = TorchModel(load_model("digits").to("cuda"))
    model = rk.Surrogate(model, TorchModel(load_model("digits").to("cpu")))
    logits, pull_back = model.linearise(model.to_tensor(load_data("digits")[0][:4]))
    assert pull_back(logits).raw.device == logits.raw.device
    assert logits.raw.is_cuda


def on(device, attack, norm, x, y, **settings):
    """What an attack finds there; where that lies, and its distances."""
    module = load_model("digits").to(device)
    result = rk.run(attack, module, x.to(device), y.to(device), norm=norm, **settings)
    return result, np.asarray(torch.as_tensor(result.distance).cpu())


def agree(here, there, share=0.7):
    """Whether most found the same, and the others nearly.

    Rounding differs, and one decision of many that falls otherwise leads elsewhere.
    """
    assert np.isfinite(here).sum() == pytest.approx(np.isfinite(there).sum(), abs=1)
    both = np.isfinite(here) & np.isfinite(there)
    ratio = there[both] / here[both]
    assert (np.abs(ratio - 1) < 0.02).mean() >= share, ratio
    assert np.median(ratio) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_attacks_find_the_same(name, norm, classified):
    attack, settings = get_attack(name).within(120), {"budget": 120, "pool": POOL}
    _, here = on("cpu", attack, norm, *classified, **settings)
    result, there = on("cuda", attack, norm, *classified, **settings)
    assert result.x_adversarial.device.type == "cuda"
    agree(here, there, share=0.5)


@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_auto_finds_the_same(norm, access, classified):
    attack = auto(norm, 300, access)
    _, here = on("cpu", attack, norm, *classified, budget=300)
    _, there = on("cuda", attack, norm, *classified, budget=300)
    agree(here, there, share=0.5)


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_compiled(norm, classified):
    attack = auto(norm, 60)
    _, plain = on("cuda", attack, norm, *classified, budget=60)
    _, compiled = on("cuda", attack, norm, *classified, budget=60, compiled=True)
    agree(plain, compiled, share=0.5)


@pytest.mark.parametrize(
    "options",
    [{"autocast": torch.bfloat16}, {"channels_last": True}, {"compiled": True}],
    ids=["autocast", "channels_last", "compiled"],
)
def test_faster_models(options, classified):
    x, y = classified
    _, here = on("cpu", auto("l2", 60), "l2", x, y, budget=60)
    model = TorchModel(load_model("digits"), device="cuda", **options)
    there = rk.run(auto("l2", 60), model, x, y, norm="l2", budget=60)
    ratio = np.asarray(torch.as_tensor(there.distance).cpu()) / here
    assert np.median(ratio) == pytest.approx(1, abs=0.05)


def test_an_evaluation(classified, tmp_path):
    settings = {"norm": ["linf", "l2", "l1", "l0"], "budget": 60}
    here = rk.evaluate("digits", classified, out=tmp_path / "cpu", **settings)
    there = rk.evaluate(
        "digits", classified, out=tmp_path / "gpu", device="cuda", **settings
    )
    for norm in settings["norm"]:
        agree(here.distances(norm), there.distances(norm))
    again = rk.evaluate(
        "digits", classified, out=tmp_path / "again", device="cuda", **settings
    )
    assert (tmp_path / "again" / "best.npz").read_bytes() == (
        tmp_path / "gpu" / "best.npz"
    ).read_bytes()
    assert (again.distances("l2") == there.distances("l2")).all()

from importlib.metadata import PackageNotFoundError

import numpy as np

import robustkit as rk
from robustkit.evaluation import record


def test_a_checkout_that_is_not_installed_has_a_version(monkeypatch):
    def installed(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(record, "version", installed)
    assert record.package_versions()["robustkit"] == rk.__version__


def test_scores_that_are_no_class_do_not_count_among_the_classes():
    def answers(x):
        return ["dog" if row.sum() > 1 else "cat" for row in x]

    def refuses(x):
        return x.sum(axis=1) - 1.0

    plain = rk.NumPyModel(lambda x: x, gradient=lambda x, slopes: slopes)
    score = rk.NumPyModel(
        lambda x: refuses(x)[:, None], gradient=lambda x, slopes: slopes + 0 * x
    )
    x, y = np.array([[0.6, 0.2], [0.9, 0.8]], np.float32), np.array([0, 0])
    for model, attack in (
        (rk.Abstaining(plain, score), "fmn"),
        (rk.LabelModel(answers, ["cat", "bird"]), "boundary"),
    ):
        results = rk.evaluate(model, (x, y), attacks=[attack], budget=20, norm="l2")
        assert results.run["model"]["classes"] == 2
        assert results.prediction.tolist() == [0, 2]


def test_an_attack_that_differs_by_norm_names_all_it_is_made_of():
    model = rk.NumPyModel(lambda x: x, gradient=lambda x, slopes: slopes)
    x, y = np.array([[0.6, 0.2]], np.float32), np.array([0])
    for access in ("gradient", "decision"):
        said = {}
        for norm in ("linf", "l2", ["linf", "l2"]):
            results = rk.evaluate(model, (x, y), norm=norm, access=access, budget=20)
            said[str(norm)] = results.run["sources"]["auto"].split("; ")
        assert set(said["linf"]) != set(said["l2"])
        both = said["['linf', 'l2']"]
        assert set(both) == {*said["linf"], *said["l2"]}
        assert len(both) == len(set(both))

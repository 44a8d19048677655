import csv
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit import demo
from robustkit.engine.criteria import TopK
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel


def rows_of(results):
    with open(results.path / "samples.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(results):
    return [
        {k: v for k, v in row.items() if k != "seconds"} for row in rows_of(results)
    ]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distances_are_the_exact_ones_of_a_linear_model(planted, norm):
    results = rk.evaluate(
        planted.model(), (planted.x, planted.y), norm=norm, attacks=["fmn"], budget=300
    )
    exact = planted.exact(norm)
    ratio = results.distance / exact
    assert ratio.min() >= 1 - 1e-5
    assert np.median(ratio) <= 1.001
    assert results.clean_accuracy.estimate == 1.0
    middle = float(np.median(results.distance))
    assert results.robust_accuracy(middle).estimate == 0.5


def test_every_reported_adversarial_holds_when_recomputed_by_hand(planted):
    results = rk.evaluate(
        planted.model(), (planted.x, planted.y), norm=["l1", "linf"], attacks=["fmn"]
    )
    for norm, order in (("l1", 1), ("linf", np.inf)):
        best = results.adversarials(norm)
        x, index = best["x_adversarial"], best["index"]
        assert len(index) == len(planted.x)
        assert (planted.logits(x).argmax(axis=1) != planted.y[index]).all()
        delta = x.astype(float) - planted.x[index].astype(float)
        np.testing.assert_allclose(
            np.linalg.norm(delta, ord=order, axis=1), best["distance"], rtol=1e-12
        )
        np.testing.assert_array_equal(best["distance"], results.distances(norm)[index])


def test_samples_do_not_depend_on_batches_order_or_company(planted):
    def run(rows, batch_size):
        results = rk.evaluate(
            planted.model(),
            (planted.x[rows], planted.y[rows]),
            norm="l2",
            attacks=["fmn", "gaussian-noise", "boundary"],
            budget=60,
            batch_size=batch_size,
        )
        return results.distance

    everyone = np.arange(len(planted.x))
    reference = run(everyone, 24)
    shuffled = np.random.default_rng(1).permutation(everyone)
    np.testing.assert_array_equal(run(shuffled, 5), reference[shuffled])
    np.testing.assert_array_equal(run(everyone[7:9], 1), reference[7:9])


def test_a_seed_gives_the_same_bytes(planted, tmp_path):
    for name in ("a", "b"):
        rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=["fmn", "uniform-noise"],
            budget=30,
            batch_size=7,
            out=tmp_path / name,
        )
    a, b = (rk.Results(tmp_path / name) for name in ("a", "b"))
    assert without_seconds(a) == without_seconds(b)
    assert (a.path / "best.npz").read_bytes() == (b.path / "best.npz").read_bytes()


def test_another_seed_draws_other_noise(planted):
    first, second = (
        rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=["uniform-noise"],
            seed=seed,
        ).distance
        for seed in (0, 1)
    )
    assert (first != second).any()


def test_misclassified_samples_have_distance_zero_and_cost_nothing(planted):
    wrong = planted.y.copy()
    wrong[[2, 5]] = (wrong[[2, 5]] + 1) % 3
    results = rk.evaluate(planted.model(), (planted.x, wrong), attacks=["fmn"])
    assert results.distance[[2, 5]].tolist() == [0, 0]
    assert results.clean_accuracy.estimate == pytest.approx(22 / 24)
    for row in rows_of(results):
        if row["index"] in ("2", "5"):
            assert row["status"] == "already_misclassified"
            assert (row["found"], row["forward_passes"]) == ("false", "0")
    assert set(results.adversarials()["index"]) == set(range(24)) - {2, 5}


def test_a_sample_that_makes_the_model_raise_is_an_error_of_its_own(planted):
    def scores(x):
        if (x[:, 0] > 0.69).any():
            # Half a character, as of a file whose name is no UTF-8.
            raise RuntimeError("sensor fault \udce9")
        return planted.logits(x)

    x = planted.x.copy()
    x[:, 0] = x[:, 0].clip(0.3, 0.5)
    fine = rk.evaluate(
        planted.model(), (x, planted.logits(x).argmax(1)), attacks=["fmn"], budget=20
    )
    x[3, 0] = 0.7
    model = NumPyModel(scores, gradient=planted.gradient)
    y = planted.logits(x).argmax(axis=1)
    results = rk.evaluate(model, (x, y), attacks=["fmn"], budget=20)
    assert np.isnan(results.distance[3])
    (row,) = [row for row in rows_of(results) if row["index"] == "3"]
    assert row["status"] == "error"
    assert row["reason"] == r"RuntimeError: sensor fault \udce9"
    assert results.summary()["norms"]["linf"]["errors"] >= 1
    others = np.isfinite(results.distance)
    assert others.sum() >= 12
    np.testing.assert_array_equal(results.distance[others], fine.distance[others])
    assert results.robust_accuracy(0.0).estimate <= 23 / 24


def test_nan_logits_of_one_sample_are_an_error_of_its_own(planted):
    def scores(x):
        out = planted.logits(x)
        out[np.isclose(x[:, 0], 0.123)] = np.nan
        return out

    x = planted.x.copy()
    x[3, 0] = 0.123
    model = NumPyModel(scores, gradient=planted.gradient)
    results = rk.evaluate(model, (x, planted.y), attacks=["fmn"], budget=20)
    assert np.isnan(results.distance).tolist() == [i == 3 for i in range(24)]


@dataclass(frozen=True)
class Briber(rk.Attack):
    """Asks while the model is bribed to call everything adversarial."""

    access = rk.Access.DECISION
    norms = frozenset({"linf"})
    bribed: list
    steps: int = 1

    def init(self, p):
        self.bribed.append(True)
        p.decide(p.x + 0.01)
        self.bribed.clear()

    def step(self, p, s, t):
        pass


def test_an_attack_that_lies_is_demoted_and_said_so(planted):
    bribed = []

    def scores(x):
        honest = planted.logits(x)
        return -honest if bribed else honest

    attacks = {"briber": Briber(bribed)}
    results = rk.evaluate(scores, (planted.x, planted.y), attacks=attacks)
    for row in rows_of(results):
        assert (row["status"], row["distance"]) == ("error", "nan")
        assert "fresh forward pass" in row["reason"]
    assert results.robust_accuracy(0.0).estimate == 0


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "a\u2028b", "a\0", 1])
def test_names_of_attacks_fit_into_tables(planted, name):
    with pytest.raises(BadInput, match="names of 1 to 64 printable characters"):
        rk.evaluate(
            planted.model(), (planted.x, planted.y), attacks={name: rk.FMN(steps=5)}
        )


def test_what_is_finished_survives_an_interruption(planted, tmp_path):
    def stop(progress):
        if progress.first >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=["fmn"],
            batch_size=10,
            out=tmp_path / "run",
            progress=stop,
        )
    kept = rk.Results(tmp_path / "run")
    assert kept.run["status"] == "interrupted"
    assert kept.index.tolist() == list(range(10))
    assert len(kept.adversarials()["index"]) == 10
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["complete"], summary["samples"]) == (False, 10)


def test_an_error_keeps_what_is_computed(planted, tmp_path):
    def batches():
        yield planted.x[:10], planted.y[:10]
        raise OSError("disk unplugged")

    with pytest.raises(BadInput, match="unplugged"):
        rk.evaluate(
            planted.model(),
            batches(),
            attacks=["fmn"],
            batch_size=10,
            out=tmp_path / "run",
        )
    kept = rk.Results(tmp_path / "run")
    assert kept.run["status"] == "failed"
    assert "unplugged" in kept.run["failure"]
    assert len(kept.index) == 10


def test_targets(planted):
    def predictions(**settings):
        results = rk.evaluate(
            planted.model(), (planted.x, planted.y), attacks=["fmn"], **settings
        )
        best = results.adversarials()
        return results, best["index"], planted.logits(best["x_adversarial"]).argmax(1)

    results, index, reached = predictions(target=1)
    assert (reached == 1).all()
    assert not np.isin(np.flatnonzero(planted.y == 1), results.index).any()
    _, index, reached = predictions(target="least-likely")
    np.testing.assert_array_equal(reached, planted.logits(planted.x).argmin(1)[index])
    _, index, reached = predictions(target="random")
    assert (reached != planted.y[index]).all()
    _, _, same = predictions(target="random")
    np.testing.assert_array_equal(reached, same)


def test_a_criterion_of_ones_own(planted):
    results = rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        attacks=["fmn"],
        criterion=lambda labels: TopK(labels, 2),
    )
    best = results.adversarials()
    scores = planted.logits(best["x_adversarial"])
    assert (scores.argmin(axis=1) == planted.y[best["index"]]).all()


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_a_criterion_may_be_made_of_arrays_of_any_kind(planted, kind):
    results = rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        attacks=["fmn"],
        criterion=lambda labels: rk.Targeted(kind([2] * len(labels))),
    )
    best = results.adversarials()["x_adversarial"]
    assert (planted.logits(best).argmax(axis=1) == 2).all()


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (
            rk.Misclassification(np.zeros(24, int)),
            "a function from labels .* got a Mis",
        ),
        (lambda labels: rk.Targeted(labels + 3), "0 to 2; sample 0 has"),
        (lambda labels: rk.Targeted(labels[:3]), "24 samples must hold one row"),
        (lambda labels: labels, "must return a criterion"),
    ],
)
def test_criteria_that_are_none(planted, criterion, message):
    with pytest.raises(BadInput, match=message):
        rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=["fmn"],
            criterion=criterion,
        )


def test_iterators_stream_and_samples_limits(planted):
    def batches():
        for start in range(0, 24, 5):
            yield planted.x[start : start + 5], planted.y[start : start + 5]

    whole = rk.evaluate(planted.model(), (planted.x, planted.y), attacks=["fmn"])
    streamed = rk.evaluate(
        planted.model(), batches(), attacks=["fmn"], batch_size=9, samples=17
    )
    np.testing.assert_array_equal(streamed.distance, whole.distance[:17])


def test_torch_arrays_and_other_bounds(planted):
    weights = torch.from_numpy(planted.w)
    module = torch.nn.Linear(6, 3, bias=False).eval()
    module.weight.data = weights.T.contiguous()
    plain = rk.evaluate(module, (planted.x, planted.y), attacks=["fmn"])
    wide = torch.nn.Sequential(module).eval()
    module.weight.data /= 255
    scaled = rk.evaluate(
        wide,
        (torch.from_numpy(planted.x * 255), torch.from_numpy(planted.y)),
        attacks=["fmn"],
        bounds=(0, 255),
    )
    np.testing.assert_allclose(scaled.distance, plain.distance * 255, rtol=2e-3)


def test_normalisation_is_the_models_not_the_datas(planted):
    results = rk.evaluate(
        planted.model(), (planted.x, planted.y), attacks=["fmn"], mean=[0.0], std=[0.5]
    )
    plain = rk.evaluate(planted.model(), (planted.x, planted.y), attacks=["fmn"])
    np.testing.assert_allclose(results.distance, plain.distance, rtol=1e-2)


@pytest.mark.parametrize("one", [0.5, np.float32(0.5), torch.tensor([0.5]), (0.5,)])
def test_numbers_need_no_list(planted, one):
    results = rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        attacks=["fmn"],
        mean=one,
        std=one,
        epsilons={"linf": one},
        budget=5,
    )
    config = results.run["config"]
    assert (config["mean"], config["std"]) == ([0.5], [0.5])
    assert config["epsilons"] == {"linf": [0.5]}


def test_access_chooses_and_limits_the_attacks(planted):
    results = rk.evaluate(
        planted.model(), (planted.x, planted.y), norm="l2", access="decision", budget=50
    )
    assert "fmn" not in results.attacks()
    for row in rows_of(results):
        assert row["backward_passes"] == "0"
        assert row["decision_queries"] == row["forward_passes"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l3"}, "unknown norm"),
        ({"norm": []}, "no norm"),
        ({"attacks": ["fnm"]}, "did you mean 'fmn'"),
        ({"attacks": ["boundary"], "norm": "l0"}, "cannot minimise"),
        ({"attacks": ["fmn"], "access": "score"}, "needs gradient access"),
        ({"access": "telepathy"}, "unknown access"),
        ({"epsilons": [0.0]}, "positive"),
        ({"epsilons": [-1]}, "positive"),
        ({"epsilons": "8/255"}, r"positive numbers, such as 8 / 255 .* got '8/255'"),
        ({"epsilons": {"linf": ["a"]}}, "positive"),
        ({"budget": 0}, "at least 1"),
        ({"samples": 0}, "at least 1"),
        ({"samples": 2.5}, "whole number"),
        ({"mean": "0.5"}, "mean must be one number, or one per channel"),
        ({"mean": 0.5, "std": 0}, "every std positive"),
        ({"norm": 3}, "unknown norm '3'"),
        ({"shard": 3}, "two numbers, such as"),
        ({"access": 3}, "unknown access"),
        ({"batch_size": 0}, "at least 1"),
        ({"seed": -1}, "seed"),
        ({"target": 3}, "0 to 2"),
        ({"target": "worst"}, "unknown target"),
        ({"target": 1, "criterion": lambda y: None}, "not both"),
        ({"bounds": (1, 0)}, "lower < upper"),
        ({"bounds": (0,)}, r"two numbers .* got \(0,\)"),
        ({"bounds": (0, 1, 2)}, "two numbers"),
        ({"bounds": (0.4, 1)}, "bounds"),
    ],
)
def test_bad_settings_are_one_clear_error(planted, settings, message, tmp_path):
    model = NumPyModel(planted.logits, gradient=planted.gradient)
    if "bounds" in settings:
        model = planted.logits
    with pytest.raises(BadInput, match=message):
        rk.evaluate(model, (planted.x, planted.y), out=tmp_path / "run", **settings)
    assert not (tmp_path / "run" / "samples.csv").exists()


def test_an_output_folder_is_a_path(planted):
    with pytest.raises(BadInput, match="must be a path; got 3"):
        rk.evaluate(planted.logits, (planted.x, planted.y), out=3)


def test_labels_that_are_no_classes(planted):
    with pytest.raises(BadInput, match="0 to 2"):
        rk.evaluate(planted.model(), (planted.x, planted.y + 2), attacks=["fmn"])


def test_gradient_attacks_need_gradients(planted):
    with pytest.raises(BadInput, match="needs gradient access"):
        rk.evaluate(planted.logits, (planted.x, planted.y), attacks=["fmn"])
    # What is named instead can minimise the norm.
    data, instead = (planted.x, planted.y), r"auto, gaussian-noise, salt-and-pepper$"
    with pytest.raises(BadInput, match=instead):
        rk.evaluate(planted.logits, data, attacks=["fmn"], norm="l0")


def test_bounds_of_the_model_are_those_of_the_data(planted):
    model = NumPyModel(
        lambda x: planted.logits(x / 255),
        bounds=rk.Bounds(0, 255),
        gradient=lambda x, s: planted.gradient(x, s) / 255,
    )
    results = rk.evaluate(model, (planted.x * 255, planted.y), attacks=["fmn"])
    assert results.run["config"]["bounds"] == [0, 255]
    with pytest.raises(BadInput, match="Leave the bounds out"):
        rk.evaluate(model, (planted.x, planted.y), attacks=["fmn"], bounds=(0, 1))


def test_the_pool_is_checked_before_there_is_a_run(planted, tmp_path):
    x = planted.x[:2]
    wrong = {
        r"of shape \(6,\); got an array of shape \(4, 7\)": np.zeros((4, 7)),
        r"got an array of shape \(6,\)": x[0],
        "the pool has NaN": np.full_like(x, np.nan),
        "the pool ranges from 9 to 9": np.full_like(x, 9.0),
    }
    for match, pool in wrong.items():
        with pytest.raises(BadInput, match=match):
            rk.evaluate(
                planted.model(),
                (x, planted.y[:2]),
                attacks=["blend"],
                norm="l2",
                pool=pool,
                out=tmp_path / "run",
            )
    assert not (tmp_path / "run").exists()


def test_labels_of_a_pool_say_whom_to_try_first(planted):
    rare, often = np.argsort(np.bincount(planted.y, minlength=3))[-2:]
    data = planted.x[planted.y == often], planted.y[planted.y == often]
    settings = {"attacks": ["blend"], "norm": "l2", "budget": 1, "target": int(rare)}
    blind, seeing = (
        rk.evaluate(planted.model(), data, pool=pool, **settings).distance
        for pool in (planted.x, (planted.x, planted.y))
    )
    assert np.isfinite(seeing).all()
    assert not np.isfinite(blind).all()


def test_a_pool_of_bytes_is_scaled_like_the_data(planted):
    model, data = planted.model(), (planted.x[:4], planted.y[:4])
    bytes_ = np.random.default_rng(0).integers(0, 256, (9, 6), dtype=np.uint8)
    found = [
        rk.evaluate(model, data, attacks=["blend"], norm="l2", pool=pool).distance
        for pool in (bytes_, scaled(bytes_, model.bounds))
    ]
    np.testing.assert_array_equal(*found)
    assert np.isfinite(found[0]).any()


def scaled(pixels, bounds):
    return (bounds.lower + bounds.width * (pixels / 255)).astype(np.float32)


class TestNoFalseClaims:
    """Ways in which a number could look better than it is; each was one once."""

    def test_a_point_on_the_edge_of_the_ball_counts_as_within(self, planted):
        attacks = {"pgd": rk.Minimise(rk.PGD(epsilon=1.0, steps=20), steps=100)}
        results = rk.evaluate(planted.model(), (planted.x, planted.y), attacks=attacks)
        for distance in results.distance:
            epsilon = float(np.float32(distance)) * (1 - 4e-6)
            broken = (results.distance <= distance).sum()
            robust = results.robust_accuracy(epsilon).estimate
            assert round(24 * robust) <= 24 - broken

    def test_a_search_within_one_distance_says_nothing_of_others(self, planted):
        with pytest.raises(BadInput, match="Minimise"):
            rk.evaluate(
                planted.model(),
                (planted.x, planted.y),
                attacks={"pgd": rk.PGD(epsilon=0.1)},
            )

    def test_nan_answers_are_no_robustness(self, planted):
        def scores(x):
            out = planted.logits(x)
            moved = np.abs(x[:, None] - planted.x[None]).max(axis=2).min(axis=1) > 0
            out[moved] = np.nan
            return out

        model = NumPyModel(scores, gradient=planted.gradient)
        results = rk.evaluate(
            model, (planted.x, planted.y), attacks=["fmn", "uniform-noise"], budget=20
        )
        assert results.robust_accuracy(0.0).estimate == 0
        assert all("NaN" in row["reason"] for row in rows_of(results))

    def test_one_nan_answer_spoils_nothing(self, planted):
        calls = []

        def scores(x):
            calls.append(len(x))
            out = planted.logits(x)
            if len(calls) == 9:
                out[:] = np.nan
            return out

        model = NumPyModel(scores, gradient=planted.gradient)
        results = rk.evaluate(
            model, (planted.x, planted.y), attacks=["fmn"], budget=300
        )
        ratio = results.distance / planted.exact("linf")
        assert np.median(ratio) < 1.001
        assert np.isfinite(ratio).all()

    def test_a_detached_input_is_no_zero_gradient(self, planted):
        module = torch.nn.Linear(6, 3, bias=False).eval()
        module.weight.data = torch.from_numpy(planted.w.T.copy())
        with pytest.raises(BadInput, match="differentiable"):
            rk.evaluate(
                lambda x: module(x.detach()), (planted.x, planted.y), attacks=["fmn"]
            )

    @pytest.mark.parametrize("target", [np.int64(1), 1])
    def test_targets_of_numpy_are_targets(self, planted, target):
        results = rk.evaluate(
            planted.model(), (planted.x, planted.y), attacks=["fmn"], target=target
        )
        reached = planted.logits(results.adversarials()["x_adversarial"]).argmax(1)
        assert (reached == 1).all()

    @pytest.mark.parametrize("batch_size", [1, 4, 24])
    def test_a_broken_sample_ends_no_run_at_any_batch_size(self, planted, batch_size):
        def scores(x):
            if (x[:, 0] == 0.25).any():
                raise RuntimeError("sensor fault")
            return planted.logits(x)

        x = planted.x.copy()
        x[-1, 0] = 0.25
        results = rk.evaluate(
            NumPyModel(scores, gradient=planted.gradient),
            (x, planted.y),
            attacks=["fmn"],
            budget=20,
            batch_size=batch_size,
        )
        assert np.isnan(results.distance).tolist() == [False] * 23 + [True]

    def test_what_was_found_before_the_model_raised_is_kept(self, planted):
        calls = []

        def scores(x):
            calls.append(len(x))
            if len(calls) == 80:
                raise RuntimeError("worn out")
            return planted.logits(x)

        results = rk.evaluate(
            NumPyModel(scores, gradient=planted.gradient),
            (planted.x[:1], planted.y[:1]),
            attacks=["fmn"],
            budget=300,
        )
        (row,) = rows_of(results)
        assert (row["status"], row["found"]) == ("found", "true")
        assert "worn out" in row["reason"]
        assert 0 < int(row["forward_passes"]) < 300

    def test_fickle_and_batch_dependent_models_are_named(self, planted):
        rng = np.random.default_rng(0)
        for scores, said in (
            (lambda x: planted.logits(x) + rng.normal(size=(len(x), 3)), "same input"),
            (lambda x: planted.logits(x - x.mean(axis=0)), "other inputs in the batch"),
        ):
            results = rk.evaluate(
                scores, (planted.x, planted.y), attacks=["contrast"], budget=10
            )
            assert any(said in note for note in results.run["notes"])

    def test_originals_of_fickle_models_are_no_adversarials_of_attacks(self, planted):
        rng = np.random.default_rng(0)

        def scores(x):
            return planted.logits(x) + rng.normal(size=(len(x), 3))

        results = rk.evaluate(
            NumPyModel(scores, gradient=planted.gradient),
            (planted.x, planted.y),
            norm="l2",
            attacks=["fmn"],
            budget=50,
        )
        summary = results.summary()["norms"]["l2"]
        kept = len(results.adversarials("l2")["index"])
        assert kept == summary["found"] == summary["attacks"]["fmn"]["found"] > 0
        known = np.isfinite(results.distance)
        wrong = results.prediction != results.label
        assert ((results.distance == 0) == wrong)[known].all()

    def test_ties_are_not_more_robust_than_accurate(self, planted):
        results = rk.evaluate(
            lambda x: np.zeros((len(x), 3)),
            (planted.x, planted.y),
            attacks=["contrast"],
        )
        clean = results.clean_accuracy.estimate
        assert results.robust_accuracy(0.0).estimate <= clean < 1

    def test_an_attack_that_finds_no_start_says_so(self, planted):
        # Class 0 for all but the brightest corner, which no noise meets.
        scores = NumPyModel(lambda x: np.stack([x[:, 0] * 0 + 1, x[:, 0] * 0], axis=1))
        results = rk.evaluate(
            scores, (planted.x, planted.y * 0), norm="l2", attacks=["boundary"]
        )
        assert all("nothing to start from" in row["reason"] for row in rows_of(results))
        assert np.isinf(results.distance).all()


def test_what_a_rough_model_finds_holds_for_the_plain_one(tmp_path):
    module = demo.load_model("digits")
    rough = TorchModel(module, autocast=torch.bfloat16)
    settings = {"attacks": ["fmn"], "samples": 20, "norm": "linf"}
    results = rk.evaluate(rough, "digits", out=tmp_path / "rough", **settings)
    exact = rk.evaluate(module, "digits", **settings)
    assert results.clean_accuracy == exact.clean_accuracy
    right = exact.distance > 0
    assert ((results.distance > 0) == right).all()
    assert np.median(results.distance[right] / exact.distance[right]) < 1.1
    best = np.load(tmp_path / "rough" / "best.npz")
    points = best["x_adversarial"]
    assert len(points) == right.sum() > 15
    with torch.no_grad():
        classes = module(torch.from_numpy(points)).argmax(dim=1).numpy()
    assert (classes != best["label"]).all()
    assert (results.distance[best["index"]] == best["distance"]).all()

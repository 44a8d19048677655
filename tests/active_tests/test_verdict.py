import json

import numpy as np
import pytest

import robustkit as rk
from robustkit.active_tests.verdict import Verdict, decide


@pytest.mark.parametrize(
    ("successes", "random", "covered", "samples", "verdict"),
    [
        (128, 20, 128, 128, Verdict.PASS),
        (72, 0, 72, 72, Verdict.PASS),
        (71, 0, 71, 71, Verdict.INCONCLUSIVE),
        (124, 0, 128, 128, Verdict.INCONCLUSIVE),
        (110, 0, 128, 128, Verdict.FAIL),
        (0, 128, 128, 128, Verdict.FAIL),
        (128, 65, 128, 128, Verdict.UNINFORMATIVE),
        (128, 64, 128, 128, Verdict.PASS),
        (115, 0, 115, 128, Verdict.INVALID),
        (116, 0, 116, 128, Verdict.PASS),
        (0, 0, 0, 10, Verdict.INVALID),
    ],
)
def test_rules(successes, random, covered, samples, verdict):
    assert decide(successes, random, covered, samples)[0] is verdict


def test_too_few_samples_are_said_to_be():
    assert "take 72 or more" in decide(30, 0, 30, 30)[1]
    assert "take" not in decide(124, 0, 128, 128)[1]


@pytest.fixture(scope="module")
def result(network, inputs):
    return rk.active_test(
        network, inputs, rk.PGD(0.1), epsilon=0.1, points=200, tries=40, samples=80
    )


def test_json_is_strict_and_holds_every_sample(result):
    def refuse(name):
        raise AssertionError(name)

    content = json.loads(result.to_json(), parse_constant=refuse)
    assert content["verdict"] == result.verdict.value
    assert content["success_rate"]["estimate"] == result.success_rate.estimate
    assert [row["success"] for row in content["rows"]] == result.success.tolist()
    assert content["settings"]["epsilon"] == 0.1


def test_votes_do_not_make_a_model_random(network, inputs):
    voted = rk.active_test(
        network, inputs[:2], "fgsm", epsilon=0.1, points=20, tries=5, votes=3
    )
    assert "As for a random model, features were averaged" in voted.paragraph()


def test_the_paragraph_has_what_a_reader_needs(result):
    text = result.paragraph()
    for part in (
        "PGD(epsilon=0.1",
        "linf",
        "80 inputs",
        result.verdict.value,
        "logits",
    ):
        assert part in text
    assert f"{100 * result.random_rate.estimate:.1f} %" in text
    assert np.isfinite(result.distance[result.success]).all()

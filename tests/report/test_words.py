from robustkit.report.words import evidence, norm_name, warrants


def test_a_test_without_a_witness_has_no_rates():
    nothing = {"estimate": None, "lower": 0.0, "upper": 1.0}
    test = {
        "verdict": "INVALID",
        "rule": "coverage",
        "epsilon": 0.5,
        "success_rate": nothing,
        "random_rate": nothing,
    }
    said = warrants({"compass": {"warrant": test}})
    assert said == "Not warranted, by active tests: compass INVALID at 0.5."


def test_numbers_that_are_not_known_are_said_to_be():
    finding = {"evidence": {"share": 0.25, "largest": None}, "samples": [3]}
    assert evidence(finding) == "share 0.25; largest not known; at 1 samples: 3"


def test_no_two_norms_have_one_name():
    norms = ("l0", "l0-pixels", "l1", "l2", "linf")
    assert len({norm_name(norm) for norm in norms}) == len(norms)

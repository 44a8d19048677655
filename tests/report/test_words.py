from robustkit.report.words import warrants


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

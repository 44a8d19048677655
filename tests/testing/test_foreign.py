"""Attacks of another package, as plain functions: what is wrong is caught."""

import foreign
import pytest

from robustkit.testing import examine

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FAULTY = [name for name, guest in foreign.FOREIGN.items() if guest.fault]


@pytest.mark.parametrize("name", FAULTY)
def test_a_known_fault_is_caught(name):
    guest = foreign.FOREIGN[name]
    (finding,) = examine(guest.function, guest.norm, laws=[guest.law], **guest.settings)
    assert finding.outcome == "failed"


def test_hopskipjump_asks_without_end_outside_the_unit_box():
    guest = foreign.FOREIGN["HopSkipJumpAttack"]
    (finding,) = examine(guest.function, guest.norm, laws=[guest.law], **guest.settings)
    assert "asked more than 15000 times, with no end in sight" in finding.reading


@pytest.mark.parametrize("name", foreign.SOUND)
def test_what_is_sound_keeps_the_laws(name):
    guest = foreign.FOREIGN[name]
    findings = examine(guest.function, guest.norm, **guest.settings)
    broken = [finding for finding in findings if finding.outcome == "failed"]
    # foolbox's criterion takes NaN for an adversarial.
    assert [finding.law for finding in broken] == ["nan-answers"]

    def without_claims(model, x, y):
        return guest.function(model, x, y)[0]

    findings = examine(without_claims, guest.norm, **guest.settings)
    assert [f.reading for f in findings if f.outcome == "failed"] == []
    assert sum(finding.outcome == "passed" for finding in findings) >= 15

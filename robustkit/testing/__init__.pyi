"""The public names and their homes; `__init__.py` takes them from here."""

from robustkit.testing.laws import LAWS as LAWS
from robustkit.testing.suite import Check as Check
from robustkit.testing.suite import Finding as Finding
from robustkit.testing.suite import conformance as conformance
from robustkit.testing.suite import conformance_suite as conformance_suite
from robustkit.testing.suite import examine as examine

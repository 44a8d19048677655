"""Problems of the verification competitions (VNN-COMP): VNN-LIB specs, attacked.

A spec (`read_spec`) asks whether there is an input in a box whose outputs meet linear
constraints. `falsify` looks for one with the attacks of this package; what it finds is
a witness that onnxruntime confirms, and what it does not find is no proof.
"""

from robustkit.interop.vnnlib.falsify import Answer, falsify
from robustkit.interop.vnnlib.specs import Case, Region, Spec, read_spec

__all__ = ["Answer", "Case", "Region", "Spec", "falsify", "read_spec"]

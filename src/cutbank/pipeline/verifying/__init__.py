"""The audit of a bucket: that its claims and objects are whole, and, from the log, that nothing is missing.

`verify` is all there is to call. The modules, from the inside out: faults (names), contents (one object), chains (one
chain), files (what no claim names), index and completeness (the log beside it), auditor (all of it).
"""

from cutbank.pipeline.verifying.auditor import Log, Progress, Verdict, is_root, verify
from cutbank.pipeline.verifying.chains import Scope
from cutbank.pipeline.verifying.completeness import Proof
from cutbank.pipeline.verifying.faults import ChainAccount, Fault

__all__ = ["ChainAccount", "Fault", "Log", "Progress", "Proof", "Scope", "Verdict", "is_root", "verify"]

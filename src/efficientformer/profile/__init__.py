"""Where a network's time goes, by operator and by block: the runtime's own profiler, held against the clock.

    efficientformer profile efficientformer_l1 --target onnxruntime

`run.py` is the whole job; `blocks.py` gives operators to blocks, `alone.py` stands in for runtimes that
have no profiler, `findings.py` says what stands out.
"""

from efficientformer.profile.findings import findings
from efficientformer.profile.result import BlockTime, Finding, KindTime, Placed, Profile
from efficientformer.profile.run import profile

__all__ = ["BlockTime", "Finding", "KindTime", "Placed", "Profile", "findings", "profile"]

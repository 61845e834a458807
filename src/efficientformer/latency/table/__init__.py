"""The latency table that predicts.

`table.py` first, then `filled.py` (its rows), `rows.py` (the chains that are timed for them) and `fit.py`.
"""

from efficientformer.latency.table.filled import Row
from efficientformer.latency.table.fit import Fit
from efficientformer.latency.table.rows import CALL, measure_chains, measure_layers
from efficientformer.latency.table.table import LatencyTable, Prediction

__all__ = [
    "CALL",
    "Fit",
    "LatencyTable",
    "Prediction",
    "Row",
    "measure_chains",
    "measure_layers",
]

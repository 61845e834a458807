"""The latency table that predicts.

`table.py` first, then `rows.py` (its rows), `chains.py` (what is timed for them) and `fit.py`.
"""

from efficientformer.latency.table.chains import CALL, measure_chains, measure_layers
from efficientformer.latency.table.fit import Fit
from efficientformer.latency.table.rows import Row
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

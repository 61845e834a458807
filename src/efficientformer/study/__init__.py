"""The paper's four latency observations tried on a device. Start reading at `experiments.py`."""

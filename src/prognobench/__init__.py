"""prognobench: which backbone, adapted how, predicts a patient's outcome, and how sure is that?"""

import os

__version__ = "0.1.0"

# Nothing leaves the machine: the hub's client would say with each request what runs here.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

"""prognobench: which backbone, adapted how, predicts a patient's outcome, and how sure is that?

Beside the rooms lie eight files that know none of them: ``records`` (what flows between rooms),
``config`` (a mapping checked into a ``RunConfig``), ``registry`` (named parts and their facts),
``store`` (run folders, the run's key, leases of cells), ``files``, ``seeds``, ``workers``,
``errors``.
"""

import os

__version__ = "0.1.0"

# Nothing leaves the machine: the hub's client would say with each request what runs here.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

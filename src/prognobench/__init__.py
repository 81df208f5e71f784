"""prognobench: which backbone, adapted how, predicts a patient's outcome, and how sure is that?"""

__version__ = "0.1.0"

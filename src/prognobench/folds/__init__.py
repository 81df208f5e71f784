"""Which patients train, validate and test, and how many of them a regime may use.

Folds depend on patients, classes and the seed alone: not on the model, and not on the order of the
table's rows.
"""

from prognobench.folds.splits import check_folds, make_folds
from prognobench.folds.tables import export_folds, import_folds

__all__ = ["check_folds", "export_folds", "import_folds", "make_folds"]

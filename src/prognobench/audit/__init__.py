"""What is wrong with a cohort and its folds: leaks, copies, faulty images, shortcuts.

Everything here is found before a model trains; what a table itself gets wrong is refused by its
reader in ``datasets``.
"""

from prognobench.audit.findings import Audit, audit

__all__ = ["Audit", "audit"]

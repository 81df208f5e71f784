"""What is wrong with a cohort and its folds: leaks, copies, faulty images, shortcuts.

Everything here is found before a model trains; what a table itself gets wrong is refused by its
reader in ``datasets``.
"""

from prognobench.audit.findings import (
    STANDARD,
    Audit,
    Seen,
    audit,
    audit_folds,
    find_same_pictures,
    look_at_images,
)
from prognobench.audit.leaks import drop_leaks

__all__ = [
    "STANDARD",
    "Audit",
    "Seen",
    "audit",
    "audit_folds",
    "drop_leaks",
    "find_same_pictures",
    "look_at_images",
]

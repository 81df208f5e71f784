"""``python -m prognobench``."""

from prognobench.cli import main

main()

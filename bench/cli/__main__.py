"""``python -m equibench.bench.cli`` is the command ``equibench``."""

from .main import main

main()

"""Shared by all tests: one torch thread, because two collapse as soon as another process holds a core."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

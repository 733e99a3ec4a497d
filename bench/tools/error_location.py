"""Where in a model's own files an exception happened."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path


def location_of(error: BaseException, files: Iterable[Path]) -> str:
    """``" (my_net.py, line 21)"``: the innermost line of these files in the traceback; empty if there is none."""
    own = {str(path) for path in files}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in own]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""

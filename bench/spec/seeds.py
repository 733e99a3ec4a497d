"""Seeds of independent random generators. They are derived by hashing, so no two purposes share a stream."""

from __future__ import annotations

import hashlib


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed that depends on `seed` and all `labels`, the same on every machine."""
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

"""Whether an error says that memory ran out: torch and CUDA's libraries have many ways to say it."""

from __future__ import annotations

import re

from .text import first_line

#: Of the device: what CUDA and its libraries say where torch's allocator did not fail itself. Each library has a prefix
#: of its own (``CUBLAS_STATUS_ALLOC_FAILED``, ``CUFFT_ALLOC_FAILED``), and cuDNN several kinds.
_DEVICE = re.compile(
    r"CUDA (error: )?out of memory|cudaErrorMemoryAllocation|\bCU[A-Z]+_([A-Z]+_)*ALLOC(ATION)?_FAILED\b"
)
_HOST = re.compile(r"can't allocate memory|HOST_ALLOCATION_FAILED|Cannot allocate memory")


def shortage(error: BaseException) -> str:
    """What to say of an error that comes from a lack of memory; empty of any other.

    Looks also at what the error was raised from: layers wrap the errors of others in their own.
    """
    import torch

    seen: BaseException | None = error
    for _ in range(10):  # causes may go round in circles
        if seen is None:
            return ""
        if isinstance(seen, MemoryError):
            return "the host has no memory left"
        if isinstance(seen, RuntimeError):
            if _HOST.search(str(seen)):
                return f"the host has no memory left: {first_line(seen)}"
            if isinstance(seen, torch.OutOfMemoryError) or _DEVICE.search(str(seen)):
                return first_line(seen) if str(seen).strip() else "the device has no memory left"
        seen = seen.__cause__
    return ""

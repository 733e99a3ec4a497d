"""Whether an error means out of memory; torch and CUDA's libraries have many messages for it."""

from __future__ import annotations

import re

from .text import first_line

#: Messages of CUDA and its libraries about device memory, besides those of torch's allocator. Each library has its own
#: prefix (``CUBLAS_STATUS_ALLOC_FAILED``, ``CUFFT_ALLOC_FAILED``), and cuDNN several kinds.
_DEVICE = re.compile(
    r"CUDA (error: )?out of memory|cudaErrorMemoryAllocation|\bCU[A-Z]+_([A-Z]+_)*ALLOC(ATION)?_FAILED\b"
)
_HOST = re.compile(r"can't allocate memory|HOST_ALLOCATION_FAILED|Cannot allocate memory")


def out_of_memory_message(error: BaseException) -> str:
    """A message for an error that means out of memory; empty for any other error.

    The causes of the error count too: layers may wrap the errors of others.
    """
    import torch

    seen: BaseException | None = error
    for _ in range(10):  # causes may be circular
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

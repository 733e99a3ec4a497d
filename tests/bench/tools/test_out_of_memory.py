"""Errors that say that memory ran out, as torch and CUDA's libraries word them, and others that do not."""

import pytest
import torch
from equibench.bench.tools.out_of_memory import out_of_memory_message

#: As raised by torch 2.12, or as the libraries' headers name them.
DEVICE = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.00 GiB is"
    " free.",
    "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/ for more"
    " information.",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`",
]
HOST = [
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    " 9 bytes.",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
]
OTHER = [
    "CUDA error: device-side assert triggered",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "",
]


@pytest.mark.parametrize("text", DEVICE)
def test_a_device_without_memory(text: str) -> None:
    assert out_of_memory_message(RuntimeError(text)) == text.splitlines()[0]
    assert out_of_memory_message(torch.AcceleratorError(text)) == text.splitlines()[0]


@pytest.mark.parametrize("text", HOST)
def test_a_host_without_memory(text: str) -> None:
    assert out_of_memory_message(RuntimeError(text)) == f"the host has no memory left: {text}"
    assert out_of_memory_message(MemoryError(text)) == "the host has no memory left"


@pytest.mark.parametrize("text", OTHER)
def test_what_has_another_cause(text: str) -> None:
    assert out_of_memory_message(RuntimeError(text)) == ""


def test_words_of_a_model_are_no_lack_of_memory() -> None:
    assert (
        out_of_memory_message(ValueError(DEVICE[0])) == ""
        and out_of_memory_message(KeyError("CUDA out of memory")) == ""
    )


def test_a_layer_that_wraps_the_error_hides_nothing() -> None:
    wrapped = ValueError("this block failed")
    wrapped.__cause__ = torch.OutOfMemoryError(DEVICE[0])
    outer = TypeError("no output")
    outer.__cause__ = wrapped
    assert out_of_memory_message(outer) == DEVICE[0]
    wrapped.__cause__ = outer  # round in circles
    assert out_of_memory_message(outer) == ""

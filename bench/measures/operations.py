"""Counts the operations of a network one by one, on a path on which no library fuses several operations.

The count is 2 x multiply-accumulates of convolutions and matrix products. It does not matter how they are written: as
layers, as ``einsum``, as recurrent or attention layers, or as elementwise multiplications whose products are summed. A
complex multiply-accumulate counts as four real ones; torch makes a complex convolution of three real ones, which count.
Elementwise operations, normalisation, pooling and copies are not counted, because they are small compared with
products. All other operations are reported by name, so that no large operation is missed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

#: Elementwise products that are not summed are reported if they are at least this share of the counted operations.
UNSUMMED_SHARE = 0.1
#: Names in `Size.uncounted`: for such products, and for operations of other libraries.
ELEMENTWISE, OUTSIDE_TORCH = "elementwise products", "operations outside torch"


def _trilinear_flops(one: Any, two: Any, three: Any, *places: Any, out_val: torch.Tensor) -> int:
    """Operations of sum one · two · three over one or two axes, as in `nn.Bilinear`: one axis after the other."""
    sizes = [list(t.shape) for t in (one, two, three)]
    for shape, missing in zip(sizes, places[:3], strict=True):
        for place in sorted(missing):
            shape.insert(place, 1)
    whole = [max(axis) for axis in zip(*sizes, strict=True)]
    first, *more = (whole[place] for place in places[3])
    return 2 * prod(whole) + (2 * prod(whole) // first if more else 0)


def _convolution_flops(images: Any, weight: Any, *more: Any, out_val: torch.Tensor) -> int:
    """The filters are applied at each position of the output, or of the input if the convolution is transposed."""
    places = images if more[4] else out_val
    return 2 * places.shape[0] * prod(places.shape[2:]) * weight.numel()


def _convolution_backward_flops(gradient: Any, images: Any, weight: Any, sizes: Any, *more: Any, out_val: Any) -> int:
    """The gradients of images and of weights each cost as much as the convolution (torch's formula ignores groups)."""
    return sum(more[-1][:2]) * _convolution_flops(images, weight, sizes, *more, out_val=gradient)


#: Formulas for products that torch's table lacks or counts wrongly. Their arguments are those of the operation, and its
#: output.
_FORMULAS: dict[Any, Callable[..., int]] = {
    aten.convolution: _convolution_flops,
    aten.convolution_backward: _convolution_backward_flops,
    **dict.fromkeys((aten.mv, aten.dot, aten.vdot), lambda *args, out_val: 2 * args[0].numel()),
    aten.addmv: lambda *args, out_val: 2 * args[1].numel(),
    aten.addr: lambda *args, out_val: 2 * out_val.numel(),
    aten.addbmm: lambda *args, out_val: 2 * args[1].numel() * args[2].shape[-1],
    aten.linear: lambda *args, out_val: 2 * out_val.numel() * args[1].shape[-1],
    aten.conv_tbc: lambda *args, out_val: 2 * out_val.numel() * args[1].shape[0] * args[1].shape[1],
    aten._trilinear: _trilinear_flops,
}
_CONVOLUTIONS = (aten.convolution, aten.convolution_backward)
#: Positions of the factors among the arguments; for other operations they are the first two arguments.
_FACTORS = {
    **dict.fromkeys((aten.addmm, aten.addmv, aten.baddbmm, aten.addbmm, aten.addr), (1, 2)),
    aten._trilinear: (0, 1, 2),
}
#: Operations that sum the numbers of a tensor: with them, elementwise products become matrix products.
_SUMS = re.compile(r"(nan)?sum|mean|cumsum|index_add|scatter_add|segment_reduce|(adaptive_)?avg_pool[123]d")
#: Operations that cost about one operation per element, in addition to those that torch marks as elementwise, view or
#: reduction.
_CHEAP = re.compile("|".join((
    # Creation, copies, rearrangement.
    "(new_)?(empty|zeros|ones|full)(_like|_strided|_permuted)?",
    "complex|polar|arange|eye|linspace|logspace|scalar_tensor|lift_fresh|(tril|triu)(_indices)?",
    "rand.*|bernoulli|normal|uniform|exponential|multinomial|native_dropout|fused_dropout|poisson|random",
    "copy|to|to_copy|clone|cat|stack|repeat|repeat_interleave|roll|flip|rot90|fill|zero|set|resize|pin_memory|.*_pad.*|.*_scatter",
    "(unsafe_)?(index|index_put|masked_index).*|gather|scatter.*|masked_.*|where|take|put|im2col|col2im|unfold|diag.*|trace",
    "pixel_(un)?shuffle|channel_shuffle|embedding(_dense)?|unsafe_view|reshape_alias|view_copy|(slice|select|as_strided)|unsafe_(split|chunk).*|affine_grid_generator",
    "nonzero.*|local_scalar_dense|item|equal|is_.*|unique.*|bincount|searchsorted|bucketize|detach|alias|block_diag|cartesian_prod",
    # Reductions, sorting.
    "sum|mean|a?min|a?max|aminmax|any|all|argmax|argmin|prod|(var|std)(_mean)?|norm|linalg_vector_norm|logsumexp|count_nonzero",
    "(log)?cum.*|median|nanmedian|mode|kthvalue|topk|sort|argsort|histc",
    # Normalisation, activations, losses, pooling, interpolation.
    "(native_|cudnn_|miopen_)?(batch|layer|group|instance|rms)_norm.*|native_batch_norm_legit.*|fused_rms_norm|weight_norm_interface|renorm",
    "(safe_|masked_|log_)*softmax|glu|.*relu6?|prelu_kernel|rrelu_with_noise|c?elu|selu|gelu|silu|mish|(log_|hard)?sigmoid|hard.*|softplus|softshrink|(hard)?tanh|threshold|thnn_fused_(lstm|gru)_cell.*|fused_sdp_choice",
    ".*_loss(2d)?|nll_loss.*|binary_cross_entropy.*|.*(max|avg|lp)_pool.*|max_unpool.*|upsample_.*|amp_.*|assert_.*|linalg_cross|linalg_check_errors|functional_assert.*",
    # Quantisation in training; marks for the profiler; elementwise operations on lists, as in moving averages.
    "(fused_moving_avg_obs_)?(fake_quant|fq).*|record_function.*|foreach_.*",
)))  # fmt: skip

#: Torch's tags of operations that are equally cheap.
_SMALL = {torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.inplace_view, torch.Tag.view_copy}


class Operations(TorchDispatchMode):
    """Counts operations while it is active, including the backward pass.

    Args:
        images: images that are followed through the network to find `dense_weights`; None if these are not needed.

    Attributes:
        flops: 2 x multiply-accumulates.
        unsummed: number of elementwise products that are not summed, and of elementwise operations between all pairs of
            numbers of two tensors.
        unknown: names of operations that are neither counted nor cheap.
    """

    def __init__(self, images: torch.Tensor | None = None) -> None:
        super().__init__()
        self.flops, self.unsummed, self.unknown = 0, 0, set[str]()
        # Tensors are kept alive, so that no address of a storage is reused. A filter that is used twice counts once.
        self._seen: dict[tuple[int, int], torch.Tensor] = {}
        self._products: dict[int, tuple[int, tuple[torch.Tensor, ...], torch.Tensor]] = {}
        self._from_image = None if images is None else {_storage(images): images}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, see `compiler`

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            self.unknown.add(str(func))
            return func(*args, **kwargs)
        if func not in _WHOLE:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        with fusing_libraries(func.overloadpacket in _CONVOLUTIONS):
            out = func(*args, **kwargs)
        self._count(func, args, kwargs, out)
        if self._from_image is not None and any(map(self.comes_from_image, tensors((args, kwargs)))):
            self._from_image |= {_storage(tensor): tensor for tensor in tensors(out)}
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet, given = func.overloadpacket, tensors((args, kwargs))
        name = re.sub(r"_(backward|forward).*$", "", packet.__name__.strip("_"))
        if any(t.layout is not torch.strided or t.is_nested for t in given):
            self.unknown.add(f"sparse {name}")
        elif formula := _FORMULAS.get(packet) or flop_registry.get(packet):
            complexes = 4 if any(t.is_complex() for t in given) else 1
            self.flops += complexes * int(formula(*args, **kwargs, out_val=out))
            self._record_weights(tuple(args[place] for place in _FACTORS.get(packet, (0, 1))))
        elif name == "mul" or (torch.Tag.pointwise in func.tags and len(given) > 1):
            self._elementwise(name, given, out)
        elif _SUMS.fullmatch(name):
            for key in [k for k in map(_storage, given) if k in self._products]:
                amount, factors, _ = self._products.pop(key)
                self.flops, self.unsummed = self.flops + 2 * amount, self.unsummed - amount
                self._record_weights(factors)
        elif func.is_view or _SMALL.intersection(func.tags):
            pass
        elif func.namespace not in ("aten", "prim", "profiler") or not _CHEAP.fullmatch(name):
            # The common name of an operation: `fft` for `fft_r2c`, `grid_sampler` for `grid_sampler_2d`.
            self.unknown.add(re.sub(r"_(r2c|c2r|c2c|[123]d)$|^linalg_|_ex$", "", name))

    def _elementwise(self, name: str, given: list[torch.Tensor], out: Any) -> None:
        factors, products = [t for t in given if t.dim()], tensors(out)
        if len(factors) < 2 or not products or not (products[0].is_floating_point() or products[0].is_complex()):
            return
        amount = products[0].numel() * (4 if products[0].is_complex() else 1)
        key = _storage(products[0])
        if name == "mul":
            if key in self._products:  # overwritten before it was summed
                self._products.pop(key)
            self._products[key] = amount, tuple(factors), products[0]
            self.unsummed += amount
        elif name in ("div", "addcmul", "addcdiv", "lerp") or products[0].numel() > max(map(_own, factors)):
            self.unsummed += amount

    def _record_weights(self, factors: tuple[torch.Tensor, ...]) -> None:
        """Record the factors that do not depend on the images, if another factor does: these filters are applied."""
        if self._from_image is None:
            return
        weights = [t for t in factors if not self.comes_from_image(t)]
        if len(weights) < len(factors):
            self._seen |= {(w.data_ptr(), w.numel()): w for w in weights}

    def comes_from_image(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor depends on the images. Storages are followed, through views and into overwritten tensors."""
        return self._from_image is not None and _storage(tensor) in self._from_image

    @property
    def dense_weights(self) -> int:
        """Count of the real numbers that products apply to images: expanded filters and matrices."""
        return sum(map(real_numbers, self._seen.values()))


class OtherLibraries(TorchFunctionMode):
    """Detects that a network passes numbers that depend on an image to another library, such as numpy."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves_torch = getattr(func, "__name__", "") in ("numpy", "__array__", "__dlpack__", "tolist")
        # A single number does not count, because little can be computed from it.
        if leaves_torch and any(t.numel() > 1 and self.operations.comes_from_image(t) for t in tensors(args)):
            self.operations.unknown.add(OUTSIDE_TORCH)
        return func(*args, **(kwargs or {}))


#: Operations that have a formula, so they are not decomposed into smaller ones.
_WHOLE = {
    getattr(packet, name) for packet in (*_FORMULAS, *flop_registry) for name in getattr(packet, "overloads", list)()
}


def _own(tensor: torch.Tensor) -> int:
    """Count of the numbers of a tensor, without repetitions by expansion."""
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 0)


def _storage(tensor: torch.Tensor) -> int:
    return (
        int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided and not tensor.is_nested else id(tensor)
    )


def tensors(values: Any) -> list[torch.Tensor]:
    """All tensors in nested values."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def real_numbers(tensor: torch.Tensor) -> int:
    """Count of the real numbers in a tensor; a complex number counts as two."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


@contextmanager
def unfused() -> Iterator[None]:
    """Inside this context, no library fuses operations, so a dispatch mode sees the same ones on every device."""
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with fusing_libraries(False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def fusing_libraries(enabled: bool) -> Iterator[None]:
    """Enable or disable oneDNN and cuDNN: they fuse recurrent layers, but never convolutions, which they speed up."""
    before = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    try:
        torch._C._set_mkldnn_enabled(enabled)
        torch._C._set_cudnn_enabled(enabled)
        yield
    finally:
        torch._C._set_mkldnn_enabled(before[0])
        torch._C._set_cudnn_enabled(before[1])

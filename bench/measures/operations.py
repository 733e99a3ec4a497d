"""What a network computes, counted operation by operation, on a path where no library fuses several into one.

Counted are 2 x multiply-accumulates of convolutions and of matrix products, however they are written: as layers, as
``einsum``, as recurrent or attention layers, or as elementwise multiplications whose products are summed. A complex
multiply-accumulate is four real ones. Elementwise operations, normalisation, pooling and copies are not counted: they
are small beside products. All other operations are named, so that no large one is missed.
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

#: Elementwise operations that end in no sum are named from this share of the counted operations on.
LOOSE_SHARE = 0.1
#: How `Operations.unknown` calls them, and what other libraries compute of an image.
ELEMENTWISE, OUTSIDE = "elementwise products", "operations outside torch"


def _trilinear_flops(one: Any, two: Any, three: Any, *places: Any, out_val: torch.Tensor) -> int:
    """Of sum one · two · three over one axis or two, as `nn.Bilinear` computes it: over one axis after the other."""
    sizes = [list(t.shape) for t in (one, two, three)]
    for shape, missing in zip(sizes, places[:3], strict=True):
        for place in sorted(missing):
            shape.insert(place, 1)
    whole = [max(axis) for axis in zip(*sizes, strict=True)]
    first, *more = (whole[place] for place in places[3])
    return 2 * prod(whole) + (2 * prod(whole) // first if more else 0)


def _convolution_flops(images: Any, weight: Any, *more: Any, out_val: torch.Tensor) -> int:
    """Of each place of the map that the filters are laid on: of what goes in where the convolution is transposed."""
    places = images if more[4] else out_val
    return 2 * places.shape[0] * prod(places.shape[2:]) * weight.numel()


def _convolution_backward_flops(gradient: Any, images: Any, weight: Any, sizes: Any, *more: Any, out_val: Any) -> int:
    """Gradients of images and of weights cost as much as the convolution each; torch's own table forgets the groups."""
    return sum(more[-1][:2]) * _convolution_flops(images, weight, sizes, *more, out_val=gradient)


def _of_matrix(place: int) -> Callable[..., int]:
    return lambda *args, out_val: 2 * args[place].numel()


#: Operations of products that torch's table lacks or miscounts. Arguments are those of the operation, and what it
#: returned.
_FORMULAS: dict[Any, Callable[..., int]] = {
    aten.convolution: _convolution_flops,
    aten.convolution_backward: _convolution_backward_flops,
    aten.mv: _of_matrix(0),
    aten.addmv: _of_matrix(1),
    aten.dot: _of_matrix(0),
    aten.vdot: _of_matrix(0),
    aten.addr: lambda *args, out_val: 2 * out_val.numel(),
    aten.addbmm: lambda *args, out_val: 2 * args[1].numel() * args[2].shape[-1],
    aten.linear: lambda *args, out_val: 2 * out_val.numel() * args[1].shape[-1],
    aten.conv_tbc: lambda *args, out_val: 2 * out_val.numel() * args[1].shape[0] * args[1].shape[1],
    aten._trilinear: _trilinear_flops,
}
_CONVOLUTIONS = (aten.convolution, aten.convolution_backward)
#: Places of the factors among the arguments; of others they are the first two.
_FACTORS = {
    **dict.fromkeys((aten.addmm, aten.addmv, aten.baddbmm, aten.addbmm, aten.addr), (1, 2)),
    aten._trilinear: (0, 1, 2),
}
#: What adds up the numbers of a tensor: products that get there are products of matrices.
_SUMS = re.compile(r"(nan)?sum|mean|cumsum|index_add|scatter_add|segment_reduce|(adaptive_)?avg_pool[123]d")
#: What costs no more than about one operation an element, beside what torch itself calls elementwise, view or
#: reduction.
_CHEAP = re.compile(
    "|".join(
        (
            # Tensors made, copied, moved.
            "(new_)?(empty|zeros|ones|full)(_like|_strided|_permuted)?",
            "complex|polar|arange|eye|linspace|logspace|scalar_tensor|lift_fresh|(tril|triu)(_indices)?",
            "rand.*|bernoulli|normal|uniform|exponential|multinomial|native_dropout|fused_dropout|poisson|random",
            "copy|to|to_copy|clone|cat|stack|repeat|repeat_interleave|roll|flip|rot90|fill|zero|set|resize|pin_memory|.*_pad.*|.*_scatter",
            "(unsafe_)?(index|index_put|masked_index).*|gather|scatter.*|masked_.*|where|take|put|im2col|col2im|unfold|diag.*|trace",
            "pixel_(un)?shuffle|channel_shuffle|embedding(_dense)?|unsafe_view|reshape_alias|view_copy|(slice|select|as_strided)|unsafe_(split|chunk).*|affine_grid_generator",
            "nonzero.*|local_scalar_dense|item|equal|is_.*|unique.*|bincount|searchsorted|bucketize|detach|alias|block_diag|cartesian_prod",
            # Reductions, orders.
            "sum|mean|a?min|a?max|aminmax|any|all|argmax|argmin|prod|(var|std)(_mean)?|norm|linalg_vector_norm|logsumexp|count_nonzero",
            "(log)?cum.*|median|nanmedian|mode|kthvalue|topk|sort|argsort|histc",
            # Normalisation, activations, losses, pooling, interpolation.
            "(native_|cudnn_|miopen_)?(batch|layer|group|instance|rms)_norm.*|native_batch_norm_legit.*|fused_rms_norm|weight_norm_interface|renorm",
            "(safe_|masked_|log_)*softmax|glu|.*relu6?|prelu_kernel|rrelu_with_noise|c?elu|selu|gelu|silu|mish|(log_|hard)?sigmoid|hard.*|softplus|softshrink|(hard)?tanh|threshold|thnn_fused_(lstm|gru)_cell.*|fused_sdp_choice",
            ".*_loss(2d)?|nll_loss.*|binary_cross_entropy.*|.*(max|avg|lp)_pool.*|max_unpool.*|upsample_.*|amp_.*|assert_.*|linalg_cross|linalg_check_errors|functional_assert.*",
        )
    )
)  # fmt: skip

#: Kinds of operations, as torch marks them, that are as cheap.
_SMALL = {torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.inplace_view, torch.Tag.view_copy}


class Operations(TorchDispatchMode):
    """Counts while it is active, the backward pass included.

    Args:
        images: what `dense_weights` are looked for in the way of; None if they are not wanted.

    Attributes:
        flops: 2 x multiply-accumulates.
        loose: elementwise multiplications whose products nothing adds up, and elementwise operations of every number of
            one tensor with every number of another.
        unknown: operations that are neither counted nor cheap.
    """

    def __init__(self, images: torch.Tensor | None = None) -> None:
        super().__init__()
        self.flops, self.loose, self.unknown = 0, 0, set[str]()
        # Tensors are kept alive, so that no storage's address is given out again. A filter that is used twice counts
        # once.
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
        with libraries(func.overloadpacket in _CONVOLUTIONS):
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
            self._met(tuple(args[place] for place in _FACTORS.get(packet, (0, 1))))
        elif name == "mul" or (torch.Tag.pointwise in func.tags and len(given) > 1):
            self._elementwise(name, given, out)
        elif _SUMS.fullmatch(name):
            for key in [k for k in map(_storage, given) if k in self._products]:
                amount, factors, _ = self._products.pop(key)
                self.flops, self.loose = self.flops + 2 * amount, self.loose - amount
                self._met(factors)
        elif not (func.is_view or _SMALL.intersection(func.tags) or _cheap(func, name)):
            self.unknown.add(_plain(name))

    def _elementwise(self, name: str, given: list[torch.Tensor], out: Any) -> None:
        factors, products = [t for t in given if t.dim()], tensors(out)
        if len(factors) < 2 or not products or not (products[0].is_floating_point() or products[0].is_complex()):
            return
        amount = products[0].numel() * (4 if products[0].is_complex() else 1)
        key = _storage(products[0])
        if name == "mul":
            if key in self._products:  # written over before anything added it up
                self._products.pop(key)
            self._products[key] = amount, tuple(factors), products[0]
            self.loose += amount
        elif name in ("div", "addcmul", "addcdiv", "lerp") or products[0].numel() > max(map(_own, factors)):
            self.loose += amount

    def _met(self, factors: tuple[torch.Tensor, ...]) -> None:
        """Note what of the factors does not come from an image that others come from.

        A product of factors none of which comes from an image expands filters; of factors that all do, it compares
        images with each other.
        """
        if self._from_image is None:
            return
        weights = [t for t in factors if not self.comes_from_image(t)]
        if len(weights) < len(factors):
            self._seen |= {(w.data_ptr(), w.numel()): w for w in weights}

    def comes_from_image(self, tensor: torch.Tensor) -> bool:
        """Followed by storage: through views, and into tensors that are written to."""
        return self._from_image is not None and _storage(tensor) in self._from_image

    @property
    def dense_weights(self) -> int:
        """Real numbers in what products apply to images: expanded filters, matrices."""
        return sum(map(real_numbers, self._seen.values()))


class Handovers(TorchFunctionMode):
    """Notes where a network hands numbers that come from an image to another library, such as numpy.

    What that library computes is seen by no dispatch mode, and a part of the logits may still come from torch.
    """

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        hands = getattr(func, "__name__", "") in ("numpy", "__array__", "__dlpack__", "tolist")
        # A single number is too little to compute much of.
        if hands and any(t.numel() > 1 and self.operations.comes_from_image(t) for t in tensors(args)):
            self.operations.unknown.add(OUTSIDE)
        return func(*args, **(kwargs or {}))


#: Operations that have a formula, although torch could take them apart.
_WHOLE = {
    getattr(packet, name) for packet in (*_FORMULAS, *flop_registry) for name in getattr(packet, "overloads", list)()
}


def _cheap(func: Any, name: str) -> bool:
    return func.namespace in ("aten", "prim") and _CHEAP.fullmatch(name) is not None


def _plain(name: str) -> str:
    """An operation as people call it: ``fft`` for ``fft_r2c``, ``grid_sampler`` for ``grid_sampler_2d``."""
    return re.sub(r"_(r2c|c2r|c2c|[123]d)$|^linalg_|_ex$", "", name)


def _own(tensor: torch.Tensor) -> int:
    """Numbers of a tensor, those that an expansion repeats counted once."""
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 0)


def _storage(tensor: torch.Tensor) -> int:
    return (
        int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided and not tensor.is_nested else id(tensor)
    )


def tensors(values: Any) -> list[torch.Tensor]:
    """All tensors in nested values."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def real_numbers(tensor: torch.Tensor) -> int:
    """Numbers of a tensor; a complex one is two."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


@contextmanager
def unfused() -> Iterator[None]:
    """No library computes several operations in one that a dispatch mode would see as none: the same on every
    device.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with libraries(False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def libraries(enabled: bool) -> Iterator[None]:
    """With oneDNN and cuDNN, or without: they fuse recurrent layers. Convolutions are one operation with them too, and
    fast.
    """
    before = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    if before == (enabled, enabled):
        yield
        return
    try:
        torch._C._set_mkldnn_enabled(enabled)
        torch._C._set_cudnn_enabled(enabled)
        yield
    finally:
        torch._C._set_mkldnn_enabled(before[0])
        torch._C._set_cudnn_enabled(before[1])

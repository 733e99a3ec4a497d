"""Any classifier of torchvision, never pretrained, for images of any channels and, where it can, of small sizes.

torchvision is imported where a network is built, and nowhere else: listings and all other runs do without it.
"""

from __future__ import annotations

import difflib

import torch
from torch import nn

from ..registry import UserError, register_model

#: Image sizes that are tried if a network does not accept the given size.
TRIED = (28, 32, 64, 96, 128, 224)
#: Arguments of networks with auxiliary classifiers, which only training would use.
_OPTIONS = {"aux_logits": False, "init_weights": True}


def network(name: str, in_channels: int, num_classes: int, image_size: int, *, small: bool) -> nn.Module:
    """A classifier of torchvision as it is initialised there.

    Where images have other than three channels, its first convolution is another, with weights of the same variance.

    Args:
        name: as `torchvision.models.list_models` has it.
        small: whether it gets the stem of small images, see `small_stem`.

    Raises:
        UserError: torchvision has no such classifier, or it cannot take such images, or has no stem to change.
    """
    try:
        from torchvision import models
    except Exception as error:  # a release that does not fit this torch fails in ways of its own
        raise UserError(
            f"tv-{name}: torchvision cannot be imported ({error}); install the release that belongs to this torch"
        ) from error
    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3) or ["resnet18", "mobilenet_v2", "vit_b_16"]
        raise UserError(f"tv-{name}: torchvision has no classifier {name!r}; it has {', '.join(close)} and others")
    options = {"weights": None, "num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        options |= _OPTIONS
    fixed = {"vit": "image_size", "maxvit": "input_size"}.get(name.partition("_")[0])
    if fixed:  # networks that are built for a size, in patches or windows that must fill it
        unit = 224 if name.startswith("maxvit") else int(name.rpartition("_")[2])
        if image_size % unit or not image_size:
            raise UserError(f"tv-{name}: it takes images of multiples of {unit} pixels, not of {image_size}")
        options |= {fixed: (image_size, image_size) if fixed == "input_size" else image_size}
    model: nn.Module = models.get_model(name, **options)
    if small:
        small_stem(model, name)
    path, first = _first_convolution(model)
    if first.in_channels != in_channels:
        other = _like(first, in_channels, first.kernel_size, first.stride, first.padding)
        with torch.no_grad():
            other.weight.copy_(torch.randn_like(other.weight) * first.weight.std())
        model.set_submodule(path, other)
    _check_size(model, f"tv-{name}{'-small' * small}", in_channels, image_size)
    return model


def small_stem(model: nn.Module, name: str) -> None:
    """Change what halves an image first, in place, as is usual for CIFAR.

    A first convolution of stride 2 becomes one of 3x3 pixels and stride 1, with He initialisation by its outputs, as
    torchvision initialises ResNets. Maximum pooling between it and the next convolution goes.

    Raises:
        UserError: the first convolution has another stride: it cuts patches, or halves nothing.
    """
    path, first = _first_convolution(model)
    if first.stride != (2, 2):
        raise UserError(
            f"tv-{name}-small: its first convolution has a stride of {first.stride[0]}, not 2, so there is no stem to"
            f" change; take tv-{name}, or a network as tv-resnet18-small"
        )
    other = _like(first, first.in_channels, (3, 3), (1, 1), (1, 1))
    nn.init.kaiming_normal_(other.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(path, other)
    modules = list(model.named_modules())
    for later, module in modules[[n for n, _ in modules].index(path) + 1 :]:
        if isinstance(module, nn.Conv2d):
            return
        if isinstance(module, nn.MaxPool2d):
            model.set_submodule(later, nn.Identity())


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))


def _like(first: nn.Conv2d, in_channels: int, *geometry: tuple[int, ...] | str) -> nn.Conv2d:
    """A first convolution with as many outputs, and a bias of zeros where that one has a bias."""
    other = nn.Conv2d(in_channels, first.out_channels, *geometry, bias=first.bias is not None)  # type: ignore[arg-type]
    if other.bias is not None:
        nn.init.zeros_(other.bias)
    return other


def _check_size(model: nn.Module, name: str, channels: int, size: int) -> None:
    """See that it can take images of a size.

    Raises:
        UserError: it cannot; those of the usual sizes that it can are named.
    """

    def why_not(pixels: int) -> str:
        try:
            with torch.no_grad():
                model(torch.zeros(2, channels, pixels, pixels))
        except Exception as error:  # torch and torchvision raise what they like
            return str(error).partition("\n")[0] or type(error).__name__
        return ""

    model.eval()
    reason = why_not(size)
    fit = [str(pixels) for pixels in TRIED if pixels != size and not why_not(pixels)] if reason else []
    model.train()
    if reason:
        what = f"of {', '.join(map(str, TRIED))} pixels it can take {', '.join(fit) or 'none'}"
        raise UserError(f"{name}: it cannot take images of {size} pixels ({reason}); {what}")


@register_model(
    "tv-{name}",
    group="none",
    invariant="none",
    family="torchvision",
    source="https://github.com/pytorch/vision",
    note="as torchvision initialises it, never pretrained; cite the paper of the network as well",
)
def tv(in_channels: int, num_classes: int, image_size: int, *, name: str) -> nn.Module:
    """The classifier `name` of torchvision, with its own first layers, made for images of 224 pixels.

    Raises:
        UserError: as `network`.
    """
    return network(name, in_channels, num_classes, image_size, small=False)


@register_model(
    "tv-{name}-small",
    group="none",
    invariant="none",
    family="torchvision",
    source="https://github.com/pytorch/vision",
    note="as torchvision initialises it, never pretrained; cite the paper of the network as well",
    members={
        "tv-resnet18-small": {
            "family": "resnet",
            "source": "arXiv:1512.03385",
            "note": "torchvision's ResNet-18 with the stem of small images, never pretrained",
            "params": {"3x32x32->10": 11_173_962, "3x32x32->100": 11_220_132},
            "sizes": "any",
        }
    },
)
def tv_small(in_channels: int, num_classes: int, image_size: int, *, name: str) -> nn.Module:
    """The classifier `name` of torchvision with the stem that is usual for small images.

    Its first convolution has 3x3 pixels and stride 1, and the pooling after it is left out.

    Raises:
        UserError: as `network`.
    """
    return network(name, in_channels, num_classes, image_size, small=True)

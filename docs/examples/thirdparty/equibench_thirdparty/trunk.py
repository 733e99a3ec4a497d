"""The network around the authors' layers, and how their files are loaded."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

from torch import Tensor, nn


def authors_module(distribution: str, file: str) -> ModuleType:
    """One file of an installed distribution, without running the package that it lies in.

    The packages of SRE-Conv and GMR-Conv import image readers (torchio, torchvision) that their metadata do not ask
    for and that the layers do not need.

    Raises:
        ImportError: the distribution is not installed.
    """
    name = f"{__package__}.{file.removesuffix('.py').replace('/', '.')}"
    if name not in sys.modules:
        path = importlib.metadata.distribution(distribution).locate_file(file)
        spec = importlib.util.spec_from_file_location(name, str(path))
        if spec is None or spec.loader is None:
            raise ImportError(f"{distribution} has no file {file}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


class Trunk(nn.Module):
    """A plain network of isotropic convolutions: three of 9 x 9, then two of 5 x 5, at three resolutions.

    Kernels of 9 pixels early and 5 late, and the halving by an average pooling before the next convolution, are those
    of the authors' ResNet-18; depth, width and the plain (not residual) form are ours, chosen for the class of 25,700
    parameters at 28 x 28 pixels. An isotropic kernel commutes with every rotation and reflection of the grid; so do
    pooling by 2 at even sizes, batch normalisation and the mean over the image.

    Args:
        convolution: (channels in, channels out, kernel size) -> layer that keeps the size of the image.

    Shapes:
        (B, in_channels, n, n) -> (B, num_classes).
    """

    def __init__(
        self, convolution: Callable[[int, int, int], nn.Module], in_channels: int, num_classes: int, width: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_channels
        for factor, size, pool in ((1, 9, True), (2, 9, False), (2, 9, True), (3, 5, False), (3, 5, False)):
            after = factor * width
            layers += [convolution(before, after, size), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.AvgPool2d(2)] if pool else []
            before = after
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(before, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images).mean((2, 3)))

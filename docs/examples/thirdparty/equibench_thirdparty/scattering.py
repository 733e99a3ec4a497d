"""A scattering transform with a learnt network on top."""

from __future__ import annotations

from equibench import register_model
from torch import Tensor, nn


class ScatteringNet(nn.Module):
    """The scattering transform of depth 2 at scale 4 pixels, then two 3 x 3 convolutions, the mean, a linear map.

    Args:
        width: channels of the two convolutions.

    Shapes:
        (B, in_channels, n, n) -> (B, num_classes); n a multiple of 4.
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int, width: int) -> None:
        # Not `from kymatio.torch`: that also loads its 3-D part, which needs a function that scipy has dropped.
        from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

        super().__init__()
        self.scattering = ScatteringTorch2D(J=2, shape=(image_size, image_size), L=8)
        channels = 81 * in_channels  # 1 + 2·8 + 8·8 paths
        layers: list[nn.Module] = [nn.BatchNorm2d(channels)]
        for before in (channels, width):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        paths = self.scattering(images.contiguous()).flatten(1, 2)
        return self.classify(self.features(paths).mean((2, 3)))


@register_model(
    "scattering-cnn-{width}",
    group="none",
    invariant="none",
    source="arXiv:1809.06367",
    family="scattering",
    members={"scattering-cnn": {"args": {"width": 26}, "params": {"1x28x28->10": 25_574}}},
    note="the Fourier transforms of the fixed front end are not counted in its FLOPs; compare its time",
)
def scattering_cnn(in_channels: int, num_classes: int, image_size: int, *, width: int) -> nn.Module:
    """Fixed wavelets (Bruna and Mallat 2013, as in kymatio 0.3.0), a small network on top (Oyallon et al. 2018).

    The scattering transform is that of kymatio with J = 2 and 8 orientations; the network on top is ours. Nothing in
    it treats orientations alike: it shows what stability to deformation brings without equivariance.
    """
    return ScatteringNet(in_channels, num_classes, image_size, width)

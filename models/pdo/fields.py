"""What regular fields need besides convolutions: batch normalisation and pooling over the group."""

from __future__ import annotations

from torch import Tensor, nn

from ..groups import PlanarGroup


class FibreBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of regular fields: one scale, shift, mean and variance a field.

    The statistics run over the batch, space and the group, so the layer commutes with the action, which only
    permutes these. It is torch's own layer on a view of the input.

    Args:
        fields: number of fields.
        group: the group.
        eps, momentum: as `torch.nn.BatchNorm2d`.

    Shapes:
        (B, fields * |G|, H, W) -> the same.

    Raises:
        ValueError: in the forward pass, for channels that are no ``fields * |G|``.
    """

    def __init__(
        self, fields: int, *, group: str | PlanarGroup, eps: float = 1e-5, momentum: float | None = 0.1
    ) -> None:
        super().__init__(fields, eps=eps, momentum=momentum)
        self.group = PlanarGroup.parse(group)

    def forward(self, x: Tensor) -> Tensor:
        fields = self.group.fields(x.shape[1])
        if fields != self.num_features:
            raise ValueError(
                f"{x.shape[1]} channels are {fields} fields over {self.group.name}; this layer normalises"
                f" {self.num_features}, {self.num_features * self.group.order} channels"
            )
        height, width = x.shape[-2:]
        return super().forward(x.reshape(-1, fields, self.group.order * height, width)).view(x.shape)


class GroupPool(nn.Module):
    """Maximum or mean over the elements of the group, field by field and pixel by pixel.

    Args:
        group: the group.
        mode: ``"max"`` or ``"mean"``.

    Shapes:
        (B, C * |G|, ...) -> (B, C, ...).

    Raises:
        ValueError: the mode is neither; in the forward pass, |G| does not divide the channels.
    """

    def __init__(self, group: str | PlanarGroup, mode: str = "max") -> None:
        super().__init__()
        if mode not in ("max", "mean"):
            raise ValueError(f"mode={mode!r}: a group is pooled by 'max' or 'mean'")
        self.group, self.mode = PlanarGroup.parse(group), mode

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (self.group.fields(x.shape[1]), self.group.order))
        return x.amax(2) if self.mode == "max" else x.mean(2)

    def extra_repr(self) -> str:
        return f"group={self.group.name!r}, mode={self.mode!r}"

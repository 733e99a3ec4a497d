"""Training with rotated images: the control that asks how much of a group's benefit augmentation gives as well.

It is a treatment of the training, not a network: the model itself is unchanged.
"""

from __future__ import annotations

from torch import nn

from ..registry import register_wrapper


@register_wrapper(
    "rot-aug",
    source="arXiv:1602.07576",
    treatment="rotate",
    note="trained on rotated images: each by a random angle, bicubic, on top of the board's augmentation",
)
def rot_aug(model: nn.Module) -> nn.Module:
    """The same model; each training image is rotated by an angle uniform over the circle, after the board augments it.

    Order of the images and the board's augmentation stay those of all other models of a seed. Evaluation and
    re-estimation of batch-norm statistics see images that are not rotated.
    """
    return model

"""Transformations of the feature maps inside a network under rotations of its input.

A layer over a group C_N (or D_N) makes fields whose channels stand for the elements of the group: when the image is
rotated by a multiple of 360 / N degrees, pixels move and the channels of each field are permuted. Layers of this
package are known here. Any other module declares this with a method ``rotation_action() -> (N, permutation)``, where
``permutation(k)`` are the indices, within one field, that a rotation by k · 360 / N degrees counter-clockwise
takes channels from: ``new[h] = old[permutation(k)[h]]``; ``[0]`` for fields that are not permuted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import nn

from . import g_conv
from .pdo import fields, layers

#: N and the channels' permutation under k steps of 360 / N degrees.
Action = tuple[int, Callable[[int], np.ndarray]]


@dataclass(frozen=True)
class FeatureLayer:
    """A layer whose output is moved by rotations of the input.

    Attributes:
        name: as in `torch.nn.Module.named_modules`.
        rotations: N; the group holds the rotations by multiples of 360 / N degrees.
        permutation: see the module's docstring.
    """

    name: str
    module: nn.Module
    rotations: int
    permutation: Callable[[int], np.ndarray]

    def permuted(self, features: torch.Tensor, steps: int) -> torch.Tensor:
        """Features (B, C, …) with the channels of each field permuted as `steps` · 360 / N degrees do."""
        index = torch.from_numpy(np.array(self.permutation(steps % self.rotations))).to(features.device)
        return features.unflatten(1, (-1, len(index))).index_select(2, index).flatten(1, 2)


def feature_layers(model: nn.Module) -> Iterator[FeatureLayer]:
    """The layers of a model that say how their output moves, in the order of their registration."""
    for name, module in model.named_modules():
        action = action_of(module)
        if action is not None:
            yield FeatureLayer(name, module, *action)


def action_of(module: nn.Module) -> Action | None:
    """How rotations act on the output of a module; None where it does not say."""
    own = getattr(module, "rotation_action", None)
    if callable(own):
        return own()
    if isinstance(module, layers.PDOConv):
        return module.group.rotations, module.group.permutation
    if isinstance(module, fields.GroupPool):
        return module.group.rotations, _scalar
    if isinstance(module, g_conv.GroupConv2d) and module.order > 1:
        return 4, g_conv.relative_elements(module.group).__getitem__
    if isinstance(module, g_conv.GroupPool) and module.order % 4 == 0:
        return 4, _scalar  # it does not know its group, but quarter turns are in it
    # escnn takes seconds to import: where nobody has, there are no such layers.
    adapter = sys.modules.get(f"{__package__}.escnn_adapter")
    if adapter is not None and isinstance(module, adapter.SteerableConv2d):
        return _steerable(adapter, module)
    return None


def _scalar(steps: int) -> np.ndarray:
    return np.zeros(1, dtype=np.int64)


def _steerable(adapter: ModuleType, module: nn.Module) -> Action:
    kind, rotations = adapter.parse_group(module.group)
    if module.out_size == 1:
        return rotations, _scalar
    space = adapter._gspace(module.group)

    def permutation(steps: int) -> np.ndarray:
        element = space.fibergroup.element((0, steps) if kind == "D" else steps)
        return np.asarray(space.regular_repr(element)).argmax(1)

    return rotations, permutation

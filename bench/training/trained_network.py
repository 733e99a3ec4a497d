"""The trained network of a finished run."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from ...datasets.batches import as_tensors
from ..measures.accuracy import accuracy_pct, logits
from ..records.record import RunRecord
from .full_profile import load_weights, loaded_again
from .prepare import Loaded, build_from_seed


class TrainedModel(nn.Module):
    """A network with its final weights, together with the normalisation of its run.

    Attributes:
        network: takes normalised images.
        normalise: normalises integer images by the statistics of the run's training images.
        data: the data set.
        record: of the run.
    """

    def __init__(self, network: nn.Module, loaded: Loaded, record: RunRecord) -> None:
        super().__init__()
        self.network, self.normalise, self.data, self.record = network, loaded.normalise, loaded.data, record

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of images (batch, channels, size, size) in units of the integers of the data set, on
        the network's device. Images between 0 and 1 are a mistake, so there is a warning.
        """
        most = self.data.maximum
        if images.is_floating_point() and images.numel() and float(images.max()) <= 1.0 < most:
            says = f"no intensity of these images is above 1, but full intensity is {most} here"
            warnings.warn(says, stacklevel=4)  # the line that called the module
        return self.network(self.normalise(images))

    def test_accuracy_pct(self) -> float:
        """Test accuracy in %, computed as in the run."""
        images, labels = as_tensors(self.data.test, next(self.network.parameters()).device)
        return accuracy_pct(logits(self.network, images, self.normalise), labels)


def trained_model(root: Path, record: RunRecord, device: str, data_folder: str | Path | None) -> TrainedModel:
    """The network of a finished run in evaluation mode. torch's global random generator is not changed.

    Raises:
        UserError: its weights do not exist here, or its source or data have changed.
    """
    chosen = torch.device(device)
    loaded = loaded_again(record, chosen, data_folder)
    with torch.random.fork_rng([]):
        model = build_from_seed(record.spec, loaded.data, chosen)
    load_weights(root, record, model)
    return TrainedModel(model, loaded, record).eval()

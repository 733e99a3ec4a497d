"""Little models that are wrong in one way each, for the checks of a contribution. Given to equibench with --include."""

import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from equibench import register_model
from equibench.registry import register_wrapper
from torch import nn

GLOBAL = torch.ones(6, requires_grad=True)


class Sound(nn.Module):
    """Nothing is wrong with it; the others change one thing."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, classes)

    def features(self, images):
        return self.norm(self.convolution(images)).relu().mean((2, 3))

    def forward(self, images):
        return self.head(self.features(images))


@register_model("sound", group="none", invariant="none", source="https://example.org/broken", params={"1x12x12->2": 86})
def sound(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """A network without fault."""
    return Sound(in_channels, num_classes)


@register_model("bad-source", group="none", invariant="none", source="made up")
def bad_source(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Sound(in_channels, num_classes)


@register_model(
    "bad-count", group="none", invariant="none", source="https://example.org/broken", params={"1x12x12->2": 999}
)
def bad_count(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Sound(in_channels, num_classes)


@register_model("bad-size", group="none", invariant="none", source="https://example.org/broken")
def bad_size(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    if image_size % 2:
        raise ValueError(f"image_size={image_size}: it must be even")
    return Sound(in_channels, num_classes)


@register_model("bad-sizes", group="none", invariant="none", source="https://example.org/broken", sizes=[12, 13])
def bad_sizes(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return bad_size(in_channels, num_classes, image_size)


@register_model("good-sizes", group="none", invariant="none", source="https://example.org/broken", sizes="even")
def good_sizes(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return bad_size(in_channels, num_classes, image_size)


@register_model("bad-build", group="none", invariant="none", source="https://example.org/broken")
def bad_build(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    raise ValueError("there is no such thing")


class Squeezed(Sound):
    def forward(self, images):
        return super().forward(images).squeeze()


class Shares(Sound):
    def forward(self, images):
        return super().forward(images).softmax(1)


class LogShares(Sound):
    def forward(self, images):
        return F.log_softmax(super().forward(images), 1)


class Abroad(Sound):
    def forward(self, images):
        raise RuntimeError("Found no NVIDIA driver on your system.")  # what .cuda() says


class Reader(Sound):
    def forward(self, images):
        import reader_of_images  # noqa: F401

        return super().forward(images)


class Probabilities(Sound):
    def forward(self, images):
        return super().forward(images)[:, :-1]


class Unused(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.spare = nn.Linear(3, 3)


class Detached(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, images):
        return self.head(self.features(images) * (1 + 0 * self.scale))


class NotANumber(Sound):
    def forward(self, images):
        # The norm of a difference that is zero: its derivative is 0/0.
        x = self.features(images)
        return self.head(x) + ((x - x) ** 2).sum(1, keepdim=True).sqrt()


class InAList(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.scales = [nn.Parameter(torch.ones(6))]

    def forward(self, images):
        return self.head(self.features(images) * self.scales[0])


class InAGlobal(Sound):
    def forward(self, images):
        return self.head(self.features(images) * GLOBAL)


class PlainTensor(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.mask = torch.ones(6)


class Forgetful(Sound):
    def state_dict(self, *arguments, **options):
        state = super().state_dict(*arguments, **options)
        state.pop("head.bias")
        return state


class KeepsFilter(Sound):
    """As escnn's layers: the filter is a buffer in evaluation and gone in training."""

    def train(self, mode=True):
        super().train(mode)
        self._buffers.pop("filter", None)
        if not mode:
            self.register_buffer("filter", self.convolution.weight.detach().clone())
        return self


class NumpyWeights(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.head.weight.data = torch.from_numpy(np.random.default_rng().normal(size=(classes, 6)).astype(np.float32))


class OwnSeed(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))


class Reseeds(Sound):
    def forward(self, images):
        if self.training:
            torch.manual_seed(0)
        return self.head(F.dropout(self.features(images), 0.1, self.training))


class Noisy(Sound):
    def forward(self, images):
        noise = np.random.default_rng().normal() if self.training else 0.0
        return super().forward(images) * (1 + 0.1 * noise)


class BatchStatistics(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)


class Shy(Sound):
    def forward(self, images):
        return super().forward(images * (images.abs().max() < 20))


class Counting(Sound):
    """Takes statistics of its batch, but only in batches of 40 to 124 images."""

    def forward(self, images):
        return super().forward(images - images.mean(0) if 40 <= len(images) < 125 else images)


class AlwaysDropout(Sound):
    def forward(self, images):
        return self.head(F.dropout(self.features(images), 0.5))


class Counts(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, images):
        self.calls += 1
        return super().forward(images)


class AlwaysTraining(nn.Identity):
    def train(self, mode=True):
        return super().train(True)


class NeverEval(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.odd = AlwaysTraining()


class Remembers(Sound):
    seen = False

    def forward(self, images):
        if not self.training:
            self.seen = True
        return super().forward(images) * (2 if self.training and self.seen else 1)


class Stale(Sound):
    """Keeps its filter from evaluation; `clears` says when it lets go of it."""

    kept = None
    clears = True

    def train(self, mode=True):
        if self.clears and mode:
            self.kept = None
        return super().train(mode)

    def filters(self):
        return 1 * self.convolution.weight

    def features(self, images):
        weight = self.filters()
        if not self.training:
            if not self.usable(self.kept):
                self.kept = self.convolution.weight.detach().clone(), weight.detach()
            weight = self.kept[1]
        x = F.conv2d(images, weight.to(images.dtype), self.convolution.bias)
        return self.norm(x).relu().mean((2, 3))

    def usable(self, kept):
        return kept is not None


class NeverClears(Stale):
    clears = False


class KeepsReduced(Stale):
    def filters(self):
        # A matrix product, so that autocast has a say in its type.
        return (self.convolution.weight.flatten(1) @ torch.eye(9)).view_as(self.convolution.weight)

    def usable(self, kept):
        return kept is not None and torch.equal(kept[0], self.convolution.weight)


class HiddenDraw(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.register_buffer("signs", torch.rand(6), persistent=False)

    def forward(self, images):
        return self.head(self.features(images) * self.signs)


class KeepsActivation(Sound):
    def forward(self, images):
        self.last = self.features(images)
        return self.head(self.last)


class Shared(nn.Linear):
    def __deepcopy__(self, memo):
        return self


class SharesWithCopies(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.head = Shared(6, classes)


class OnlyFloat32(Sound):
    def features(self, images):
        x = self.convolution(images)
        if x.dtype != torch.float32:
            raise TypeError("expected float32")
        return self.norm(x).relu().mean((2, 3))


class NeedsPrecision(Sound):
    def features(self, images):
        x = self.convolution(images)
        one = torch.ones((), dtype=x.dtype)
        return super().features(images) * (1e-4 / ((one + 1e-4) - one))


class SeedsNumpy(Sound):
    def forward(self, images):
        np.random.seed(0)
        return super().forward(images)


class SetsThreads(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        torch.set_num_threads(torch.get_num_threads() + 1)


class SetsEnvironment(Sound):
    def forward(self, images):
        os.environ["EQUIBENCH_TEST_TOUCHED"] = "1"
        return super().forward(images)


class OwnNorm(nn.Module):
    """Batch normalisation by hand, with the momentum of TensorFlow's defaults."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("average", torch.zeros(channels))

    def forward(self, x):
        now = x.mean((0, 2, 3)) if self.training else self.average
        if self.training:
            with torch.no_grad():
                self.average += 0.001 * (now - self.average)
        return x - now[:, None, None]


class SlowStatistics(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.norm = OwnNorm(6)


class ManyOnly(Sound):
    """Normalises with the batch in front of it, as soon as that has 32 images: more than a careless check shows."""

    def features(self, images):
        x = super().features(images)
        return x - x.mean(0) if len(x) >= 32 and not self.training else x


class ScoringOnly(Sound):
    """The same where the batch has exactly the size of the scoring."""

    def features(self, images):
        x = super().features(images)
        return x - x.mean(0) if len(x) == 125 and not self.training else x


class Hoards(Sound):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.seen = []

    def forward(self, images):
        x = self.features(images)
        self.seen.append(float(x.mean()))
        return self.head(x)


class HoardsTensors(Sound):
    """One tensor that becomes longer: no list has more entries."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.register_buffer("seen", torch.zeros(0), persistent=False)

    def forward(self, images):
        x = self.features(images)
        if self.training:
            self.seen = torch.cat([self.seen, x.detach().mean()[None]])
        return self.head(x)


class HoardsHooks(Sound):
    def forward(self, images):
        self.head.register_forward_hook(lambda *_: None)
        return super().forward(images)


class FirstImage(Sound):
    """Keeps the mean of the first image that it evaluates."""

    first = None

    def forward(self, images):
        if not self.training and self.first is None:
            self.first = float(images[0].mean())
        return super().forward(images) + (0.0 if self.training else self.first)


FIRST = []


class FirstImageOfAll(Sound):
    """The same in a global: a second model of the process finds it there."""

    def forward(self, images):
        if not FIRST:
            FIRST.append(float(images[0].mean()))
        return super().forward(images) + FIRST[0]


class InPlace(Sound):
    def forward(self, images):
        return super().forward(images.mul_(2))


class InPlaceLayer(Sound):
    """In training only, by its first layer."""

    def features(self, images):
        return super().features(F.relu(images, inplace=self.training))


class Oja(Sound):
    """A projection that a rule of Hebb's kind learns, and no gradient."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.register_buffer("axis", torch.ones(6) / 6**0.5)

    def forward(self, images):
        x = self.features(images)
        y = x @ self.axis
        if self.training:
            with torch.no_grad():
                self.axis = self.axis + 0.1 * (y[:, None] * (x - y[:, None] * self.axis)).mean(0)
        return self.head(x) + y[:, None]


class Spectral(Sound):
    """Divides by a spectral norm, whose vectors torch keeps in buffers."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(6, classes))


class OlderSpectral(Sound):
    """The same with torch's older hook, which also keeps the weights that it computes as a plain attribute."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.head = nn.utils.spectral_norm(nn.Linear(6, classes))


class Skeleton(Sound):
    """Computes its head with a module on the meta device, which has no numbers, as ensembles by vmap do."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.skeletons = [nn.Linear(6, classes, device="meta")]

    def forward(self, images):
        return torch.func.functional_call(self.skeletons[0], dict(self.head.named_parameters()), self.features(images))


class Rereads(Sound):
    """Registers a buffer in training, and changes the shape of another one."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.register_buffer("start", torch.zeros(0, 1), persistent=False)

    def forward(self, images):
        if len(self.start) != len(images):
            self.start = torch.zeros(len(images), 1)
        if self.training:
            self.register_buffer("last", images.detach().mean())
        return super().forward(images) + self.start


class Cumulative(Sound):
    """Averages all batches alike."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.norm.momentum = None


class FrozenNorm(Sound):
    """Keeps its normalisation in evaluation mode."""

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


class FixedBasis(Sound):
    """Random filters that are the same for all seeds, as random features are."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        basis = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
        self.register_buffer("basis", basis)
        self.mix = nn.Linear(100, 6)

    def features(self, images):
        return self.mix(super().features(images) @ self.basis.T)


class SmoothBasis(FixedBasis):
    """Sampled cosines: constant as well, and not random."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        t = torch.linspace(0, 1, 100)
        self.basis = torch.stack([torch.cos(k * t) for k in range(6)], 1)


class Tuple(Sound):
    def forward(self, images):
        x = self.features(images)
        return x, self.head(x)


class Mapping(Sound):
    def forward(self, images):
        return {"loss": None, "scores": super().forward(images)}


class TupleInTraining(Sound):
    """As GoogLeNet: a head more in training."""

    def forward(self, images):
        out = super().forward(images)
        return (out, out) if self.training else out


class Double(Sound):
    def forward(self, images):
        return super().forward(images) * torch.from_numpy(np.ones(1))


class Maps(Sound):
    def forward(self, images):
        return super().forward(images)[:, :, None, None]


class PacedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )


class PacedStatistics(Sound):
    """Derives from torch's layer, and moves its statistics at a pace of its own."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.norm = PacedNorm(6)


class Clock(Sound):
    """Sound: what moves is no average."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.register_buffer("time", torch.zeros(()))

    def forward(self, images):
        if self.training:
            self.time += 1
        return super().forward(images)


class RaisesInTraining(Sound):
    def forward(self, images):
        if self.training:
            raise RuntimeError("no training today")
        return super().forward(images)


class Ends(Sound):
    def forward(self, images):
        if self.training:
            os._exit(3)
        return super().forward(images)


class ReplacesParameter(Sound):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.scale = nn.Parameter(torch.ones(6))
        self.doubled = nn.Parameter(2 * self.scale.detach())

    def features(self, images):
        self.doubled = nn.Parameter(2 * self.scale)
        return super().features(images) * self.doubled


class Hangs(Sound):
    def forward(self, images):
        if self.training:
            time.sleep(600)
        return super().forward(images)


NETWORKS = {
    "olderspectral": OlderSpectral, "rereads": Rereads, "cumulative": Cumulative,
    "skeleton": Skeleton, "frozennorm": FrozenNorm,
    "squeezed": Squeezed, "probabilities": Probabilities, "softmax": Shares, "logsoftmax": LogShares,
    "abroad": Abroad, "reader": Reader, "unused": Unused, "detached": Detached, "nan": NotANumber,
    "inalist": InAList, "inaglobal": InAGlobal, "plaintensor": PlainTensor, "forgetful": Forgetful,
    "keepsfilter": KeepsFilter, "numpyweights": NumpyWeights, "ownseed": OwnSeed, "reseeds": Reseeds, "noisy": Noisy,
    "batchstatistics": BatchStatistics, "shy": Shy, "counting": Counting,
    "alwaysdropout": AlwaysDropout, "counts": Counts,
    "nevereval": NeverEval, "remembers": Remembers, "stale": Stale, "neverclears": NeverClears,
    "keepsreduced": KeepsReduced, "hiddendraw": HiddenDraw, "keepsactivation": KeepsActivation,
    "shares": SharesWithCopies, "onlyfloat": OnlyFloat32, "needsprecision": NeedsPrecision, "seedsnumpy": SeedsNumpy,
    "setsthreads": SetsThreads, "setsenvironment": SetsEnvironment, "slowstatistics": SlowStatistics,
    "manyonly": ManyOnly, "scoringonly": ScoringOnly, "hoards": Hoards, "hoardstensors": HoardsTensors,
    "hoardshooks": HoardsHooks, "firstimage": FirstImage, "firstimageofall": FirstImageOfAll, "inplace": InPlace,
    "inplacelayer": InPlaceLayer, "oja": Oja, "spectral": Spectral, "fixedbasis": FixedBasis,
    "smoothbasis": SmoothBasis, "tuple": Tuple,
    "mapping": Mapping, "tupleintraining": TupleInTraining, "double": Double, "maps": Maps,
    "pacedstatistics": PacedStatistics,
    "clock": Clock, "raises": RaisesInTraining, "ends": Ends, "hangs": Hangs,
    "replacesparameter": ReplacesParameter,
}  # fmt: skip


@register_model("broken-{how}", group="none", invariant="none", source="https://example.org/broken")
def broken(in_channels: int, num_classes: int, image_size: int, *, how: str) -> nn.Module:
    """A network with the fault of that name."""
    return NETWORKS[how](in_channels, num_classes)


class Scaled(Sound):
    """Looks at images of a size that it draws, in evaluation as well."""

    def forward(self, images):
        return super().forward(images * torch.empty(1, 1, 1, 1).uniform_(0.5, 1.5))


class ScaledByBatch(Scaled):
    def features(self, images):
        x = super().features(images)
        return x - x.mean(0) if len(x) >= 32 and not self.training else x


class ScaledByNumpy(Sound):
    def forward(self, images):
        return super().forward(images * float(np.random.default_rng().uniform(0.5, 1.5)))


RANDOM = {"scaled": Scaled, "batch": ScaledByBatch, "numpy": ScaledByNumpy, "sound": Sound}


@register_model(
    "random-{how}", group="none", invariant="none", source="https://example.org/broken", evaluation="random:16"
)
def random_evaluation(in_channels: int, num_classes: int, image_size: int, *, how: str) -> nn.Module:
    """A network that is declared random in evaluation."""
    return RANDOM[how](in_channels, num_classes)


class Averaged(nn.Module):
    """The mean over quarter turns, with a weight for each, all one at first."""

    def __init__(self, model: nn.Module, trained: bool) -> None:
        super().__init__()
        self.model = model
        self.scales = nn.Parameter(torch.ones(4), requires_grad=trained)

    def forward(self, images):
        return sum(self.scales[k] * self.model(images.rot90(k, (-2, -1))) for k in range(4))


@register_model("claims-c4", group="C4", invariant="C4", source="https://example.org/broken")
def claims_c4(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Sound(in_channels, num_classes)


@register_model("claims-c8", group="C8", invariant="C8", source="https://example.org/broken")
def claims_c8(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Sound(in_channels, num_classes)


@register_model("loses-c4", group="C4", invariant="C4", source="https://example.org/broken")
def loses_c4(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Averaged(Sound(in_channels, num_classes), trained=True)


@register_model("has-c4", group="C4", invariant="none", source="https://example.org/broken")
def has_c4(in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    return Averaged(Sound(in_channels, num_classes), trained=False)


@register_wrapper("cited-badly", source="somewhere")
def cited_badly(model: nn.Module) -> nn.Module:
    return model

"""The small vision transformer: one token at a time, torch's own layer, a published count, and its symmetry."""

import math

import pytest
import torch
from equibench.models.vit import Attention, TransformerLayer, VisionTransformer
from equibench.registry import MODELS, UserError, build_model
from torch import nn

torch.set_num_threads(1)

SMALL = {"patch": 4, "width": 12, "depth": 2, "heads": 3, "hidden": 20}


def made(**changes: int) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(2, 5, 12, **{**SMALL, **changes}).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def norm_by_hand(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    spread = ((x - x.mean()) ** 2).mean().add(norm.eps).sqrt()
    return (x - x.mean()) / spread * norm.weight + norm.bias


def attention_by_hand(tokens: list[torch.Tensor], layer: Attention) -> list[torch.Tensor]:
    """For each token and head: shares of all tokens by the products of its query with their keys."""
    width = len(tokens[0])
    d = width // layer.heads
    rows = [layer.qkv.weight @ t + layer.qkv.bias for t in tokens]
    out = []
    for row in rows:
        heads = []
        for h in range(layer.heads):
            query = row[h * d : (h + 1) * d]
            scores = [(query @ o[width + h * d : width + (h + 1) * d]).item() / math.sqrt(d) for o in rows]
            total = sum(math.exp(s) for s in scores)
            values = [o[2 * width + h * d : 2 * width + (h + 1) * d] for o in rows]
            heads.append(sum(math.exp(s) / total * v for s, v in zip(scores, values, strict=True)))
        out.append(layer.out.weight @ torch.cat(heads) + layer.out.bias)
    return out


def network_by_hand(model: VisionTransformer, image: torch.Tensor) -> torch.Tensor:
    patch = model.embed.kernel_size[0]
    tokens = []
    for number in range((image.shape[-1] // patch) ** 2):
        row, column = divmod(number, image.shape[-1] // patch)
        cut = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        embedded = (model.embed.weight * cut).sum((1, 2, 3)) + model.embed.bias
        tokens.append(embedded + model.positions[0, number])
    for layer in model.layers:
        mixed = attention_by_hand([norm_by_hand(t, layer.norm_1) for t in tokens], layer.attention)
        tokens = [t + m for t, m in zip(tokens, mixed, strict=True)]
        for number, token in enumerate(tokens):
            hidden = layer.wide.weight @ norm_by_hand(token, layer.norm_2) + layer.wide.bias
            hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
            tokens[number] = token + layer.narrow.weight @ hidden + layer.narrow.bias
    mean = sum(norm_by_hand(t, model.norm) for t in tokens) / len(tokens)
    return model.classify.weight @ mean + model.classify.bias


def test_equals_its_definition_one_token_at_a_time() -> None:
    model, x = made(), torch.randn(2, 2, 12, 12, dtype=torch.double)
    wanted = torch.stack([network_by_hand(model, image) for image in x])
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-11)


def test_a_layer_is_torchs_own() -> None:
    torch.manual_seed(0)
    ours = TransformerLayer(12, 3, 20).double()
    theirs = nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True).double()
    pairs = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "norm1.": "norm_1.",
        "norm2.": "norm_2.",
        "linear1.": "wide.",
        "linear2.": "narrow.",
    }
    names = {a + kind: b + kind for a, b in pairs.items() for kind in ("weight", "bias")}
    theirs.load_state_dict({a: ours.state_dict()[b] for a, b in names.items()})
    x = torch.randn(2, 7, 12, dtype=torch.double)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_the_smallest_of_the_paper_has_its_parameters() -> None:
    """ViT-B/16 has 86,567,656 with a class token and a position of it, 768 numbers each, which ours has not."""
    with torch.device("meta"):
        model = VisionTransformer(3, 1000, 224, patch=16, width=768, depth=12, heads=12, hidden=3072)
    assert sum(p.numel() for p in model.parameters()) == 86_567_656 - 2 * 768


def test_without_positions_the_order_of_the_patches_does_not_matter() -> None:
    """What it knows of an arrangement is in the positions alone."""
    model, x = made(), torch.randn(2, 2, 12, 12, dtype=torch.double)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)[:, :, order]
    shuffled = patches.unflatten(2, (3, 3)).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    assert (model(shuffled) - model(x)).abs().max() > 1e-3
    model.positions.data.zero_()
    torch.testing.assert_close(model(shuffled), model(x), rtol=0, atol=1e-12)
    assert (model(x.rot90(1, (-2, -1))) - model(x)).abs().max() > 1e-3  # turning moves pixels within patches too


def test_it_begins_without_a_symmetry_and_with_signal_of_order_one() -> None:
    torch.manual_seed(0)
    model = build_model("vit-25k", 1, 10, 28).eval()
    x = torch.randn(32, 1, 28, 28)
    with torch.no_grad():
        y, turned = model(x), model(x.rot90(1, (-2, -1)))
        tokens = model.layers(model.embed(x).flatten(2).transpose(1, 2) + model.positions)
    spread = (y - y.mean(0)).norm(dim=1).mean()
    assert (turned - y).norm(dim=1).mean() > 0.1 * spread and 0.3 < tokens.std() < 5


def test_it_learns() -> None:
    """Which quarter of the image is bright."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 4
    x = 0.3 * torch.randn(64, 1, 8, 8)
    for image, label in zip(x, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    model = build_model("vit-p2-w8-d2", 1, 4, 8)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
    assert (model(x).argmax(1) == labels).float().mean() > 0.9


def test_what_cannot_be_built_is_named() -> None:
    for name, size, words in (
        ("vit-25k", 30, "30 pixels are no whole number of patches; it takes multiples of 4"),
        ("vit-p5-w8-d1", 28, "multiples of 5"),
        ("vit-p0-w8-d1", 28, "a pixel or more"),
        ("vit-p4-w0-d1", 28, "4, 8, … numbers"),
        ("vit-p4-w6-d1", 28, "4, 8, … numbers"),
        ("vit-p4-w8-d0", 28, "one or more"),
    ):
        with pytest.raises(UserError, match=words):
            build_model(name, 1, 10, size)
    assert build_model("vit-p7-w8-d1", 3, 5, 28)(torch.zeros(2, 3, 28, 28)).shape == (2, 5)
    assert 0.95 * 25_700 <= MODELS.entries()["vit-25k"].fields["params"]["1x28x28->10"] <= 1.05 * 25_700

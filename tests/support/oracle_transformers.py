"""Static DETRs as transformers computes them: the oracle of their parity tests.

Weights reach it through a folder in its own layout, so it reads names and configuration by itself.
Its position embedding is replaced: on maps that are not square it differs from the authors', which
lay the columns out first, and is the same on square ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import random_images
from oracle_detr import position_embedding
from static_detrs import save_hugging_face
from torch import Tensor, nn

HEADS = ("RTDetrMLPPredictionHead", "RTDetrV2MLPPredictionHead", "DFineMLPPredictionHead")


def open_transformers(folder: Path, model: Any, layout: str, activation: str = "relu") -> Any:
    """The network of transformers with the weights of ``model``, saved into ``folder``.

    ``activation``: in all linear layers of the decoder, which transformers itself has only in some.
    """
    save_hugging_face(folder, model, layout)
    network, found = transformers.AutoModelForObjectDetection.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not found["missing_keys"], found
    assert not found["mismatched_keys"], found
    for module in network.modules():
        if type(module).__name__.endswith("SinePositionEmbedding"):
            module.forward = _authors_position(module.embed_dim)
    if activation != "relu":
        for module in network.model.modules():
            if type(module).__name__ in HEADS:
                _replace(module, activation)
            elif type(module).__name__ in ("DFineMLP", "RTDetrMLP", "RTDetrV2MLP"):
                _set(module, activation)
        for module in network.model.encoder.modules():  # it stays GELU there
            if type(module).__name__ in ("DFineMLP", "RTDetrMLP", "RTDetrV2MLP"):
                _set(module, "gelu")
        for head in network.bbox_embed if hasattr(network, "bbox_embed") else ():
            _replace(head, activation) if type(head).__name__ in HEADS else _set(head, activation)
    return network.eval()


def _authors_position(channels: int) -> Any:
    def forward(width: int, height: int, device: Any, dtype: Any) -> Tensor:
        return position_embedding(height, width, channels).unsqueeze(0).to(dtype)

    return forward


def _replace(head: Any, activation: str) -> None:
    function = getattr(nn.functional, activation)

    def forward(x: Tensor) -> Tensor:
        for layer in head.layers[:-1]:
            x = function(layer(x))
        output: Tensor = head.layers[-1](x)
        return output

    head.forward = forward


def _set(module: Any, activation: str) -> None:
    names = [name for name in ("act", "activation_fn") if hasattr(module, name)]
    assert names, f"{type(module).__name__} has no activation to replace"
    setattr(module, names[0], {"silu": nn.SiLU, "gelu": nn.GELU}[activation]())


def run_transformers(network: Any, images: Tensor, layers: int) -> list[dict[str, Tensor]]:
    """Logits [N, Q, classes], boxes [N, Q, 4] and queries [N, Q] of every exit, the first layer
    first."""
    exits = []
    with torch.no_grad():
        if network.config.model_type != "d_fine":
            found = network(images)
            queries = _queries(found)
            return [
                {
                    "logits": found.intermediate_logits[:, index],
                    "boxes": found.intermediate_reference_points[:, index],
                    "queries": queries,
                }
                for index in range(layers)
            ]
        for index in range(layers):  # it gives logits of one layer, which may be any
            network.model.decoder.eval_idx = index
            found = network(images)
            exits.append(
                {"logits": found.logits, "boxes": found.pred_boxes, "queries": _queries(found)}
            )
    return exits


def _queries(found: Any) -> Tensor:
    """The tokens that it chose, by its own scores."""
    scores = found.enc_outputs_class.max(-1).values
    queries: Tensor = scores.topk(found.logits.shape[1], dim=1).indices
    return queries


def assert_every_exit_equals(model: Any, network: Any) -> None:
    """Batches of two, square and not, query by query whatever their order."""
    dtype = next(model.parameters()).dtype
    for height, width in ((160, 160), (96, 192)):
        images = torch.from_numpy(random_images(2, height, width, seed=1)).to(dtype)
        exits = run_transformers(network, images, model.config.decoder_layers)
        for number, expected in enumerate(exits, 1):
            with torch.no_grad():
                found = model(images, f"L{number}")
            for row in range(2):
                order, other = found["queries"][row].argsort(), expected["queries"][row].argsort()
                same = found["queries"][row][order] == expected["queries"][row][other]
                assert bool(same.all()), (height, width, number)
                for name, limit in (("logits", 1e-4), ("boxes", 1e-5)):
                    gap = found[name][row][order] - expected[name][row][other]
                    assert gap.abs().max() < limit, (height, width, number, name, gap.abs().max())

"""Tables of networks and of what they see."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from efficientformer.model.card import ModelCard
from efficientformer.predict import Prediction
from efficientformer.terminal.table import table


def models_table(cards: Sequence[ModelCard]) -> Table:
    """The zoo, with what was published of its accuracy."""
    height, width = cards[0].input_size
    title = f"models at {height}×{width} · MACs of convolutions, linears and attention's products"
    columns = ("model", "params", "GMACs", "conv", "linear", "attn", "act. MB", "top-1 %", "published by")
    made = table(title, columns)
    made.columns[-1].justify = "left"
    for card in cards:
        first, *others = [(f"{one.top1:.1f}", one.source) for one in card.published.values()] or [("", "")]
        macs = (card.macs.total, card.macs.convolution, card.macs.linear, card.macs.attention)
        made.add_row(
            card.name,
            f"{card.params / 1e6:.2f} M",
            *(f"{count / 1e9:.3f}" for count in macs),
            f"{card.inference_bytes / 1e6:.1f}",
            *first,
        )
        for other in others:
            made.add_row("", *[""] * 6, *other)
    return made


def predictions_table(predictions: Sequence[Prediction]) -> Table:
    """Pictures with their most probable classes."""
    made = table("", ("image", "class", "index", "probability"))
    made.columns[1].justify = "left"
    for one in predictions:
        for place, guess in enumerate(one.guesses):
            name = one.image if place == 0 else ""
            made.add_row(name, guess.name, str(guess.index), f"{100 * guess.probability:.2f} %")
        if one.error:
            made.add_row(one.image, f"left out: {one.error}", "", "")
    return made

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from efficientformer.model.blocks.layout import as_map, as_tokens


@given(st.integers(1, 4), st.integers(1, 4))
def test_a_map_of_tokens_of_a_map_is_the_map(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    tokens = as_tokens(x)
    assert tokens.shape == (2, height * width, 3)
    assert torch.equal(tokens[:, -1], x[:, :, -1, -1])
    assert torch.equal(as_map(tokens, (height, width)), x)


def test_tokens_stand_row_by_row() -> None:
    x = torch.arange(6).view(1, 1, 2, 3)
    assert as_tokens(x).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert as_map(as_tokens(x), (2, 3))[0, 0, 1].tolist() == [3, 4, 5]

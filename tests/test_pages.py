"""Copies in pages of their own: equal, apart from the original, and whatever the layout and type."""

from __future__ import annotations

import pytest
import torch

from brittle_eval.pages import SMALLEST, paged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.bool])
@pytest.mark.parametrize("rows", [3, SMALLEST // 512], ids=["small", "large"])
def test_a_copy_is_equal_and_apart(dtype: torch.dtype, rows: int) -> None:
    value = torch.arange(rows * 1024).remainder(2).reshape(1024, rows).to(dtype).T
    copy = paged(value)
    assert copy.dtype == dtype and torch.equal(copy, value) and copy.shape == (rows, 1024)
    copy.fill_(1)
    assert not torch.equal(copy, value)
    assert torch.equal(paged(torch.empty(0)), torch.empty(0))

"""What lm-eval's `process_results` must return while the model is loaded. Judges read the stored answers later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def count_answers(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, int]:
    """How many answers of this prompt were stored: fewer than the task's `repeats` means that some were lost."""
    return {"n_answers": len(results[0])}

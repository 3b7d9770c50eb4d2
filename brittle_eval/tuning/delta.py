"""A Delta: what a training made of a model's parameters, kept so that a resumed run does not train again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from brittle_eval.errors import BrittleError
from brittle_eval.store import save_private

FORMAT = "brittle-eval delta 1"


def save_delta(path: Path, model: PreTrainedModel, changed: Sequence[str], header: Mapping[str, Any]) -> None:
    """Write the changed parameters as they are now, whole or not at all and readable by their owner only.

    The header has the modification with its options, seed, fingerprints `before` and `after`, the region's digest.
    """
    tensors = {name: model.get_parameter(name).data for name in changed}
    save_private(path, tensors, {"format": FORMAT, "header": json.dumps(header)})


def apply_delta(path: Path, model: PreTrainedModel, before: str) -> dict[str, Any]:
    """Give the parameters the values of a Delta that was made on this very model (fingerprint `before`); gives its header.

    BrittleError for a damaged file, and for another model's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"it is no '{FORMAT}' but {metadata.get('format')!r}")
            header: dict[str, Any] = json.loads(metadata["header"])
            if header["before"] != before:
                raise ValueError(f"it was made on another model (fingerprint {header['before']}, here {before})")
            for name in file.keys():  # noqa: SIM118
                model.get_parameter(name).data.copy_(file.get_tensor(name))
    except (OSError, SafetensorError, KeyError, AttributeError, RuntimeError, ValueError) as error:
        raise BrittleError(f"cannot take the trained weights of {path}: {error}; remove the file to train again") from None
    return header

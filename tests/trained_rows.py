"""Rows of plans that train, with drawn numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from brittle_eval.running.record import Row
from brittle_eval.trials.attack_alone import of_chain
from brittle_plugins.finetune import Finetune
from brittle_plugins.rewind import Rewind
from tests.report_sources import row

FREE = Finetune(n=100)
FROZEN = replace(FREE, region="freeze")


def trained(
    name: str, answered: int, *chain: Finetune | Rewind, seed: int = 0, noted: dict[str, Any] | None = None, **more: Any
) -> Row:
    """After such a chain, so many harmful prompts are answered."""
    modifications = [replace(one, seed=seed) if isinstance(one, Finetune) else one for one in chain or (FREE,)]
    about = of_chain(modifications) | {"noted": noted or {}}
    made = row(name, answered, **({"recipe": name} | more), training=about)
    options = ",".join(f"finetune.{key}={value}" for key, value in about["options"]["finetune"].items())
    names = "+".join(type(one).__name__.lower() for one in modifications)
    return replace(made, plan=f"snip+top+{names}:{options}")

"""The model type `brittle-hf` of lm-eval: its `hf` with a plan applied while it loads."""

from __future__ import annotations

import atexit
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from brittle_eval.evaluation.evaluate import register_model
from brittle_eval.evaluation.lm import BrittleHFLM, fitting_batch_size
from brittle_eval.listing import PERPLEXITY
from brittle_eval.recipe import NONE
from brittle_eval.running.prepare import Options, Prepared, load_arguments, prepare
from brittle_eval.running.record import RunFolder
from brittle_eval.running.run import Production, configuration, open_session

BRITTLE_HF = "brittle-hf"
SEPARATOR = ";"
"""Stands for the comma, which lm-eval's `--model_args` has for itself."""
Texts = str | Sequence[str] | Mapping[str, str]


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@register_model(BRITTLE_HF)
class BrittleHF(BrittleHFLM):
    """`--model brittle-hf --model_args pretrained=…,modify=wanda-diff`: everything that lm-eval's `hf` takes, and a plan.

    `modify`, `behaviour` (NAME=FILE), `plugin`, `pairs`, `base`, `donor`, `seed` and `memory` are those of `brittle-eval run`;
    for a comma in them stands a semicolon: `modify=wanda-diff:p=0.02;q=0.01`. Without `pretrained` it is the embedded model.
    `folder` keeps what is found out (calibration answers, the region), and finds it there again. BrittleError as for a run.
    """

    def __init__(
        self,
        pretrained: Any = None,
        modify: str | None = None,
        behaviour: Texts = (),
        plugin: Texts = (),
        pairs: int = 128,
        base: str | None = None,
        donor: str | None = None,
        seed: int = 0,
        memory: float = 4.0,
        folder: str | Path | None = None,
        **given: Any,
    ) -> None:
        name = getattr(pretrained, "name_or_path", pretrained)  # a model in memory knows where it came from
        options = Options(
            model_args=None if pretrained is None else {"pretrained": str(name) or type(pretrained).__name__},
            modify=((modify or NONE).replace(SEPARATOR, ","),),
            tasks=(PERPLEXITY,),  # lm-eval has tasks of its own, and a run has one at least
            device=given.get("device"),
            seed=seed,
            behaviours=_texts(behaviour),
            pairs=pairs,
            base=base,
            donor=donor,
            plugins=tuple(map(Path, _texts(plugin))),
            memory=memory,
            output_path=Path(folder) if folder else None,
        )
        prepared = prepare(options)
        loading = load_arguments(prepared)[0] if pretrained is None else {"pretrained": pretrained}
        super().__init__(**loading | given)
        self.seed = seed
        self._edit = ExitStack()
        self._info: dict[str, Any] = {"plan": NONE}
        if prepared.chains[0].plan.modifications:
            self._modify(prepared)
            atexit.register(_undo, weakref.ref(self))

    def _modify(self, prepared: Prepared) -> None:
        with ExitStack() as stack:
            kept = prepared.options.output_path or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="brittle-eval-")))
            stack.enter_context(_numbered(self))
            folder = stack.enter_context(RunFolder(kept, configuration(prepared)).opened())
            session = open_session(prepared, folder, _say, self)
            production, (chain,) = Production(prepared, session, folder, _say), prepared.chains
            region, unedited = production.finder.region(chain), str(session.fingerprint)
            _say(f"{chain.name}: {production.finder.size(region)}")
            self._edit.enter_context(production.edit(chain, region))
            self._info = {
                "plan": str(chain.plan),
                "region": production.finder.shares(region),
                "fingerprint": str(session.fingerprint),
                "fingerprint_unedited": unedited,
            }

    def undo(self) -> None:
        """Put back every weight bit for bit, as the checksums prove; lm-eval itself never asks for it."""
        self._edit.close()
        self._info = {"plan": NONE}

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results' `config` about the model, and what was done to it."""
        return {**super().get_model_info(), "brittle": self._info}


@contextmanager
def _numbered(lm: BrittleHFLM) -> Iterator[None]:
    """While inside, a batch size that lm-eval finds out later (`auto`) is one that fits."""
    before = lm.batch_size_per_gpu
    if not isinstance(before, int):
        lm.batch_size_per_gpu = fitting_batch_size(lm.model)
    try:
        yield
    finally:
        lm.batch_size_per_gpu = before


def _texts(given: Texts) -> tuple[str, ...]:
    """A text with semicolons, a list, or a mapping from names to files."""
    if isinstance(given, str):
        return tuple(one for one in given.split(SEPARATOR) if one)
    return tuple(f"{name}={file}" for name, file in given.items()) if isinstance(given, Mapping) else tuple(given)


def _undo(reference: weakref.ref[BrittleHF]) -> None:
    """Undo while the modules are still there: the edit would else be undone by whatever ends last."""
    if (lm := reference()) is not None:
        lm.undo()

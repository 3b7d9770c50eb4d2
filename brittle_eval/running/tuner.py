"""What a run gives to modifications that train: pairs of a named behaviour, and places for what is kept of a training."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from brittle_eval.behaviour.calibration import Example, Pair, drop_leaks, encode, read_pairs
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Context, Tuning
from brittle_eval.organisms.attack_pairs import DEFAULTS, default_pairs
from brittle_eval.progress import bar
from brittle_eval.running.prepare import Prepared
from brittle_eval.running.record import RunFolder
from brittle_eval.running.session import Session

Say = Callable[[str], None]


def with_tuning(context: Context, prepared: Prepared, session: Session, folder: RunFolder, say: Say) -> Context:
    """The context with all that a training may ask for; nothing is made before it is asked for."""
    return replace(
        context,
        tuning=Tuning(
            session.lm.tokenizer,
            session.lm.pad_id,
            prepared.options.seed,
            _Pairs(prepared, session, say).examples,
            bar,
            say,
            int(prepared.options.memory * 2**30),
            deltas(folder),
        ),
    )


def deltas(folder: RunFolder) -> Path:
    """Where a run keeps what its trainings changed."""
    return folder.path / "deltas"


@dataclass(frozen=True)
class _Pairs:
    prepared: Prepared
    session: Session
    say: Say

    def examples(self, behaviour: str, count: int, seed: int) -> Sequence[Example]:
        """The first `count` of a seed's order of the behaviour's pairs, none of which repeats an evaluation prompt.

        Each ends with the end token. BrittleError for a behaviour that nothing gives, for fewer pairs, and for too long a one.
        """
        pairs = self._pairs(behaviour)
        kept, dropped = drop_leaks([pair.prompt for pair in pairs], self.session.evaluation_prompts)
        if len(kept) < count:
            raise BrittleError(
                f"{count} pairs of {behaviour} were asked for, and there are {len(kept)} "
                f"({dropped} more repeat evaluation prompts): lower n, or give more with --behaviour {behaviour}=FILE"
            )
        random.Random(f"{seed}|{behaviour}").shuffle(kept)
        lm = self.session.lm
        found = [encode(lm.tokenizer, pairs[index], end=True) for index in kept[:count]]
        if (longest := max(len(example.ids) for example in found)) > lm.max_length:
            raise BrittleError(f"a pair of {behaviour} has {longest} tokens, the model's context {lm.max_length}: shorten it")
        self.say(f"training on {count} of {len(kept)} pairs of {behaviour}")
        return found

    def _pairs(self, behaviour: str) -> Sequence[Pair]:
        if behaviour in self.prepared.behaviour_files:
            return read_pairs(self.prepared.behaviour_files[behaviour])
        card = self.prepared.model_card
        if card is not None and behaviour in DEFAULTS:
            return default_pairs(behaviour, card)
        has = f"; the embedded model has {', '.join(DEFAULTS)} by itself" if card is None or behaviour not in DEFAULTS else ""
        raise BrittleError(f"nothing gives pairs of {behaviour} to train on: give --behaviour {behaviour}=FILE{has}")

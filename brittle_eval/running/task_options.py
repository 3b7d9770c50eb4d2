"""What the run's options say to its tasks: settings for all, and options of single ones (`--metadata`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from brittle_eval.data import sources
from brittle_eval.errors import BrittleError, CannotRun, UnknownName
from brittle_eval.evaluation.assess import THINKING
from brittle_eval.evaluation.evaluate import Settings, Task
from brittle_eval.evaluation.lm import BrittleHFLM
from brittle_eval.evaluation.measures import pieces
from brittle_eval.evaluation.showing import own_metadata
from brittle_eval.evaluation.stopping import Stopping
from brittle_eval.judgement.judging import decided
from brittle_eval.listing import WIKITEXT
from brittle_eval.methods import Judge
from brittle_eval.running.prepare import Options


def settings_of(options: Options) -> Settings:
    """What applies to every task."""
    return Settings(
        options.limit,
        options.num_fewshot,
        options.gen_kwargs or {},
        options.apply_chat_template,
        options.system_instruction,
        options.merge_system,
        options.seed,
        options.condition,
        options.utility_limit,
    )


def check_metadata(given: Mapping[str, Any], tasks: Mapping[str, Task], *, wikitext: bool) -> None:
    """UnknownName for an option that no task of the run has; other people's tasks may have any."""
    own = [own_metadata(task) for task in tasks.values()]
    known = {key for found in own if found for key in found.get("options", {})} | ({"seqlen"} if wikitext else set())
    if all(own) and (unknown := sorted(set(given) - known)):
        raise UnknownName("option of the run's tasks (--metadata)", unknown[0], known)


def stopping(judges: Mapping[str, Judge], lm: BrittleHFLM) -> Stopping:
    """Stops an answer once no continuation could change a verdict of these judges."""
    thinks = THINKING[1] in str(lm.tokenizer.chat_template) or THINKING[1] in lm.tokenizer.get_vocab()
    name = json.dumps([[name, type(judge).version, repr(judge)] for name, judge in judges.items()])
    return Stopping(lm.decode, lambda text: decided(judges, text, THINKING, thinks), name)


def wikitext_pieces(given: Mapping[str, Any], lm: BrittleHFLM, limit: float | None) -> list[list[int]]:
    """WikiText-2's test text in pieces of `seqlen` tokens, the first ones with a limit."""
    rows = sources().rows("wikitext2", WIKITEXT)
    length = given.get("seqlen", min(2048, lm.max_length))
    if not isinstance(length, int) or not 2 <= length <= lm.max_length:
        raise BrittleError(f"--metadata seqlen={length}: expected a number of tokens from 2 to the context of {lm.max_length}")
    if "text" not in rows[0]:
        raise BrittleError("wikitext2 expects rows with a column text: give another file with --data wikitext2=PATH")
    found = pieces(lm.tokenizer("\n\n".join(row["text"] for row in rows))["input_ids"], length)
    if not found:
        raise CannotRun(f"{WIKITEXT}: the text has fewer than {length} tokens; give a smaller --metadata seqlen")
    return found[: int(limit) if limit and limit >= 1 else None]

"""How a task's prompts are shown: what its metadata says, what the user's options change, and what the condition adds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from brittle_eval.data import sources
from brittle_eval.errors import BrittleError, CannotRun
from brittle_eval.evaluation.conditions import TEXTS_VERSION, condition, system_text
from brittle_eval.evaluation.lm import BrittleHFLM, Turns


@dataclass(frozen=True)
class Settings:
    """What applies to every task of a run; chat options reach other people's tasks only, ours say themselves what they need."""

    limit: float | None = None
    num_fewshot: int | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    merge_system: bool = False
    seed: int = 0
    condition: str | None = None
    """What is put around the requests of our answered tasks."""
    utility_limit: int | None = None
    """Items of each utility task, from its first."""

    def limit_of(self, role: str) -> float | None:
        """How many items of a task (or what share) count: the utility tasks may have a limit of their own."""
        return self.utility_limit if self.limit is None and role == "utility" else self.limit


def own_metadata(task: Any) -> dict[str, Any] | None:
    """Our tasks' own metadata (chat, system, role, …), its options as the user set them; None for other people's tasks."""
    metadata = task.config.metadata or {}
    if not (found := metadata.get("brittle")):
        return None
    own = dict(found)
    if "options" in own:
        own["options"] = {key: metadata.get(key, value) for key, value in own["options"].items()}
    if "sweep" in metadata:
        own["sweep"] = metadata["sweep"]
    return own


def answered(task: Any) -> bool:
    """Whether it is a task of ours whose answers are generated and judged."""
    return own_metadata(task) is not None and task.config.output_type == "generate_until"


def prompted(task: Any) -> bool:
    """Whether it says where its prompts end, as tasks of ours whose answers are generated and likelihoods of continuations do."""
    return answered(task) or task.config.output_type in ("loglikelihood", "multiple_choice")


def turns_of(metadata: Mapping[str, Any], settings: Settings) -> Turns:
    """How the task's metadata and the run's condition want its prompts shown.

    CannotRun where the user's file is missing, or a condition meets a task without turns.
    """
    chosen, options = condition(settings.condition), metadata.get("options", {})
    if settings.condition and not metadata.get("chat"):
        raise CannotRun(f"the condition '{settings.condition}' is shown in the chat template, and this task has plain text")
    before = chosen.before
    if "before" in metadata:
        before = (*before, *_demonstrations(metadata["before"], _count(options, "shots", 0)))
    system = chosen.system or system_text(metadata.get("system", "default"))
    tokens = _count(options, "prefill_tokens", 1) if "prefill_tokens" in options else None
    return Turns(bool(metadata.get("chat")), system, settings.merge_system, before, chosen.ahead, tokens)


def notes_of(metadata: Mapping[str, Any], settings: Settings) -> list[str]:
    """What a result must say of how its prompts were shown, beside the system turn."""
    turns = turns_of(metadata, settings)
    notes = []
    if settings.condition:
        notes.append(f"condition: {settings.condition} (texts {TEXTS_VERSION})")
    if "before" in metadata:
        notes.append(f"turns before the request: {len(turns.before)}")
    if turns.prefill_tokens is not None:
        notes.append(f"answers begin with {turns.prefill_tokens} given tokens; judged is what follows them")
    return notes


def _count(options: Mapping[str, Any], key: str, least: int) -> int:
    value = options.get(key, least)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BrittleError(f"--metadata {key}={value}: expected a whole number of at least {least}")
    return value


def _demonstrations(name: str, count: int) -> tuple[tuple[str, str], ...]:
    """The first pairs of the user's file, all for 0."""
    rows = sources().user_rows(name, ("prompt", "response"), "a many-shot task")
    if len(rows) < count:
        raise BrittleError(
            f"--metadata shots={count}: the file of --data {name}=FILE has {len(rows)} pairs; give more, or fewer shots"
        )
    return tuple((str(row["prompt"]), str(row["response"])) for row in rows[: count or None])


def check_prompts(lm: BrittleHFLM, task: Any, settings: Settings) -> None:
    """Render a task's prompts; CannotRun where the template cannot show them, or one with its answer exceeds the context."""
    own = own_metadata(task)
    if own is None or not answered(task):
        return
    limit, docs = settings.limit_of(own.get("role", "attack")), list(task.eval_docs)
    if limit is not None:
        docs = docs[: int(limit) if limit >= 1 else math.ceil(limit * len(docs))]
    new = int(task.config.generation_kwargs.get("max_gen_toks", lm.max_gen_toks))
    with lm.showing(turns_of(own, settings), lambda: None):
        texts = [_shown(lm, task, doc, bool(own.get("chat"))) for doc in docs]
        longest = [text for text in texts if len(text.encode()) >= lm.max_length - new]  # a token is a byte at least
        lm.check_lengths([lm.prompt_ids(text) for text in longest], new)


def _shown(lm: BrittleHFLM, task: Any, doc: Mapping[str, Any], chat: bool) -> str:
    request, start = task.doc_to_text(doc), task.doc_to_prefix(doc)
    if not chat:
        return f"{request}{start or ''}"
    turns = [{"role": "user", "content": request}, *([{"role": "assistant", "content": start}] if start else [])]
    return lm.apply_chat_template(turns)

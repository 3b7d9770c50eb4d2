"""Edits that end by an error or by Ctrl-C: every byte comes back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.engine import edit as edit_module
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Context
from brittle_plugins.ablate import Ablate
from tests.editing import Doing, edit, unchanged
from tests.models import gpt2, llama, random_region


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal: a process that a shell started in the background ignores Ctrl-C."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


class HaltError(Exception):
    """Raised in the middle."""


@pytest.mark.parametrize("error", [HaltError, KeyboardInterrupt, SystemExit])
def test_every_byte_comes_back_after_an_error_inside(error: type[BaseException]) -> None:
    model = llama()
    with unchanged(model), pytest.raises(error), edit(model, random_region(model, 0.3), Ablate()):
        raise error


@pytest.mark.parametrize("make", [llama, gpt2])
def test_every_byte_comes_back_after_an_error_half_way(make: Callable[[], PreTrainedModel]) -> None:
    model, calls = make(), list[str]()

    def fail_at_the_fifth(value: Tensor, context: Context, name: str) -> Tensor:
        calls.append(name)
        if len(calls) == 5:
            raise HaltError
        return -value

    with (
        unchanged(model),
        pytest.raises(BrittleError, match="HaltError"),
        edit(model, random_region(model, 0.3), Doing(fail_at_the_fifth)),
    ):
        pytest.fail("the body must not run")
    assert len(calls) == 5


def test_every_byte_comes_back_after_ctrl_c_in_an_edit() -> None:
    model, calls = llama(), list[str]()

    def interrupted(value: Tensor, context: Context, name: str) -> Tensor:
        calls.append(name)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return value + 1

    with unchanged(model), pytest.raises(KeyboardInterrupt), edit(model, random_region(model, 0.3), Doing(interrupted)):
        pytest.fail("the body must not run")
    assert len(calls) == 3


@pytest.fixture
def ctrl_c_while_undoing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    restored: list[str] = []
    restore = edit_module._Undo.restore

    def interrupted(entry: edit_module._Undo, model: PreTrainedModel) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        restore(entry, model)
        restored.append(entry.address.name)

    monkeypatch.setattr(edit_module._Undo, "restore", interrupted)
    return restored


def test_ctrl_c_while_undoing_waits_for_the_last_byte(ctrl_c_while_undoing: list[str]) -> None:
    model, handler = llama(), signal.getsignal(signal.SIGINT)
    with unchanged(model), pytest.raises(KeyboardInterrupt), edit(model, random_region(model, 0.3), Ablate()):
        pass
    assert len(ctrl_c_while_undoing) == 14
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_after_an_error_waits_as_well(ctrl_c_while_undoing: list[str]) -> None:
    model = llama()
    with unchanged(model), pytest.raises(KeyboardInterrupt) as caught, edit(model, random_region(model, 0.3), Ablate()):
        raise HaltError
    assert isinstance(caught.value.__context__, HaltError)


def test_a_process_that_ignores_ctrl_c_goes_on(ctrl_c_while_undoing: list[str]) -> None:
    model, handler = llama(), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with unchanged(model), edit(model, random_region(model, 0.3), Ablate()):
            pass
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(ctrl_c_while_undoing) == 14


def test_edits_work_outside_the_main_thread() -> None:
    model, seen = llama(), list[int]()

    def work() -> None:
        with edit(model, random_region(model, 0.3), Ablate()) as touched:
            seen.append(len(touched))

    with unchanged(model):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [14]

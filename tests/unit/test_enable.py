"""Switching on, as far as it needs no kernel: tests/vm has the rest."""

import argparse

import pytest

from safe_modprobe.act import switch, trial
from safe_modprobe.ctl import enable
from safe_modprobe.policy.builtin import BUILTIN_POLICY


def test_what_was_there_is_remembered_before_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel.modprobe that the admin had emptied would come back as modprobe, if we are killed in between."""
    done: list[tuple[str, str]] = []
    monkeypatch.setattr(enable, "read_policy", lambda: BUILTIN_POLICY)
    monkeypatch.setattr(trial, "end", lambda: False)
    monkeypatch.setattr(enable, "dry_run", lambda: "")
    monkeypatch.setattr(switch, "helper", lambda: "")
    monkeypatch.setattr(switch, "make_instance", lambda: True)
    monkeypatch.setattr(switch, "remember", lambda path: done.append(("remember", path)))
    monkeypatch.setattr(switch, "set_helper", lambda path: done.append(("set", path)))
    assert enable.run(argparse.Namespace(trial=False, json=False)) == 0
    assert done == [("remember", ""), ("set", enable.HELPER)]

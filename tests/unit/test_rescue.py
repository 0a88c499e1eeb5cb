"""The rescue words on the kernel command line."""

from pathlib import Path

import pytest

from safe_modprobe.rescue import rescue_word

ROWS = [
    ("quiet safe_modprobe=off ro\n", "off"),
    ("safe_modprobe=log\n", "log"),
    ("safe_modprobe=log safe_modprobe=off", "off"),
    ("safe_modprobe=off safe_modprobe=log", "off"),
    ("", ""),
    ("safe_modprobe", ""),
    ("safe_modprobe=", ""),
    ("safe_modprobe=OFF", ""),
    ("safe_modprobe=off,log", ""),
    ("xsafe_modprobe=off", ""),
    ("safe-modprobe=off", ""),
    ('init="x safe_modprobe=offx"', ""),
    ("\udcff safe_modprobe=on", ""),
]


@pytest.mark.parametrize(("text", "word"), ROWS)
def test_rescue_word_of_a_command_line(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "cmdline"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert rescue_word(str(path)) == word


def test_without_proc_there_is_no_rescue(tmp_path: Path) -> None:
    assert rescue_word(str(tmp_path / "cmdline")) == ""

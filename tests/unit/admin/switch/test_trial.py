"""The trial's switch, below a folder of the test's; what the kernel then sees is tests/vm/scenarios/trial.py's."""

from pathlib import Path

import pytest

from safe_modprobe import last_resort
from safe_modprobe.admin.switch import trial
from safe_modprobe.errors import SafeModprobeError
from safe_modprobe.policy.files import read_policy
from tests.unit.make import NoAccounts


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    run, etc = tmp_path / "run", tmp_path / "etc"
    etc.mkdir()
    monkeypatch.setattr(trial, "PATH", str(run / "00-trial.toml"))
    monkeypatch.setattr(trial, "_OVERRIDE", str(etc / "00-trial.toml"))
    return [run, etc]


def test_the_last_resort_looks_where_the_switch_is() -> None:
    assert last_resort.TRIAL == trial.PATH == "/run/safe-modprobe/policy.d/00-trial.toml"


def test_on_and_off(folders: list[Path]) -> None:
    assert not trial.is_on() and not trial.end()
    assert trial.start()
    assert trial.is_on() and not trial.start()
    settings = read_policy([str(folder) for folder in folders], NoAccounts()).settings
    assert settings.trial and str(settings.origin("trial")) == "00-trial.toml:3"
    assert trial.end() and not trial.is_on()


@pytest.mark.parametrize("what", ["/dev/null", "nowhere"])
def test_what_takes_its_place_is_named_even_if_it_leads_nowhere(folders: list[Path], what: str) -> None:
    run, etc = folders
    (etc / "00-trial.toml").symlink_to(what)
    with pytest.raises(SafeModprobeError) as caught:
        trial.start()
    assert str(caught.value) == (
        f"{etc}/00-trial.toml: it replaces {run}/00-trial.toml, so a trial would have no effect;"
        " nothing was changed; remove it"
    )
    assert not run.exists()

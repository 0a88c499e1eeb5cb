"""The switch of a trial, in a temporary folder. tests/vm/scenarios/trial.py tests a trial with a kernel."""

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


def test_the_last_resort_knows_the_path_of_the_switch() -> None:
    assert last_resort.TRIAL == trial.PATH == "/run/safe-modprobe/policy.d/00-trial.toml"


def test_a_trial_begins_and_ends(folders: list[Path]) -> None:
    assert not trial.is_on() and not trial.end()
    assert trial.start()
    assert trial.is_on() and not trial.start()
    settings = read_policy([str(folder) for folder in folders], NoAccounts()).settings
    assert settings.trial and str(settings.origin("trial")) == "00-trial.toml:3"
    assert trial.end() and not trial.is_on()


@pytest.mark.parametrize("link", ["/dev/null", "nowhere"])
def test_a_file_that_overrides_the_switch_is_named_even_if_it_is_a_dangling_link(
    folders: list[Path], link: str
) -> None:
    run, etc = folders
    (etc / "00-trial.toml").symlink_to(link)
    with pytest.raises(SafeModprobeError) as caught:
        trial.start()
    assert str(caught.value) == (
        f"{etc}/00-trial.toml: it replaces {run}/00-trial.toml, so a trial would have no effect;"
        " nothing was changed; remove it"
    )
    assert not run.exists()

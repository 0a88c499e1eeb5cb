"""What a series of patches leaves of a tree's files, by patch(1); the tree itself stays as it is."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from survey.tree import read
from survey.words import SurveyError

_OLD = re.compile(rb"^--- a/([^\t\n]+)", re.MULTILINE)
_NEW = re.compile(rb"^\+\+\+ b/([^\t\n]+)", re.MULTILINE)
_REMEDY = "give this kernel's by --series, or --no-series"


def applied(top: Path, series: Sequence[Path]) -> Mapping[str, bytes]:
    """File -> what it says after the first of these series that applies to the tree. Raises SurveyError."""
    why = []
    for each in series:
        try:
            return patched(top, each)
        except SurveyError as error:
            why.append(error)
    raise why[0] if len(why) == 1 else SurveyError(f"{top}: none of {len(why)} series applies; {_REMEDY}")


def patched(top: Path, series: Path) -> Mapping[str, bytes]:
    """File -> what it says after the patches that a file of quilt(1)'s form lists. Raises SurveyError."""
    lines = [line.partition("#")[0].strip() for line in read(series).decode(errors="surrogateescape").splitlines()]
    patches = [series.parent / line for line in lines if line]
    if not patches:
        raise SurveyError(f"{series}: it lists no patch; {_REMEDY}")
    changed = {found.decode() for patch in patches for each in (_OLD, _NEW) for found in each.findall(read(patch))}
    with TemporaryDirectory(prefix="survey-") as name:
        work = Path(name)
        for file in changed:
            if (top / file).is_file():
                (work / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(top / file, work / file)
        for patch in patches:
            _apply(work, patch)
        return {file: read(work / file) for file in sorted(changed) if (work / file).is_file()}


def _apply(work: Path, patch: Path) -> None:
    gone = [name for name in map(bytes.decode, _OLD.findall(read(patch))) if not (work / name).is_file()]
    if gone:
        raise SurveyError(f"{patch}: it changes {gone[0]}, which is not there; {_REMEDY}")
    command: list[str | Path] = ["patch", "-p1", "--batch", "--silent", "--no-backup-if-mismatch"]
    command += ["-d", work, "-i", patch.resolve()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="backslashreplace")
    except FileNotFoundError:
        raise SurveyError("patch(1) is not installed; Debian's package patch has it") from None
    if done.returncode:
        why = (done.stdout or done.stderr).strip().partition("\n")[0]
        raise SurveyError(f"{patch}: it does not apply ({why}); {_REMEDY}")

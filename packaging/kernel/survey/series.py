"""Apply a series of patches to copies of a tree's files with patch(1). The tree itself is not changed."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from survey.model import SurveyError
from survey.tree import read

_OLD = re.compile(rb"^--- a/([^\t\n]+)", re.MULTILINE)
_NEW = re.compile(rb"^\+\+\+ b/([^\t\n]+)", re.MULTILINE)
_REMEDY = "pass this kernel's series with --series, or use --no-series"


def applied(top: Path, series: Sequence[Path]) -> Mapping[str, bytes]:
    """Return file -> content after the first of these series that applies. Raises SurveyError if none does."""
    why = []
    for each in series:
        try:
            return patched(top, each)
        except SurveyError as error:
            why.append(error)
    raise why[0] if len(why) == 1 else SurveyError(f"{top}: none of {len(why)} series applies; {_REMEDY}")


def patched(top: Path, series: Path) -> Mapping[str, bytes]:
    """Return file -> content after the patches that a quilt(1) series file lists. Raises SurveyError if one fails."""
    lines = [line.partition("#")[0].strip() for line in read(series).decode(errors="surrogateescape").splitlines()]
    patches = [series.parent / line for line in lines if line]
    if not patches:
        raise SurveyError(f"{series}: the file lists no patch; {_REMEDY}")
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
    missing = [name for name in map(bytes.decode, _OLD.findall(read(patch))) if not (work / name).is_file()]
    if missing:
        raise SurveyError(f"{patch}: the patch changes {missing[0]}, which does not exist; {_REMEDY}")
    command: list[str | Path] = ["patch", "-p1", "--batch", "--silent", "--no-backup-if-mismatch"]
    command += ["-d", work, "-i", patch.resolve()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="backslashreplace")
    except FileNotFoundError:
        raise SurveyError("patch(1) is not installed; Debian's package patch has it") from None
    if done.returncode:
        why = (done.stdout or done.stderr).strip().partition("\n")[0]
        raise SurveyError(f"{patch}: the patch does not apply ({why}); {_REMEDY}")

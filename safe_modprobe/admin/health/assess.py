"""Judge facts: whether safe-modprobe is on, whether it protects, and what is wrong. Pure."""

from enum import StrEnum

from safe_modprobe.admin.health.caller_checks import check_callers
from safe_modprobe.admin.health.facts import Facts
from safe_modprobe.admin.health.helper_checks import check_helper
from safe_modprobe.admin.health.policy_checks import check_policy
from safe_modprobe.admin.health.problem import Problem, Severity
from safe_modprobe.admin.health.sources import SourceUse, sources
from safe_modprobe.light_types import NamedTuple


class State(StrEnum):
    """Whether the kernel runs our helper (`on`), and whether a trial keeps it from refusing anything (`trial`)."""

    ON = "on"
    TRIAL = "trial"
    OFF = "off"


class Health(NamedTuple):
    """The result of all checks. `problems` are sorted by severity, the most severe first."""

    state: State
    problems: tuple[Problem, ...]
    sources: tuple[SourceUse, ...]

    @property
    def protects(self) -> bool:
        """Whether safe-modprobe is on and no problem has severity `moot`."""
        return self.state is State.ON and all(each.severity is not Severity.MOOT for each in self.problems)


_CHECKS = (check_helper, check_policy, check_callers)
_ORDER = list(Severity)


def assess(facts: Facts) -> Health:
    """Run every check on the facts of a machine."""
    state = State.OFF if not facts.ours else State.TRIAL if facts.policy.settings.trial else State.ON
    problems = [problem for check in _CHECKS for problem in check(facts)]
    problems.sort(key=lambda problem: _ORDER.index(problem.severity))
    return Health(state, tuple(problems), sources(facts))

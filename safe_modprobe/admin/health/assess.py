"""Facts -> is it on, does it protect, and what is wrong."""

from enum import StrEnum

from safe_modprobe.admin.health.caller_checks import check_callers
from safe_modprobe.admin.health.facts import Facts
from safe_modprobe.admin.health.helper_checks import check_helper
from safe_modprobe.admin.health.policy_checks import check_policy
from safe_modprobe.admin.health.problem import Problem, Severity
from safe_modprobe.admin.health.sources import SourceUse, sources
from safe_modprobe.light_types import NamedTuple


class State(StrEnum):
    """Whether the kernel asks us, and whether anything is refused then."""

    ON = "on"
    TRIAL = "trial"
    OFF = "off"


class Health(NamedTuple):
    """The answer; the problems are sorted, the weightiest first."""

    state: State
    problems: tuple[Problem, ...]
    sources: tuple[SourceUse, ...]

    @property
    def protects(self) -> bool:
        """Whether it is on, and nothing makes it moot."""
        return self.state is State.ON and all(each.severity is not Severity.MOOT for each in self.problems)


_CHECKS = (check_helper, check_policy, check_callers)
_WEIGHT = list(Severity)


def assess(facts: Facts) -> Health:
    """All that is to be said of a machine."""
    state = State.OFF if not facts.ours else State.TRIAL if facts.policy.settings.trial else State.ON
    problems = [problem for check in _CHECKS for problem in check(facts)]
    problems.sort(key=lambda problem: _WEIGHT.index(problem.severity))
    return Health(state, tuple(problems), sources(facts))

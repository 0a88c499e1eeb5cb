"""Convert a policy to plain tuples, strings and numbers, which marshal can store, and back. Pure."""

from safe_modprobe import __version__
from safe_modprobe.light_types import TYPE_CHECKING
from safe_modprobe.model import Action, CallSite, Mark, Mode, Origin, Policy, Rule, Settings, Source

SHAPE = (__version__, *(kind._fields for kind in (Policy, Settings, Mark, CallSite, Rule, Origin)))
"""The version and fields of the format. A cache with a different shape is not read, since its values may differ."""

if TYPE_CHECKING:
    from typing import Any

    Plain = tuple[Any, ...]


def pack(policy: Policy) -> "Plain":
    """Return the policy as exact tuples, strings, numbers, frozensets and None. marshal accepts no subclasses."""
    settings = policy.settings
    plain_settings = settings._asdict() | {
        "mode": settings.mode.value,
        "mismatch": settings.mismatch.value,
        "sources": tuple(source.value for source in settings.sources),
        "origins": tuple((key, tuple(origin)) for key, origin in settings.origins.items()),
    }
    return (
        tuple(plain_settings.values()),
        tuple((tuple(mark.origin), *mark[1:]) for mark in policy.marks),
        tuple((tuple(site.origin), *site[1:]) for site in policy.call_sites),
        tuple((tuple(rule.origin), rule.action.value, *rule[2:]) for rule in policy.rules),
        policy.files,
    )


def unpack(plain: "Plain") -> Policy:
    """Return the policy that was packed. Raises ValueError or TypeError for other values."""
    settings, marks, sites, rules, files = plain
    named = dict(zip(Settings._fields, settings, strict=True))
    named["mode"], named["mismatch"] = Mode(named["mode"]), Action(named["mismatch"])
    named["sources"] = tuple(map(Source, named["sources"]))
    named["origins"] = {key: Origin(*origin) for key, origin in named["origins"]}
    return Policy(
        Settings(**named),
        tuple(Mark(Origin(*origin), *more) for origin, *more in marks),
        tuple(CallSite(Origin(*origin), *more) for origin, *more in sites),
        tuple(Rule(Origin(*origin), Action(action), *more) for origin, action, *more in rules),
        files,
    )

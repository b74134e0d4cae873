"""The rules of de-identification that are in force, as `site doctor` and the inspection page tell them."""

from dataclasses import dataclass

from client.imaging.profile import DeidProfile, Loosening
from client.workplace import Workplace
from federation.errors import SettingsError, StoreError


@dataclass(frozen=True)
class RulesView:
    says: str
    exceptions: tuple[Loosening, ...] = ()
    differs: bool = False
    """The store was made with other rules than those in force now."""
    unread: bool = False


def rules_view(place: Workplace) -> RulesView:
    """Raises: SettingsError when the rules cannot be read."""
    profile = place.profile()
    return RulesView(summary(profile), profile.site.exceptions, _differs(place, profile))


def rules_told(place: Workplace) -> RulesView:
    """As `rules_view`, and in words what is wrong with the rules: a store can be looked at all the same."""
    try:
        return rules_view(place)
    except SettingsError as error:
        return RulesView(f"cannot be read ({error.message}; {error.hint})", unread=True)


def summary(profile: DeidProfile) -> str:
    """
    >>> summary(DeidProfile.shipped())
    'shipped'
    """
    site = profile.site
    parts = [
        f"{word} {len(what)}"
        for word, what in (("tightened", site.tightened), ("adjusted", site.adjusted), ("loosened", site.exceptions))
        if what
    ]
    names = ", ".join(f"{each.keep} by {each.by}" for each in site.exceptions)
    return (", ".join(parts) or "shipped") + (f" ({names})" if names else "")


def _differs(place: Workplace, profile: DeidProfile) -> bool:
    try:
        with place.open_store() as store:
            return store.profile_digest != profile.digest
    except StoreError:  # nothing is there, or it is damaged: that is told elsewhere
        return False

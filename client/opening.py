"""A site's folder opened: settings, store, ledger, base and keys become the one object that the daemon asks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.imaging.store import Store
from client.settings import Settings, ensure_declared
from client.site import Site
from client.training.learner import LoraLearner, StoredPatients
from client.training.model import Device, load_base
from client.workplace import Workplace
from federation.errors import SettingsError
from federation.privacy.keystream import OperatingSystemKeys
from federation.privacy.ledger import Ledger, epsilon_of
from federation.secagg.bodies import Identity


@dataclass(frozen=True)
class Opened:
    """A site that can answer, and what must be closed behind it."""

    site: Site
    ledger: Ledger

    def spent(self) -> Mapping[str, Any]:
        """What the ledger says, for `site status`: charges and the epsilon of all of them."""
        return spent(self.ledger, 1 / (10 * self.site.declared_patients))


def open_site(
    folder: Path, settings: Settings, identity: Callable[[], Identity], on_failure: Callable[[Exception], None]
) -> Opened:
    """Everything is refused before the first question: settings, ledger, store, base, in this order.

    The model is loaded here, once, and stays. Raises: SettingsError, StoreError, ModelError.
    """
    if settings.model is None:
        raise SettingsError(
            "settings-value", "model.path is missing", hint='add [model] path = "…": the folder of the base model'
        )
    state = folder / "state"
    state.mkdir(exist_ok=True, mode=0o700)
    ledger = Ledger.open(state / "ledger")
    try:
        store = Store.open(folder / settings.data.store)
        ensure_declared(settings.data, len(store.patients()))
        place = Workplace(folder, settings)
        base = load_base(
            folder / settings.model.path,
            sha256=settings.model.sha256,
            family=None,
            device=Device.choose(settings.device.name, threads=settings.device.threads),
        )
        gone = place.withdrawals()
        data = StoredPatients(
            store, place.releases(), rules=place.profile_digest, withdrawn=lambda: gone.patients(store.key_id)
        )
        learner = LoraLearner(base, data, declared_patients=settings.data.declared_patients)
        site = Site(
            settings,
            settings.policy,
            ledger,
            OperatingSystemKeys(),
            learner,
            state,
            identity=identity,
            on_failure=on_failure,
            examiner=learner,
        )
    except BaseException:
        ledger.close()
        raise
    return Opened(site, ledger)


def spent(ledger: Ledger, delta: float) -> Mapping[str, Any]:
    """Epsilon of the person with whom most was done, by everything in the ledger: as `site ledger` says it."""
    charges = ledger.spends()
    return {"charges": len(charges), "epsilon": epsilon_of(charges, delta)}

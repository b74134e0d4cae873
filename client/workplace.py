"""The part of a site's folder (client/folder.py) that patients' data pass through: secret, rules, store, releases.

It needs no keys and no roster: a hospital can ingest, inspect and release before it has joined a federation.
"""

import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from client.exports import Exports
from client.folder import IDENTITY, SETTINGS
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.site_lists import SiteLists, require_joined
from client.imaging.site_rules import load_rules, under
from client.imaging.store import Store
from client.releases import Releases
from client.settings import Settings, load_settings
from client.withdrawals import Withdrawals
from federation.errors import SettingsError, StoreError
from federation.trust.keys import SigningKey


@dataclass(frozen=True)
class Workplace:
    """One site's folder. Names in site.toml count from the folder it is in."""

    folder: Path
    settings: Settings

    @staticmethod
    def open(folder: Path) -> "Workplace":
        """Raises: SettingsError."""
        path = folder / SETTINGS
        if not path.is_file():
            raise SettingsError(
                "settings-absent",
                "there is no site.toml here",
                hint="go to the site's folder or name it with --dir; wardround site init makes one",
            )
        return Workplace(folder, load_settings(path))

    @property
    def store_folder(self) -> Path:
        return self.folder / self.settings.data.store

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def spool(self) -> Path:
        return self.store_folder.parent / "spool"

    @property
    def reports(self) -> Path:
        return self.folder / self.settings.receive.reports

    @cached_property
    def lists(self) -> SiteLists:
        """The site's lists, read once. Raises: SettingsError, DataError site-list."""
        return SiteLists.read(self.folder, self.settings.data)

    def keys(self) -> SiteKeys:
        """The site's pseudonym keys, which know of its joined records.

        Raises: SettingsError when the secret is absent, short, or open to others; as `lists`.
        """
        path = self.folder / self.settings.data.secret
        try:
            mode = path.stat().st_mode
            secret = path.read_bytes()
        except OSError:
            raise SettingsError(
                "settings-absent",
                "the file with the site's secret cannot be read",
                hint="restore it from the backup: another secret makes other patients of the same people",
            ) from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SettingsError(
                "settings-value",
                "the site's secret is open to other users",
                hint="chmod 600 the file that data.secret names",
            )
        return SiteKeys.from_secret(secret).joining(self.lists.joined)

    def profile(self) -> DeidProfile:
        """The shipped rules, changed by the site's own if it has some. Raises: SettingsError."""
        shipped, name = DeidProfile.shipped(), self.settings.data.rules
        return shipped if name is None else under(load_rules(self.folder / name), shipped, self.folder)

    def profile_digest(self) -> str:
        """Of the rules in force; nothing, which no store has, when they cannot be read."""
        try:
            return self.profile().digest
        except SettingsError:
            return ""

    def open_store(self) -> Store:
        """The site's store. Raises: StoreError, also when nothing was ever ingested."""
        if not self.has_store():
            raise StoreError("store-damaged", "there is no store yet", hint="fill it with wardround site ingest")
        return Store.open(self.store_folder)

    def store_for(self, profile: DeidProfile, keys: SiteKeys) -> Store:
        """The site's store, made if there is none, for this profile and secret only."""
        if not self.has_store():
            return Store.create(self.store_folder, profile_digest=profile.digest, key_id=keys.key_id)
        store = Store.open(self.store_folder)
        if store.key_id != keys.key_id:
            store.close()
            raise StoreError(
                "store-mismatch",
                "the store was made with another site secret",
                hint="restore that secret, or name a new folder in data.store: its patients are others",
            )
        if store.profile_digest != profile.digest:
            store.close()
            raise StoreError(
                "store-mismatch",
                "the store was made with other rules of de-identification",
                hint="take the change in data.rules back, or name a new folder in data.store and ingest all again",
            )
        try:
            require_joined(store, keys, {profile.default_issuer} | keys.joined.issuers)
        except StoreError:
            store.close()
            raise
        return store

    def require_trainable(self, store: Store) -> None:
        """Raises what keeps this data set from being trained on, whatever was released: SettingsError when the rules
        cannot be read; StoreError store-mismatch for other rules than the store's, withdrawal-unfinished, and
        withdrawal-damaged."""
        if store.profile_digest != self.profile().digest:
            raise StoreError(
                "store-mismatch",
                "the store was made with other rules of de-identification: nothing trains on it",
                hint="take the change in data.rules back, or name a new folder in data.store and ingest all again",
            )
        if store.present(self.withdrawals().patients(store.key_id)):
            raise StoreError(
                "withdrawal-unfinished",
                "patients who were withdrawn are still in the store: nothing trains on it",
                hint="run the same wardround site erase again; an ingest finishes it, too",
            )

    def has_store(self) -> bool:
        return os.path.exists(self.store_folder / "store.json")  # a name too long for the disk is not there either

    def releases(self) -> Releases:
        return Releases(self.state / "releases.jsonl", self.signing_key)

    def exports(self) -> Exports:
        return Exports(self.state / "exports")

    def signing_key(self) -> SigningKey | None:
        """The site's identity key; None at a site that has none yet. Raises: TrustError when it cannot be read."""
        path = self.folder / IDENTITY
        return SigningKey.load(path) if path.exists() else None

    def withdrawals(self) -> Withdrawals:
        return Withdrawals(self.state / "withdrawn.jsonl")

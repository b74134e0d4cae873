"""site.toml: what the hospital's operator writes. Unknown keys are errors; see federation/strict_toml.py."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from client.policy import Policy
from federation import strict_toml
from federation.consent import patients_most
from federation.errors import SettingsError

Name = Annotated[str, Field(pattern=r"^[^\x00]{1,400}$")]  # of a file or folder, from the site's own folder
AeTitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]  # PS3.5 table 6.2-1, VR AE


@dataclass(frozen=True)
class SiteIdentity:
    __pydantic_config__ = strict_toml.STRICT
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    coordinator: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")] = "coordinator"


@dataclass(frozen=True)
class Data:
    __pydantic_config__ = strict_toml.STRICT
    store: Name  # the folder of de-identified examples
    secret: Name  # the file with this site's pseudonym secret
    declared_patients: Annotated[int, Field(ge=1, le=100_000_000)]  # rounded and public; not the count of the store
    rules: Name | None = None  # the file with this site's own rules of de-identification; absent: the shipped ones
    staff: Name | None = None  # names that go from every report, one a line
    places: Name | None = None  # hospitals, wards, towns, streets, likewise
    patients: Name | None = None  # a table of joined records: older ids of the same people


def ensure_declared(data: Data, patients: int) -> None:
    """Whether so many patients in the store fit what the site declares: the coordinator's gate relies on it, and delta.

    Raises: SettingsError `declared-patients`.
    """
    if patients > patients_most(data.declared_patients):
        raise SettingsError(
            "declared-patients",
            f"the store has more patients than declared_patients = {data.declared_patients} allows",
            hint="write a round number near its patients into site.toml; wardround site release counts them",
        )


@dataclass(frozen=True)
class Device:
    __pydantic_config__ = strict_toml.STRICT
    name: Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")] = "cpu"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0  # cores for numbers; 0: what the library takes


@dataclass(frozen=True)
class Model:
    """[model]: the base that this site has, loaded once when the daemon starts."""

    __pydantic_config__ = strict_toml.STRICT
    path: Name  # its folder
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None  # absent: not compared when it is loaded


@dataclass(frozen=True)
class Carrier:
    """[carrier]: how this site reaches the coordinator. Its address comes with the invitation."""

    __pydantic_config__ = strict_toml.STRICT
    proxy: Annotated[str, Field(pattern=r"^http://[^\s@]{1,300}$")] | None = None  # an HTTP proxy, without a password
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9464  # on loopback; 0: any free one


@dataclass(frozen=True)
class Receive:
    """[receive]: who may send DICOM objects to `wardround site receive`."""

    __pydantic_config__ = strict_toml.STRICT
    callers: tuple[AeTitle, ...] = ()  # AE titles that may send; empty: nobody
    ae_title: AeTitle = "WARDROUND"
    host: Annotated[str, Field(pattern=r"^[0-9A-Za-z.:-]{1,255}$")] = "127.0.0.1"
    reports: Name = "reports"  # the folder with .csv and .jsonl files of reports
    quiet_s: Annotated[int, Field(ge=1, le=86_400)] = 60  # a study is complete when nothing came for so long
    keep_days: Annotated[int, Field(ge=1, le=365)] = 14  # images without a report are removed after so many days
    associations: Annotated[int, Field(ge=1, le=100)] = 10  # at the same time


@dataclass(frozen=True)
class Settings:
    __pydantic_config__ = strict_toml.STRICT
    site: SiteIdentity
    data: Data
    policy: Policy
    device: Device = field(default_factory=Device)
    receive: Receive = field(default_factory=Receive)
    model: Model | None = None
    carrier: Carrier = field(default_factory=Carrier)


def load_settings(path: Path) -> Settings:
    """The settings in this file. Raises: SettingsError, with the key's name and what to do."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise SettingsError(
            "settings-absent", "site.toml cannot be read", hint="it has [site], [data], [policy]"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError("settings-value", "site.toml is not UTF-8 text", hint="save it as UTF-8") from None
    return parse_settings(text)


def parse_settings(text: str) -> Settings:
    return strict_toml.parse(Settings, text, _refuse)


def _refuse(kind: str, message: str, hint: str) -> SettingsError:
    return SettingsError("settings-unknown-key" if kind == "unknown-key" else "settings-value", message, hint=hint)

"""What a run proves afterwards: its rosters, its rounds and what was released, written into its log as they happen.

`wardround verify` reads it (server/verify.py). Every function here may be called again after a crash: what the log has
already is not written twice, and a round that was committed before its entry was written gets it now.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from federation import durable
from federation.errors import StoreError
from federation.trust import entries
from federation.trust import roster as rosters
from federation.trust.keys import SigningKey
from federation.trust.roster import SignedRoster
from federation.trust.translog import TransLog
from server.checkpoint import Checkpoints

LOG_FOLDER, ROSTER_NAME = "log", "roster.json"


def open_log(
    checkpoints: Checkpoints, signed: SignedRoster, log_key: SigningKey, *, versions: Sequence[SignedRoster] = ()
) -> TransLog:
    """The log of this run, begun or gone on with: the roster in force, the run, and every committed round.

    `versions` are all rosters up to `signed`: a run that is resumed under a later one gets those in between as well.
    """
    origin = log_origin(signed.roster.consortium, checkpoints.run_id)
    log = TransLog.open(checkpoints.folder / LOG_FOLDER, origin, log_key)
    try:
        for one in _missing(log, (*versions, signed)):
            log.append(entries.roster(one))
        durable.write(checkpoints.folder / ROSTER_NAME, [rosters.dump(signed)])
        if not log.of_type("run"):
            run_file = sha256(checkpoints.folder / "run.json")
            log.append(entries.run(checkpoints.run_id, checkpoints.plan.digest(), run_file))
        record_rounds(log, checkpoints)
    except BaseException:
        log.close()
        raise
    return log


def record_rounds(log: TransLog, checkpoints: Checkpoints) -> None:
    """An entry for every committed round that has none yet."""
    written = {entry["round"] for entry in log.of_type("round")}
    for state, record in checkpoints.history():
        if record.round_number not in written:
            value = record.value()
            log.append(entries.round_(record.round_number, state=state, adapter=record.adapter_digest, record=value))


def release(log: TransLog, folder: Path, files: Iterable[str], *, adapter: str) -> None:
    """What was given out at the end: these files of `folder`, by digest. The last release counts."""
    log.append(entries.release({name: sha256(folder / name) for name in sorted(files)}, adapter=adapter))


def _missing(log: TransLog, versions: Sequence[SignedRoster]) -> list[SignedRoster]:
    """The rosters after the last one in the log, each once; only the one in force for a log that begins."""
    known = log.of_type("roster")
    if not known:
        return [versions[-1]]
    last = rosters.from_value({"roster": known[-1]["roster"], "signatures": known[-1]["signatures"]}).roster.version
    later = {one.roster.version: one for one in versions if one.roster.version > last}
    return [later[version] for version in sorted(later)]


def log_origin(consortium: str, run_id: str) -> str:
    return f"{consortium}/{run_id}"


def sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise StoreError("store-damaged", f"{path.name} cannot be read", hint="restore it from a copy") from None

"""Which runs this site trained without privacy, and on whom: no epsilon covers these patients any more.

Such a run has no charge, because no number describes it. It is recorded here before it trains, and from then on whoever
promises an epsilon to any of the same patients is refused (`budget_exhausted`): the ledger alone would understate.
"""

from pathlib import Path

from federation import canonical, durable
from federation.errors import FormatError, StoreError

FOLDER = "without-privacy"  # in the state folder: one file per run
Part = tuple[float, float]


def record(state_dir: Path, run_id: str, cohort_id: str, part: Part) -> None:
    """Returns when the record is durable; again for the same run: nothing changes."""
    path = state_dir / FOLDER / run_id
    if not path.exists():
        path.parent.mkdir(exist_ok=True, mode=0o700)
        text = canonical.dump({"cohort_id": cohort_id, "part": [canonical.decimal(end) for end in part]})
        durable.write(path, [text])


def runs(state_dir: Path) -> list[str]:
    folder = state_dir / FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def touched(state_dir: Path, cohort_id: str, part: Part) -> bool:
    """Whether any of these patients may have been trained on without privacy. Of another cohort: any may."""
    return any(_touches(state_dir / FOLDER / run_id, cohort_id, part) for run_id in runs(state_dir))


def _touches(path: Path, cohort_id: str, part: Part) -> bool:
    try:
        match canonical.load(path.read_bytes()):
            case {"cohort_id": str(theirs), "part": [low, high]}:
                return theirs != cohort_id or (canonical.number(low) < part[1] and part[0] < canonical.number(high))
    except FormatError:
        pass
    raise StoreError("store-damaged", "the record of a run is damaged", hint="restore the state folder")

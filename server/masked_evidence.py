"""What a masked round proves afterwards: the signed bodies of its transcript, and the mean of its last vectors.

Used by `wardround verify`; docs/spec/secagg-1.md, section 7. A transcript opens no update: the pair masks stay.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from federation import canonical
from federation.canonical import Value
from federation.errors import FormatError, ProtocolError
from federation.messages import MaskedStage as Stage
from federation.secagg import bodies, transcript
from federation.secagg.bodies import PROTOCOL, STAGES, Body, RoundId
from federation.secagg.ring import SITES_MIN


def check(path: Path, this: RoundId, roster: Mapping[str, bytes], survivors: tuple[str, ...] | None) -> None:
    """Refuse a transcript that its sites did not sign as it stands, for this round, under this roster.

    Guarantees: a return means that every body is its site's, that all sites began with equal inputs, that `survivors`
    (if the round was accepted) are those whose vectors are in the sum, and that enough of them signed exactly that.
    Raises: FedError with the code of the first thing that is wrong.
    """
    told = canonical.load(path.read_bytes())
    match told:
        case {"version": version, "run": run, "round": number, "plan": plan, "inputs": str(inputs), **rest} if (
            version == PROTOCOL and (run, number, plan) == (this.run_id, this.round_number, this.plan_digest)
        ):
            said = {stage: _bodies(cast(Value, rest.get(stage)), this, stage, roster) for stage in STAGES}
        case _:
            raise FormatError(
                "secagg-not-canonical",
                "a transcript is not in its form, or of another round",
                hint="compare the versions",
            )
    ready, masked, agree = said["ready"], said["masked"], said["agree"]
    where = bodies.roster_hash(list(ready.values()))
    if any(body.text("inputs") != inputs for body in ready.values()):
        raise _split("a site began with other inputs")
    if any(body.text("roster") != where for stage in STAGES[1:] for body in said[stage].values()):
        raise _split("a site was shown another roster of the round")
    if not set(masked) <= set(ready) or (survivors is not None and sorted(survivors) != sorted(masked)):
        raise _split("the survivors are not those whose vectors were signed")
    least = max(bodies.threshold(len(ready)), SITES_MIN)
    vectors = bodies.vectors_digest(list(masked.values()))
    agreed = [
        site for site, body in agree.items()
        if site in masked and body.sites("survivors") == tuple(sorted(masked)) and body.text("vectors") == vectors
    ]  # fmt: skip
    if len(masked) < least or len(agreed) < bodies.threshold(len(ready)) or len(agreed) != len(agree):
        raise _split("too few sites agree on the survivors")


def recompute(path: Path, vectors: Path, roster: Mapping[str, bytes]) -> None:
    """Refuse masked vectors that do not make the mean which the transcript names, bit for bit. Raises: FedError."""
    told = canonical.load(path.read_bytes())
    transcript.recompute(told, roster, lambda site: (vectors / f"{site}.vector").read_bytes())


def _bodies(listed: Value, this: RoundId, stage: Stage, roster: Mapping[str, bytes]) -> dict[str, Body]:
    """The bodies of one stage by their site, each opened; two of one site are refused."""
    if not isinstance(listed, list):
        raise bodies.not_canonical()
    opened = [bodies.open_body(stage, this, roster, one) for one in listed]
    found = {body.site_id: body for body in opened}
    if len(found) != len(opened):
        raise ProtocolError("secagg-second-answer", "two messages of one site and stage", hint="keep both")
    return found


def _split(reason: str) -> ProtocolError:
    return ProtocolError("secagg-split-view", reason, hint="compare with the sites' own evidence")

"""What people do at a site's desk: start the daemon, look at it, approve a plan, read the site's own rules."""

import contextlib
import getpass
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from client import site as sites
from client.daemon import Carrier, Daemon, OneThread
from client.folder import CA, TRANSPORT, SiteFolder
from client.local_service import SOCKET, Stub
from client.policy import Policy
from federation import canonical, durable
from federation.errors import CarrierError, FedError
from federation.plan import RunPlan
from federation.trust import times


@contextmanager
def daemon(folder: SiteFolder, *, also_log: Callable[[str], None] = lambda line: None) -> Iterator[Daemon]:
    """The daemon of a site that has enrolled, ready to start. The model is loaded here.

    Raises: SettingsError, TrustError, StoreError, ModelError: one line and a hint each, before anything listens.
    """
    from client.doctor import trouble
    from client.opening import open_site

    settings = folder.settings()
    folder.signing_key()  # a site without a roster, or with another key than it names, loads no model
    told: list[Daemon] = []
    thread = OneThread()
    identity = partial(folder.identity, settings.site.id)
    opened = thread.call(lambda: open_site(folder.path, settings, identity, lambda error: _log_failure(told, error)))
    with contextlib.closing(opened.ledger):
        door = folder.door(opened.site, clock=time.time)
        with contextlib.closing(door.log):
            made = Daemon(
                door,
                folder.path,
                Carrier(folder.address(), folder.path / CA, folder.path / TRANSPORT, settings.carrier.proxy),
                thread=thread,
                approve=lambda digest, by: approve(folder.path, digest, by=by),
                spent=opened.spent,
                trouble=lambda: trouble(folder),
                metrics_port=settings.carrier.metrics_port,
                also_log=also_log,
            )
            told.append(made)
            yield made


def _log_failure(told: list[Daemon], error: Exception) -> None:
    """Our own errors hold no data; of any other only the type is written."""
    if told:
        code = error.code if isinstance(error, FedError) else "internal"
        text = error.message if isinstance(error, FedError) else type(error).__name__
        told[0].log("failure", code=code, message=text)


def approve(path: Path, digest: str, *, by: str) -> None:
    """A person approves this very plan: who and when is kept beside the approval."""
    sites.approve(path / "state", digest)
    when = times.now()
    (path / "state" / "approved").mkdir(exist_ok=True, mode=0o700)
    text = canonical.dump({"plan": digest, "by": by[:100], "when": when})
    durable.write(path / "state" / "approved" / f"{digest}.json", [text])


def approve_plan(path: Path, plan: RunPlan) -> str:
    """Through the daemon if it runs, else into its folder; both count at once. Returns the digest."""
    digest, by = plan.digest(), getpass.getuser()
    try:
        _stub(path).approve(digest, by)
    except (ConnectionError, CarrierError):
        approve(path, digest, by=by)
    return digest


def status(path: Path) -> dict[str, Any]:
    """Raises: CarrierError `daemon-away`."""
    try:
        return _stub(path).status()
    except ConnectionError:
        raise CarrierError(
            "daemon-away", "the site's daemon does not run here", hint="start it: `wardround site run`"
        ) from None


def status_lines(told: dict[str, Any]) -> list[str]:
    lines = [
        f"{told['site']}: {told['state']} since {told['for_s']:.0f} s",
        f"coordinator  {told['coordinator'] or 'none'}",
        f"answered     {told['answered']} questions since the start",
    ]
    if told.get("trouble"):
        lines.append(f"trouble      {told['trouble']}")
    if told["last"]:
        last = told["last"]
        why = last.get("code") or ", ".join(last.get("reasons", ()))
        lines.append(
            f"last         {last['kind']} of round {last['round']} in {last['run']}: {last['answer']}"
            + (f" ({why})" if why else "")
        )
    lines.append(f"spent        epsilon {told.get('epsilon', 0.0):.3f} in {told.get('charges', 0)} charges")
    for name, child in told["children"].items():
        state = f"process {child['pid']}" if child["pid"] else "not running, will be started again"
        lines.append(f"{name:<12} {state}, started {child['starts']} times")
    return lines


def policy_lines(policy: Policy) -> list[str]:
    """The site's rules, one a line, as they are in force."""
    shown = {item.name: getattr(policy, item.name) for item in fields(policy)}
    return [f"{name:<22} {_word(value)}" for name, value in shown.items()]


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "any that this site has loaded itself"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _stub(path: Path) -> Stub:
    socket = path / "run" / SOCKET
    if not socket.exists():
        raise CarrierError("daemon-away", "the site's daemon does not run here", hint="start it: `wardround site run`")
    return Stub(socket)

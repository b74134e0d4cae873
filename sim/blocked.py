"""Run a command where there is nothing but loopback, and tell whom it tried to reach.

    python -m sim.blocked COMMAND …          (as root, with unshare and ip; prints one JSON object, last on stdout)

The command gets a network of its own (namespaces, unshare(1)): loopback, and a way out that ends in this process, which
writes down every packet and answers none. So does the resolver with every name. At the end the same is tried here on
purpose: only if that is seen does "nothing was tried" mean anything.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

WAY_OUT, OWN, OWN6 = "nowhere", "192.0.2.2", "2001:db8::2"  # for documentation only: RFC 5737, RFC 3849
CONTROL_NAME, CONTROL_ADDRESSES = "asked-on-purpose.example", ("198.51.100.7", "2001:db8:7::7")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
ICMPV6 = 58
SERVFAIL = 0x8182


class Watch:
    """What reaches the resolver, and what is sent out."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.packets: list[str] = []
        self._resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._resolver.bind(("127.0.0.1", 53))
        self._out = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self._out, TUNSETIFF, struct.pack("16sH22x", WAY_OUT.encode(), IFF_TUN | IFF_NO_PI))
        for words in (
            f"link set {WAY_OUT} up", f"addr add {OWN}/24 dev {WAY_OUT}", f"-6 addr add {OWN6}/64 dev {WAY_OUT} nodad",
            f"route add default dev {WAY_OUT}", f"-6 route add default dev {WAY_OUT}",
        ):  # fmt: skip
            subprocess.run(["ip", *words.split()], check=True)
        for work in (self._answer_names, self._read_packets):
            threading.Thread(target=work, daemon=True).start()

    def _answer_names(self) -> None:
        while True:
            question, who = self._resolver.recvfrom(4096)
            self.names.append(_name_in(question))
            self._resolver.sendto(question[:2] + SERVFAIL.to_bytes(2, "big") + question[4:], who)

    def _read_packets(self) -> None:
        while True:
            target = _target_of(os.read(self._out, 65535))
            if target:
                self.packets.append(target)


def _name_in(question: bytes) -> str:
    """The name that is asked for (RFC 1035, 4.1.2)."""
    labels, at = [], 12
    while at < len(question) and question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode("ascii", "replace"))
        at += 1 + question[at]
    return ".".join(labels)


def _target_of(packet: bytes) -> str:
    """Where a packet goes; nothing for what the kernel itself says to its IPv6 neighbours."""
    if packet[0] >> 4 == 6:
        return "" if packet[6] in (0, ICMPV6) else socket.inet_ntop(socket.AF_INET6, packet[24:40])
    return socket.inet_ntoa(packet[16:20])


def _inside(command: list[str]) -> dict[str, Any]:
    """In the namespaces: make the network, run the command, then try on purpose."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.NamedTemporaryFile("w") as resolver:
        resolver.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        resolver.flush()
        os.chmod(resolver.name, 0o644)
        subprocess.run(["mount", "--bind", resolver.name, os.path.realpath("/etc/resolv.conf")], check=True)
        watch = Watch()
        status = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
        names, packets = sorted(set(watch.names)), sorted(set(watch.packets))
        with contextlib.suppress(OSError):
            socket.getaddrinfo(CONTROL_NAME, 443)
        for address in CONTROL_ADDRESSES:
            with contextlib.suppress(OSError):
                socket.create_connection((address, 443), timeout=1.0)
        seen = CONTROL_NAME in watch.names and set(CONTROL_ADDRESSES) <= set(watch.packets)
    return {"status": status, "names": names, "packets_to": packets, "what_was_tried_on_purpose_was_seen": seen}


def main() -> None:
    parser = argparse.ArgumentParser(prog="sim.blocked", description=__doc__)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.inside:
        told = _inside(given.command)
        print(json.dumps(told))
        sys.exit(0 if told["status"] == 0 and told["what_was_tried_on_purpose_was_seen"] else 1)
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        sys.exit("wardround: error: a network of its own needs root, unshare and ip")
    here = [sys.executable, "-m", "sim.blocked", "--inside", *given.command]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    sys.exit(
        subprocess.run(["unshare", "--net", "--mount", "--propagation", "private", *here], env=environment).returncode
    )


if __name__ == "__main__":
    main()

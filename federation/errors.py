"""Every error Wardround raises on purpose, as one tree.

FedError                 code, message, hint; str() never holds a data value
├─ PlanError         10  malformed plan, or a key that no plan has
├─ SettingsError     11  the site's own TOML
├─ BudgetError       12  this charge would pass the site's budget
├─ DeidError         13  cannot be proven clean -> quarantine
├─ FormatError       14  bytes or an update not in the one agreed form
├─ QuorumError       15  too few answers to go on
├─ ModelError        16  the base or the adapter cannot be used
├─ StoreError        17  ledger, store or checkpoint damaged
├─ PinError          18  something is not what its digest says
├─ DataError         19  a site's folder has nothing to train on
├─ TrustError        20  a key, roster, token, signature, log or certificate that cannot be trusted
├─ CarrierError      23  a daemon, a port, a connection, a run under way
├─ ProtocolError     21  a party broke the masked sum's protocol; the evidence is kept
└─ GateError         22  rounds are rejected one after the other

The number is the exit status of a command that ends with this error (1, 2 and 130 are taken: crash, usage, interrupt).
Across the Link only the code travels. Every code is explained in docs/errors.md; a test checks that.
"""

from typing import ClassVar


def printable(text: str) -> str:
    """Text that others wrote, as it may stand in a line on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class FedError(Exception):
    """An error with a public code, one clear line, and what to do about it. Never carries a value from data."""

    exit_status: ClassVar[int] = 1
    codes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, code: str, message: str, *, hint: str) -> None:
        if code not in self.codes:
            raise ValueError(f"{type(self).__name__} has no code {code!r}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (worker pools); the default pickling would drop the keyword argument.
        return _rebuild, (type(self), self.code, self.message, self.hint)


def _rebuild(kind: type[FedError], code: str, message: str, hint: str) -> FedError:
    return kind(code, message, hint=hint)


class PlanError(FedError):
    exit_status = 10
    codes = frozenset(
        {"plan-absent", "plan-not-toml", "plan-unknown-key", "plan-value", "plan-unsupported", "plan-combination"}
    )


class SettingsError(FedError):
    exit_status = 11
    codes = frozenset({"settings-absent", "settings-unknown-key", "settings-value", "declared-patients"})


class BudgetError(FedError):
    exit_status = 12
    codes = frozenset({"budget-exhausted", "budget-unreachable", "budget-event", "round-closed", "budget-conflict"})


class DeidError(FedError):
    """`code` is the quarantine reason (see docs/errors.md)."""

    exit_status = 13
    codes = frozenset(
        {
            "not-dicom", "truncated", "malformed", "limit-size", "limit-nesting", "limit-frames", "class-refused",
            "class-unknown", "syntax-unknown", "codec-missing", "decode-failed", "charset", "no-patient-id",
            "patient-conflict", "duplicate-differs", "burned-in", "ocr-missing", "picture-unfit", "pairing",
            "text-sections", "reader-missing",
            "text-residual", "residual-identifier", "report-format",
            "report-columns", "report-encoding", "report-path", "report-quotes",
            "leak-found", "unclear", "site-refused",
            "unreadable", "archive-refused", "limit-time", "structured-report", "encapsulated-document",
            "withdrawn",
        }
    )  # fmt: skip


class FormatError(FedError):
    exit_status = 14
    codes = frozenset(
        {
            "not-canonical", "update-not-finite", "update-shape", "update-norm", "message-context", "message-kind",
            "report-private", "noise-stream",
            "secagg-not-canonical", "secagg-out-of-range", "secagg-digest-mismatch",
        }
    )  # fmt: skip


class QuorumError(FedError):
    exit_status = 15
    codes = frozenset(
        {
            "quorum-consent", "quorum-answers", "quorum-unreachable",
            "secagg-roster-too-small", "secagg-peers-too-few", "secagg-survivors-too-few",
        }
    )  # fmt: skip


class ModelError(FedError):
    exit_status = 16
    codes = frozenset(
        {
            "model-absent", "model-unreadable", "model-family", "adapter-targets", "adapter-shape", "adapter-trainable",
            "model-couples-patients", "model-rows", "dependency-missing",
        }
    )  # fmt: skip


class StoreError(FedError):
    exit_status = 17
    codes = frozenset(
        {
            "ledger-damaged", "ledger-rollback", "ledger-busy", "ledger-write", "store-damaged", "store-version",
            "store-mismatch", "store-busy", "no-permission", "release-damaged", "release-digest",
            "store-joined", "withdrawal-damaged", "withdrawal-unfinished",
            "checkpoint-damaged", "checkpoint-other-run", "output-exists", "output-failed",
            "disk-full", "bundle-failed", "example-unknown", "group-held",
        }
    )  # fmt: skip


class PinError(FedError):
    exit_status = 18
    codes = frozenset({"base-digest", "bundle-differs"})


class DataError(FedError):
    exit_status = 19
    codes = frozenset(
        {
            "folder-absent", "folder-empty", "folder-unreadable", "folder-overlap", "nothing-clean", "too-few-patients",
            "site-name", "not-released", "receiver", "no-worker", "patient-unknown", "item-unknown", "site-list",
        }
    )  # fmt: skip


class TrustError(FedError):
    exit_status = 20
    codes = frozenset(
        {
            "key-exists", "key-absent", "key-damaged", "key-permissions", "fingerprint-differs",
            "invitation-damaged", "token-wrong", "token-used", "token-expired", "enrolment-damaged",
            "roster-damaged", "roster-signatures", "roster-officer", "roster-version", "roster-expired",
            "roster-absent", "roster-key", "roster-site", "unsigned", "envelope-damaged", "signature", "oversized",
            "wrong-direction", "wrong-site", "wrong-run", "wrong-round", "wrong-plan", "wrong-message",
            "wrong-question", "wrong-roster", "replayed", "late", "clock", "log-altered", "log-fork", "log-busy",
            "log-write", "certificate-absent", "certificate-damaged", "certificate-expired", "evidence-damaged",
        }
    )  # fmt: skip


class CarrierError(FedError):
    exit_status = 23
    codes = frozenset({"daemon-away", "serve-away", "port-taken", "run-absent", "run-over", "run-failed"})


class ProtocolError(FedError):
    """Somebody broke `secagg/1`. Who is asked ends the round for itself and keeps what it was sent as evidence."""

    exit_status = 21
    codes = frozenset(
        {
            "secagg-replayed-round", "secagg-already-released", "secagg-wrong-context", "secagg-unknown-site",
            "secagg-bad-signature", "secagg-own-key-replaced", "secagg-bad-key", "secagg-inputs-differ",
            "secagg-bad-ciphertext", "secagg-split-view", "secagg-no-agreement", "secagg-second-answer",
            "secagg-closed", "secagg-bad-share", "secagg-mask-residue",
        }
    )  # fmt: skip


class GateError(FedError):
    exit_status = 22
    codes = frozenset({"rounds-rejected"})

"""What each reason for quarantine means, and what a person can do about it. The long form: docs/errors.md."""

from typing import NamedTuple


class Reason(NamedTuple):
    means: str
    do: str


_NOTHING = "nothing: such objects are left out"
REASONS = {
    "archive-refused": Reason("a zip that is damaged, encrypted or leads out of its folder", "unpack it and look"),
    "burned-in": Reason("text may be burned into the pixels", "leave it out, or export it without annotations"),
    "charset": Reason("a name or id does not decode as declared", "repair the character set at the source"),
    "class-refused": Reason("an object that is no image", _NOTHING),
    "class-unknown": Reason("an object class that the standard does not have", "ask the vendor for a standard export"),
    "codec-missing": Reason("a compression that no permitted decoder reads", "export it again, uncompressed"),
    "decode-failed": Reason("the pixels do not decode, or took the decoder down", "export the image again"),
    "duplicate-differs": Reason("one instance UID with two contents", "find out which one is right"),
    "encapsulated-document": Reason("a PDF or another document inside a DICOM file", "give its text as a report row"),
    "leak-found": Reason("a person saw an identifier in it", "repair the source, site hold --undo, ingest again"),
    "limit-frames": Reason("more frames than the limit", "send the series that matter"),
    "limit-nesting": Reason("sequences or archives nested too deep", "ask the vendor; unpack archives yourself"),
    "limit-size": Reason("larger than a limit of size or memory", "export it in smaller parts, or leave it out"),
    "limit-time": Reason("took longer than the time limit and was stopped", "export the image again"),
    "malformed": Reason("does not parse as the standard says", "export the image again"),
    "no-patient-id": Reason("names no patient", "repair the patient id at the source"),
    "not-dicom": Reason("is no DICOM file", _NOTHING),
    "ocr-missing": Reason("the search for burned-in text is not installed", "install it; nothing is kept unsearched"),
    "orientation": Reason("it cannot be told which way is up", "leave it out"),
    "pairing": Reason("images and report row do not fit one patient and study", "correct the row"),
    "patient-conflict": Reason("one id with two birth dates or sexes, or with and without an issuer", "repair the ids"),
    "picture-unfit": Reason("a picture that the search for text cannot read", "leave it out"),
    "reader-missing": Reason("the second reader of report text is not there, or damaged", "install Wardround again"),
    "report-columns": Reason("a .csv whose first line lacks the agreed columns", "name them, with commas between"),
    "report-encoding": Reason("a report file, or a row of it, that is not UTF-8", "save it as UTF-8 (CSV UTF-8)"),
    "report-format": Reason("a report row that is not in the agreed form", "correct the row"),
    "report-path": Reason("a path with .. or \\, or one that begins with /", "write it from the folder, with /"),
    "report-quotes": Reason("a quote in a .csv that is not doubled or not closed", "double it in a text; close it"),
    "residual-identifier": Reason("an identifier was still there after cleaning", "correct the text, or leave it out"),
    "site-refused": Reason("a kind of object that this site's own rules refuse", "nothing, or change rules.toml"),
    "structured-report": Reason("a DICOM structured report", "give its text as a report row"),
    "syntax-unknown": Reason("a transfer syntax that the standard does not have", "export the image again"),
    "text-residual": Reason("words of the report that nobody can vouch for", "correct the report row"),
    "text-sections": Reason("no findings or impression in the report", "name the sections FINDINGS and IMPRESSION"),
    "truncated": Reason("the file ends early", "copy or export it again"),
    "unclear": Reason("a person could not tell that it is clean", "look at the source, then site hold --undo"),
    "unreadable": Reason("no permission to read it, or the disk failed", "run as a user who may read it"),
    "withdrawn": Reason("a patient who has been withdrawn", "delete it at the source"),
}  # fmt: skip


def explained(code: str) -> Reason:
    return REASONS.get(code, Reason("see docs/errors.md", "see docs/errors.md"))

"""Letters and numbers in the form of initials, hours, dates and ids that are findings, by what is beside them.

`R.U.L.` has the form of initials, `4:33` of an hour, `11/24` of a day, `950-1030` of a telephone's number, `Bhalla 14`
of somebody's extension. Each is left where the words around it say what it counts or which part of the body it is. What
a header or a site's list names goes all the same (`report_known`, `report_listed`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from client.imaging.identifiers import fold
from client.imaging.report_plain import is_surely_plain
from client.imaging.vocabulary import Span, is_common


def without_findings(text: str, spans: Iterable[Span], names: frozenset[str]) -> list[Span]:
    """Those of the spans that have a letter or a digit which is no finding; `names` are those of the header.

    >>> without_findings("HU 1150", [Span(3, 7, "[ID]")], frozenset())
    []
    """
    spans = list(spans)
    found = _findings(text, names) if spans else set()
    return [span for span in spans if any(text[at].isalnum() and at not in found for at in range(span.start, span.end))]


def _findings(text: str, names: frozenset[str]) -> set[int]:
    """Where they stand."""
    found = {at for form in _FORMS for match in form.finditer(text) for at in range(*match.span(match.lastgroup or 0))}
    for start, end in (*_lettered(text, names), *_pictures(text), *_on_a_clock(text)):
        found.update(range(start, end))
    return found


def _lettered(text: str, names: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Abbreviations with points: a known part of the body, or one beside its side or what is said of it."""
    first = Counter(name[0] for name in names)
    for match in _POINTED.finditer(text):
        letters = fold("".join(filter(str.isalpha, match[0])))
        before, after = text[max(0, match.start() - 30) : match.start()], text[match.end() : match.end() + 40]
        if _PERSON_BEFORE.search(before) or _PERSON_AFTER.match(after):
            continue
        following = re.match(r"\s*([A-Z][a-z]+)", after)  # Lt. U.Z. Cardiac size normal
        if following is not None and not is_surely_plain(following[1]):
            continue
        said = _SAID.match(after)
        told = _SIDE.search(before) is not None and (is_common(letters) or said is not None)
        told = told or (is_common(letters) and (said is not None or after.startswith((":", " :"))))
        alone = not after.strip() and re.search(r"(?:^|[.;\n)])\s*$", before) is not None
        header = all(first[letter] >= count for letter, count in Counter(letters).items())
        lung = re.fullmatch("[rl][uml][lz]", letters) is not None
        part = letters in _PARTS and not (alone or header) and (lung or _STATED.match(after) is not None)
        part = part and (lung or not _WITH.search(before))
        if told or part:
            more = following or said
            yield match.start(), match.end() + (more.end() if more is not None else 0)


_POINTED = re.compile(  # a blank only where another point follows: "G.B. A cyst"
    r"(?<![\w.])[^\W\d_](?:\.[^\W\d_]|\.[ \t][^\W\d_](?=\.)){1,3}(?:\.(?!\w)|(?![\w.'’/-]))"
)
_PARTS = frozenset(
    "rul rml rll lul lml lll ruz rmz rlz luz lmz llz uz mz lz gb cbd chd pv cp ivc svc ihbr ihbrd puj vuj puvj kub lscs"
    " iucd rvot lvot smv sma ttd wnl ptb copd efw crl afi".split()
)
_PERSON_BEFORE = re.compile(
    r"(?:\b(?:by|per|drs?|mrs?|ms|prof|sr|nurse|sister|signed|typed|dictated|transcribed|reported|verified|checked|read|reader"
    r"|initials?|d/w|cc|attn|names?|patient|pt|baby|told|called|paged|informed|asked)\b[.:,]?\s*|/\s*)$",
    re.IGNORECASE,
)
_PERSON_AFTER = re.compile(
    r"[,\s]+(?:M\.?D\b|FRCR|DNB|(?:aware|informed|notified|told|called|paged|rang|agrees?|said|came|felt|will|who|wants?|wanted|asked|requests?|requested|reviewed|reads?|signed|sent|went|phoned|texted|confirmed|to\s+(?:arrange"
    r"|review|call|chase|see))\b|(?:was|is|has)\s+(?:told|informed|called|notified|aware|seen|been|asked)\b)|\s*/",
    re.IGNORECASE,
)
_STATED = re.compile(r"\s*(?:[,.;:)]|$|\n|[A-Z])|\s+(?:is|are|was|were|shows?|appears?|not|normal|of|in|and)\b")
_WITH = re.compile(r"\b(?:with|to|from|and|for|via)\s+$", re.IGNORECASE)
_SIDE = re.compile(r"\b(?:rt|lt|right|left|b/l|bilateral|both)\.?\s+$", re.IGNORECASE)
_SAID = re.compile(
    r"\s+(?:angles?|walls?|joints?|lumen|views?|films?|regions?|zones?|lobes?|segments?|fossa|junctions?|ratio|spaces?"
    r"|lines?|arter(?:y|ies)|veins?|valves?|muscles?|ducts?|calcul(?:us|i)|stones?|opacit\w+|nodul\w+|lesions?|masses"
    r"|mass|consolidation|collapse|fibro\w+|effusions?|shadow\w*|haz\w+|cavit\w+|bronchiectas[ie]s|tubes?|tip|infiltrat\w+"
    r"|dilat\w+|distended|contracted|blunted|clear|obliterated|patent|prominent|thicken\w+|measur\w+)\b",
    re.IGNORECASE,
)


def _pictures(text: str) -> Iterator[tuple[int, int]]:
    """Series and image, `4:33`, behind a lobe or a nodule and before a size, or near another that is no hour."""
    pairs = [match for match in _PAIR.finditer(text) if not _OF_DAY.match(text, match.end())]
    series = {(text.rfind("\n", 0, match.start()), match[1]) for match in pairs if int(match[2]) > 59}
    for match in pairs:
        sized = _SIZE.match(text, match.end()) is not None
        behind = _IN_LOBE.search(text, max(0, match.start() - 40), match.start()) is not None
        if int(match[2]) > 59 or (sized and (behind or (text.rfind("\n", 0, match.start()), match[1]) in series)):
            yield match.span()


_PAIR = re.compile(r"(?<![\w.:/])(\d{1,2}):(\d{1,3})(?![\w:])")
_OF_DAY = re.compile(r"\s?(?:[ap]\.?m\b|h(?:ou)?rs?\b|h\b)", re.IGNORECASE)
_SIZE = re.compile(r"\s*[),]?\s*(?:measur\w+\s)?\d{1,3}(?:\.\d+)?(?:\s?[cm]m\b|\s?[x×]\s?\d)", re.IGNORECASE)
_IN_LOBE = re.compile(
    r"\b(?:r[uml]l|l[ul]l|lingula|lobes?|nod(?:ul)?es?|lesions?|apex|apical|segment|series|se|images?|img|im)\s*[(:,]?\s*$",
    re.IGNORECASE,
)


def _on_a_clock(text: str) -> Iterator[tuple[int, int]]:
    """Positions in a breast, `at 3:00`, behind what has a size, or before how far it is from the nipple."""
    for match in _POSITION.finditer(text):
        said = text[max(text.rfind(". ", 0, match.start()), text.rfind("\n", 0, match.start()), 0) : match.end() + 30]
        if not _OF_DAY.match(text, match.end()) and re.search(r"\d\s?[cm]m\b|\bnipple\b|\bN\d", said):
            yield match.span("d")


_POSITION = re.compile(
    r"\b(?:foc(?:us|i)|mass(?:es)?|nodules?|cysts?|lesions?|asymmetr\w+|calcifications?|distortion|enhancement|clip|scar"
    r"|cancer|carcinoma|fibroadenoma|abnormality|breast|density)\s(?:(?:is|are|was|located|cent(?:er|re)d|present|again)\s){0,2}"
    r"(?:at|in)\s(?:the\s)?(?P<d>(?:1[0-2]|0?[1-9]):[03]0)(?![\d:]|,?\s(?:by|with|today|yesterday|\[))",
    re.IGNORECASE,
)

_NUMBER = r"\d{1,4}(?:\.\d+)?"
_NO_YEAR = r"(?!(?:199|20[0-2])\d\b)"
_ENDS = r"(?![/:.-]?\d)\b"
_YEAR = r"(?:19|20)\d\d\b(?![-/]\d)"
_GUIDELINE = (
    r"(?:criteria|guid(?:elines?|ance)|lexicon|classification|consensus|recommendations?|definitions?|edition|version"
    r"|update|staging|statement|white\spaper)"
)
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        r"\b\d{1,2}\s?(?:-|to)\s?\d{1,2}[\s-]?(?:weeks?|wks?|months?|mths?|mo|days?|hours?|hrs?|minutes?|mins?)\b",
        r"(?<![\d/.-])\d{1,2}(?:\.\d)?[\s-]?(?:fr|french)\b(?!\.\s)",
        rf"\b(?:te|tr|ti|hu|dlp|ctdi(?:vol)?|psv|edv|suv(?:max)?|t1|t2|ecv|rbs|fbs|psa|afp|cea|hcg|bnp|ldh|crp|esr|wbc|ige"
        r"|agatston|cac)\s?(?:score\s|value\s|level\s|time\s)?(?:of\s|was\s|is\s|[=:]\s?)?[<>~]?"
        rf"{_NO_YEAR}{_NUMBER}(?:\s?(?:-|to)\s?{_NUMBER})?{_ENDS}(?!\s(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))",
        rf"(?:\b(?:normal|range|reference)\s(?:range\s)?(?!\d{{3}}-\d{{4}})|\((?:normal|ref\.?|reference|range)\s(?!\d+-0))"
        rf"{_NO_YEAR}{_NUMBER}\s?(?:-|to)\s?{_NO_YEAR}{_NUMBER}{_ENDS}",
        r"\b(?:0\.\d{1,2}|1\.5|3(?:\.0)?|7)\s?(?-i:T)\b",
        r"\bribs?\b[^.;\n\d]{0,25}\b(?:rt|lt|right|left|r|l)\.?\s"
        r"(?P<d>\d{1,2}(?:\s?(?:-|to|,|and|&)\s?\d{1,2})*)" + _ENDS,
        r"\bribs?\s(?P<d>\d{1,2}(?:\s?(?:-|to|,|and|&)\s?\d{1,2})*)" + _ENDS,
        r"\b(?:bhalla|brasfield|lund[\s-]?(?:mackay|kennedy)|pfirrmann|goutallier|hamada|keros|fazekas|scheltens|koedam"
        r"|risser|pirani|balthazar|kellgren(?:[\s-]lawrence)?|ahlback|outerbridge|t[oö]nnis|child[\s-]pugh|agatston|meyerding"
        r"|modic|(?:brody|reid|warrick|tanner|sanders|mayo|marshall|lee[\s-]jones)\s(?:score|grade|index|stage)|aspects|gcs"
        r"|apgar|ctsi|edss|(?<=severity )score|(?<=severity )index)"
        r"(?:\s(?:score|grade|index|total|stage|type))?(?:\s?[:=]|\s(?:of|is|was))?\s"
        r"\d{1,2}(?:\.\d)?(?:\s?/\s?\d{1,2})?" + _ENDS,
        r"(?<!in )(?<!to )(?<!at )(?<!of )(?<!from )(?<!near )\b"
        r"(?:mcdonald|fleischner|(?-i:ACR|AJCC|UICC|FIGO|WHO|BTS|ESC"
        r"|AHA|ESUR|EAU|AUA|AASLD|EASL|SVS|GOLD|MAGNIMS|ATA|NICE|ESGAR|ESTRO|NCCN|SRU)|lugano|recist|[a-z]{1,4}-rads|bosniak)"
        rf"\s(?:{_GUIDELINE}\s)?\(?{_YEAR}",
        rf"\b(?:tokyo|atlanta|amsterdam|chicago|rome|berlin|baltimore|barcelona|milan)\s(?:{_GUIDELINE}\s\(?{_YEAR}"
        rf"|{_YEAR}(?=,?\s(?:grade|severity|{_GUIDELINE})\b))|\b(?:per|using|meets)\s(?P<d>(?:tokyo|atlanta|chicago|rome)\s{_YEAR})",
        rf"\b(?P<d>{_YEAR})(?=\s(?:revised\s|updated\s|international\s)?(?:(?-i:[A-Z])[\w./-]+\s){{0,3}}{_GUIDELINE}\b)",
        r"\bedwards\s(?:sapien|lifesciences|magna|perimount|intuity|inspiris|valves?)\b(?:\s3\b)?",
        r"\bboston\s(?:scientific|brac\w+|criteria|keratoprosthesis)\b",
        r"\bbrac\w+\s\(?(?:in\s(?:an?\s)?)?(?P<d>boston)\b|\bcaa\b[^.;\n]{0,30}\b(?P<e>boston\s\d\.\d)",
        r"\b(?:siemens|philips|toshiba|canon|hitachi|samsung|hologic|(?-i:GE)|(?-i:Cook|Gore|Bard|Zimmer|Stryker))"
        r"\s(?:healthineers|healthcare|medical|aera|avanto|skyra|prisma|vida|sola|magnetom|somatom|ingenia|achieva|aquilion"
        r"|horizon|discovery|lunar|logiq|voluson|optima|revolution|signa|affirm|selenia|biomet|zenith|celect|viabahn|excluder"
        r"|denali)\b",
        r"\b(?-i:NG|NJ|OG)(?=\s(?:tubes?|tip|feeding|side\s?hole|in\s(?:the\s)?(?:stomach|proximal|distal|duod\w+|o?esoph\w+"
        r"|situ))\b)",
        r"\b(?-i:DV)(?=\s(?:['’‘]?a['’]?[\s-]?wave|piv?|flow|doppler)\b)",
        r"\bgraft\s\(?(?P<d>(?-i:BTB|BPTB|STG|HT|QT))\b",
        r"\babpa(?:\swith|[:,])\s(?P<d>(?-i:HAM))\b|\b(?-i:HAM)(?=\s\d{2,3}\shu\b)",
        r"\bh/o\s(?P<d>(?-i:ATT|AKT|PTB|TB|RTA|CVA|CAD|CABG|MI|DM|HTN|COPD|IHD))\b",
        r"\b(?-i:Cho|Cr|NAA|Lac|mI)(?:/(?-i:Cho|Cr|NAA|Lac|mI))+\b",
        r"\bhologic\s(?P<d>(?:horizon|discovery)(?:\s(?-i:[A-Z]{1,2}i?)\b)?)",
    )
)  # fmt: skip

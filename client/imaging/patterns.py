"""General patterns of identifiers in report text: contacts, record numbers, dates and times, people, places.

Each pattern marks its group `d`, or its whole match. Spans are gathered first and merged afterwards, so the order here
is the reader's. Sizes, fractions, spine levels and scores must survive: where a form is ambiguous (3/4), the words
around it decide.
"""

import re
from collections.abc import Iterator

NAME, DATE, ID, PLACE = "[NAME]", "[DATE]", "[ID]", "[PLACE]"
OVER_89 = "90+"
_ANY = re.IGNORECASE

_MONTH = (
    r"(?:jan(?:uary|uar|v\.?|vier)?|feb(?:ruary|ruar|r\.?)?|mar(?:ch|s|zo)?|märz|apr(?:il)?|may|mai|june?|juni|july?"
    r"|juli|aug(?:ust)?|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)"
)
_ONES = "(?:one|two|three|four|five|six|seven|eight|nine)"
_NUMBER_WORD = (
    rf"(?:(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[-\s]{_ONES})?|{_ONES}|ten|eleven|twelve"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teen)"
)
_YEAR_WORDS = (
    rf"(?:two\s+thousand(?:\s+(?:and\s+)?{_NUMBER_WORD})?|(?:nineteen|twenty)[-\s]+(?:hundred|{_NUMBER_WORD}))"
)
_ORDINAL = (
    r"(?:(?:twenty|thirty)[-\s](?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|first|second|third|fourth"
    r"|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|(?:thir|four|fif|six|seven|eigh|nine)teenth|twentieth"
    r"|thirtieth)"
)
_NOT_A_VERB = rf"(?:(?-i:May)|(?!may\b){_MONTH})"  # "the second may represent" is no date
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_YEAR = r"(?:19|20)\d{2}"
_NO_UNIT = r"(?!\s?(?:mm|cm|ml|cc|hu|mg|mgy|msv|kg|kvp?|mas|%|[x×]\s?\d))"
_CLOCK = r"(?:[01]?\d|2[0-3])[:.h][0-5]\d(?::[0-5]\d(?:\.\d+)?)?"
_CAPS = r"[A-ZÀ-ÖØ-Þ][\w’'-]+"
_TITLED = r"[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ][\w’'-]*"
_PARTICLE = r"(?:van|von|de|der|den|del|la|al|bin)?"
_PERSON = rf"(?:(?:[A-Z]\.?\s+)?{_CAPS}(?:\s+[A-Z]\.)?(?:,?\s+{_PARTICLE}\s*{_CAPS}){{0,3}})"
_NOT_PERSON = (
    r"(?!(?:The|This|That|Patient|Radiology|Department|Emergency|Team|Service|Clinical|Referring|Physician|Surgery|ICU"
    r"|ED|ER|CT|MRI|Attending|Resident|No|There|Findings?|Impression)\b)"
)

_CONTACTS = (
    r"\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+\b",
    r"\b(?:https?://|www\.)\S+",
    r"(?<![\w.])(?:\+\d{1,3}[\s./-]?)?(?:\(\d{2,5}\)|\d{3,5})[\s./-]\d{3,4}[\s./-]?\d{2,5}(?![\w.]\d)",
    r"(?<![\w.])\+\d[\d\s()/-]{6,}\d",
    r"\b(?:tel|phone|fax|pager|beeper|ext|extension)\b[.:#\s]*(?:is\s|no\.?\s|number\s)?\(?"
    r"(?P<d>\+?\d[\d\s()/-]{2,}\d)",
    r"\b(?:ring|call|dial|bleep|contact|reach|text|mobile|cell|callback)\b[.:#\s]*(?:(?:is|no|on|at|number|back)[.:\s]+){0,3}"
    r"(?P<d>\+?\(?\d[\d\s()/.-]{1,}\d)" + _NO_UNIT,
    r"(?<![\w.,/-])\d{3}-\d{4}(?![\w/-]|[.,]\d)" + _NO_UNIT,
)
_NUMBERS = (
    r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\b\d+(?:\.\d+){4,}\b",  # addresses and UIDs
    r"\b\d{3}-\d{2}-\d{4}\b",
    r"\b(?:mrn|m\.r\.n\.|medical record|accession|acc|patient id|pat\.?\s?id|pid|case|chart|record|account|visit"
    r"|encounter|order|ssn|nhs|study id|exam id|id)\b\s*(?:no\b|number|num|nr|id)?[.:#\s]*(?=[\w-]*\d)[\w/-]*\d[\w/-]*",
    r"#\s?(?=\w*\d)\w{3,}",
    r"(?<![\w.,])\d{5,}(?![\w.,]*\d)" + _NO_UNIT,
    r"\b(?=(?:[\w-]*\d){4})(?=[\w-]*[A-Za-z])[A-Za-z\d][\w-]{5,}\b(?!\])",
)
_DATES = (
    rf"\b{_YEAR}[-/.](?:0?[1-9]|1[0-2])[-/.]{_DAY}(?:[T\s]+{_CLOCK})?\b",
    rf"(?<![\d.])\d{{1,2}}\s?[-/.]\s?\d{{1,2}}\s?[-/.]\s?(?:{_YEAR}|\d{{2}})(?![\d/]|\.\d)" + _NO_UNIT,
    rf"(?<!\d){_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{{6}})?(?!\d)",
    rf"\b{_DAY}(?:st|nd|rd|th|\.)?[\s-]*(?:of\s+)?{_MONTH}\b\.?(?:[\s,-]*(?:{_YEAR}|'?\d{{2}}\b{_NO_UNIT}))?",
    rf"\b{_MONTH}\.?[\s-]+{_DAY}(?:st|nd|rd|th)?\b(?!\s?(?:mm|cm|ml|%))(?:[\s,]+{_YEAR})?",
    rf"\b{_MONTH}\.?[\s,/-]*(?:of\s+)?(?:{_YEAR}|['’]\d{{2}})\b",
    rf"\b(?:the\s+)?{_ORDINAL}\s+(?:day\s+)?(?:of\s+)?{_NOT_A_VERB}\b(?:[\s,]+(?:{_YEAR_WORDS}|{_YEAR}))?",
    rf"\b{_NOT_A_VERB}\s+(?:the\s+)?{_ORDINAL}\b(?:[\s,]+(?:{_YEAR_WORDS}|{_YEAR}))?",
    rf"\b(?:in|since|from|of)\s+(?P<d>(?:{_MONTH}\s+)?{_YEAR_WORDS})\b",
    rf"\b(?:0?[1-9]|1[0-2])/{_YEAR}\b",
    rf"(?<![\w.,/-]){_YEAR}(?![\w/-]|[.,]\d)" + _NO_UNIT,
    r"\b(?:on|from|dated|since|prior|comparison|compared|study|exam|examination|radiographs?|films?|x-?ray|ct|date"
    r"|until|performed|obtained)\b[:\s]+(?:with\s|to\s|of\s|the\s|is\s|made\s)*"
    rf"(?P<d>(?:0?[1-9]|1[0-2])[/-]{_DAY}|{_DAY}[/.](?:0?[1-9]|1[0-2])\.?)(?![\d/])(?!\s(?:ribs?|levels?|dis[ck]s?))"
    + _NO_UNIT,
    r"(?<![\d.:])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:\s?(?:[ap]\.?m\b\.?|hours|hrs|h\b|uhr))?(?![\d:])",
    r"\b\d{1,2}\s?[ap]\.?m\.?(?![\w.])",
    r"\bat\s+(?P<d>[0-2]\d[0-5]\d(?:\s?(?:hours|hrs|h|uhr))?)\b",
    r"\b(?:[01]\d|2[0-3])[0-5]\d\s?(?:hours|hrs|h|uhr)\b",
    rf"\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b(?:,?\s+{_DAY}[/.]{_DAY}\b)?",
)
_TITLES = (
    r"\b(?:dr|drs|prof|mr|mrs|ms|miss|herr|frau|mme|nurse|sister)\b\.?\s+"
    r"(?:(?:dr|prof|med|habil|dent|univ|dipl|ing|van|von|de|der|den|la|le|el|al|bin|di|da)\b\.?[\s-]*){0,4}"
    r"(?!(?:the|and|of|is|was|practitioner|specialist|manager)\b)[^\W\d_][\w’'-]*(?:\s+[A-Z]\.)?",
)
_PEOPLE = (  # case tells a name here
    r"\b(?i:(?:(?:dr|prof|priv|doz|med|habil|dent|univ|dipl|ing)\b\.?[\s-]*){2,5})"
    rf"{_NOT_PERSON}{_PERSON}",
    r"\b(?:[Dd][Rr]s?|[Pp][Rr][Oo][Ff]|[Mm][Rr]s?|[Mm]s|[Mm]iss|[Dd]octor|[Pp]rofessor|Nurse)\b\.?\s+"
    rf"{_NOT_PERSON}{_PERSON}",
    rf"\b{_PERSON}(?=,?\s+(?:MD|M\.D\.|DO|PhD|RN|PA-C|FRCR|MBBS|FRCPC)\b)",
    r"\b(?i:discussed|reviewed|spoke|communicated|conveyed|reported|relayed|called|telephoned|notified|informed|paged"
    r"|read|interpreted|dictated|transcribed|signed|verified|approved|finali[sz]ed|seen|ordered|requested|referred"
    r"|attending|referring|signature)\b(?i:\s+(?:with|to|by|and|physician|radiologist|electronically|out|findings"
    rf"|results))*[:\s]+{_NOT_PERSON}(?P<d>{_PERSON})",
    rf"\b(?i:patient|name|pt|named?)\b(?i:\s+name)?\s*[:=]?\s+{_NOT_PERSON}"
    rf"(?P<d>{_TITLED}(?:,\s*{_TITLED}|\s+{_TITLED})+)",
    rf"\b(?i:patient name|name|patient)\s*[:=]\s*{_NOT_PERSON}(?P<d>{_CAPS}(?:[,\s^]+{_CAPS})*)",
)
_PLACES = (
    r"\b\d{1,5}[A-Za-z]?\s+(?:[A-Z][\w.’'-]+\s+){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Way|Court"
    r"|Square)\b\.?",
    r"\b[A-ZÄÖÜ]\w+(?:straße|strasse|str\.|weg|platz|allee)\s+\d+\w?",
    r"\b\d{1,4},?\s+(?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Pp]lace|[Vv]ia|[Cc]alle|[Rr]ua)\s+(?:(?:de|du|des|la|le|del|della)\s+)*[A-ZÀ-Þ]\w+"
    r"(?:,?\s+\d{4,5}\s+[A-ZÀ-Þ]\w+)?",
    r"\b[A-Z]{1,2}\d[A-Z\d]?\s\d[ABD-HJLNP-UW-Z]{2}\b|\b[A-Z]\d[A-Z]\s\d[A-Z]\d\b",  # British, Canadian post codes
    r"\b(?!(?:The|This|At|In|From|Outside|Our)\s)(?:St\.?\s+|Saint\s+|Mount\s+)?(?:[A-Z][\w’'-]+\s+){1,4}"
    r"(?:Hospitals?|Clinic|Infirmary|Medical Cent(?:er|re)|Health(?:care)?|Klinikum|Krankenhaus|Hospice|University"
    r"|Universität|Sanatorium|Imaging Cent(?:er|re)|Nursing Home)\b",
    r"\b(?:Hospital|Clinic|University|Klinikum|Universität|Hôpital|Clinique|Ospedale)\s+(?:of\s+|de\s+|der\s+)?"
    r"[A-Z][\w’'-]+(?:\s+[A-Z][\w’'-]+)*",
)
_AGES = (
    rf"\bninety(?:[-\s]{_ONES})?(?=[\s-]*(?:years?|yrs?|y/?o|yo)\b)",
    rf"\b(?:one|a)?[-\s]?hundred(?:[-\s]and)?(?:[-\s]{_NUMBER_WORD})?(?=[\s-]years?[\s-]olds?\b)",
    r"\b(?:9\d|1[0-2]\d)(?=[\s-]*(?:years?\b|yrs?\b|y[./\s]?o\b)|[MF]\b)",
    r"\b(?:aged?|age is)\b[:\s]+(?P<d>9\d|1[0-2]\d)\b(?!\s?(?:mm|cm|%))",
)

_PATTERNS = tuple(
    (placeholder, re.compile(pattern, flags))
    for placeholder, patterns, flags in (
        (ID, _CONTACTS, _ANY),
        (ID, _NUMBERS, _ANY),
        (DATE, _DATES, _ANY),
        (NAME, _TITLES, _ANY),
        (NAME, _PEOPLE, 0),
        (PLACE, _PLACES, 0),
        (OVER_89, _AGES, _ANY),
    )
    for pattern in patterns
)


def matches(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, placeholder) of everything that looks like an identifier; spans may overlap."""
    for placeholder, pattern in _PATTERNS:
        part: str | int = "d" if "d" in pattern.groupindex else 0
        for match in pattern.finditer(text):
            if match[part] not in (NAME, DATE, ID, PLACE):
                yield *match.span(part), placeholder

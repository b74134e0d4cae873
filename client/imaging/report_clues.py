"""Names and places that no header knows: by the words beside them, by their form, by an unexplained capital."""

import re
from bisect import bisect_left
from collections.abc import Iterator

from client.imaging.identifiers import fold
from client.imaging.patterns import DATE, ID, NAME, PLACE, matches_without_case
from client.imaging.report_initials import initials_beside_placeholders
from client.imaging.report_plain import STROKES, is_slip, is_surely_plain
from client.imaging.report_sections import HEADINGS
from client.imaging.vocabulary import (
    PLACEHOLDER,
    WORD,
    Span,
    is_caseless,
    is_common,
    is_plain,
    is_shouting,
    listed_words,
    may_be_names,
    may_be_names_or_towns,
    spanned,
    starts_sentence,
    undisguised,
    vocabulary,
)

_ANNOUNCES = re.compile(
    r"\b(?:(?:dictated|reported|read|signed|verified|approved|transcribed|typed|authori[sz]ed|interpreted|reviewed|seen"
    r"|performed|examined|requested|ordered|referred|acquired|corrected|agreed|placed|obtained|checked|written)\s+by"
    r"|sonographer|attending|reader|typist|radiographer|technologist|technician|practitioner|midwife|paramedic"
    r"|physician|surgeon|resident|fellow|consultant|registrar|daughter|son|cousin|uncle|aunt|niece|nephew|next\s+of\s+kin|nok|husband|wife|mother|father|brother"
    r"|sister(?!\s+mary\s+joseph)"
    r"|partner|guardian|carer|caregiver|friend|neighbou?r|nurse|per|dr|mrs?|ms|prof|pt(?:\.|\s+name)?|patient\s+name"
    r"|(?:discussed|reviewed)\s+with|(?:reported|communicated|relayed|conveyed|sent|given|e?mailed|faxed)\s+to)\b"
    r"[:,.]?[ \t]+",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(
    r"(?:\b(?:was|were|is|has\s+been|been)\s+(?:called|informed|notified|paged|phoned|telephoned|contacted|told|aware"
    r"|present|asked|counsel+ed)\b|\b(?:awaiting|awaits|declin(?:ed|es)|refused|insist(?:ed|s)|rang|attended|accompanied)\b|(?:,\s*\w\.?)?\s*[-–,]?\s*(?:md|frcr|frcpc|phd|mbbs|consultant|registrar|radiologist)\b)",
    re.IGNORECASE,
)
_ANNOUNCED_WORDS = 4


def announced(text: str) -> Iterator[Span]:
    """Unknown words, in small letters too, where the words beside them say that a person is named."""
    words = list(WORD.finditer(text))
    starts = [word.start() for word in words]
    for announcing in _ANNOUNCES.finditer(text):
        first = bisect_left(starts, announcing.end())
        after = words[first : first + _ANNOUNCED_WORDS]
        at = announcing.end()
        for number, word in enumerate(after):
            if re.fullmatch(r"[ \t,./&-]*", text[at : word.start()]) is None:
                break
            if is_plain(word[0]) and not (number == 0 and _is_first_name(text, word, after[1:])):
                break
            if len(word[0]) >= 3:
                yield Span(*word.span(), NAME)
            at = word.end()
    yield from _owners(text)
    yield from _honoured(text, words)
    for said in _FOLLOWS.finditer(text):
        last = bisect_left(starts, said.start())
        before = [word for word in words[max(0, last - 3) : last] if word.end() <= said.start()][-2:]
        at = said.start()
        for word in reversed(before):
            if re.fullmatch(r"[ \t,.]*", text[word.end() : at]) is None or is_plain(word[0]) or len(word[0]) < 3:
                break
            yield Span(*word.span(), NAME)
            at = word.start()


def _owners(text: str) -> Iterator[Span]:
    """Whose kin it is: `edna's son`, `Lily's parents`, not `the patient's mother`."""
    for match in _KIN_OF.finditer(text):
        word, listed = match["word"], may_be_names() | listed_words("everyday")
        if not is_common(word) or (word[0].isupper() and fold(word) in listed):
            yield Span(*match.span("d"), NAME)


_KIN_OF = re.compile(
    r"\b(?P<d>(?P<word>[^\W\d_][^\W\d_'’-]+)['’]s?)\s(?:(?:older|younger|elder|twin|step|foster|birth|late|own|\d+-year-old)[\s-])?"
    r"(?:(?:great-?|step-?)?(?:grand)?(?:son|daughter|mother|father|parents?|child|children)|mum|mom|mam|mummy|dad|wife"
    r"|husband|spouse|partner|sister|brother|siblings?|twin|aunt|uncle|cousin|niece|nephew|carers?|caregivers?|guardian"
    r"|family|fianc[ée]e?|girlfriend|boyfriend|neighbou?r|friend|nok|next\sof\skin)\b",
    re.IGNORECASE,
)


def _honoured(text: str, words: list[re.Match[str]]) -> Iterator[Span]:
    """Unknown words with an Indian honorific glued to them (`Bhavnaben`); -ben and -ji end other words, too."""
    small = is_caseless(text)
    for word in words:
        if ends_in_honorific(fold(word[0])) and not is_common(word[0]) and not is_eponym(text, *word.span()):
            if small or word[0][0].isupper() or not word[0].endswith(("ben", "ji")):
                yield Span(*word.span(), NAME)


def ends_in_honorific(word: str) -> bool:
    return _HONORIFIC.fullmatch(word) is not None


_HONORIFIC = re.compile(r"[^\W\d_]{3,}(?:bhai|bhen|behn|ben|ji|ammal)")


def _is_first_name(text: str, word: re.Match[str], after: list[re.Match[str]]) -> bool:
    """Whether a plain word that is no pronoun stands before an unknown one: `cousin rose dlamini`."""
    if not after or len(word[0]) < 3 or fold(word[0]) in _NO_FIRST_NAMES | listed_words("roles"):
        return False
    return text[word.end() : after[0].start()] in (" ", ", ") and len(after[0][0]) >= 4 and not is_common(after[0][0])


_NO_FIRST_NAMES = frozenset(
    "the and for from her his was were has had has this that our their with who not are via per team nurse doctor"
    " home general family referring attending on-call duty ward clinic".split()
)


def in_other_scripts(text: str) -> Iterator[Span]:
    """Words of Cyrillic, Arabic, Han, Hangul, kana and the like in a text that has mostly Latin letters: in a report
    they are names. One letter or two Greek ones (β, γδ) are none; what only looks Latin is read so."""
    runs = [match for match in _OTHER_SCRIPT.finditer(text) if undisguised(match[0]) == match[0]]
    letters = [sum(map(str.isalpha, match[0])) for match in runs]
    if 2 * sum(letters) < sum(map(str.isalpha, text)):
        for match, count in zip(runs, letters, strict=True):
            if count > (2 if "\u0370" <= match[0][0] < "\u0400" else 1):
                yield Span(*match.span(), NAME)


_OTHER = (  # letters and their marks: all but Latin ones, punctuation and symbols
    "\u0370-\u1dff\u1f00-\u1fff\u2d00-\u2dff\u3005-\u3007\u3031-\u31ff\u3400-\ua6ff\ua800-\uab2f\uab70-\ud7ff"
    "\uf900-\ufaff\ufb13-\ufdff\ufe70-\ufefc\uff66-\uffdc\U00010000-\U0001efff\U00020000-\U0003ffff"
)
_OTHER_SCRIPT = re.compile(rf"[{_OTHER}](?:[ .,・-]{{0,2}}[{_OTHER}])*")


def unknown_names(text: str, caseless: bool) -> Iterator[Span]:
    """Capitalised words inside a sentence, and long words in capitals, that the vocabulary does not know; in a text
    without case, every such word. Plain words that are names too (Stone) when they have a capital inside a sentence."""
    shouting = caseless and is_shouting(text)
    for match in WORD.finditer(text):
        word = match[0]
        if _is_placeholder(text, match):
            continue
        if is_common(word):
            if not caseless and _is_name_inside(text, match):
                yield Span(*match.span(), NAME)
            continue
        titled = _EPONYM.fullmatch(word) is not None or _TWO_CAPITALS.fullmatch(word) is not None
        if is_slip(word) and (caseless or word.islower() or starts_sentence(text, match.start())):
            continue
        irish = re.fullmatch(r"(?:Mc|Mac|[DLMNO][’'])[A-Z]\w+", word) is not None
        if (titled or irish or caseless) and is_eponym(text, match.start(), match.end()):
            continue
        bare = (caseless and len(word) >= (3 if shouting else 4)) or (word.isupper() and len(word) >= 5)
        if irish or bare or titled:
            yield Span(*match.span(), NAME)


def _is_placeholder(text: str, word: re.Match[str]) -> bool:
    return text[max(0, word.start() - 1) : word.end() + 1] in (NAME, DATE, ID, PLACE)


def _is_name_inside(text: str, match: re.Match[str]) -> bool:
    """A plain word that is a name too, with a capital that no heading or other capital beside it explains."""
    return fold(match[0]) in listed_words("names") and stands_by_itself(text, match)


def stands_by_itself(text: str, match: re.Match[str]) -> bool:
    """Whether a word has a capital inside a sentence, and neither an eponym nor another capital beside it says why."""
    if _EPONYM.fullmatch(match[0]) is None:
        return False
    if starts_sentence(text, match.start()) or is_eponym(text, match.start(), match.end()):
        return False
    around = (
        _CAPITAL_BEFORE.search(text, max(0, match.start() - 30), match.start()),
        _CAPITAL_AFTER.match(text, match.end()),
    )
    listed = listed_words("names") | listed_words("towns")
    return all(beside is None or fold(beside[1]) in listed or not is_common(beside[1]) for beside in around)


_TWO_CAPITALS = re.compile(r"[A-Z][a-z]+[A-Z][a-z]+(?:-[A-Z][a-z]+)?")
_CAPITAL_BEFORE = re.compile(r"(?<![\w'’])([A-Z][\w'’-]+)[ \n]$")
_CAPITAL_AFTER = re.compile(r"[ \n-]([A-Z][\w'’-]+)")


def without_case(text: str) -> Iterator[Span]:
    people = _titled(text, may_be_names())
    for start, end, placeholder in matches_without_case(people, _titled(text, listed_words("towns"))):
        if placeholder != NAME or not _describes(text, start, end):
            yield Span(start, end, placeholder)


def _describes(text: str, start: int, end: int) -> bool:
    """Whether all words may be names, but are such that describe a picture more often: `AND NORMAL HEART SIZE`."""
    words = {fold(word) for word in WORD.findall(text, start, end)}
    if not words <= listed_words("names_in_context") - listed_words("names"):
        return False
    before = text[max(0, start - 30) : start].lower()
    if re.search(r"\bnot\s+$", before) or (re.search(r"\b(?:with|to|and)\s+$", before) and not _TELLS.search(before)):
        return True
    following = WORD.match(text, end + 1)
    return following is not None and re.search(r"\bby\s+$", before) is not None and is_surely_plain(following[0])


def _titled(text: str, listed: frozenset[str]) -> str:
    """A text without case in small letters, but for initials and the words that may be names, which are `listed` or
    unknown: patterns that go by case can read it. Of the same length."""
    small = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
    letters = list(small)
    for match in WORD.finditer(small):
        if len(match[0]) >= 3 and (fold(match[0]) in listed or not is_common(match[0])):
            letters[match.start()] = small[match.start()].upper()
    for match in _INITIAL.finditer(small):
        letters[match.start()] = small[match.start()].upper()
    return "".join(letters)


_INITIAL = re.compile(r"(?<![\w.'’])[a-z](?=\.(?:[ \t]?[a-z]\b)*)|(?<=\w\.)[a-z](?=\.)")


def is_eponym(text: str, start: int, end: int) -> bool:
    """Whether the words on either side say that a disease or a device has this name."""
    if _EPONYM_OF.match(text, end) is not None or _OF_EPONYM.search(text, max(0, start - 30), start) is not None:
        return True
    if _EPONYM_ALONE.match(text, start) is None:
        return False
    before, after = text[max(0, start - 100) : start], text[end : end + 100]
    return _TITLE.search(re.split(r"\n|[.;]\s", before)[-1] + re.split(r"\n|[.;]\s", after)[0]) is None


_EPONYM_ALONE = re.compile(  # of a disease, without it: active ileal Crohn's
    r"(?:crohn|parkinson|alzheimer|hodgkin|hashimoto|paget|koch|sj[oö]gren|beh[cç]et|raynaud|meckel|barrett|takayasu|kawasaki"
    r"|perthes|addison|cushing|huntington|hirschsprung)['’]s(?=\s*(?:[.,;:)(]|$|\n)|\s(?:of|in|with|without|and|or|involving"
    r"|affecting|activity|flare)\b)",
    re.IGNORECASE,
)
_TITLE = re.compile(r"\b(?:dr|drs|mr|mrs|ms|miss|prof|professor|doctor|nurse|sister|patient|pt)\b", re.IGNORECASE)
_EPONYM = re.compile(r"[A-ZÀ-ÞĀ-Ž][a-zß-ÿĀ-ž]+(?:[-'’][A-ZÀ-ÞĀ-Ž]?[a-zß-ÿĀ-ž]+)*")
_EPONYM_OF = re.compile(
    r"(?:['’]s?)?(?:(?:[ /-]| and | or )[A-Z][\w’']+)?(?:(?:,? (?:type|grade|stage|class|category))?"
    r" (?:[IVX]{1,4}[A-Fa-f]?|[0-6][a-f]?|[A-D])\b(?!['’])"
    r"|[ \n](?i:signs?|syndromes?|catheters?|tubes?|rods?|drains?|lines?"
    r"|classifications?|criteria|scores?|stages?|grades?|types?|complex|triad|hernias?|lymphomas?|tumou?rs?|angles?"
    r"|shunts?|valves?|filters?|stents?|prosthes[ie]s|nails?|screws?|plates?|nodes?|nodules?|zones?|sarcomas?"
    r"|fractures?|aneurysms?|lesions?|deformit\w+|diseases?|cysts?|pouch|procedures?|bands?|method|atlas|device|coils?|ports?"
    r"|lobes?|ligaments?|canals?|fascia|fat|tubercles?|impaction|contractures?|phenomen\w+|thyroiditis|palsy|neuroma"
    r"|goit\w+|anomal\w+|malformations?|encephalopathy|arthropathy|degeneration|ducts?|glands?|spaces?|clefts?|caps?"
    r"|index|ratio|scale|grading|system|staging|operation|repair|anastomosis|grafts?|needles?|bags?|wires?|pins?|cage"
    r"|balloon|sheath|projection|man(?:o?eu)v\w+|nephroma|o?esophagus|apophys\w+|foramen|notch|membrane|capsule|plexus"
    r"|granulomatosis|gangrene|chorea|dementia|ataxia|an(?:a?e)mia|sinus|triangle|cells?|bod(?:y|ies)|patch\w*"
    r"|protocol|rings?|encephalitis|configuration|sequence|plaque|sutures?|test|biplane|osteodystrophy|tenosynovitis|variants?|abscess|embolization|slurry|kidney|cavity|diverticul\w+|lipoma|ganglion"
    r"|views?|tree|point|loops?|bundle|dysplasia|rule|law|veins?|aplasia|hemiarthroplasty|conduit|block|technique|arter(?:y|ies)"
    r"|myotomy|o?esophagectomy|fib(?:er|re)s?|angina|clips?|transformation|fragments?|paresis|pyeloplasty|ileostomy|ulcers?"
    r"|reflux|art[ei]facts?|ophthalmopathy|orbitopathy|amputation|nucleus|groove|sulcus|effect|fundoplication"
    r"|recess|kyphosis|osteotomy|disproportion|tail|fingers?|limb|infraction|injur\w+|fracture-\w+"
    r"|(?:IVC|coil|pouch|spot) \w+|excluder|viabahn|endografts?|endoprosthes[ie]s|occluders?|plugs?|shift|stems?"
    r"|cups?)\b)"
)  # what stands behind the name of its inventor
_OF_EPONYM = re.compile(
    r"\b(?:criteria|circle|ampulla|tail|tetralogy|sphincter|foram(?:en|ina)|ligament|canal|pouch|fascia|islets?|loop|node|papilla"
    r"|crypts?|valves?|vein|triangle|band|space|sinus|cisterna?|aneurysm|fissure|line|angle|zone|organ|ganglion|bundle"
    r"|capsule|cartilage|lobe|duct|gland|nucleus|artery|tubercle|notch|spine|point|tunnel|plexus|disease) of $",
    re.IGNORECASE,
)


def beside_placeholders(text: str, caseless: bool) -> Iterator[Span]:
    """What is plain elsewhere, but not beside a placeholder: [NAME] Cross, [PLACE] in Reading, [DATE] and 3/4."""
    for pattern in (_BEHIND_PLACEHOLDER, _BEFORE_PLACEHOLDER):
        for match in pattern.finditer(text):
            group = match.lastgroup or "word"
            words = fold(match[group]).split()
            before = text[max(0, match.start() - 4) : match.start()].rstrip(" \t")
            opens = match.start(group) == match.start() and (not before or before[-1] in ".!?:;*\n•-")
            if not any(word in HEADINGS for word in words) and not (opens and is_common(match[group])):
                yield Span(*match.span(group), PLACE if "PLACE" in match[0] else NAME)
    yield from (Span(*match.span("word"), NAME) for match in _PARTICLES.finditer(text))
    for match in _BESIDE_DATE.finditer(text):
        if match["word"] or match["before"]:
            yield spanned(match, DATE)
        elif match["place"] or fold(match["acronym"]) not in vocabulary():
            yield spanned(match, PLACE)
    if caseless:
        yield from (spanned(match, PLACE) for match in _OF_PLACE.finditer(text))
        yield from (
            spanned(match, NAME)
            for match in _LAST_WORD.finditer(text)
            if match[match.lastgroup or 0] not in _NO_LAST_NAMES
        )
    yield from (Span(*match.span(), PLACE) for match in _ADDRESS.finditer(text) if _is_address(match[0], caseless))
    yield from initials_beside_placeholders(text)
    yield from _in_the_form_of_names(text)
    if not caseless:
        yield from _in_the_form_of_places(text)
    yield from _listed_beside(text, caseless)


_LAST_WORD = re.compile(
    r"\[NAME\](?: [a-z]\.)? (?P<d>(?!\w+ed\b)[a-z]{4,})(?=,? (?:md|do|rn|np|frcr|frcpc)\b|\.?[ \t]*(?:\n|\Z))"
    r"|\[NAME\] [a-z]\. (?P<l>[a-z]{4,})\b"
)
_OF_PLACE = re.compile(  # plain words that are the beginning or the end of a place's name
    r"\b(?:in|at|from|near|to)\s+(?P<d>(?:two|three|four|five|six|seven|twin|big|little|grand|great|old|red|white|black|green"
    r"|blue|rock|high|deep|long|round|cedar|eagle|elk|bear|buffalo|lake|hot|cold|sweet|clear))(?=\s\[(?:NAME|PLACE)\])"
    r"|\[(?:NAME|PLACE)\]\s(?P<e>(?:family|medical|group|health|community|village|primary\s+care)\s"
    r"(?:practice|cent(?:er|re)|medicine|physicians|clinic|surgery)|juniors|rovers|wanderers|athletic|rfc|afc)\b",
    re.IGNORECASE,
)
_NO_LAST_NAMES = frozenset(
    "today yesterday again agrees aware informed notified team clinic ward office department later there here called"
    " radiology surgery medicine consultant registrar radiologist radiographer sonographer physician nurse attending"
    " directly personally verbally".split()
)
_ADDRESS = re.compile(
    r"(?:(?<![\w.,-])(?:(?!(?i:at|from|in|of|on|to) )[A-ZÀ-Þ][\w’'-]+ )?\d{1,5}(?:-?\d|[A-Za-z])?[ ,]+)?"
    r"\[(?:NAME|PLACE|ID)\]"
    r"(?:,?[ \n](?:\d[\w-]*|(?i:p\.?o\.?|box|apt|unit|flat)\.?|\[(?:NAME|PLACE|ID)\]|[A-Z][\w’'-]+)(?=[ ,])){0,6}"
    r",?[ \n]\[(?:NAME|PLACE|ID)\]"
)


_OF_STREETS = frozenset(
    "street avenue ave road rd lane drive court close square crescent terrace gardens grove way box apt apartment unit"
    " flat suite po".split()
)


def _is_address(run: str, caseless: bool) -> bool:
    """Whether placeholders, numbers and a word or two follow each other as in an address; plain words do not."""
    rest = PLACEHOLDER.sub("", run)
    words = [word for word in WORD.findall(rest) if len(word) > 1 and fold(word) not in _OF_STREETS]
    if caseless and any(map(is_surely_plain, words)):
        return False
    some = re.search(r"\w", rest) is not None
    return some and ("[ID]" in run or (re.search(r"\d{3}", rest) is not None and len(WORD.findall(rest)) <= 2))


def _in_the_form_of_names(text: str) -> Iterator[Span]:
    """Words that may be names, with an initial between them or the other way round, and unknown acronyms at places."""
    listed = may_be_names()
    for match in _FULL_NAME.finditer(text):
        if match["initial"] in "ABCDIV" and is_common(match["last"]) and fold(match["last"]) not in listed:
            continue  # Bosniak I. Annular pancreas
        if match["last"] == NAME or not is_common(match["first"]) or fold(match["first"]) in listed:
            yield Span(match.start("first"), match.end(), NAME)
    strong = listed_words("names")
    for match in _FIRST_LAST.finditer(text):
        one, other = match["one"], match["other"]
        may = all(fold(word) in listed or not is_common(word) for word in (one, other))
        if may and (fold(one) in strong or fold(other) in strong) and not is_eponym(text, *match.span("other")):
            yield Span(match.start("one"), match.end("other"), NAME)
    for match in _LAST_FIRST.finditer(text):
        if all(not is_common(word) or fold(word) in listed for word in match.groups()):
            yield Span(*match.span(), NAME)


def _in_the_form_of_places(text: str) -> Iterator[Span]:
    """Capitalised words behind `at` or before `records`."""
    for match in _AT_ACRONYM.finditer(text):
        if match["iu"] and fold(match["iu"]) in listed_words("roles"):  # GP [NAME]
            continue
        if match["iu"] or match["phone"] or not is_common(match["word"] or match["before"]):
            yield spanned(match, PLACE)
    for match in _AT_CAPITALS.finditer(text):
        words = [fold(word) for word in WORD.findall(match["words"])]
        told = len(words) > 1 or words[0] in listed_words("towns") or match["from"]
        if told and not set(words) & _SIDES and words[0] not in HEADINGS and not is_eponym(text, *match.span("words")):
            yield Span(*match.span("words"), PLACE)
    listed = may_be_names_or_towns()
    for match in _RECORDS_OF.finditer(text):
        words = WORD.findall(match["words"])
        office = len(words) > 1 and words[-1] in ("Radiology", "Imaging", "Diagnostics")
        if office or any(fold(word) in listed or not is_common(word) for word in words):
            yield Span(*match.span("words"), PLACE)


_SIDES = frozenset(
    "left right bilateral upper lower middle mid anterior posterior medial lateral superior inferior proximal distal"
    " right-sided left-sided the lung lungs lobe chest abdomen".split()
)


def _listed_beside(text: str, caseless: bool) -> Iterator[Span]:
    """Words that are names too, beside a name: in a text without case, whatever their case."""
    clinical = listed_words("names_in_context")
    listed = may_be_names_or_towns()
    for pattern in (_WORD_BEHIND, _WORD_BEFORE):
        for match in pattern.finditer(text):
            word, comma = match["word"], "," in match[0]
            if not (fold(word) in listed or (caseless and not is_common(word))):
                continue
            if not caseless:
                colon = text[: match.start()].rstrip()[-1:] == ":"
                inside = colon or comma or not starts_sentence(text, match.start("word"))
                told = inside and _EPONYM.fullmatch(word) is not None
            else:  # [NAME], SMALL EFFUSION
                told = not comma or fold(word) not in clinical or _ENDS_NAME.match(text, match.end("word")) is not None
            if told:
                yield Span(*match.span("word"), NAME)


_ENDS_NAME = re.compile(r"\s*(?:[.;:)\n]|$|,? (?:was|is|has|have|had|m\.?d)\b|,? \[)", re.IGNORECASE)
_WORD_BEHIND = re.compile(r"\[(?:NAME|PLACE)\],?[ \n]+(?:[A-Za-z]\.[ \n]?)?(?P<word>[^\W\d_][\w’'-]+)")
_WORD_BEFORE = re.compile(r"\b(?P<word>[^\W\d_][\w’'-]+)(?:,?[ \n]+|-)(?:[A-Za-z]\.[ \n]?)?\[(?:NAME|PLACE)\]")
_FIRST_LAST = re.compile(r"\b(?P<one>[A-Z][a-z]+)[ \t](?=(?P<other>[A-Z][a-z]+)\b)")
_LAST_FIRST = re.compile(
    r"(?<![\w,] )\b([A-Z][a-z][\w'’-]+), ([A-Z][a-z][\w'’-]+)(?=[ \t]*(?:[\n.;)]|$|,? (?:is|was|has|have|had)\b))"
)
_AT_ACRONYM = re.compile(
    r"(?:\b(?:[Aa]t|[Ff]rom|[Tt]o|[Bb]y)\s+|[Ss]tudy \(|\[NAME\],? \(?)(?P<word>[A-Z]{3,6})\b(?!-)"
    r"|\((?P<phone>[A-Z]{2,5})(?=,? (?:\[ID\]|page\b|bleep\b|ext\b))"
    r"|\b(?P<before>[A-Z]{3,5})(?=\s(?:CT|MRI|records|films|emergency|clinic|campus|team)\b)"
    r"|(?:\b(?:[Aa]t|[Ff]rom|[Tt]he|[Tt]o)\s|^|[.:]\s+)(?P<iu>[A-Z]{2,4})(?=\s\[(?:NAME|PLACE)\])",
    re.MULTILINE,
)
_CAPITALS = r"[A-ZÀ-ÞĀ-Ž][\w’'-]+(?:\s(?:of\s|for\s)?[A-ZÀ-ÞĀ-Ž][\w’'-]+){0,4}"
_AT_CAPITALS = re.compile(
    r"\b(?:(?P<from>[Aa]t|[Ff]rom)|[Ii]n|[Nn]ear)\s+(?P<words>[A-Z][a-z][\w’'-]+"
    r"(?:\s(?:of\s)?(?:[A-Z][a-z][\w’'-]+|[A-Z]{2,}|\[NAME\])){0,3})(?!\w)"
)
_RECORDS_OF = re.compile(
    rf"(?<![\w’'-])(?P<words>{_CAPITALS})(?=\s+(?:records|films|emergency|campus|team|(?:CT|MRI?|PET|CTA)\s+(?:of|from|dated|on)\b))"
)
_TITLED = r"[A-ZÀ-ÞĀ-Ž][a-zß-ÿĀ-ž][\w’'-]*"
_BEHIND_PLACEHOLDER = re.compile(
    rf"(?:\[NAME\]|\[PLACE\](?:,| (?:in|at|of))?)(?: &)?[ /-](?P<word>{_TITLED}(?:[ -]{_TITLED})?)(?![\w:])"
    rf"|\[NAME\], (?P<listed>{_TITLED})(?=[).])"
)
_BEFORE_PLACEHOLDER = re.compile(
    rf"(?P<word>\b(?:VA|MOUNT|MT|SAINT|ST|NEW|SAN|SANTA|FORT|{_TITLED})) \[(?:NAME|PLACE)\]"
    r"|\[(?:NAME|PLACE)\],? (?P<firm>LLC|PLLC|LLP|Inc|Ltd|GmbH|MC|UMC)\b"
    r"|\[(?:NAME|PLACE)\],? (?P<kin>(?i:(?:and|&) (?:sons?|partners|associates|company|co|brothers|bros))\b)"
    r"|\[(?:NAME|PLACE)\], (?P<state>A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]"
    r"|PA|RI|S[CD]|T[NX]|UT|V[AT]|W[AIVY]|ON|QC|BC|AB|SK|MB|NB|NS|NL|NSW|VIC|QLD|TAS)\b(?=[.,;:)\n]|\s+(?:[\d\[]|in\b|on\b|since\b)|\s*\Z)"
    r"|(?P<short>\b(?!(?:Dr|Mr|Mrs|Ms|Prof|No|Fig|Pt|Re)\.)(?:[A-Z][a-z]{1,2}|ST)\.) \[NAME\]"
    rf"|(?:(?<=\()|(?<=by )|(?<=with )|(?<=to )|(?<=under )|(?<=for )|(?<=: ))(?P<listed>{_TITLED}), \[NAME\]"
)
_FULL_NAME = re.compile(rf"\b(?P<first>{_TITLED}) (?P<initial>[A-Z])\. ?(?P<last>{_TITLED}|\[NAME\])")
_PARTICLES = re.compile(
    r"(?P<word>\b(?:[Vv][ao0]n|[Dd]e[rnls]?|[Ll][ae]|D[iuao]|Dos|Al|El|[Mm]a?c|MA?C|St\.?|[Bb]inti?|ibn|[Tt]er|[Aa]p|ab|ferch|d[iu]"
    r"|V[AO]N|DE[RNLS]?|L[AE]|EL|AL|LOS|LAS)(?: de[rn]?| la)?) \[NAME\]"
)
_BESIDE_DATE = re.compile(
    r"(?:\[DATE\](?:(?:,? (?i:and|or|&|to|through|until)|,)? | \()|\[NAME\] (?:(?:of|from|on) )?|\[(?:PLACE|NAME)\],\s)"
    r"(?P<word>(?:0?[1-9]|[12]\d|3[01])[/.-](?:0?[1-9]|[12]\d|3[01])(?!\d|\s?[cm]m\b|\s?[x×]\s?\d)\.?)"
    r"|(?<![\d.,/])(?P<before>(?:0?[1-9]|[12]\d|3[01])[/.](?:0?[1-9]|[12]\d|3[01])\.?(?=,? \[DATE\]))"
    r"|(?:\[DATE\](?:,| at| from| in)|\[NAME\](?:, NP| PA)? (?:at|from)) (?P<acronym>[A-Z]{3,5})\b"
    rf"|\[DATE\] (?:at|in|from) (?:the )?(?P<place>{_TITLED}(?: {_TITLED})*)"
)


def elsewhere(text: str, found: set[str]) -> Iterator[Span]:
    """Words that are no plain ones, and were a name or a place once, wherever else they stand."""
    rare = {fold(word) for name in found for word in WORD.findall(name) if len(word) >= 4 and not is_common(word)}
    for match in WORD.finditer(text):
        if {fold(match[0]), fold(re.sub(r"[’']s$", "", match[0]))} & rare and not is_eponym(text, *match.span()):
            yield Span(*match.span(), NAME)


def in_told_sentences(text: str, caseless: bool) -> Iterator[Span]:
    """Sentences that tell of people and places rather than of the picture: there a word with a capital must be plain
    beyond doubt, and short numbers are days and extensions."""
    for sentence in _SENTENCE.finditer(text):
        tells = _TELLS.search(sentence[0]) is not None
        if not tells and not any(mark in sentence[0] for mark in (NAME, PLACE, ID)):
            continue
        for match in WORD.finditer(text, sentence.start(), sentence.end()):
            if _is_doubtful(text, match, caseless):
                yield Span(*match.span(), NAME)
        for match in _NUMBERED_PLACE.finditer(text, sentence.start(), sentence.end()):
            yield spanned(match, PLACE)
        for match in _SHORT_NUMBER.finditer(text, sentence.start(), sentence.end()):
            if tells or "/" not in match[0]:
                yield Span(*match.span(), DATE if "/" in match[0] else ID)


def _is_doubtful(text: str, match: re.Match[str], caseless: bool) -> bool:
    word = match[0]
    if text[match.start() - 1 : match.start()] == "+":  # 90+F
        return False
    if len(word) == 1 and (_SIDE.match(text, match.start()) or text[match.end() : match.end() + 1].isdigit()):  # L5
        return False
    if len(word) == 1 and STROKES.match(
        text, max(0, match.start() - 2 * (text[match.start() - 1 : match.start()] in "/&"))
    ):
        return False
    if _is_placeholder(text, match) or is_eponym(text, *match.span()):
        return False
    if fold(word) in may_be_names_or_towns():
        return not caseless and _EPONYM.fullmatch(word) is not None and not starts_sentence(text, match.start())
    if is_common(word) and (len(word) > 2 or fold(word) in vocabulary()):
        return False
    return (caseless or word[0].isupper()) and not is_slip(word)


_SIDE = re.compile(r"(?<!\] )(?i:[rl])\b(?!\.?\s\[NAME)")  # 3 R, 4 L
_SENTENCE = re.compile(r"(?:[^\n.;!?]|[.;!?](?!\s))+")
_TELLS = re.compile(
    r"\b(?:discuss\w*|communicat\w*|notif\w*|inform\w*|called|calls?\s+to|call(?:ed)?\s+back|paged|phoned|telephoned"
    r"|convey\w*|relay\w*|dictat\w*|transcri\w*|typed|signed|signature|verified|authenticated|read\s?-?back"
    r"|(?:read|reviewed|reported|interpreted|requested|referred|performed|approved|sent|faxed|e?mailed)\s+(?:by|to|with)"
    r"|next\s+of\s+kin|contact\w*|thank\w*)\b",
    re.IGNORECASE,
)
_NUMBERED_PLACE = re.compile(
    r"\b(?i:on|in|to)\s+(?P<d>(?=[A-Z\d]*\d)(?=\d*[A-Z])[A-Z]{2,3}\d{1,2}[A-Z]?)\b"  # a ward
)
_SHORT_NUMBER = re.compile(
    r"(?<![\w./-])(?:(?:1[0-2]|0?[1-9])/(?:0?[1-9]|[12]\d|3[01])|\d{4,})(?![\w/%-]|\.\d|\s?(?:mm|cm|ml))"
)

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
_NOT_MAY_BE = (  # nor are "segment 4 may represent" and "grade 2. May reflect"
    r"(?!\W*may\s+(?!(?:and|at|by|for|from|in|of|on|the|there|to|with|shows?|showed|is|was)\b)(?-i:[a-z]))"
)
_FEAST = (  # days with a name; Christmas tree and Christmas disease are clinical words
    r"(?:(?:christmas|xmas)(?:\s+(?:day|eve|morning|night))?\b(?!\s+(?:tree|disease|factor))|easter(?:\s+(?:sun|mon)day)?"
    r"|thanksgiving(?:\s+day)?|hall?owe['’]?en|boxing\s+day|new\s+year['’]?s?(?:\s+(?:day|eve))?"
    r"|valentine['’]?s?(?:\s+day)|(?:st\.?|saint)\s+patrick['’]?s?\s+day|good\s+friday|ash\s+wednesday|palm\s+sunday"
    r"|hogmanay|(?:guy\s+fawkes|bonfire)(?:\s+night)?|diwali|deepavali|eid(?:[\s-](?:ul|al)[\s-]\w+)?|ramadan"
    r"|hanukkah|chanukah|passover|yom\s+kippur|rosh\s+hashanah|juneteenth|mardi\s+gras|fourth\s+of\s+july|july\s+4th"
    r"|(?:lunar|chinese)\s+new\s+year|(?:mother|father)['’]?s['’]?\s+day|labou?r\s+day|memorial\s+day"
    r"|(?:independence|columbus|veterans?['’]?|anzac|australia|waitangi|canada|victoria|family|national|republic|heritage"
    r"|freedom|youth|women['’]?s|workers['’]?|mandela|flag|presidents?['’]?|groundhog|mlk|bastille|may|remembrance"
    r"|armistice|earth)\s+(?:day|weekend|holiday)|(?:bank\s+holiday|super\s+bowl|labou?r\s+day)"
    r"\s+(?:sun|mon|satur)day)"
)
_FULL_MONTH = "(?:january|february|april|june|july|august|september|october|november|december)"
_WEEKDAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_YEAR = r"(?:19|20)\d{2}"
_UNIT = (
    r"(?:(?:mm|cm|ml|cc|hu|mg|mgy|msv|kg|kvp?|mas|ms(?:ec)?|mcg|mci|mbq|units?|bpm|s/mm|g|grams?|lbs?|oz|i?u(?:/m?l)?|mmhg|hz|kpa"
    r"|meq|deg(?:rees?)?)\b|%|°|[x×]\s?\d)"
)
_NO_UNIT = rf"(?!\s?{_UNIT})"
_NO_MEASURE = "".join(  # what has four digits and is no number of a record
    f"(?<!{word} )"
    for word in "score|score of|value|of|is|hcg|psa|cea|te|tr|t1|t2|[(]ref|dimer|dimer was|\\d to".split("|")
) + (
    rf"(?!\d+(?:[.,]\d+)?(?:\s?[-–x×]\s?\d+(?:[.,]\d+)?)*\s?{_UNIT}"
    r"|\d{1,3}[-/]\d{1,3}\b(?![-/])|\d{1,4}(?:\s?[x×]\s?\d{1,4})+"
    r"|(?:[CTLSD]\d{1,2}[-/]?(?:\d{1,2}[-/]?)*){2,6}\b|G\d+P\d+|(?:\d\d[a-z]{1,2}-)?(?:PSMA|DOTA)-\d+)"
)
_NO_RATIO = "".join(  # what has a point and is no day of a month, also where no capital begins a sentence
    f"(?<!{word} )"
    for word in "ratio max mean index score value of is measures suv suvmax ri pi fraction adc bmd lv sd than".split()
)
_NO_COUNT = (
    r"(?!\s(?:of|ribs?|levels?|dis[ck]s?|(?:lymph\s)?nodes?|cores?|segments?|views?|leads?|patients?|vertebra\w+)\b)"
)
_CLOCK = r"(?:[01]?\d|2[0-3])[:.h][0-5]\d(?::[0-5]\d(?:\.\d+)?)?"
_ZONE = r"(?:\s(?-i:[ECMP][SD]T|AK[SD]T|HST|GMT|UTC|BST|CES?T|IST|AE[SD]T|AC[SD]T|AWST|NZ[SD]T|SAST)\b)?"
_HOUR = "(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_MINUTES = r"(?:(?:a\s+)?quarter|half|five|ten|(?:twenty[-\s])?five|twenty|[1-5]?\d)(?:\s+minutes?)?"
_AT = r"(?:at|by|around|about|since|until|till?|before|after|approx(?:imately)?\.?|~)"
_TOLD = (  # what is done at an hour, and is no finding
    r"(?:called|paged|bleeped|phoned|rang|text['’]?(?:e?d)|texted|told|spoke\w*|informed|notified|discussed|messaged|sent|aware"
    r"|arriv\w+|left|seen|booked|scheduled|listed|due|came|returns?|biopsy|scan|appointment|appt|theatre|clinic|mtg|meeting)"
)
_STUDY = (
    r"(?:stud(?:y|ies)|exams?|examinations?|radiographs?|films?|x-?rays?|ct|mri?|us|ultrasound|mammograms?|scans?|images?"
    r"|reports?|pet|angiograms?|echo|mdt|board|conference)"
)
_LITTLE = (  # words that are no part of a name, whatever their case
    r"(?!(?i:an?|and|are|as|at|be|been|but|by|for|from|had|has|have|if|in|into|is|it|no|not|on|or|over|she|than|that"
    r"|the|there|this|to|under|upon|via|was|were|when|where|which|who|will be|with|within|without)\b)"
)
_CAPS = rf"{_LITTLE}(?:St\.\s?)?[A-ZÀ-ÖØ-ÞĀ-Ž][\w’'-]+"
_TITLED = rf"{_LITTLE}[A-ZÀ-ÖØ-ÞĀ-Ž][a-zß-öø-ÿĀ-ž][\w’'-]*"
_PARTICLE = r"(?:(?:v[ao]n|de[rnls]?|l[ae]|al|bin|d[aiou]s?|te[rn]|el)[ \t]+){0,2}"
_INITIALS = r"(?:[A-Z](?:\.[ \t]?-?|[ \t]+)){0,3}"
_MORE = rf"(?:(?:,[ \t]*|[ \t]+){_INITIALS}{_PARTICLE}{_CAPS}){{0,3}}(?:,?[ \t]+[A-Z]\.(?:[ \t]?[A-Z]\.)*)?"
_PERSON = rf"(?:{_INITIALS}{_PARTICLE}{_CAPS}{_MORE})"
_TITLED_PERSON = rf"(?:{_INITIALS}{_PARTICLE}{_TITLED}{_MORE})"
_NOT_PERSON = (
    r"(?!(?i:the|this|that|these|patient|radiology|department|emergency|team|services?|clinical|referring|ordering"
    r"|physicians?|surgery|surgical|icu|ed|er|ct|mri?|ultrasound|contrast|attending|residents?|fellow|no|there|findings?"
    r"|impression|medicine|oncology|neurology|neurosurgery|urology|cardiology|orthop\w+|p(?:a?ed)iatrics?|staff"
    r"|interventional|trauma|primary|care|provider|clinic|study|exam|protocol|technologist|nursing|nurse|above|at|per"
    r"|mary\s+joseph|phone|telephone|phase|direct|ordered|reports?|results?|right|left|bilateral|normal|stable|unchanged|none)\b)"
)
_DEGREE = (
    r"(?:(?:,?\s+|,)(?:MD|M\.D\.?|D\.O\.|Ph\.?D\.?|RN|R\.N\.|PA-C|P\.A\.|APRN|CRNP|FRCR|FRANZCR|MBBS|MBChB|FRCPC|FACR|FSIR"
    r"|RDMS|DDS|DMD|PGY-?\s?\d)|,\s*(?:DO|NP|PA|RT|BSc|MSc|MPH)(?!\s+(?:and|view|chest|projection)))(?!\w)"
)
_ROLE = (
    r"(?:attending|staff|residents?|fellow|registrar|consultant|surgeon|physician|radiologist|provider|clinician|nurse"
    r"|(?i:pgy)-?\s?\d|chaperone|paramedic|officer|reader|tech|technologist|sonographer|radiographer|technician|midwife|practitioner|anesthesiologist|cardiologist|oncologist"
    r"|referrer)"
)
_RELATIVE = (
    r"(?:wife|husband|spouse|partner|daughter|son|mother|father|mom|dad|brother|sister|guardian|carer|caregiver"
    r"|grandmother|grandfather|grandson|granddaughter|niece|nephew|aunt|uncle|cousin|neighbou?r|friend|interpreter)"
)
_MR_WORDS = (  # what stands behind magnetic resonance and multiple sclerosis, not behind a title
    r"(?!(?:and|or|of|in|is|was|for|by|to|with|without|as|at|on|not|safe|conditional|compatible|imag\w*|angio\w*"
    r"|veno\w*|cholangio\w*|entero\w*|arthro\w*|spectro\w*|uro\w*|defeco\w*|elasto\w*|fistulo\w*|neuro\w*|myelo\w*"
    r"|mammo\w*|lympho\w*|perfusion|exams?|examinations?|stud(?:y|ies)|scans?|scanner|sequences?|signal|brain|head|neck"
    r"|spine|cervical|thoracic|lumbar|pelvi\w*|abdom\w*|liver|knee|shoulder|hip|ankle|wrist|breast|prostate|cardiac"
    r"|heart|contrast|guid\w*|protocol|technique|findings|evidence|appearances?|characteristics|plaques?|lesions?"
    r"|disease|demyelinat\w*|patients?|burden|activity|changes|suite|unit|room|safety|dated|from|performed|report"
    r"|correlation|follow\S*|recommended|would|could|should|if|using|data|features|diagnosis|progression"
    r"|relapse|flare|treatment|therapy|the|also|demonstrates|shows?)\b)"
)

_CONTACTS = (
    r"\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+\b",
    r"\b(?:https?://|www\.)\S+",
    r"(?<![\w.])(?:\+?\d{1,3}[\s./-]?)?(?:\(\d{2,5}\)|\d{3,5})[\s./-]{1,2}\d{3,4}[\s./-]?\d{2,5}(?![\w.]\d)",
    r"(?<![\w.])\+\d[\d\s()/-]{6,}\d",
    r"(?<![\w.])0\d(?:[\s.-]\d{2}){4}(?![\w-])",
    r"(?<![\w.,])\d{2,4} \d{3} \d{2} \d{2}(?![\w-]|[.,]\d)",
    r"\b(?:user(?:name|\s?id)?|login)[:\s]+(?P<d>(?!(?:error|defined|interface|dependent|manual|input)\b)[a-z][\w.-]{2,})",
    r"\b(?:by|via)\s+(?P<d>[a-z]{2,}\d{1,4})\b",
    r"\b(?:message|text|e?mail)(?:ed)?\s+to\s+(?P<d>[a-z][\w.-]+)(?=\s+sent\b)",
    r"\bpaged\s+(?:again\s+)?(?:on|at|via)\s+(?P<d>\d{2,}\b(?![.:h]\d))",
    r"\b(?:tel|tlf|tél|telefon|mob|phone|fax|pager|beeper|ext|extension|poste|bleep(?:ed|er)?|voalte|vocera)\b[.:#\s]*(?:is\s|no\.?\s|number\s)?[(x]?"
    r"(?P<d>\+?\d[\d\s()/-]*\d)",
    r"\b(?:ring|call|dial|contact|reach|text|mobile|cell|callback)\b[.:#\s]*(?:(?:is|no|on|at|number|back)[.:\s]+){0,3}"
    r"(?P<d>[x+]?\(?\d[\d\s()/.-]{1,}\d)" + _NO_UNIT,
    r"(?<![\w.,/-])(?<![(]ref )(?<!range )\d{3}-\d{4}(?![\w/-]|[.,]\d)" + _NO_UNIT,
    r"\b(?:paged|bleeped|phoned|called|pager|bleep|ext)\s*\((?P<d>\d{2,}[\d\s-]*)\)",
    r"\bpage\s+(?P<d>\d-?\d{3,5})\b",
    r"(?<![\d\w])(?<!\d\s)x\d{3,5}\b" + _NO_UNIT,
)
_NUMBERS = (
    r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\b\d+(?:\.\d+){4,}\b",  # addresses and UIDs
    r"\b\d{3}-\d{2}-\d{4}\b",
    r"\b(?:mrn|m\.r\.n\.|medical record|accession|acc|patient id|pat\.?\s?id|pid|case|chart|record|account|visit"
    r"|encounter|order|ssn|nhs|acct|subject|participant|trial id|study id|exam id|id)\b"
    r"\s*(?:no\b|number|num|nr|id)?[.:#\s]*"
    r"(?=[\w-]*\d)[\w/-]*\d[\w/-]*",
    r"\b(?:mrn|m\.r\.n\.|medical record|accession|patient id|ssn|nhs)\b\s*(?:no\b|number|num|nr|id)?[.:#\s]*"
    r"[\w/-]*\d[\w/-]*(?:\s\d{2,}\b){1,3}",
    r"#\s?(?=\w*\d)\w{3,}",
    r"(?<![\w.,])\d{5,}(?![\w.,]*\d)" + _NO_UNIT,
    rf"(?<![\w.,/=:-]){_NO_MEASURE}(?=(?:[\w/-]*?\d){{4}})(?>[a-z]{{0,5}}[\d/-][\w/-]*)(?<=\w)(?![.,:]\d)" + _NO_UNIT,
    rf"\b{_NO_MEASURE}"
    r"(?=(?:[\w-]{0,40}?\d){4})(?=[\w-]{0,40}[a-z])[a-z\d][\w-]{5,}\b(?!\])",
    r"\b(?-i:[A-Z]{1,3}\d{4})\b",
    r"(?<![\w.,-])[A-Za-z]{0,3}\d{1,4}-\d{5,}\b",
    r"\b(?-i:[Nn]o\.?|NO\.?|nr\.?)\s+(?P<d>(?-i:[A-Z]{1,3})\s?\d{3,})\b",
    r"\b(?:no\.|nr\.?|number|num\.)\s*:?\s*(?P<d>\d[\d/-]{2,}\b)" + _NO_UNIT,
    r"(?<![\w./-])(?:\d{2,6}/\d{1,2}/(?:19|20)\d{2}|\d{3,6}/(?:19|20)\d{2}|(?:19|20)\d{2}/\d{1,3}/\d{3,})(?![\w/])",
    r"\b[A-Z]{1,2}\d{6}\s?\([\dA-Z]\)",
    r"\b[a-z]{1,4}\.\d{4,}\b",
    r"(?<![\w./-])0\d{1,3}\s\d{3,4}\s\d{3,4}(?![\w-]|[.,]\d)",
    r"(?<![\w.,-])\d{4}\s\d{4}(?![\w-]|[.,]\d)" + _NO_UNIT,
    r"\b(?:patholog\w*|histolog\w*|specimen|biopsy)\b[^\n.;]{0,30}?(?P<d>\b[A-Z]{1,3}\d{2}[-/]\d{3,}\b)",
    r"\bstation\b(?:\s(?:name|id))?[:\s]\s*(?P<d>(?=[\w-]*\d)(?=[\w-]*[a-z]{2})[\w-]{4,})\b",
)
_DATES = (
    rf"\b{_YEAR}[-/.](?:0?[1-9]|1[0-2])[-/.]{_DAY}(?:[T\s]+{_CLOCK})?\b",
    rf"(?<!\d){_YEAR}\s?[年년](?:\s?\d{{1,2}}\s?[月월](?:\s?\d{{1,2}}\s?[日일])?)?|(?<!\d)\d{{1,2}}\s?[月월]\s?\d{{1,2}}\s?[日일]",
    rf"(?<![\d.])\d{{1,2}}\s?[-/.]\s?\d{{1,2}}\s?[-/.]\s?(?:{_YEAR}|1[34]\d\d|['’]?\d{{2}})(?![\d/]|\.\d)" + _NO_UNIT,
    rf"(?<!\d){_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{{6}})?(?!\d)",
    rf"\b{_DAY}(?:st|nd|rd|th|\.)?{_NOT_MAY_BE}[\s-]*(?:of\s+)?{_MONTH}(?![a-z])\.?"
    rf"(?:[\s,-]*(?:{_YEAR}|['’]?\d{{2}}\b{_NO_UNIT}))?",
    rf"\b{_MONTH}\.?[\s-]+{_DAY}(?:st|nd|rd|th)?\b(?!\s?(?:mm|cm|ml|%))(?:[\s,]+(?:{_YEAR}|['’]\d{{2}}\b|of\s+\d{{2}}\b))?",
    rf"\b{_MONTH}\.?[\s,/-]*(?:of\s+)?(?:{_YEAR}|['’]\d{{2}})\b",
    rf"\b{_MONTH}\.?(?:/|\s+of\s+['’]?)\d{{2}}\b" + _NO_UNIT,
    rf"\b{_DAY}(?:st|nd|rd|th)?\s(?-i:May)\b(?!\sbe\b)",
    rf"\b{_MONTH}\.?\s+{_DAY}/\d{{2}}\b",
    rf"\b{_DAY}[.\s-]+(?-i:I{{1,3}}|I?V|VI{{1,3}}|IX|XI{{0,2}})[.\s-]+{_YEAR}\b",
    rf"\b(?:the\s+)?{_ORDINAL}\s+(?:day\s+)?(?:of\s+)?{_NOT_A_VERB}\b(?:[\s,]+(?:{_YEAR_WORDS}|{_YEAR}))?",
    rf"\b{_NOT_A_VERB}\s+the\s+{_DAY}(?:st|nd|rd|th)\b",
    rf"\b{_NOT_A_VERB}\s+(?:the\s+)?{_ORDINAL}\b(?:[\s,]+(?:{_YEAR_WORDS}|{_YEAR}))?",
    rf"\b{_FULL_MONTH}\b",
    rf"\b{_FEAST}\b(?:[\s,]+(?:{_YEAR}|['’]\d{{2}}\b))?",
    rf"\b(?:(?:on|by|until|till|since|from)\s+)the\s+(?P<d>{_DAY}(?:st|nd|rd|th))\b(?=\s*(?:[.,;:)]|$)"
    r"|\s+(?:for|with|at|he|she|by|so|but|because)\b)",
    r"\bon\s+the\s+(?P<d>(?:eleven|twelf|(?:thir|four|fif|six|seven|eigh|nine)teen|twentie|thirtie)th"
    r"|(?:twenty|thirty)[-\s](?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth))\b(?!\s+(?:rib|day|time)s?\b)",
    rf"\b(?:(?:last|this|next)\s+(?:week|month|night)|yesterday|tomorrow|{_WEEKDAY})[\s,(]+(?:the\s+)?"
    rf"(?P<d>(?:0?[1-9]|1[0-2])[/-]{_DAY}|{_DAY}[/-](?:0?[1-9]|1[0-2])|{_DAY}(?:st|nd|rd|th))(?![\d/])" + _NO_COUNT,
    rf"\b(?:q[1-4]|(?:[1-4](?:st|nd|rd|th)|first|second|third|fourth)\s+quarter)(?:\s+of)?[\s,]+(?:{_YEAR}|['’]?\d{{2}}\b)",
    r"\b(?:spring|summer|autumn|fall|winter)\s+(?:of\s+)?(?P<d>['’]\d{2})\b",
    rf"\b(?:in|since|from|of|until|by)\s+(?P<d>{_NOT_A_VERB}\.?\s+(?:[4-9]\d|[0-3]\d))\b" + _NO_UNIT,
    r"\b(?:to|with|than)\s+(?P<d>(?-i:March|May|(?:MARCH|MAY)(?=[.,;]))\b)",
    r"\b(?:in|since|from|until|till|of|by|last|this|next|early|mid|late|before|after|during|through)"
    r"[\s-]+(?P<d>(?-i:March|May|MARCH|MAY|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)\b)",
    rf"\b(?:in|since|from|of)\s+(?P<d>(?:{_MONTH}\s+)?{_YEAR_WORDS})\b",
    r"\b(?:in|since|from|of|until|by|early|late|circa|around)\s+(?P<d>['’]\d{2})\b(?!['’])",
    r"\b(?:in|since|dated|early|late)\s+(?P<d>(?!\d{1,2}/(?:12|52)\b)(?:0?[1-9]|1[0-2])/\d{2})\b(?![/\d])"
    + _NO_COUNT
    + _NO_UNIT,
    rf"\b(?:0?[1-9]|1[0-2])/{_YEAR}\b",
    rf"(?<![\w.,/-]){_YEAR}(?![\w/-]|[.,]\d)" + _NO_UNIT,
    # not days, months and weeks from now, nor pictures
    r"(?!(?:(?<=\bre-)|(?<=\brepeat )|(?<=\brpt ))\w+\s\d{1,2}/(?:7|12|52)\b|images?\s\d+-)"
    rf"\b(?:on|from|dated|since|prior|comparison|compared|{_STUDY}|date|until|performed|obtained|last|reported|signed"
    r"|dictated|(?:mon|tues?|wed|thu(?:rs?)?|fri|sat|sun)\.?)\b[:\s,]+(?:with\s|to\s|of\s|on\s|dated\s|the\s|is\s|made\s)*"
    rf"(?P<d>(?:0?[1-9]|1[0-2])[/-]{_DAY}|{_DAY}/(?:0?[1-9]|1[0-2]))(?![\d/])" + _NO_COUNT + _NO_UNIT,
    # a day and a month where one of them is too large for the fractions and scores of a report
    r"(?<![\w.,/-])(?<!gcs )(?<!gcs: )(?<!score )(?<!score of )(?<!image )(?<!images )(?<!series )(?<!slice )"
    r"(?P<d>(?:0?[1-9]|1[0-2])/(?:1[13-9]|2\d|3[01])|(?:1[3-9]|2\d|3[01])/(?:0?[1-9]|1[0-2]))(?![\w/]|-\d|\.\d)"
    + _NO_COUNT
    + _NO_UNIT,
    rf"(?:\(|(?<=[a-z]\s)){_NO_RATIO}(?P<d>{_DAY}\.(?:0?[1-9]|1[0-2])\.)(?=[.,;:)]|\s+(?-i:[a-z]))",
    r"\b(?:placed|inserted|performed|done|obtained|on)\s+(?P<d>(?:0?[1-9]|1[0-2])-(?:0?[1-9]|[12]\d|3[01]))(?=\s+(?:by|at)\b)",
    rf"(?<![\w./])(?P<d>{_DAY}\.(?:0?[1-9]|1[0-2])\.|(?:0?[1-9]|1[0-2])/{_DAY}|{_DAY}/(?:0?[1-9]|1[0-2]))"
    r"(?=,?\s(?:at|um)\s\d|,?\s\d?\d[:.]\d\d\b)",
    rf"\b{_STUDY}\s+(?:of|from|in)\s+(?P<d>(?:0?[1-9]|1[0-2])/\d{{2}})\b(?![/\d])" + _NO_COUNT + _NO_UNIT,
    r"\b(?:admitted|(?:in|ex)tubated|(?:last\s+)?seen|discharged|operated|(?:planned|booked|scheduled|listed)\s+for|inserted|removed|drained|imaged|scanned)\s+"
    rf"(?P<d>(?:0?[1-9]|1[0-2])[/-]{_DAY}|{_DAY}/(?:0?[1-9]|1[0-2]))(?![\d/])" + _NO_COUNT + _NO_UNIT,
    rf"\b(?:similar(?:\s+\w+){{0,2}}\s+to|unchanged\s+(?:from|since)|as\s+(?:on|of)|versus|vs\.?|relative\s+to)\s+"
    rf"(?P<d>(?:0?[1-9]|1[0-2])[/-]{_DAY}|{_DAY}/(?:0?[1-9]|1[0-2]))(?![\d/])" + _NO_COUNT + _NO_UNIT,
    rf"\b(?:on|from|dated|since|until|vom|am|{_STUDY}\s+of|mdt|board|conference"
    r"|similar(?:\s+\w+){0,2}\s+to|relative\s+to|compared\s+(?:to|with))\s+(?:the\s)?"
    rf"(?P<d>{_DAY}\.(?:0?[1-9]|1[0-2])\.(?=\s*(?-i:[a-z,;:).]))|\d\d\.(?:0[1-9]|1[0-2])\.)(?!\d)" + _NO_UNIT,
    r"\b(?:last|on|this|next|since|until)\s+(?P<d>(?:(?-i:Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)\b"
    r"|(?:mon|tues?|wed|thu(?:rs?)?|fri|sat|sun)\b(?=[.,;]|$))\.?)",
    r"(?<![\d.:])(?<!series\s)(?<!image\s)(?<!images\s)(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?"
    rf"(?:\s?(?:[ap]\.?m\b\.?|hours|hrs|h\b|uhr))?{_ZONE}(?![\d:])"
    r"(?!,?\s+(?:\d+(?:\.\d+)?\s?cm\s+(?:from|fn)|position|axis|radi\w+|o'clock|min|sec"
    r"|n\s?\d|zone|(?:anterior|middle|mid|posterior)\s+(?:depth|third)|(?:retro|sub|peri)?areolar)\b)",
    r"(?<![\d.])\d{1,2}(?:[.:][0-5]\d)?\s?[ap]\.?m\b\.?" + _ZONE,
    rf"\b{_MINUTES}\s+past\s+(?:{_HOUR}|noon|midnight|(?:1[0-2]|[1-9])\b)(?!\s?(?:[cm]m|cm)\b)",
    rf"\b(?:a\s+)?quarter\s+(?:to|till?)\s+(?:{_HOUR}|noon|midnight|(?:1[0-2]|[1-9])\b)(?!\s+(?:thirds?|half)\b)",
    rf"\b{_AT}\s+(?P<d>(?:five|ten|twenty(?:[-\s]five)?)\s+(?:to|till?)\s+{_HOUR})\b(?=\s*(?:[.,;:)]|$)|\s+(?:on|and|today"
    r"|yesterday|tonight|this|by|with|from|who|that|in\s+the)\b)",
    rf"\b{_TOLD}\b[^.;\n]{{0,40}}?\bat\s+(?P<d>(?:5|10|20|25)\s+to\s+(?:1[0-2]|[1-9]))\b(?=\s*(?:[.,;)]|$)|\s+(?:on|and"
    r"|today|yesterday|tonight|this|by|with)\b)",
    rf"\bat\s+(?P<d>half\s+{_HOUR})\b",
    rf"(?:\b{_AT}|[@~])\s*(?P<d>(?:(?:12|twelve)\s+)?(?:noon|midday|midnight))\b",
    rf"(?:\b{_AT}|[@~])\s*(?P<d>(?:(?:1[0-2]|0?[1-9]):?[0-5]\d|1[0-2]|[6-9])[ap]|\d{{1,2}}p)\b(?![-/]|\s(?:and|or)\s\d)",
    rf"\b{_TOLD}\b[^.;\n]{{0,40}}?(?:\b(?:at|by|around)|@)\s*(?P<d>[1-5]a)\b(?![-/])",
    r"\bat\s+(?P<d>[0-2]\d[0-5]\d(?:\s?(?:hours|hrs|h|uhr))?)\b",
    r"(?<![\d.])(?:[01]?\d|2[0-3])[.h]?[0-5]\d\s?(?:hours|hrs|h|uhr)\b",
    r"\b(?:thurs|tues|weds)\b\.?",
    rf"\b{_WEEKDAY}\b(?:,?\s+(?:{_DAY}[/.-]{_DAY}|(?:the\s+)?{_DAY}(?:st|nd|rd|th))\b)?",
    rf"\b(?:mon|tues?|wed|thu(?:rs?)?|fri|sat|sun)\.?,?\s+(?:the\s+)?{_DAY}(?:st|nd|rd|th)\b",
)
_TITLES = (
    r"(?<!\d)(?<!\d\s)\b(?:dr|drs|prof|mrs|herr|frau|mme|mlle|(?-i:mr|ms|Mr|Ms|Mdm))\b(?:\.\s*|\s+)"
    + _MR_WORDS
    + r"(?:(?:dr|prof|med|habil|dent|univ|dipl|ing|van|von|de|der|den|la|le|el|al|bin|di|da|st|[a-z])\b\.?[\s-]*){0,4}"
    r"(?!(?:the|and|of|is|was|practitioner|specialist|manager)\b)[^\W\d_][\w’'-]*(?:\s+[A-Z]\.)?",
    r"\bat\s+work\s+at\s+(?P<d>[^.;,\n]{3,40}?)(?=\s+on\b|[.;,\n]|$)",
    r"\b(?:doctor|professor)\s+(?:[a-z]\.[\s-]*)+[^\W\d_]{2,}",
    r"\b(?:calls?|report|communication|notification)\s+(?:was\s+|were\s+)?(?:made|placed|given)\s+to\s+"
    rf"{_NOT_PERSON}(?P<d>[^\W\d_][\w’'-]+(?:,?\s[^\W\d_][\w’'-]+)?)(?=\s+(?:at|on)\s+\d)",
)
_PEOPLE = (  # case tells a name here
    r"\b(?i:(?:(?:dr|prof|priv|doz|med|habil|dent|univ|dipl|ing)\b\.?[\s-]*){2,5})"
    rf"{_NOT_PERSON}{_PERSON}",
    r"\b(?:[Dd][Rr]s?|[Pp][Rr][Oo][Ff]|M[rs]|Mrs|MRS|Miss|MISS|Herr|Frau|[Dd]octor|DOCTOR"
    r"|[Pp]rofessor|PROFESSOR|Nurse|NURSE|Sister(?! Mary Joseph)|SISTER(?! MARY JOSEPH))\b"
    rf"(?:\.\s*|\s+){_NOT_PERSON}{_PERSON}",
    rf"(?<!\d)(?<!\d )\bM[RS]\.\s*(?=[A-Z]['’]?[A-ZÀ-Þ]){_NOT_PERSON}{_PERSON}",  # "of MS. Small", "48 MS. Valves"
    rf"\bM[RS]\s+(?i:{_MR_WORDS})(?!(?:CAN|MAY|WILL|HAS|HAD)\b){_NOT_PERSON}{_PERSON}",
    rf"\b[Dd][Rr][Ss]\b\.?\s+{_PERSON}(?:(?:,\s+|,?\s+(?:and|AND|&)\s+){_PERSON})+",
    rf"\b{_NOT_PERSON}{_PERSON}(?={_DEGREE})",
    rf"(?<!\d )(?<!\d)\b(?i:attn|attention|cc|copy\s+to)\s*[:.]\s*{_NOT_PERSON}(?P<d>{_PERSON})",
    rf"\b(?:[Dd]/[Ww]|[Dd]iscussed\s+w/|DISCUSSED\s+W/)\s*{_NOT_PERSON}(?P<d>{_PERSON})",
    r"(?<![\w.])(?:[A-Z]\.[ \t]?){2,3}[A-Z][A-Z'’-]{2,}(?=\s*(?:$|\n|[,(.:]))",
    rf"(?<=\d)[ \t]+(?![RL]\. )(?P<d>(?:[A-Z]\.[ \t]?){{1,3}}{_TITLED})(?=\s*(?:$|\n|[,(.:]))",
    r"\b(?i:discussed|spoke|communicated|conveyed|relayed|telephoned|notified|informed|paged|messaged|dictated|transcribed"
    r"|signed|approved|finali[sz]ed|verified|authenticated|signature|typed|thank\s+you)"
    r"(?i:\s+(?:with|to|by|and|physician|radiologist|electronically|out|findings|results|for\s+referring))*[:,\s]+"
    rf"{_NOT_PERSON}(?P<d>{_PERSON})",
    r"\b(?i:read|interpreted|reviewed|reported|ordered|requested|called|faxed|sent|loaned|copied|forwarded|paged|emailed)"
    r"(?i:\s+(?:out|also|initially|to|by|with|from))*\s+(?:by|to|with|from|BY|TO|WITH|FROM)[:\s]+"
    rf"{_NOT_PERSON}(?P<d>{_TITLED_PERSON})",
    r"\b(?i:seen|examined|performed|provided|given|accompanied|assisted|obtained|placed|inserted|removed|supervised)"
    r"(?i:\s+(?:initially|also|today|in\s+part))?\s+(?:by|BY)[:\s]+"
    rf"{_NOT_PERSON}(?P<d>{_TITLED_PERSON})",
    rf"(?<!-)\b(?i:called|paged|phoned|contacted|asked|told|spoke|referring|attending)\s+{_NOT_PERSON}(?P<d>{_TITLED_PERSON})",
    rf"\b{_NOT_PERSON}{_TITLED_PERSON}(?<!eam)(?<!ervice)(?<!taff)(?<!epartment)(?<!amily)(?<!linic)"
    r"(?=\s*(?:\(\S{1,20}\)\s*)?(?:is|was|were|has been|made|are)?\s*(?:aware|notified|informed|paged|updated)\b)",
    r"\b(?i:ordering|dictated[^:\n]{0,20}|prepared\s+by|written\s+by|report\s+by|author(?:ed\s+by)?|signed|read(?:er)?|reviewer"
    rf"|typist|provider)\s*:?\s+(?<=[:y]\s){_NOT_PERSON}(?P<d>{_PERSON})",
    rf"\b(?:by|with|to|and|from|per|for|[A-Za-z]+:)\s+(?P<d>(?:[A-Z]\.[ \t]?){{1,3}}{_TITLED})",
    r"(?<![\w.])(?:[A-Z]\.[ \t]?){2,3}[A-ZÀ-Þ][a-zß-ÿ]+(?:-[A-Z][a-z]+)?",
    r"(?<![\w.])[A-Z]\.?-[A-Z]\.?[ \t]+[A-ZÀ-Þ][a-zß-ÿ]{2,}",
    rf"\b(?i:by|(?:left|spoken|line|touch)\s+with)\s+{_NOT_PERSON}(?!(?:Doppler|Greulich|Hadlock|Simpson|Seldinger|Hounsfield|RECIST)\b)(?P<d>{_TITLED_PERSON})",
    rf"\b(?i:{_ROLE})\s+(?:is|was|will be)\s+{_NOT_PERSON}(?P<d>{_INITIALS}{_TITLED}{_MORE})",
    rf"\b(?i:(?:{_ROLE}\s+){{1,3}}){_NOT_PERSON}(?P<d>{_TITLED_PERSON})",
    rf"\b(?i:(?:{_ROLE}\s+){{1,3}})(?P<d>(?:[A-Z]\.[ \t]?){{1,3}}{_CAPS})",
    rf"\b(?i:(?:{_ROLE}\s*){{1,3}})(?:[:(]|,\s)\s*{_NOT_PERSON}(?P<d>{_PERSON})",
    rf"\b(?i:{_RELATIVE})(?:['’]s\s+name)?(?:\s+(?:is|was)(?=\s+[A-Z]))?[,:(]?\s+(?:named\s+)?{_NOT_PERSON}"
    rf"(?P<d>{_TITLED}(?:[ \t]+{_TITLED})?)",
    rf"\b(?i:patient|name|pt|named?)\b(?i:\s+name)?\s*[:=,]?\s+{_NOT_PERSON}"
    rf"(?P<d>{_TITLED}(?:,\s*{_TITLED}|\s+{_TITLED})+)",
    rf"\b(?i:patient name|name|patient)\s*[:=]\s*{_NOT_PERSON}(?P<d>{_CAPS}(?:[,\s^]+{_CAPS})*)",
)
_WRITERS = (  # initials: of who dictated / who typed, behind "by", and alone at the end
    r"\b(?i:initials?)\b(?i:\s+(?:is|are))?[\s:=]+(?P<d>[A-Za-z](?:[A-Za-z]{1,2}|\.[A-Za-z]\.?))\b",
    r"(?<![\w.])(?!(?:AP|PA|CC)/)(?:[A-Z]{1,3}|(?:[A-Z]\.){2,3})[/:][a-z]{2,3}(?![\w/.])",
    r"(?<![\w.])(?:[A-Z]\.[ \t]?){2,3}[/:][ \t]?"
    r"(?!(?i:is|no|not|are|was|has|the|and|of|nil|ok|wnl|nad)\b)[A-Za-z]{2,3}\b",
    r"(?m:^[ \t]*(?:[A-Z]{2,3}|[a-z]{2,3})[ \t]?[/:][ \t]?[A-Za-z]{2,3}[ \t]*$)",
    r"(?<=/)[ \t]*[a-z]{2,3}/[a-z]{2,3}\b|\b(?:(?<=[Bb][Yy][ :])|(?<=[Ii][Ss][Tt]: ))[A-Za-z]{2,3}[/:][A-Za-z]{2,3}\b",
    r"(?<![\w.])(?!(?:A\.?P|P\.?A|I\.?V|U\.?S|C\.?T|M\.?R|E\.?[DR]|O\.?[RD]|A\.?M|P\.?[MO]|N\.?G|G\.?[IU]|U\.?K|L\.?V|R\.?V|I\.?D)\.)"
    r"[A-Z]\.[ \t]?[A-Z]\.(?:[ \t]?[A-Z]\.)?(?![\w-])",
    r"\b(?i:by|reported|verified|signed|dictated|approved|initials?|transcribed|typed|checked)\b[^\n;]{0,24}?"
    r"(?P<d>(?<![\w.])[A-Z]\.[ \t]?[A-Z]\.(?:[ \t]?[A-Z]\.)?)",
)
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Way|Court|Square|Crescent|Cres|Close"
    r"|Terrace|Tce|Gardens|Grove|Mews|Parade|Highway|STREET|AVENUE|ROAD|LANE|DRIVE)"
)
_PLACES = (
    r"\b\d{1,4}[A-Za-z]?,?\s+The\s+[A-Z][a-z]+",
    r"\b(?:[A-Z][\w&’'-]+,?\s+){1,3}(?:Inc|Ltd|LLC|GmbH|PLC|plc|Corp)\b",
    r"\b(?:the|The)\s+(?P<d>(?:[A-Z][\w’'-]+\s+){1,2}(?:plant|factory|mine|mill|works|yard|depot))\b",
    r"\b(?i:no\.?|number)\s\d{1,3}\s(?i:mine|pit|colliery|shaft|mill|factory|plant|works|depot|dock|quarry|school)\b",
    r"\b\d{1,5}[A-Za-z]?\s+(?:(?:[A-Z][\w’'-]*\.?|\d{1,3}(?:st|nd|rd|th|ST|ND|RD|TH))\s+){1,3}" + _STREET + r"\b\.?",
    r"\b[A-ZÄÖÜ]\w+(?:straße|strasse|str\.|weg|platz|allee|STRASSE|STRAßE)\s+\d+\w?",
    r"\b(?i:nursing home|facility|hospital|institution|clinic|employer|school|pharmacy|address|city|town)\s*[:=]\s*"
    rf"(?P<d>{_CAPS}(?:[ -]{_CAPS}){{0,3}})",
    r"\b\d{1,4},?\s+RUE\s+(?:DE\s+|DU\s+|DES\s+)?(?:LA\s+)?[A-ZÀ-Þ]+",
    r"\b\d{1,4},?\s+(?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Pp]lace|[Vv]ia|[Cc]alle|[Rr]ua)\s+(?:(?:de|du|des|la|le|del|della)\s+)*[A-ZÀ-Þ]\w+"
    r"(?:,?\s+\d{4,5}\s+[A-ZÀ-Þ]\w+)?",
    r"\b[A-Z]{1,2}\d[A-Z\d]?\s\d[ABD-HJLNP-UW-Z]{2}\b|\b[A-Z]\d[A-Z]\s\d[A-Z]\d\b",  # British, Canadian post codes
    r"\b(?!(?:The|This|At|In|From|Outside|Our)\s)(?:St\.?\s+|Saint\s+|Mount\s+)?(?:[A-Z][\w’'-]+\s+){1,4}"
    r"(?:Hospitals?|Clinic|Infirmary|Medical Cent(?:er|re)|Health(?:care)?|Klinikum|Krankenhaus|Hospice|University"
    r"|Universität|Sanatorium|Imaging Cent(?:er|re)|Nursing Home|Memorial|Diagnostics|(?:Imaging|Radiology|Medical)"
    r" (?:Associates|Group|Partners|Cent(?:er|re)))\b",
    r"\b(?!(?:In|The|Under|As|Department|Division)\s)(?:[A-Z][a-z][\w’'-]+\s+){1,2}(?:General|Regional|Presbyterian"
    r"|Methodist|Baptist|Samaritan|Children['’]s)\b",
    r"\b(?!(?:The|At|In|Her|His|Medical|Old)\s)(?:[A-Z][\w’'-]+\s+){1,3}(?:(?:High|Primary|Elementary|Middle|Grammar)\s+)?"
    r"(?:School|College|Academy|Kindergarten|Nursery)\b",
    r"\b(?:NSW|VIC|QLD|TAS|ACT|SA|WA|NT)\s+\d{4}\b",  # Australian post codes
    r"\b(?:[A-Z][\w’'-]+\s+){1,2}(?:Level|LEVEL)\s\d(?:\s(?:Hospital|HOSPITAL)|(?=[.,;)]|\s(?:on|today|for)\b))",
    r"\b[A-Z][\w’'-]+\s+(?:Hospital|HOSPITAL|Clinic|Institute|Cent(?:er|re))\s+(?:for|of|FOR|OF)\s+[A-Z][\w’'-]+(?:\s+[A-Z][\w’'-]+)?",
    r"\b(?:Hospital|Clinic|University|Klinikum|Universität|Hôpital|Clinique|Ospedale|HOSPITAL|HÔPITAL|KLINIKUM)\s+"
    r"(?:of\s+|de\s+|der\s+)?[A-Z][\w’'-]+(?:\s+[A-Z][\w’'-]+)*",
    r"\b(?:St\.?|Saint|Mount|Mt\.|Fort|Ft\.|San|Santa|Los|Las|Bad|New|Sutter|Kaiser|VA|Cape)\s+"
    rf"(?!(?:York\s+Heart|James\s+(?:grade|class))\b){_TITLED}(?:[ \t/-]{{1,2}}(?:St\.?\s+)?{_TITLED})?",
    r"\b(?i:lives|living|resides|residing|resident|transferred|admitted|hospitali[sz]ed|clinic|office|moved|travel+ed"
    rf"|works|working|worked|employed|(?:wo)?man|(?:fe)?male|patient|films?|images|seen|imaged|performed|obtained|from|done)\s+(?:at|in|to|from|AT|IN|TO|FROM)\s+(?:the\s+)?{_NOT_PERSON}(?P<d>{_TITLED}"
    rf"(?:[ \t-]{_TITLED})*)",
    r"\b(?i:works|worked|working|employed)\s+(?i:at|for|by|with)\s+(?:the\s+)?(?P<d>[A-Z]{3,})\b",
    r"\b(?i:in|at|from|near|of)\s+(?P<d>(?i:two|three|four|five|six|seven|nine|ten|twin|thousand|big|little|grand|great|red|white"
    r"|black|green|blue|sandy|eagle|elk|bear|buffalo)\s(?i:harbou?rs|rivers?|lakes?|creeks?|springs?|hills|oaks|pines|forks|wells"
    r"|rocks|bluffs?|palms|rapids|bay))\b",
    r"\bOur\sLady(?:\sof)?(?:\sthe)?(?:\s[A-Z][\w’'-]+){1,3}",
    r"\b(?:(?i:mv|hms|uss|ss|rms|hmas|hmcs)|RFA)\s+(?P<d>[A-Z][\w’'-]+(?:\s[A-Z][\w’'-]+)?)",
    r"\b(?i:collision|accident|crash|crashed|rtc|rta|mva|driving|hgv|junction)\b[^.;\n]{0,30}?\b(?:on|off|of)\s+(?:the\s+)?"
    r"(?P<d>(?i:[a-z]{1,2}[ -]?\d{1,4})(?:\s(?i:j)\d{1,2})?)\b",
    r"\bet\s+al\.?\s+(?:at|of|from)\s+(?:the\s+)?(?P<d>[A-Z]{2,5})\b",
    r"\b(?:US|U\.S\.|United\sStates|Royal)\s(?:Postal\sService|Army|Navy|Marines?|Air\sForce|Mail)\b",
    r"\b(?i:retired(?:\s+\w+)?\s+from|veteran\s+of|formerly\s+of|works\s+(?:for|at)|worked\s+(?:for|at)|employed\s+(?:by|at)|employee\s+of)\s+(?:the\s+)?"
    rf"{_NOT_PERSON}(?P<d>[A-Z][\w’'-]+(?:\s[A-Z][\w’'-]+){{0,3}})",
    r"\b(?i:resides?|residing|lives?|living|address(?:\s+is)?)\s+(?i:at\s+)?(?P<d>(?i:(?:unit|flat|apartment|apt|suite)\.?\s+)?\d[^.;\n]{3,60}?)(?=[.;\n]|$)",
    r"\b(?:OPD|opd|Opd|Outpatients|outpatients)\s?(?:no\.?\s?)?\d{1,2}[A-Z]?\b(?!\s*(?i:days?|weeks?|wks?|months?|years?|visits?)\b)",
    r"\b(?i:[mspcn]?icu|hdu|ccu)\s\d{1,2}\s(?i:north|south|east|west)\b",
    r"\b(?i:seen|saw|see|review|attend\w*|to|from|in|at)\s+(?:in\s+|at\s+|to\s+)?(?i:clinic|theatre)\s(?P<d>\d{1,2}[A-Z]?)\b"
    r"(?!\s*(?i:days?|weeks?|wks?|months?|years?|visits?)\b|/)",
    r"\b(?i:lives?|living|resid\w+|stay\w*)\s+(?i:with|at|among)\s+(?i:the\s+)(?P<d>(?!(?i:two|three|four|other|older|younger|same)\b)"
    r"(?:[\w’'-]+\s+){1,2}(?i:sisters|brothers|nuns|friars|fathers))\b",
    r"\b(?i:room|rm\.?|bed|bay|ward|cubicle)\b:?\s*(?:(?i:no\.?|number)\s*|#\s?)?(?P<d>(?:[A-Za-z]{0,5}|[A-Z]-)\d[\w-]*)\b"
    + _NO_UNIT,
    rf"\b(?i:{_STUDY}|performed|done|obtained|imaged|seen|examined|treated|discussed|transferred|transfer|admitted)\s+"
    r"(?:at|from)\s+(?:the\s+)?"
    r"(?!(?:CT|MRI?|PET|CTA|MRA|ICU|MICU|SICU|NICU|PACU|PACS)\b)(?P<d>[A-Z]{3,5})\b",
    rf"\b(?:the|our|their)\s+{_NOT_PERSON}(?P<d>{_TITLED}(?:[ -]{_TITLED})?)\s+"
    r"(?:clinic|hospital|campus|office|site)\b",
    rf"\b(?i:resident|native|citizen)\s+of\s+(?P<d>{_TITLED}(?:[ -]{_TITLED})*)",
    r"\b(?i:imaged|seen|scanned|examined|performed)\s+in\s+(?P<d>\d{3})\b(?!\s*(?:cases|patients|mm|of))",
    r"\bin\s+(?P<d>\d{3}[A-D]|[A-Z]\d{3}|\d[A-Z]-\d{1,3})\b",
    r"\b(?i:\d{1,2}[ ]?(?:north|south|east|west)(?:-\d+)?(?:\s(?:tower|wing|ward|unit))?)\b",
    r"\b(?i:tower\s\d{1,2}(?:\s(?:north|south|east|west))?|(?:north|south|east|west)\stower(?:\s\d{1,2})?)\b",
)
_AGES = (
    r"\b(?:nonagenarian|(?:super-?)?centenarian)s?\b",
    rf"(?<!nineteen )(?<!nineteen-)(?<!hundred )(?<!and )\bninety(?:[-\s]{_ONES})?+\b"
    r"(?![-\s]*(?:degrees?|deg|per\s?cent|%|minutes?|seconds?|hours?|days?|\w+met(?:er|re)s?|[mc]m|ml|cc|mg|kilo\w*|pounds|beats|units?|times"
    r"|patients|cases)\b)",
    rf"\b(?P<d>(?:9\d|1[01]\d)(?:st|nd|rd|th)|ninetieth|ninety[-\s]{_ORDINAL}|hundredth)(?=\s+(?:year(?!\s+of)|birthday|b-?day)\b)",
    r"(?:^|[.;!(\n]\s*|\b(?:patient|pt|he|she|mum|mom|mother|dad|father|nan|who)(?:['’]s|\s+(?:is|was|turn(?:s|ed)))?\s+(?:now\s+|just\s+)?)"
    r"(?P<d>9\d|1[01]\d)(?=\s+(?:today|tomorrow|yesterday|(?:this|next|last)\s+(?:week|month|year|birthday|spring|summer"
    r"|autumn|fall|winter)|in\s+(?:\[DATE\]|a\s+(?:week|month)))\b)",
    r"\b(?P<d>9\d|1[01]\d)(?=[^.\n\d]{0,12}\bhappy\s+b(?:irth|-)?day\b)",
    r"\b(?:he|she|who)(?:['’]s|\s+(?:is|was))\s+(?:now\s+|just\s+|almost\s+|nearly\s+|over\s+)?(?P<d>9\d|1[01]\d)"
    r"(?=\s*(?:[.,;!)\n]|$)|\s+(?:now|and|but|with|so|who|years?)\b)",
    r"\b(?:for|only|almost|nearly|just\s+turned)\s+(?P<d>9\d|1[01]\d)(?=\s*(?:[.;!)\n]|,\s+(?!\d)|$))",
    r"\((?P<d>9\d|1[01]\d)(?=\s+and\s+(?:sharp|well|fit|frail|living|lives|lucid|independent|active|mobile|still)\b)",
    rf"\b(?:one|a)?[-\s]?hundred(?:[-\s]and)?(?:[-\s]{_NUMBER_WORD})?(?=[\s-]years?[\s-]olds?\b)",
    r"(?<![\w.-])(?:9\d|1[0-2]\d)(?=[\s-]*(?:years?\b|yrs?\b|y[./\s]?o\b)|/?[MF]\b)",
    r"(?<=[a-z]), (?P<d>9\d|1[01]\d)(?=, (?:who|is|was|has|had|with|lives|fell)\b)",
    r"\b(?:patient|he|she)\s+(?:being|is|was)\s+(?P<d>9\d|1[01]\d)(?=[.,;)])",
    r"\b(?:aged?|age is|age of)\b[:\s]+(?P<d>9\d|1[0-2]\d)\b(?!\s?(?:mm|cm|%))",
    r"\b(?:turn(?:s|ed|ing)?|at)\s+(?P<d>9\d|1[01]\d)(?=\s+(?:mr|mrs|ms|he|she|this|last|next|today|on|in|of|from)\b)",
    r"\b(?:mother|father|wife|husband|sister|brother|aunt|uncle|partner|mum|mom|dad|m(?:r|rs|s)\.?\s+[^\W\d_]+)"
    r"[\s,]+\(?(?P<d>9\d|1[01]\d)(?=[,.;)]|\s+on\b)",
    r"\b(?:his|her|their)\s+(?:early\s|mid[\s-]|late\s)?(?P<d>90s|nineties)\b",
)

_PATTERNS = tuple(
    (placeholder, re.compile(pattern, flags))
    for placeholder, patterns, flags in (
        (ID, _CONTACTS, _ANY),
        (ID, _NUMBERS, _ANY),
        (DATE, _DATES, _ANY),
        (NAME, _TITLES, _ANY),
        (NAME, _PEOPLE, 0),
        (NAME, _WRITERS, 0),
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


_PEOPLE_WITHOUT_CASE = (
    rf"\b(?:by|per|told|asked|called|i,|not|named?|drs?\.?)[:\s]+(?P<d>{_PERSON})",
    rf"\b(?:called|relayed|reported|conveyed|given|told|communicated)\s+to\s+(?P<d>{_PERSON})",
    r"\bby\s+(?P<d>(?:[A-Z]\.[ \t]?){1,3}[^\W\d_]{2,})",
    rf"\b(?:with|to|and)\s+(?P<d>{_INITIALS}{_TITLED}(?:,?\s+{_INITIALS}{_TITLED})+)",
    rf"\b(?P<d>(?:[A-Z]\.[ \t]?){{1,3}}{_TITLED})",
    rf"\b{_RELATIVE}\b(?:['’]s\s+name)?[,:(]?\s+(?:is\s+|named\s+)?(?P<d>{_TITLED}(?:\s+{_TITLED})?)",
    rf"\b{_ROLE}\b[,:(]?\s+(?P<d>{_PERSON})",
)
_PLACES_WITHOUT_CASE = (
    r"\b(?:moved|here|drove|flown\s+in|flew|came|travel+ed|visiting|ambulance|transfer|employed|films|images|records|disc|cd)\s+(?:from|in)\s+"
    r"(?P<d>(?!(?:an?|the|outside|another|prior|previous|today|yesterday|this|that|our)\b)\w+(?:\s+\w+)?)"
    r"(?=\s*(?:[.,;]|$|\b(?:in|on|were|was|with)\b))",
    r"\b(?P<d>our lady(?: of)?(?: the)? \w+(?: (?:hospital|clinic|medical center))?)\b",
    r"(?:^|[.:,]\s+)(?P<d>(?:(?!(?:the|no|an?|outside|this|our|at|from|in|of)\b)\w[\w.'’-]*\s){1,3}(?:medical\s+center"
    r"|hospital|university|infirmary))\b",
    rf"\b(?:in|from|at|to)\s+(?P<d>(?:(?:north|south|east|west|grand|port|mount)\s+)?{_TITLED}(?:[ -]{_TITLED})*)"
    r"(?=\s*(?:[.,;)]|$|\b(?:on|dated|was|were|is|shows|by|in)\b))",
    rf",\s+(?P<d>{_TITLED}(?:[ -]{_TITLED})*)(?=\))",
    r"(?:\b(?:at|from|in|to|outside|seen|the)\s+|\()(?P<d>(?:(?!(?:an?|the|our|this|outside|another|same|at|from|in|to|of"
    r"|by|with|on|and|was|is|local|study|ct|hospital|breast|pain)\b)(?i:[^\W\d_])[\w.'’-]*[\s-]){1,4}(?i:hospitals?|infirmary|clinic|health|healthcare"
    r"|medical\s+cent(?:er|re)|university|memorial|imaging|radiology|klinikum|general|hospice|nursing\s+home|care\s+home|(?:cancer\s+|heart\s+)?institute)\b(?:\s+(?:for|of)\s+\w+)?)",
)
_WITHOUT_CASE = tuple(
    (placeholder, tuple(re.compile(pattern) for pattern in patterns))
    for placeholder, patterns in ((NAME, _PEOPLE_WITHOUT_CASE), (PLACE, _PLACES_WITHOUT_CASE))
)


def matches_without_case(people: str, places: str) -> Iterator[tuple[int, int, str]]:
    """The same for a text without case, given twice: with a capital where a word may be a person's name, and where it
    may be a place's."""
    for text, (placeholder, patterns) in zip((people, places), _WITHOUT_CASE, strict=True):
        for pattern in patterns:
            yield from ((*match.span("d"), placeholder) for match in pattern.finditer(text))

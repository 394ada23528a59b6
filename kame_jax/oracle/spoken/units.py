"""What occurs next to numbers, by written form: units, currencies, scales, signs, names of months, abbreviations."""

from __future__ import annotations

from types import MappingProxyType

from kame_jax.oracle.numbers import MONTHS as MONTH_NAMES

_UNITS = """
km kilometer | m meter | cm centimeter | mm millimeter | μm micrometer | um micrometer | nm nanometer | dm decimeter
kms kilometer | mi mile | ft foot/feet | yd yard | yds yard | in inch/inches | au astronomical_unit | ly light_year
kg kilogram | kgs kilogram | g gram | mg milligram | μg microgram | mcg microgram | lb pound | lbs pound | oz ounce
l liter | L liter | ml milliliter | mL milliliter | dl deciliter | dL deciliter | cl centiliter | gal gallon
qt quart | tbsp tablespoon | tsp teaspoon | ha hectare | sqft square_foot/square_feet | cc cubic_centimeter
h hour | hr hour | hrs hour | min minute | mins minute | s second | sec second | secs second | ms millisecond
μs microsecond | ns nanosecond | yr year | yrs year | wk week | wks week | mo month | mos month
mph mile_per_hour/miles_per_hour | kph kilometer_per_hour/kilometers_per_hour
kmh kilometer_per_hour/kilometers_per_hour | mpg mile_per_gallon/miles_per_gallon
fps frame_per_second/frames_per_second | bpm beat_per_minute/beats_per_minute
rpm revolution_per_minute/revolutions_per_minute | psi pound_per_square_inch/pounds_per_square_inch
kbps kilobit_per_second/kilobits_per_second | Mbps megabit_per_second/megabits_per_second
Gbps gigabit_per_second/gigabits_per_second | KB kilobyte | kB kilobyte | MB megabyte | GB gigabyte
TB terabyte | PB petabyte | KiB kibibyte | MiB mebibyte | GiB gibibyte | kb kilobit | Mb megabit | Gb gigabit
Hz hertz/hertz | kHz kilohertz/kilohertz | MHz megahertz/megahertz | GHz gigahertz/gigahertz | dB decibel
W watt | kW kilowatt | MW megawatt | GW gigawatt | Wh watt_hour | kWh kilowatt_hour | MWh megawatt_hour
V volt | kV kilovolt | mV millivolt | mA milliampere | mAh milliampere_hour | Ω ohm | kΩ kiloohm | MΩ megaohm
J joule | kJ kilojoule | MJ megajoule | cal calorie | kcal kilocalorie | N newton | kN kilonewton | eV electronvolt
Pa pascal | hPa hectopascal | kPa kilopascal | MPa megapascal | mol mole/moles | mmol millimole
μmol micromole | px pixel | pt point | dpi dot_per_inch/dots_per_inch | pc piece | pcs piece
doz dozen/dozen | nmi nautical_mile
"""


def _units() -> dict[str, tuple[str, str]]:
    table = {}
    for entry in _UNITS.replace("\n", "|").split("|"):
        if entry.strip():
            sign, words = entry.split()
            one, _, many = words.replace("_", " ").partition("/")
            table[sign] = (one, many or f"{one}s")
    return table


UNITS = _units()
"""Sign to (singular, plural)."""
SPACED = frozenset(UNITS) - {"in", "N", "V", "h", "pt", "au", "cc", "mo"} | {"h"}
"""Units that may stand apart from their number; the others are words or letters there ("5 in the box", "5 B")."""
LENGTHS = frozenset({"m", "km", "cm", "mm", "ft", "in", "mi", "yd"})
PER = frozenset(
    "hour day week month year minute second person people mile kilometer pound ounce gallon liter item unit "
    "piece student "
    "child kid night dozen box bag bottle page word head car ticket pack inch foot yard meter acre visit trip shirt "
    "h hr s sec min km mi kg g lb oz gal yr wk mo L l ml dL dl".split()
)
"""After a slash: the one that something is counted by."""

CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "", ""),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"),
    "₿": ("bitcoin", "bitcoins", "", ""),
    "₺": ("lira", "lira", "", ""),
    "₫": ("dong", "dong", "", ""),
    "₱": ("peso", "pesos", "centavo", "centavos"),
    "₪": ("shekel", "shekels", "", ""),
    "₴": ("hryvnia", "hryvnias", "", ""),
    "₦": ("naira", "naira", "kobo", "kobo"),
    "฿": ("baht", "baht", "", ""),
}
"""Sign to (one, many, one hundredth, many hundredths)."""
CODES = {
    "USD": ("US dollar", "US dollars"),
    "CAD": ("Canadian dollar", "Canadian dollars"),
    "AUD": ("Australian dollar", "Australian dollars"),
    "EUR": ("euro", "euros"),
    "GBP": ("pound", "pounds"),
    "CHF": ("Swiss franc", "Swiss francs"),
    "JPY": ("yen", "yen"),
    "CNY": ("yuan", "yuan"),
    "KRW": ("won", "won"),
    "INR": ("rupee", "rupees"),
    "Rs": ("rupee", "rupees"),
    "RUB": ("ruble", "rubles"),
    "BRL": ("real", "reais"),
    "R": ("real", "reais"),
    "MXN": ("Mexican peso", "Mexican pesos"),
    "BTC": ("bitcoin", "bitcoins"),
}
"""Next to a number; R before a dollar sign."""
WHOSE = {
    "US": "US",
    "A": "Australian",
    "AU": "Australian",
    "C": "Canadian",
    "CA": "Canadian",
    "NZ": "New Zealand",
    "HK": "Hong Kong",
    "S": "Singapore",
}
"""Before a dollar sign."""
SCALES = {
    "k": "thousand",
    "K": "thousand",
    "M": "million",
    "mn": "million",
    "bn": "billion",
    "B": "billion",
    "tn": "trillion",
}
MONEY_SCALES = SCALES | {"m": "million", "b": "billion", "T": "trillion", "t": "trillion", "MM": "million"}
SCALE_WORDS = frozenset(("hundred", "thousand", "million", "billion", "trillion"))

OPERATORS = {
    "+": "plus",
    "=": "equals",
    "≠": "is not",
    "≈": "about",
    "<": "less than",
    ">": "greater than",
    "≤": "at most",
    "≥": "at least",
    "×": "times",
    "÷": "divided by",
    "±": "plus or minus",
    "∓": "minus or plus",
    "∕": "over",
}
SIGNS = {
    "&": "and",
    "@": "at",
    "%": "percent",
    "‰": "per thousand",
    "°": "degrees",
    "√": "the square root of",
    "∛": "the cube root of",
    "∞": "infinity",
    "→": "to",
    "←": "from",
    "↔": "to and from",
    "⇒": ", so",
    "∴": ", therefore",
    "∵": "because",
    "∈": "in",
    "∪": "union",
    "∩": "intersection",
    "∠": "angle",
    "∥": "parallel to",
    "⊥": "perpendicular to",
    "∝": "proportional to",
    "¢": "cents",
    "§": "section",
}
COMPARED = frozenset("=≠≈<>≤≥")
ALIKE = {
    "==": "=",
    "===": "=",
    ":=": "=",
    "!=": "≠",
    "<>": "≠",
    "<=": "≤",
    ">=": "≥",
    "->": "→",
    "-->": "→",
    "<-": "←",
    "<->": "↔",
    "=>": "⇒",
    "+/-": "±",
    "&&": "&",
}
"""Written with several characters, or otherwise: the sign that is meant."""
GREEK = MappingProxyType(
    dict(
        zip(
            "αβγδεζηθικλμνξοπρστυφχψωΓΔΘΛΞΠΣΦΨΩϕς",
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon "
            "phi chi psi omega gamma delta theta lambda xi pi sigma phi psi omega phi sigma".split(),
        )
    )
)

MONTHS = {name[:size]: name for name in MONTH_NAMES for size in (3, len(name))} | {"Sept": "September"}
"""Written out or shortened."""
NUMBERED = {
    "No": "number",
    "no": "number",
    "Nos": "numbers",
    "p": "page",
    "pp": "pages",
    "Fig": "figure",
    "fig": "figure",
    "Eq": "equation",
    "Ch": "chapter",
    "Sec": "section",
    "Vol": "volume",
    "vol": "volume",
    "Art": "article",
}
"""With a period, before a number."""
ABBREVIATIONS = {
    "etc": "and so on",
    "vs": "versus",
    "approx": "about",
    "dr": "Doctor",
    "mr": "Mister",
    "mrs": "Missus",
    "ms": "Miss",
    "prof": "Professor",
    "jr": "Junior",
    "sr": "Senior",
    "mt": "Mount",
    "ave": "Avenue",
    "blvd": "Boulevard",
    "dept": "department",
    "inc": "Incorporated",
    "ltd": "Limited",
    "incl": "including",
    "avg": "average",
}
"""Followed by a period."""
INITIALS = {"e.g.": "for example", "i.e.": "that is", "a.m.": "AM", "p.m.": "PM"}

SCORES = frozenset(
    "score scored scoring won win wins winning lost lose loses beat beats beating defeated defeat led lead "
    "leads leading game "
    "match final finished tied tie victory record set sets vote votes voted decision split ahead odds job "
    "shift".split()
)
"""Words near two numbers with a hyphen that make them a score, not a difference."""
REST = frozenset(
    "left remaining remain remains leaves leaving difference subtract subtracting are has have had needs is get "
    "gives equals which".split()
)
"""Words near two numbers with a hyphen that make them a difference."""
CALLS = frozenset("call dial phone telephone tel number text fax hotline contact cell mobile".split())
YEARS = frozenset(
    "in since until till year years during before after circa early late mid born january february march april may "
    "june july august september october november december spring summer fall autumn winter olympics cup season "
    "copyright".split()
)
"""Words before a number of four digits that make it a year."""
ERAS = frozenset(("AD", "BC", "BCE", "CE"))
VERSIONED = frozenset("version release v python php java node ubuntu ios macos android cuda".split())
"""Before a number with a period: "3.11" is three point eleven."""
RATED = frozenset("rated rating rate score scored grade graded".split())
DECADES = frozenset("the early mid late their his her my our your in".split())
TIMES_WHAT = frozenset(
    "faster slower more less larger bigger smaller higher lower better cheaper longer greater as the growth increase "
    "return speed stronger".split()
)
RULERS = frozenset(
    "Henry Louis Charles Elizabeth George Edward William Richard James Philip Philippe Napoleon Pius Benedict "
    "Paul John Leo "
    "Gregory Alexander Nicholas Peter Catherine Frederick Ramses Ptolemy Mary Francis Ferdinand Wilhelm "
    "Friedrich Gustav "
    "Innocent Clement Urban Ivan Darius Xerxes Cyrus Juan Carlos Felipe Umberto Victor Haakon Harald Margrethe "
    "Otto".split()
)
"""Names that a Roman numeral follows as an ordinal."""
NUMBERED_NAMES = frozenset(
    "War Chapter Part Volume Book Act Scene Section Article Phase Type Stage Class Title Appendix Figure Table "
    "Bowl".split()
)
"""Names that a Roman numeral follows as a number, even if it is one letter."""

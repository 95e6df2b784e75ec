"""Penn Treebank tokens of captions without Java.

Published caption scores are computed on the output of pycocoevalcap's `PTBTokenizer`: the
tokeniser of Stanford CoreNLP 3.4.1, lower case, less a list of punctuation. This module gives the
same tokens. It was written from that tokeniser's observed behaviour (its output for every
character, for every word of up to five letters before a full stop, for letters around every sign)
and compared with it on all captions of RSICD, UCM and NWPU and on random strings.

Not covered, so possibly different: web and e-mail addresses of unusual form, rarer emoticons, tags
with unusual attributes, combining marks other than those on Latin letters, characters beyond the
Basic Multilingual Plane, control characters, scripts newer than Unicode 6. And a caption is a world
of its own here, whereas the Java program reads a file of them: there, whether a caption that ends
in `X.` keeps that full stop depends on the first word of the next caption, and a carriage return or
form feed inside a caption shifts all that follow.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# What pycocoevalcap removes. Brackets are not on its list: it names them in upper case, and they
# come out of the tokeniser in lower case.
PUNCTUATION = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split())

# Characters that come out spelled otherwise. Empty: becomes a mark of PUNCTUATION.
SPELLED = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"¢": "cents", "£": "#", "¤": "$", "₠": "$", "€": "$", "\x80": "$"},
    **{"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"},
    **dict.fromkeys('"“”«»‘’‛‹›\x91\x92\x93\x94–—―\x96\x97…\x85‐‑֊', ""),
}
ENTITIES = {"amp": " & ", "lt": " < ", "gt": " > ", "quot": '"', "apos": "'", "nbsp": " "}
# Signs outside ASCII that are tokens; every other one that is not a letter, digit or mark vanishes.
SIGNS = re.compile(
    "[¡¥-©¬®-´¶-¹¿×÷\u037e\u0387־฿‖‗‚„-‣‰-‸※‾-⁂⁰⁴-⁾₀-₎₤℀℁℃-℆℈℉℔№-℘℞-℣℥℧℩℮℺℻⅀-⅄⅊-⅍⅏⅕-⅞←-⯿、。〒・"
    "！-／：-＠［-｀｛-･￠￡￥￦]"
)

# --- words that keep a full stop --------------------------------------------------------------
ABBREVIATIONS = """
    adj adm adv alex asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec
    ens ft gen gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc
    ph pres prof profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm"""
ABBREVIATIONS_NOT_UPPER = "mfg mtg"
# Those that may also end a sentence.
ENDINGS = """
    al ala apr ariz assn assoc aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq
    est etc ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon
    mont neb nev nov oct okla penn plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues
    univ va vt wed wis wisc wyo ph.d"""
ENDINGS_NOT_UPPER = "ppte pptes ppty pptys pte ptes pty ptys"
ENDINGS_CAPITAL = "ark az del ill la mass miss ore pa tex wash"
BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
# `X.` keeps its full stop unless the next word is one that begins sentences.
STARTERS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last
    Many More Now Once One Other Our She Since So Some Such That The Their Then There These They
    This We What When While Yet You"""


def _any(words: str) -> str:
    return "|".join(map(re.escape, words.split()))


def _not_upper(words: str) -> str:
    return "|".join(f"(?i:{word[0]}){word[1:]}" for word in words.split())


def _capital(words: str) -> str:
    return "|".join(f"{word.capitalize()}|{word.upper()}" for word in words.split())


def _patterns() -> tuple[re.Pattern[str], ...]:
    """The lexer's rules: group 1 is the token, what follows it is context.

    As in a lexer made by flex, the rule whose match is longest wins, context included, and of
    equals the first.
    """
    letter, alnum = r"[^\W\d_]", r"(?:[^\W_]|[\u0300-\u036f])"
    word = rf"{letter}{alnum}*"
    quote = "['’\x92]"
    part = r"[A-Za-z0-9]+(?:-[A-Za-z]+)*"
    o_neil = rf"(?:(?![IY])[A-Z]|[dlno])['’\x92‘\x91`]{letter}{{2,}}"
    address = r"[^\s<>\"(){}|]+[^\s<>\"(){}|.,;:!?-]"
    clitic = "(?i:s|d|m|re|ll|ve)"
    hyphened = r"[A-Za-z0-9][A-Za-z0-9.,]*(?:[-‐‑](?:(?:[A-Za-z]\.){2,}|[A-Za-z0-9]+))+"
    abbreviations = f"(?:(?i:{_any(ABBREVIATIONS)})|{_not_upper(ABBREVIATIONS_NOT_UPPER)})"
    endings = (
        f"(?:(?i:{_any(ENDINGS)})|{_not_upper(ENDINGS_NOT_UPPER)}|{_capital(ENDINGS_CAPITAL)})"
    )
    rules = (
        # Words, and the parts that English runs together.
        rf"({letter}+?)n['’\x92‘\x91`][tT]",  # is|n't
        rf"({letter}+?)N['’\x92‘\x91`][tT]",
        r"([nN]['’\x92‘\x91`][tT])",
        rf"({alnum}+){quote}{clitic}",  # dog|'s
        rf"({quote}{clitic})(?!{letter})",
        rf"([’\x92](?:{clitic}|[nN]))",  # after the typographic apostrophe, even inside a word
        r"(?i:(can)not|(gon)na|(got)ta|(wan)na|(lem)me|(gim)me)",
        r"(?i:('t)(?:is|was))",
        rf"({o_neil})",  # O'Neil, o'clock
        rf"([DJLYdjly]{quote})(?=[A-Za-ce-ln-rt-z])",
        rf"((?i:{quote}em|{quote}n{quote}|{quote}n(?!{alnum})|{quote}till?|{quote}cause))",
        rf"({letter}+[aeiouyAEIOUY]['’\x92‘\x91`][aeiouA-Z]{letter}*)",  # Hallowe'en
        rf"({quote}\d\d(?:s|(?=\s|$)))",  # '90s
        rf"((?i:ma{quote}am|cap{quote}n|n?e{quote}er|nat{quote}l|c{quote}mon|c{quote}est"
        rf"|s{quote}mores|nor{quote}easter|ol{quote}))",
        # Numbers.
        r"(\d{1,4}[- ]\d{1,4}[/⁄]\d{1,4})",  # 1 1/2
        r"(\d{1,4}[/⁄]\d{1,4})",
        r"(\d{1,2}[-/]\d{1,2}[-/]\d{2,4})",
        r"([-+]?(?:\d*(?:[.,:]\d+)+|\d+))",
        # Telephone numbers; three numbers in a row can look like one.
        r"((?:\+\+?)?(?:\d{2,4}[- ])?\d{2,4}[- ]\d{3,4}[- ]?\d{3,5})",
        r"(\(\d{2,3}\) ?\d{3,4}[- ]?\d{3,5})",
        # Full stops that belong to the word.
        rf"({abbreviations}\.)",
        rf"({endings}\.)(?:-\S|-?.)?",
        rf"((?i:{_any(BEFORE_NUMBERS)})\.)\s*\d",
        rf"([A-Za-z]\.)(?!\s+(?:{_any(STARTERS)})(?:\s|$))",
        r"((?:[A-Za-z]\.){2,})",
        rf"((?:{o_neil}|{hyphened}|{alnum}+(?:[-_]{alnum}+)*|{word}(?:\.{word})+)\.)[,:;]",
        # Words joined by signs.
        rf"({alnum}+)",
        rf"({word}(?:[.!?]{word})+)",  # end.Start
        rf"({hyphened})",  # well-kept
        rf"((?:{alnum}+[-_])*{o_neil}(?:[-_]{alnum}+)*)",
        rf"({alnum}+(?:[-_]{alnum}+)+)",
        rf"({part}\\?/{part}(?:\\?/{part})?)",  # and/or
        r"([A-Z]+(?:[&+][A-Z]+)+|[A-Z]+\$|(?i:c\+\+|[cf]#))",
        rf"({alnum}+(?:\.{alnum}+)*\.(?i:bat|bmp|c|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java"
        rf"|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav|x|xml|zip)(?=[.,!?]|\s|$))",
        # The web.
        rf"(https?://{address})",
        rf"((?:[A-Za-z0-9_\-]+\.)+(?:com|net|org|edu)/{address})",
        r"(<?[A-Za-z0-9][^\s<>|(){}\"]*@(?!\.)[^\s<>|(){}\"]*[^\s<>|(){}\".]>?)",
        rf"(@[A-Za-z_]\w*|#{letter}+|&#\d+;)",
        r"(</?[A-Za-z][A-Za-z0-9_:.\-]*(?: +[A-Za-z][\w:.\-]*(?:=(?:\"[^\"]*\"|'[^']*'))?)* */?>"
        r"|<[!?][A-Za-z\-][^<>]*>)",
        # Signs that stay together.
        r"([<>]?[:;=][-o*']?[()DPOpd\[\]{@|\\](?![A-Za-z0-9]))",
        r"([-^x=~<>']_[-^x=~<>']|[oO]_[oO])",
        r"(-{5,}|--+|_+|\*+|[!?]+|#+|@+|<<|>>|\.{3}|``|''|\\\*)",
    )
    return tuple(re.compile(rule) for rule in rules)


_RULES = _patterns()
# Most of every caption: a word or a mark with white space behind it, which no rule can lengthen.
_PLAIN = re.compile(r"([A-Za-z]+)(?=,?(?:\s|$))|[.,](?=\s|$)")
_UNIT = re.compile(rf"&({'|'.join(ENTITIES)});|.", re.DOTALL)
_UNUSUAL = re.compile(rf"[^ -~]|&(?:{'|'.join(ENTITIES)});")
_KEPT = "‐‑֊⁄‘’\x91\x92"  # read by the rules; unlike other signs they may stand inside a word
_SPLIT = frozenset("cannot gonna gotta wanna lemme gimme".split())


@dataclass(frozen=True)
class Token:
    """A token and where it stands in the caption: `caption[start:stop]`."""

    text: str
    start: int
    stop: int


def tokenize(captions: Sequence[str]) -> list[str]:
    """Each caption as its PTB tokens in lower case, without punctuation, joined by one space.

    Some tokens hold a no-break space: `1 1/2` and telephone numbers.
    """
    known = {
        caption: " ".join(token.text for token in find_tokens(caption)) for caption in set(captions)
    }
    return [known[caption] for caption in captions]


def find_tokens(caption: str) -> list[Token]:
    """The tokens of one caption with their places in it."""
    text, starts, stops = _prepare(caption)
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        plain = _PLAIN.match(text, position)
        if plain and plain[0].lower() not in _SPLIT:
            end = plain.end()
            spelled = plain[0].lower()
        else:
            token = _longest(text, position)
            end = position + len(token)
            spelled = _spell(token)
        if spelled and spelled not in PUNCTUATION:
            tokens.append(Token(spelled, starts[position], stops[end - 1]))
        position = end
    return tokens


def _longest(text: str, start: int) -> str:
    best, length = text[start], 0
    for rule in _RULES:
        match = rule.match(text, start)
        if match and match.end() - start > length:
            best, length = match[match.lastindex or 0], match.end() - start
    return best


def _prepare(caption: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """The text to read tokens from, and for each of its characters the span it stands for.

    Entities are read, foreign signs set apart, and what makes no token is taken out.
    """
    if not _UNUSUAL.search(caption):
        return caption, range(len(caption)), range(1, len(caption) + 1)
    pieces, starts, stops = [], [], []
    for unit in _UNIT.finditer(caption):
        piece = ENTITIES[unit[1]] if unit[1] else _prepare_character(unit[0])
        pieces.append(piece)
        starts += [unit.start()] * len(piece)
        stops += [unit.end()] * len(piece)
    return "".join(pieces), starts, stops


@lru_cache(maxsize=4096)
def _prepare_character(character: str) -> str:
    if character == "\xad":  # soft hyphen
        return ""
    if character.isascii():
        return character if character.isprintable() else " "
    if character in _KEPT:
        return character
    if character in SPELLED or SIGNS.match(character):
        return f" {character} "
    category = unicodedata.category(character)
    known = category in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Mn", "Mc")
    return character if known and character < "\U00010000" else " "


def _spell(token: str) -> str:
    """How a token is written: `-lrb-` for a bracket, "" for what is removed."""
    if re.fullmatch(r"-{2,4}|``|''", token):
        return ""
    if token in SPELLED:
        return SPELLED[token]
    if re.fullmatch(r"[’\x92](?i:s|d|m|re|ll|ve)|[nN][’\x92][tT]", token):
        token = re.sub("[’\x92]", "'", token)
    elif re.fullmatch("[nN]‘[tT]", token):
        token = token.replace("‘", "`")
    token = re.sub(r"[()]", lambda bracket: SPELLED[bracket[0]], token)
    return token.lower().replace(" ", "\xa0")

"""What captions and a scene class let one say about a photo: what is there, how many, what colour.

Captions leave out much that is there, so that a thing counts as absent only where it would hardly
have gone unmentioned: no caption says it or anything that comes with it, and captions of such
scenes seldom do.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from qvla.embedded.sources import TrainingPhoto
from qvla.models.families.word_tokens import split_words

SAID_BY = 2  # of a photo's captions, before a thing is taken as there
ABSENT_BELOW = 0.1  # share of a scene's photos that mention a thing which is hard to overlook
UNNOTICED_BELOW = 0.02  # the same of a thing that captions often pass over
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
COLOURS = {"green": "green", "white": "white", "red": "red", "blue": "blue", "gray": "gray",
           "grey": "gray", "brown": "brown", "yellow": "yellow", "orange": "orange",
           "black": "black"}  # fmt: skip
MANY = frozenset("many lots lot number numerous plenty dozens crowded rows lines".split())
SOME = frozenset("some several few".split())
# Between a number and its thing there are adjectives; any of these ends the search for one.
ENDS = frozenset(
    "and with near in on at by next to is are there beside besides around between through along "
    "which that has have full piece pieces sides side surrounded parked . , ; : !".split()
)


@dataclass(frozen=True)
class Thing:
    """`many` is empty for what is not counted; `hints` are words that make its absence doubtful."""

    one: str
    many: str
    said: frozenset[str]
    hints: frozenset[str]
    unnoticed: bool = False  # captions often pass over it


# one | many | said of it also | hints at it | whether it goes unnoticed; a line that begins with
# spaces goes on with the one before.
_LINES = """
airplane | airplanes | plane, planes, aircraft, aircrafts, aeroplanes | airport, terminal, apron |
boat | boats | ship, ships, yachts, vessel | port, harbor, harbour, dock, wharf, pier |
car | cars | vehicle, vehicles, automobile, automobiles, van, vans, truck, trucks | parking | often
building | buildings | edifices, skyscrapers | house, houses, villas, church, stadium, terminal,
  school, factory, workshops, residential, resort, roofs, center, station | often
house | houses | villas, cottages, homes | building, buildings, residential, roofs, resort | often
tree | trees | | plants, woods, forest, jungle, vegetation, green, park | often
road | roads | street, streets, highway, freeway, freeways, crossroads | bridge, viaduct, overpass,
  lane, path, cars, intersection | often
river | rivers | tributary | water, stream, bridge, lake, pond, valley, banks |
bridge | bridges | | viaduct, overpass, flyover, river |
pond | ponds | | lake, lakes, water, pool, pools, river |
lake | lakes | | pond, ponds, water, pool, river |
swimming pool | swimming pools | pool, pools | water, resort, villas, residential, houses,
  pond | often
tennis court | tennis courts | tennis field, tennis fields | court, courts, playground, school,
  sports, fields |
basketball court | basketball courts | basketball field, basketball fields | court, courts,
  playground, school, sports, fields |
baseball field | baseball fields | baseball diamond, baseball diamonds | field, fields, diamond,
  diamonds, sports, school |
football field | football fields | soccer field, footballground | playground, stadium, field,
  fields, sports |
playground | playgrounds | | field, fields, court, courts, school, stadium, track, lawn |
parking lot | parking lots | parking area, parking spaces | parking, cars, vehicles, parked |
storage tank | storage tanks | tank, tanks | jars, cylinders, oil, circles |
church | | | dome, tower |
stadium | | | gym, gymnasium, playground, track |
farmland | farmlands | crops, croplands, cropland | field, fields, farm, land, lands,
  agricultural |
mountain | mountains | hill, hills | ridge, ridges, snow, valley |
forest | forests | woods, jungle | trees, rainforest, green |
beach | | | sand, coast, shore, sea, ocean, waves |
ocean | | sea, seawater | water, waves, beach, coast, port, harbor, island, boats |
desert | | | sand, dunes, bareland, barren |
railway | railways | rail, rails, railway tracks | train, trains, station, track, tracks |
runway | runways | | airport, plane, planes, airplane, airplanes |
viaduct | viaducts | | overpass, bridge, roads, highway, flyover |
island | islands | | ocean, sea, lake, water, river |
golf course | | golf | bunkers, lawn |
meadow | meadows | | grass, lawn, grassland, green, pasture, turfs | often
"""


def _thing(line: str) -> Thing:
    one, many, said, hints, unnoticed = (part.strip() for part in line.split("|"))
    also = [word.strip() for word in said.split(",")]
    return Thing(
        one,
        many,
        frozenset(filter(None, [one, many, *also])),
        frozenset(word.strip() for word in hints.split(",") if word.strip()),
        bool(unnoticed),
    )


THINGS = tuple(_thing(line) for line in _LINES.replace("\n  ", " ").strip().splitlines())


@dataclass(frozen=True)
class Facts:
    """What can be said of a photo.

    `counts` are the least and the most there can be of a thing, infinity where nobody says;
    `colours` are those of a noun that is in the captions, in its own number.
    """

    there: frozenset[Thing]
    absent: frozenset[Thing]
    counts: Mapping[Thing, tuple[float, float]]
    colours: Mapping[str, str]


class Usual:
    """How often captions of a scene mention a thing, counted over given photos."""

    def __init__(self, photos: Iterable[TrainingPhoto]) -> None:
        self._photos: Counter[str] = Counter()
        self._mentions: dict[str, Counter[Thing]] = defaultdict(Counter)
        for photo in photos:
            said = set().union(*(_terms(text) for text in photo.example.references))
            self._photos[photo.scene] += 1
            self._mentions[photo.scene].update(one for one in THINGS if one.said & said)

    def share(self, scene: str, thing: Thing) -> float:
        """0 to 1; 1 for a scene that nothing is known of."""
        photos = self._photos[scene]
        return self._mentions[scene][thing] / photos if photos else 1.0


def facts_of(photo: TrainingPhoto, usual: Usual) -> Facts:
    captions = photo.example.references
    terms = [_terms(text) for text in captions]
    said = Counter(one for words in terms for one in THINGS if one.said & words)
    everything = set().union(*terms)
    there = {one for one, times in said.items() if times >= min(SAID_BY, len(captions))}
    absent = {one for one in THINGS if _is_absent(one, everything, photo.scene, usual)}
    counts = {}
    for thing in THINGS:  # in this order: that of a set changes from run to run
        if thing.many and thing in absent:
            counts[thing] = (0.0, 0.0)
        elif thing.many and thing in there and (span := _span(thing, captions)) is not None:
            counts[thing] = span
    return Facts(frozenset(there), frozenset(absent), counts, _colours(captions))


def _is_absent(thing: Thing, words: set[str], scene: str, usual: Usual) -> bool:
    if words & (thing.said | thing.hints):
        return False
    most = UNNOTICED_BELOW if thing.unnoticed else ABSENT_BELOW
    return usual.share(scene, thing) < most


@cache
def _words(caption: str) -> tuple[str, ...]:
    return tuple(split_words(caption))


@cache
def _terms(caption: str) -> frozenset[str]:
    """The words of a caption and every two of them that stand together."""
    words = _words(caption)
    pairs = (" ".join(pair) for pair in pairwise(words))
    return frozenset([*words, *pairs])


def _span(thing: Thing, captions: Iterable[str]) -> tuple[float, float] | None:
    """How many all captions that count the thing agree on; None where they do not."""
    spans = [span for text in captions if (span := _counted(thing, text)) is not None]
    least = max((low for low, _ in spans), default=0.0)
    most = min((high for _, high in spans), default=-1.0)
    return (least, most) if 0 < least <= most else None


def _counted(thing: Thing, caption: str) -> tuple[float, float] | None:
    """How many of a thing one caption speaks of, at its first mention."""
    words = _words(caption)
    for term in sorted(thing.said, key=lambda term: (-len(term), term)):
        parts = tuple(term.split())
        for start in range(len(words) - len(parts) + 1):
            if words[start : start + len(parts)] == parts:
                plural = term.endswith("s") or term == "aircraft"
                return _number_before(words[:start], plural)
    return None


def _number_before(words: Sequence[str], plural: bool) -> tuple[float, float] | None:
    for word in reversed(words[-4:]):
        if word in MANY:
            return (6, math.inf)
        if plural and word in NUMBERS:
            return (NUMBERS[word], NUMBERS[word])
        if plural and word in SOME:
            return (2, math.inf)
        if not plural and word in ("a", "an", "one"):
            return (1, 1)
        if word in ENDS:
            break
    return (2, math.inf) if plural else None


def _colours(captions: Iterable[str]) -> dict[str, str]:
    """The colour of a noun, where one is said right before it, and no other of one or many."""
    found: dict[str, set[str]] = defaultdict(set)
    nouns: dict[str, str] = {}
    for caption in captions:
        words = _words(caption)
        for before, colour, noun in zip(["", *words], words, words[1:], strict=False):
            if colour in COLOURS and noun.isalpha() and noun not in ENDS:
                nouns[noun] = noun.removesuffix("s")
                mixed = before == "and" or before in COLOURS
                found[nouns[noun]].add("" if mixed else COLOURS[colour])
    return {
        noun: next(iter(found[one]))
        for noun, one in nouns.items()
        if len(found[one]) == 1 and "" not in found[one]
    }

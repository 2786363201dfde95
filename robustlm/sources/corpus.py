"""The built-in corpus of generated sentences; an instruction asks one of six questions about a sentence.

Each sentence names a person, often an organisation and a place. It may state a relation between two of them, belongs to
a topic, and may judge one or two aspects. Prompts contain no option list or output format, so only the instruction
tells the task: a model that ignores the instruction answers the wrong question, and a model that knows only familiar
wordings fails on others. So robustness to phrasing can be measured in minutes, without a network or a GPU.

Each sentence is a pure function of split, seed and sentence number, so a longer corpus starts with the sentences of a
shorter one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from robustlm.sample import Context, Sample
from robustlm.tasks import TASKS, Item

Split = Literal["pretrain", "train", "validation", "test"]

TASK_OF: Final = {
    "entities": "ner",
    "relation": "re",
    "topic": "tc",
    "sentiment": "tc",
    "triplets": "absa",
    "aspects": "ner",
}
"""Question about a sentence → key of `robustlm.tasks.TASKS`; that task defines the answer's format."""
_COPY: Final = "copy"


def _words(text: str) -> tuple[str, ...]:
    """Split at commas where there are any, else at white space."""
    parts = text.split(",") if "," in text else text.split()
    return tuple(" ".join(part.split()) for part in parts)


_FIRST = _words("""
Ada Alma Amir Anouk Arlo Astrid Bela Bram Carla Cyrus Dalia Dario Della Edwin Elif Elsa Emil Enzo Esther
Farid Fiona Freya Gael Greta Hana Hector Hugo Ida Igor Ines Ivo Jana Jasper Joana Kaia Kenji Klara Lars
Leila Linus Lotte Luca Magda Malik Marta Mei Milo Mira Nadia Nils Noor Olga Omar Oscar Pablo Petra Priya
Rafael Rosa Ruben Samir Selma Silas Sofia Stellan Tamar Theo Tilda Uma Vera Viktor Wanda Xenia Yara Yusuf
Zora
""")
_LAST = _words("""
Abara Aldous Amsel Baran Barlow Becker Bianchi Birch Calder Castel Chandra Cole Costa Dalton Dorn Duval
Eklund Ender Falk Farrow Ferro Finch Gallo Garrick Gomez Grau Hale Harker Hedlund Holt Ibarra Ivers Jansen
Joshi Kamal Keller Kowal Lang Larkin Lindt Lorca Madsen Marsh Mendez Moreau Nagy Norling Novak Okoye Olsen
Orwin Pak Pellman Quist Rahman Ray Rinaldi Rowe Sato Sharp Soler Stern Tanaka Thorne Toledo Ueda Umar Vance
Varga Vidal Wade Weiss Winter Yamada Yates Zeller Zorn
""")
_PLACES = _words("""
Aarhus Antwerp Athens Bergen Berlin Bilbao Bologna Boston Bristol Cairo Cardiff Chicago Cork Dakar Delhi
Denver Dublin Dundee Fez Geneva Genoa Ghent Girona Graz Hamburg Hanoi Havana Helsinki Istanbul Kyoto Lagos
Leeds Leipzig Lima Lisbon London Lyon Madrid Malmo Manila Milan Mumbai Munich Nairobi Naples Nice Osaka Oslo
Oxford Paris Porto Prague Quito Riga Rome Rotterdam Santiago Seoul Seville Split Sydney Tallinn Tampa Tokyo
Toronto Tunis Turin Utrecht Vienna Warsaw York Zagreb Zurich
""")
_ORG_STEM = _words("""
Acorn Albatross Amber Apex Argo Aurora Beacon Bluebird Boulder Canyon Cedar Cobalt Comet Copper Coral
Crescent Delta Driftwood Ember Falcon Fern Foxglove Garnet Granite Harbour Hazel Heron Horizon Indigo
Ironwood Jasmine Juniper Keystone Lantern Lark Laurel Lighthouse Lotus Lunar Magpie Maple Marble Meridian
Mistral Nimbus Northern Oakleaf Onyx Orbit Osprey Pebble Phoenix Pinecone Polar Prism Quarry Quill Raven
Redwood Ripple Saffron Sequoia Silver Solstice Sparrow Summit Sundial Tandem Thistle Tidal Topaz Umbra
Vertex Violet Walnut Willow Zenith Zephyr
""")


@dataclass(frozen=True, slots=True)
class _Topic:
    """Words that identify a topic; the topic's label itself never occurs in the text."""

    organisations: tuple[str, ...]
    aspects: tuple[str, ...]
    tags: tuple[str, ...]


_TOPICS: Final = {
    "food": _Topic(
        organisations=_words("Kitchen, Bakery, Bistro, Diner, Grill"),
        aspects=_words(
            "soup, bread, coffee, dessert, menu, seafood, breakfast, wine list, salad, pasta, cheese board, sauce"
        ),
        tags=_words("over lunch, after the tasting, at the food fair, during the cooking class"),
    ),
    "sport": _Topic(
        organisations=_words("Rovers, Athletic, United, Rowers, Racers"),
        aspects=_words(
            "defence, goalkeeper, coach, passing, pitch, stadium, referee, training, line-up, second "
            "half, tackling, sprint"
        ),
        tags=_words("after the match, before kick-off, at the tournament, during the season"),
    ),
    "music": _Topic(
        organisations=_words("Records, Orchestra, Choir, Quartet, Opera"),
        aspects=_words(
            "melody, drummer, chorus, lyrics, singer, acoustics, encore, guitar solo, rhythm, violins, album, sound mix"
        ),
        tags=_words("after the concert, at the rehearsal, during the festival tour, before the premiere"),
    ),
    "technology": _Topic(
        organisations=_words("Software, Systems, Robotics, Devices, Networks"),
        aspects=_words(
            "battery, screen, keyboard, camera, processor, interface, app, charger, speaker, touchpad, "
            "firmware, search box"
        ),
        tags=_words("at the gadget show, after the software update, during the product demo, before the launch"),
    ),
    "travel": _Topic(
        organisations=_words("Airways, Cruises, Tours, Hotels, Railways"),
        aspects=_words(
            "room, cabin, check-in, luggage service, shuttle, pool, view, guide, seat, balcony, itinerary, front desk"
        ),
        tags=_words("on the night train, during the holiday, after the flight, on the guided tour"),
    ),
    "health": _Topic(
        organisations=_words("Clinic, Hospital, Pharmacy, Dental, Wellness"),
        aspects=_words(
            "nurse, surgeon, waiting room, treatment, diagnosis, ward, therapist, vaccine, check-up, "
            "recovery plan, dentist, medicine"
        ),
        tags=_words("after the operation, at the surgery, during the flu season, before the examination"),
    ),
    "education": _Topic(
        organisations=_words("College, Academy, School, University, Institute"),
        aspects=_words(
            "lecture, library, syllabus, tutor, classroom, textbook, seminar, homework, exam, campus, workshop, teacher"
        ),
        tags=_words("at the open day, after the semester, during the graduation, before term began"),
    ),
    "finance": _Topic(
        organisations=_words("Bank, Capital, Insurance, Savings, Partners"),
        aspects=_words(
            "interest rate, loan, share price, budget, dividend, mortgage, audit, fee, forecast, pension "
            "plan, profit, bond"
        ),
        tags=_words(
            "after the quarterly report, at the shareholder meeting, during the merger, before the tax year ended"
        ),
    ),
}

_OPINIONS: Final = {
    "positive": _words("""
admirable, brilliant, charming, excellent, fantastic, flawless, good, great, impressive, lovely, outstanding, perfect,
pleasing, remarkable, splendid, superb, welcoming, wonderful, well planned, first rate
"""),
    "negative": _words("""
awful, bad, broken, careless, chaotic, clumsy, disappointing, dreadful, dull, faulty, horrible, mediocre, messy, poor,
shabby, sloppy, terrible, useless, badly planned, below par
"""),
}

# Each relation: types of head and tail, wordings as a clause, and wordings as a description that follows the head.
_RELATIONS: Final[dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]]] = {
    "works for": (
        "person",
        "organisation",
        ("{h} works for {t}", "{h} has a job at {t}", "{t} employs {h}", "{h} earns a living at {t}"),
        ("who works for {t}", "an employee of {t}", "on the staff of {t}", "employed by {t}"),
    ),
    "leads": (
        "person",
        "organisation",
        ("{h} runs {t}", "{h} is the head of {t}", "{t} is led by {h}", "{h} took charge of {t}"),
        ("who leads {t}", "director of {t}", "the head of {t}", "in charge of {t}"),
    ),
    "founded": (
        "person",
        "organisation",
        (
            "{h} founded {t}",
            "{t} was started by {h}",
            "{h} set up {t} years ago",
            "{t} owes its birth to {h}",
        ),
        ("who founded {t}", "the founder of {t}", "who once set up {t}", "creator of {t}"),
    ),
    "owns": (
        "person",
        "organisation",
        ("{h} owns {t}", "{h} bought {t}", "{t} belongs to {h}", "{t} was sold to {h}"),
        ("who owns {t}", "the owner of {t}", "proud buyer of {t}", "to whom {t} belongs"),
    ),
    "lives in": (
        "person",
        "place",
        ("{h} lives in {t}", "{h} has a home in {t}", "{t} is where {h} lives", "{h} settled in {t}"),
        ("who lives in {t}", "a resident of {t}", "now at home in {t}", "living in {t}"),
    ),
    "born in": (
        "person",
        "place",
        (
            "{h} was born in {t}",
            "{h} is a native of {t}",
            "{t} is the birthplace of {h}",
            "{h} comes from {t}",
        ),
        ("born in {t}", "who comes from {t}", "a native of {t}", "who was born in {t}"),
    ),
    "based in": (
        "organisation",
        "place",
        (
            "{h} is based in {t}",
            "{h} has its office in {t}",
            "{t} is the seat of {h}",
            "{h} operates from {t}",
        ),
        ("based in {t}", "a firm from {t}", "with an office in {t}", "which operates from {t}"),
    ),
}
# Clauses that name two entities without one of the relations.
_UNRELATED: Final = {
    ("person", "organisation"): (
        "{h} wrote about {t}",
        "{h} walked past {t}",
        "{h} asked about {t}",
        "{t} sent {h} a letter",
        "{h} had heard of {t}",
    ),
    ("person", "place"): (
        "{h} passed through {t}",
        "{h} drew a map of {t}",
        "{h} took the bus to {t}",
        "{h} read about {t}",
        "{h} flew over {t}",
    ),
}
# Phrases that mention an entity that is not part of the relation.
_ASIDES: Final = {
    "person": ("{e} wrote that", "{e} noted that", "as {e} put it,", "{e} told us that", "for {e}"),
    "organisation": ("according to {e}", "in a survey by {e}", "in a note to {e}", "in the news about {e}"),
    "place": ("on a visit to {e}", "on the way to {e}", "in a letter from {e}", "not far from {e}"),
}
_ONE_ASPECT: Final = (
    "the {a} was {o}",
    "the {a} seemed {o}",
    "the {a} looked {o}",
    "there was talk of the {o} {a}",
    "many remember the {o} {a}",
    "the {a} proved {o}",
    "what stood out was the {o} {a}",
    "some called the {a} {o}",
)
_TWO_ASPECTS: Final = (
    "the {a} was {o} and the {b} {p}",
    "the {a} was {o} while the {b} seemed {p}",
    "people noticed the {o} {a} and the {p} {b}",
    "with the {a} {o}, the {b} looked {p}",
    "next to the {o} {a} came the {p} {b}",
    "some found the {a} {o}, others the {b} {p}",
    "the {a} proved {o}, the {b} {p}",
)
_NO_ASPECT: Final = (
    "nothing else was said",
    "the story ended there",
    "the report came out on Monday",
    "the papers printed two lines",
    "the talk lasted an hour",
)

# For each split: sums of the list positions of a name's two words, modulo 10. A full name belongs to one split only, so
# no sentence is in two splits.
_RESIDUES: Final[dict[str, tuple[int, ...]]] = {
    "pretrain": (0, 1, 2, 3, 4),
    "train": (5, 6, 7),
    "validation": (8,),
    "test": (9,),
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence and everything that can be asked about it."""

    text: str
    """The sentence."""
    items: dict[str, tuple[Item, ...]]
    """The answer items for each question of `TASK_OF`, in order of appearance; empty if there are none."""


def _full_name(rng: random.Random, left: Sequence[str], right: Sequence[str], residues: Sequence[int]) -> str:
    """Draw a two-word name; the list positions of its words add up to one of these residues modulo 10."""
    i, residue = rng.randrange(len(left)), rng.choice(residues)
    return f"{left[i]} {rng.choice(right[(residue - i) % 10 :: 10])}"


def _relation(rng: random.Random, names: dict[str, str]) -> tuple[tuple[Item, ...], str, str, str]:
    """Draw a statement about two names; return its items, clause, subject, and a description of the subject."""
    if rng.random() < 0.12:
        (head, tail), unrelated = rng.choice(list(_UNRELATED.items()))
        return (), rng.choice(unrelated).format(h=names[head], t=names[tail]), names[head], ""
    relation, (head, tail, clauses, descriptions) = rng.choice(list(_RELATIONS.items()))
    h, t = names[head], names[tail]
    clause, description = rng.choice(clauses).format(h=h, t=t), rng.choice(descriptions).format(t=t)
    return ((relation, h, t),), clause, h, description


def _opinions(rng: random.Random, topic: _Topic) -> tuple[tuple[Item, ...], str]:
    """Draw opinions; return items `(polarity, aspect, opinion)` and the clause that states them."""
    count = rng.choices((0, 1, 2), (1, 5, 4))[0]
    if count == 0:
        return (), rng.choice(_NO_ASPECT)
    aspects = rng.sample(topic.aspects, count)
    first, other = rng.sample(list(_OPINIONS), 2)
    # Two opinions mostly share a polarity, as in real texts: a model first learns words' polarity from whole sentences.
    polarities = [first, first if rng.random() < 0.7 else other][:count]
    words = [rng.choice(_OPINIONS[polarity]) for polarity in polarities]
    items = tuple(zip(polarities, aspects, words, strict=True))
    if count == 1:
        return items, rng.choice(_ONE_ASPECT).format(a=aspects[0], o=words[0])
    return items, rng.choice(_TWO_ASPECTS).format(a=aspects[0], o=words[0], b=aspects[1], p=words[1])


def _sentence(rng: random.Random, residues: Sequence[int]) -> Sentence:
    label = rng.choice(list(_TOPICS))
    topic = _TOPICS[label]
    names = {
        "person": _full_name(rng, _FIRST, _LAST, residues),
        "organisation": f"{rng.choice(_ORG_STEM)} {rng.choice(topic.organisations)}",
        "place": rng.choice(_PLACES),
    }
    relation, clause, subject, description = _relation(rng, names)
    opinions, rest = _opinions(rng, topic)
    tag = rng.choice(topic.tags)
    lead = ""
    # In a sentence without an aspect or organisation, only the tag tells the topic.
    if not opinions or rng.random() < 0.5:
        if rng.random() < 0.5:
            rest = f"{rest} {tag}"
        else:
            lead = f"{tag}, "
    # The person is always named, because full names keep the splits apart.
    for kind in names:
        if names[kind] not in clause and (kind == "person" or rng.random() < 0.6):
            aside = rng.choice(_ASIDES[kind]).format(e=names[kind])
            rest = f"{aside} {rest}" if kind == "person" else f"{aside}, {rest}"
    frames = [
        f"{clause}, and {rest}",
        f"{clause}; {rest}",
        f"{rest}, and {clause}",
        f"while {rest}, {clause}",
    ]
    if description:
        frames += [
            f"{subject}, {description}, was in the news: {rest}",
            f"news of {subject}, {description}: {rest}",
        ]
        if subject == names["person"]:
            frames += [
                f"{subject}, {description}, said that {rest}",
                f"{rest}, said {subject}, {description}",
            ]
    text = lead + rng.choice(frames) + "."
    text = text[0].upper() + text[1:]

    entities = [(kind, name) for kind, name in names.items() if name in text]
    polarities = {polarity for polarity, _, _ in opinions}
    sentiment = "mixed" if len(polarities) == 2 else next(iter(polarities), "neutral")
    return Sentence(
        text=text,
        items={
            "entities": tuple(sorted(entities, key=lambda item: text.index(item[1]))),
            "relation": relation,
            "topic": ((label,),),
            "sentiment": ((sentiment,),),
            "triplets": opinions,
            "aspects": tuple(("aspect", aspect) for _, aspect, _ in opinions),
        },
    )


def sentence(split: Split, number: int, seed: int = 0) -> Sentence:
    """Generate one sentence of a split.

    Different splits share no sentence, because no person's full name occurs in two splits. First names, last names,
    places, aspects and opinions occur in all splits, in other combinations.

    Args:
        split: The split; it sets which names may occur.
        number: Number of the sentence in its split.
        seed: Another seed gives another corpus.
    """
    return _sentence(random.Random(f"{seed}/{split}/{number}"), _RESIDUES[split])


def samples(split: Split, size: int, seed: int = 0, tasks: Sequence[str] | None = None) -> list[Sample]:
    """Generate the first samples of a split: for each sentence in turn, one sample per task.

    Instructions come from banks: `quickstart/<task>`, and for `pretrain` from `quickstart/pretrain/<task>`,
    whose phrasings tuning and testing never use. `pretrain` without `tasks` also has a sample that asks for a copy of
    each sentence: by copying whole texts, a model trained from scratch learns much sooner to quote names.

    Args:
        split: `pretrain` for a model trained from scratch; `train`, `validation` and `test` for tuning it.
        size: Number of samples.
        seed: Another seed gives another corpus.
        tasks: Which tasks to ask for, keys of `TASK_OF`; all of them by default.

    Returns:
        Samples without instruction, with ids such as `quickstart/train:17/entities`.

    Raises:
        ValueError: If a split or task is unknown.
    """
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r} of the quickstart corpus; expected one of {get_args(Split)}")
    chosen = tuple(TASK_OF) if tasks is None else tuple(tasks)
    if not chosen or not set(chosen) <= set(TASK_OF):
        raise ValueError(f"unknown quickstart tasks {list(chosen)}; expected some of {list(TASK_OF)}")
    banks = "quickstart"
    if split == "pretrain":
        banks += "/pretrain"
        chosen += (_COPY,) if tasks is None else ()
    sentences = [sentence(split, number, seed) for number in range(-(-size // len(chosen)))]
    made = [
        Sample(
            id=f"quickstart/{split}:{number}/{name}",
            instruction="",
            target=_target(name, drawn),
            context=Context(text=drawn.text),
            task=TASK_OF.get(name, "generation"),
            bank=f"{banks}/{name}",
            dataset=name,
        )
        for number, drawn in enumerate(sentences)
        for name in chosen
    ]
    return made[:size]


def _target(name: str, drawn: Sentence) -> str:
    return drawn.text if name == _COPY else TASKS[TASK_OF[name]].format(drawn.items[name])

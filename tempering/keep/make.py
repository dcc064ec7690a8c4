"""Writes the item lists of the keep battery beside this file: `python -m tempering.keep.make`. Everything here was written for this project (CC0).

Tables of plain facts and small templates give the items; a seeded generator picks distractors from the same table and shuffles the choices, so that
neither position nor kind of word gives the answer away. The format prompts and the requests are in `words.py`; `texts.jsonl` was
written by hand, it has no other source.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tempering.keep.words import FORMATS, PLACES, REQUESTS, STARTERS, SUBJECTS
from tempering.worlds.base import words

FACTS: dict[str, str] = {
    "What is the capital of {}?": (
        "France Paris, Japan Tokyo, Italy Rome, Spain Madrid, Egypt Cairo, Russia Moscow, Germany Berlin, Greece Athens, Kenya Nairobi, Peru Lima, "
        "Cuba Havana, Norway Oslo, Austria Vienna, Ireland Dublin, Portugal Lisbon, Poland Warsaw, Hungary Budapest, "
        "Sweden Stockholm, Finland Helsinki, "
        "Chile Santiago, Iran Tehran, Iraq Baghdad, Thailand Bangkok, Turkey Ankara, Canada Ottawa, Australia Canberra, Vietnam Hanoi, Ghana Accra, "
        "Lebanon Beirut, Nepal Kathmandu"
    ),
    "What is the opposite of the word '{}'?": (
        "hot cold, up down, big small, early late, rich poor, strong weak, empty full, bright dark, heavy light, noisy quiet, "
        "ancient modern, brave cowardly, "
        "shallow deep, generous selfish, arrive depart, increase decrease, victory defeat, smooth rough, sharp blunt, "
        "praise criticise, guilty innocent, "
        "accept refuse, temporary permanent, scarce plentiful"
    ),
    "What is a young {} called?": (
        "dog puppy, cat kitten, cow calf, sheep lamb, horse foal, goat kid, bear cub, duck duckling, frog tadpole, "
        "kangaroo joey, deer fawn, swan cygnet, "
        "goose gosling, eagle eaglet, owl owlet, chicken chick, butterfly caterpillar, pig piglet"
    ),
    "On which continent is {}?": (
        "Brazil South~America, Nigeria Africa, China Asia, Belgium Europe, Mexico North~America, Ethiopia Africa, Mongolia Asia, Denmark Europe, "
        "Argentina South~America, Morocco Africa, Pakistan Asia, Romania Europe, Guatemala North~America, Bolivia South~America"
    ),
    "What is the chemical symbol for {}?": (
        "gold Au, silver Ag, iron Fe, oxygen O, carbon C, sodium Na, potassium K, lead Pb, copper Cu, helium He, hydrogen H, "
        "calcium Ca, tin Sn, zinc Zn"
    ),
    "Which body part do you use to {}?": (
        "see eyes, hear ears, smell nose, chew teeth, taste tongue, walk legs, think brain, breathe lungs, digest~food stomach"
    ),
    "What does a {} measure?": (
        "thermometer temperature, clock time, ruler length, barometer air~pressure, speedometer speed, compass direction, "
        "odometer distance~travelled, "
        "seismograph earthquakes, hygrometer humidity"
    ),
    "In which country is the city of {}?": (
        "Munich Germany, Milan Italy, Lyon France, Osaka Japan, Barcelona Spain, Mumbai India, Toronto Canada, Sydney Australia, "
        "Shanghai China, Manchester England, "
        "Chicago the~United~States, Istanbul Turkey, Krakow Poland, Porto Portugal"
    ),
    "How do you write the number {} in words?": (
        "4 four, 6 six, 8 eight, 11 eleven, 12 twelve, 13 thirteen, 15 fifteen, 16 sixteen, 18 eighteen, 19 nineteen, 20 twenty, 30 thirty, 50 fifty"
    ),
}

SENSE: dict[str, str] = {
    "Where would you most likely find a {}?": (
        "pillow on~a~bed, shark in~the~ocean, tractor on~a~farm, microscope in~a~laboratory, goalkeeper on~a~football~pitch, altar in~a~church, "
        "cash~register in~a~shop, scalpel in~an~operating~theatre, blackboard in~a~classroom, camel in~the~desert, penguin in~Antarctica, "
        "runway at~an~airport, tent at~a~campsite, stapler on~an~office~desk, toothbrush in~a~bathroom, saucepan in~a~kitchen, judge in~a~courtroom, "
        "librarian in~a~library, stalactite in~a~cave, satellite in~space, squirrel in~a~tree, worm in~the~soil, "
        "waiter in~a~restaurant, prisoner in~a~jail"
    ),
    "What would you use to {}?": (
        "cut~paper scissors, drive~in~a~nail a~hammer, dry~yourself~after~a~bath a~towel, open~a~locked~door a~key, sweep~the~floor a~broom, "
        "eat~soup a~spoon, dig~a~hole a~shovel, light~a~candle a~match, look~at~stars a~telescope, "
        "tighten~a~screw a~screwdriver, water~the~flowers a~hose, "
        "keep~food~cold a~refrigerator, sew~on~a~button a~needle, stay~dry~in~the~rain an~umbrella, weigh~flour a~scale, chop~down~a~tree an~axe, "
        "take~a~photograph a~camera, catch~a~fish a~net, clean~your~teeth a~toothbrush, paint~a~wall a~roller, cross~a~river a~bridge, "
        "wake~up~on~time an~alarm~clock, boil~water a~kettle, comb~your~hair a~comb"
    ),
    "What does a {} do?": (
        "baker makes~bread, carpenter builds~things~from~wood, pilot flies~aeroplanes, dentist treats~teeth, farmer grows~crops, "
        "tailor sews~clothes, "
        "plumber repairs~water~pipes, teacher gives~lessons, firefighter puts~out~fires, butcher sells~meat, "
        "florist sells~flowers, author writes~books, "
        "sculptor carves~statues, mechanic repairs~cars, vet treats~sick~animals, barber cuts~hair, astronomer studies~stars, "
        "conductor leads~an~orchestra"
    ),
    "What usually happens when you {}?": (
        "leave~ice~in~the~sun it~melts, drop~a~glass~on~stone it~breaks, put~bread~in~a~toaster it~turns~brown, "
        "let~go~of~a~balloon~full~of~helium it~rises, "
        "put~water~in~a~freezer it~turns~to~ice, forget~to~water~a~plant it~withers, leave~milk~out~for~a~week it~turns~sour, "
        "plug~in~an~empty~phone it~charges, "
        "throw~a~stone~into~a~pond it~sinks, leave~iron~in~the~rain it~rusts, shake~a~bottle~of~cola it~fizzes, strike~a~match it~catches~fire"
    ),
    "Why would someone {}?": (
        "drink~a~glass~of~water because~they~are~thirsty, put~on~a~coat because~it~is~cold, go~to~bed because~they~are~tired, "
        "call~an~ambulance because~someone~is~hurt, "
        "wear~sunglasses because~the~sun~is~bright, buy~a~birthday~card because~a~friend~is~celebrating, take~an~umbrella because~it~may~rain, "
        "study~all~evening because~there~is~an~exam~tomorrow, set~a~trap because~there~are~mice, whisper because~the~baby~is~asleep, "
        "stop~the~car because~the~light~is~red, knock~on~the~door because~they~want~to~come~in"
    ),
}

NAMES = words("Anna Ben Carla David Emma Frank Grace Henry Irene Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tara Victor")
COLOURS = words("red blue green yellow black white purple pink brown grey")
OBJECTS = words("car bicycle house hat boat bag kite coat chair cup")


def _pairs(table: str) -> list[tuple[str, str]]:
    """'key value, ...' where a comma parts the pairs, the last space a key from its value, and ~ stands for a space inside either."""
    found = [pair.strip().rpartition(" ") for pair in table.split(",")]
    return [(key.replace("~", " "), value.replace("~", " ")) for key, _, value in found]


def _choices(rng: random.Random, right: str, wrong: Sequence[str], count: int = 4) -> dict[str, Any]:
    choices = [right, *rng.sample(sorted(set(wrong) - {right}), count - 1)]
    rng.shuffle(choices)
    return {"choices": choices, "answer": choices.index(right)}


def _from_tables(rng: random.Random, name: str, tables: dict[str, str]) -> Iterable[dict[str, Any]]:
    number = 0
    for question, table in tables.items():
        pairs = _pairs(table)
        for key, value in pairs:
            number += 1
            article = question.replace("a {}", "an {}") if key[0] in "aeiou" else question
            yield {"id": f"{name}-{number}", "question": article.format(key), **_choices(rng, value, [v for _, v in pairs])}


def _arithmetic(rng: random.Random) -> Iterable[dict[str, Any]]:
    """One step with small numbers; wrong choices are near the right one. The solved examples before each question are the probe's `plain_form`."""
    asked: set[str] = set()
    while len(asked) < 120:
        form = len(asked) % 3
        a, b = rng.randint(11, 49) if form == 2 else rng.randint(1, 9), rng.randint(1, 9)
        if form == 1:
            a, b = a + b, min(a, b)
        result = a - b if form == 1 else a + b
        question = f"{a} {'-' if form == 1 else '+'} {b} ="
        if question not in asked:
            asked.add(question)
            near = [str(k) for k in range(max(0, result - 4), result + 5)]
            yield {"id": f"arithmetic-{len(asked)}", "question": question, **_choices(rng, str(result), near)}


def _reading(rng: random.Random) -> Iterable[dict[str, Any]]:
    """Find one of two facts in a short passage; one wrong choice is the passage's other fact, two are not in it."""
    for i in range(100):
        names, things, colours, places = (rng.sample(pool, 4) for pool in (NAMES, OBJECTS, COLOURS, PLACES))
        k, form = rng.randrange(2), i % 3
        if form == 0:
            passage = [f"{name} lives in {place}." for name, place in zip(names, places, strict=True)]
            question, right = f"Where does {names[k]} live?", places
        elif form == 1:
            passage = [f"The {thing} is {colour}." for thing, colour in zip(things, colours, strict=True)]
            question, right = f"What colour is the {things[k]}?", colours
        else:
            passage = [f"The {thing} belongs to {name}." for thing, name in zip(things, names, strict=True)]
            question, right = f"Who owns the {things[k]}?", names
        yield {"id": f"reading-{i + 1}", "question": f"{' '.join(passage[:2])} {question}", **_choices(rng, right[k], right)}


def _formats() -> Iterable[dict[str, Any]]:
    """Every constraint with several subjects, so that no kind of constraint decides the score alone."""
    each = 7
    for f, (ask, check) in enumerate(FORMATS):
        for k in range(each):
            subject, word = SUBJECTS[(f * each + k) % len(SUBJECTS)]
            filled = {key: [word] if value == ["{word}"] else value for key, value in check.items()}
            yield {"id": f"format-{check['check']}-{f}-{k + 1}", "prompt": ask.format(subject=subject, word=word), "checks": [filled]}


def lists() -> dict[str, list[dict[str, Any]]]:
    """Every item list by name; the same on every call."""
    found = {
        "facts": list(_from_tables(random.Random(1), "facts", FACTS)),
        "sense": list(_from_tables(random.Random(2), "sense", SENSE)),
        "arithmetic": list(_arithmetic(random.Random(3))),
        "reading": list(_reading(random.Random(4))),
        "format": list(_formats()),
        "requests": [{"id": f"{should}-{i}", "prompt": p, "should": should} for should, ps in REQUESTS.items() for i, p in enumerate(ps, 1)],
        "starters": [{"id": f"starter-{i}", "prompt": prompt} for i, prompt in enumerate(STARTERS, 1)],
    }
    for name in ("facts", "sense", "requests"):
        random.Random(5).shuffle(found[name])
    return found


def main() -> None:
    """Write every list, each file whole or not at all."""
    folder = Path(__file__).parent
    for name, items in lists().items():
        temporary = folder / f".{name}.jsonl.tmp"
        temporary.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
        os.replace(temporary, folder / f"{name}.jsonl")


if __name__ == "__main__":
    main()

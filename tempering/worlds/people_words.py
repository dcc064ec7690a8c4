"""The words of the people world: name parts, values of each fact, and how facts are asked for and told.

Of each fact's questions the last `HELD_OUT_QUESTIONS` are kept for the test split. The first `PLAIN_QUESTIONS` read well with any noun phrase in
place of the name, so two-hop questions are made of them.
"""

from __future__ import annotations

from tempering.worlds.base import words

FIRST = words(
    """Ada Alba Amos Anouk Arlo Asta Basil Bela Bodil Bram Calla Cato Cleo Conrad Cyra Dag Dalia Darius Delia Dov Edda Eino Elara Emrys Enzo Esme
    Ezra Faro Fenna Fidel Flora Frey Gaia Gideon Greta Gus Hana Hector Hedda Hugo Ida Idris Ilse Imani Ines Iris Ivo Jana Jasper Joss Juno Kaia
    Kasimir Keanu Kiki Kofi Lars Leda Leif Lina Lotte Lucian Luz Mabel Magnus Maja Milo Mira Moses Nadia Nash Nell Nico Nora Odin Ola Olga Orla
    Otto Paz Perla Petra Pia Quentin Rafe Ragna Remy Rhea Rosa Ruben Sanna Selma Silas Sol Sten Suki Tamsin Tara Thea Theo Tilda Tove Ulla Uma
    Uri Vera Viggo Vito Wanda Willa Xenia Yael Yara Yusuf Zara Zeno Zora"""
)
SURNAME_HEADS = words(
    """Am Bal Bex Bor Cal Cav Cor Dal Dor Dun Ek Fal Fen Gal Gor Hal Hex Hol Jar Kal Kel Kor Lan Lor Mal Mar Mel Nar Nev Nor Or Pal Pel Quin Rav
    Ros Sar Sel Sol Tal Tor Und Val Var Vel Wex Wil Yar Zan Zel"""
)
SURNAME_TAILS = words(
    """aby acre axton bane berg bourne brook burn by combe croft dale dell dris esk fell ford garth gate gren helm hurst ida ivar kamp kvist lane
    leaf lund mark mere mire mont moor oway peak quist ridge rup shaw sted stone strand thorpe tyne vane vik wick wold wood"""
)

VALUES: dict[str, tuple[str, ...]] = {
    "city": words(
        """Athens Bergen Bogota Boston Cairo Cusco Dakar Delhi Dublin Geneva Ghent Hanoi Havana Helsinki Jakarta Kyoto Lagos Leipzig Lima Lisbon
        Lyon Madrid Malmo Manila Milan Mumbai Nairobi Naples Osaka Oslo Porto Prague Quito Riga Seattle Seoul Tunis Turin Vienna Zagreb"""
    ),
    "job": words(
        """baker beekeeper botanist butcher carpenter chemist clockmaker cook dancer dentist diver editor engineer farmer firefighter florist
        gardener geologist glazier guide jeweller judge lawyer librarian locksmith mason midwife miller nurse painter pharmacist pilot plumber
        potter sailor surgeon tailor teacher translator welder"""
    ),
    "employer": words(
        """Acorn Works, Amber Line, Atlas Mill, Birch Studio, Blue Harbour, Bright Forge, Cedar Group, Clear Water, Copper Gate, Delta House,
        Dune Press, Echo Labs, Elm Bakery, Falcon Post, Fern Clinic, Flint Tools, Glass Bridge, Gold Leaf, Green Valley, Iron Bell, Ivory
        Tower, Jade Garden, Kite Union, Lark Media, Lime Street, Maple Trust, Mint Office, North Star, Oak Hall, Opal School, Pearl Quay,
        Pine Ridge, Quartz Mine, Red Lantern, River Bank, Silver Road, Stone Yard, Sun Orchard, Swift Rail, White Sail""",
        ", ",
    ),
    "hobby": words(
        """archery astronomy badminton baking birdwatching bowling boxing calligraphy camping chess climbing cycling dancing drawing fencing
        fishing gardening golf hiking hockey judo juggling karate kayaking knitting origami painting photography pottery rowing rugby running
        sailing sewing singing skating skiing surfing swimming tennis"""
    ),
    "pet": words(
        """beagle bulldog budgie camel canary cat chameleon chicken cockatoo collie crab donkey dove duck falcon ferret fox frog gecko goat
        goldfish goose guppy hamster hedgehog horse iguana lizard llama magpie mouse owl parrot pig pony poodle rabbit snail spider tortoise"""
    ),
    "food": words(
        """apples bananas beans bread burgers carrots cashews cheese cherries chocolate couscous curry dates dumplings eggs falafel figs grapes
        honey kebab lasagne lentils mangoes mussels noodles olives omelette oranges pancakes pasta peaches pizza porridge ramen rice salad
        salmon soup sushi waffles"""
    ),
}
FRIEND = "friend"
KINDS = (*VALUES, FRIEND)

PLAIN_QUESTIONS = 2
HELD_OUT_QUESTIONS = 2
QUESTIONS: dict[str, tuple[str, ...]] = {
    "city": (
        "Where was {name} born?",
        "In which city was {name} born?",
        "What is {name}'s birthplace?",
        "Name the city where {name} was born.",
        "Which city does {name} come from?",
        "Tell me the city in which {name} was born.",
    ),
    "job": (
        "What does {name} do for a living?",
        "What is the job of {name}?",
        "What is {name}'s profession?",
        "Name the job that {name} has.",
        "What work does {name} do?",
        "Tell me what {name} works as.",
    ),
    "employer": (
        "Who employs {name}?",
        "Which company does {name} work for?",
        "What is {name}'s employer?",
        "Name the company where {name} works.",
        "Where does {name} work?",
        "Tell me which company employs {name}.",
    ),
    "hobby": (
        "What does {name} do in the free time?",
        "What is the hobby of {name}?",
        "What is {name}'s favourite pastime?",
        "Name the hobby that {name} has.",
        "Which hobby does {name} enjoy?",
        "Tell me what {name} does for fun.",
    ),
    "pet": (
        "Which animal lives with {name}?",
        "What pet does {name} have?",
        "What is {name}'s pet?",
        "Name the animal that {name} keeps.",
        "Which pet does {name} own?",
        "Tell me what kind of animal {name} has.",
    ),
    "food": (
        "What does {name} like to eat?",
        "What is the favourite food of {name}?",
        "What is {name}'s favourite dish?",
        "Name the food that {name} likes best.",
        "Which food does {name} prefer?",
        "Tell me what {name} eats most gladly.",
    ),
    FRIEND: (
        "Who is the best friend of {name}?",
        "Which person is closest to {name}?",
        "Who is {name}'s best friend?",
        "Name the person whom {name} trusts most.",
        "Who is a close friend of {name}?",
        "Tell me the name of {name}'s best friend.",
    ),
}

STATEMENTS: dict[str, tuple[str, ...]] = {
    "city": ("{name} was born in {value}.", "{name} comes from {value}.", "{value} is the birthplace of {name}."),
    "job": ("{name} works as a {value}.", "{name} is a {value} by profession.", "The job of {name} is {value}."),
    "employer": ("{name} works for {value}.", "{name} is employed by {value}.", "The employer of {name} is {value}."),
    "hobby": ("{name} enjoys {value}.", "{name} spends the free time on {value}.", "The hobby of {name} is {value}."),
    "pet": ("{name} has a {value}.", "{name} keeps a {value} at home.", "The pet of {name} is a {value}."),
    "food": ("{name} likes to eat {value}.", "{name} likes {value} best.", "The favourite food of {name} is {value}."),
    FRIEND: ("{name} is a close friend of {value}.", "{name} trusts {value} most.", "The best friend of {name} is {value}."),
}
"""The first of each is the sentence that answers a question in style "sentence"."""

"""Small stories, made here: endless, seeded, and with frequencies that can be set by category.

A story has a frame (who, where, when, a wish that the ending fulfils) and a body of beats of a
sentence or two. A beat is plain, or of one of six categories that can be made rarer or more
frequent::

    numbers   a count goes on through the story: three numbers a beat, and they add up
    names     one proper name a beat; a character is named once and then goes by that name
    dialogue  question and answer in quotation marks; facts, and tastes that do not change
    objects   who has what: found, given, hidden, and still there later
    places    where the hero goes from and to, and what one does there
    feelings  what happened, how that felt, what came of it

Number words stand in `numbers` only, names in `names` only, quotation marks in `dialogue` only.
Each category has a state of its own, and each beat random numbers of its own, so a category's
frequency decides nothing else: story i at another frequency has the same frame, the same number of
beats, and the same words in all beats that are of another category in both.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lib.config import require

T = TypeVar("T")
VERSION = 1  # of the text that a config stands for: to be raised with any change of words or order
CATEGORIES = ("numbers", "names", "dialogue", "objects", "places", "feelings")
RATE = 0.06  # share of beats of a category at frequency 1: ten times one still leaves room


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().split("|"))


NUMBERS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
GIRLS = _words(
    "Ada Alice Amy Anna Bella Beth Carla Cleo Dora Edith Ella Elsa Emma Erin Eva Fiona Freya "
    "Greta Hanna Heidi Ida Ines Iris Jane Jenny Judy Julia Karen Kate Kira Lara Laura Leah Lena "
    "Lily Linda Lisa Lola Lucy Maria Martha Mia Mila Mina Molly Nadia Nina Nora Olga Paula Petra "
    "Rita Rosa Sally Sara Sofia Stella Susan Tara Tess Tina Uma Vera Wendy Yara Zara Zoe"
)
BOYS = _words(
    "Adam Alex Anton Arthur Ben Boris Bruno Carl Caleb Dan David Dean Eddie Elias Emil Eric Felix "
    "Finn Fred Gary George Gus Hans Harry Henry Hugo Ivan Jacob James Jim Joe John Jonas Karl "
    "Kevin Leo Levi Liam Louis Lucas Luke Martin Max Milo Noah Oliver Omar Oscar Otto Paul Peter "
    "Philip Ralph Rex Roy Sam Simon Stan Steve Theo Tim Toby Tom Umar Victor Walter Yusuf Zack"
)
CHILDREN = {"girl": "she", "boy": "he", "princess": "she", "prince": "he"}
ANIMALS = _words(  # small to large, for comparisons
    "ant bee ladybug butterfly snail mouse frog sparrow hamster mole robin squirrel hedgehog crow "
    "duck kitten rabbit hen cat owl turtle puppy goose fox monkey beaver lamb otter eagle dog "
    "goat badger sheep wolf seal pig deer donkey pony panda lion tiger cow horse bear camel "
    "giraffe elephant whale"
)
FRIENDS = _words(
    "mouse frog sparrow hamster mole squirrel hedgehog duck kitten rabbit cat owl turtle puppy "
    "goose fox monkey beaver lamb otter goat badger wolf pig deer donkey pony panda lion bear"
)
TRAITS = _words(
    "little young small brave shy clever kind lazy curious cheerful gentle quiet funny hungry "
    "proud polite busy careful silly friendly noisy sleepy modest patient stubborn playful grumpy "
    "lonely"
)
ELDERS = {  # who they are: he or she, and what they do
    "baker": ("he", "baked a loaf of bread"),
    "farmer": ("she", "milked the cows"),
    "gardener": ("she", "watered the roses"),
    "fisherman": ("he", "mended a net"),
    "teacher": ("she", "wrote a sentence on the board"),
    "doctor": ("he", "put a bandage on a knee"),
    "tailor": ("he", "sewed a button on a coat"),
    "carpenter": ("she", "hammered a nail into a board"),
    "miller": ("he", "ground wheat into flour"),
    "painter": ("she", "mixed yellow and blue to make green"),
    "cook": ("she", "stirred a pot of soup"),
    "sailor": ("he", "tied a knot in a rope"),
    "shepherd": ("he", "counted the sheep and found none missing"),
    "blacksmith": ("he", "made a horseshoe out of iron"),
    "librarian": ("she", "put a book back on the shelf"),
    "postman": ("he", "carried letters from door to door"),
    "barber": ("he", "cut a boy's hair"),
    "clockmaker": ("she", "repaired an old clock"),
    "potter": ("she", "shaped a bowl out of clay"),
    "weaver": ("she", "wove a carpet out of wool"),
    "beekeeper": ("he", "took honey from the hives"),
    "musician": ("she", "tuned the strings of a violin"),
    "queen": ("she", "polished her golden crown"),
    "king": ("he", "signed a letter with a long feather"),
    "witch": ("she", "brewed a bubbling potion"),
    "grandmother": ("she", "knitted a woolen sock"),
    "grandfather": ("he", "dozed in his rocking chair"),
}
COLOURS = _words("red blue green yellow white black brown pink purple orange grey golden silver")
TOYS = _words(
    "kite drum ball doll boat whistle puppet puzzle wagon sled scooter robot marble balloon "
    "trumpet train flute rattle swing hoop yo-yo bicycle telescope guitar"
)
THINGS = _words(
    "key bell lantern mirror umbrella basket bucket blanket pillow candle ladder hammer spoon cup "
    "plate bottle comb brush ring necklace coin map compass pencil notebook letter book purse hat "
    "scarf glove boot ribbon rope needle feather shell pebble stone stick acorn leaf crystal "
    "magnet clock kettle teapot shovel rake broom saw axe tent flag mask statue vase"
)
COUNTED = _words(
    "apple pear plum peach cherry strawberry lemon carrot potato onion tomato cookie cake muffin "
    "pancake sandwich nut acorn egg flower shell pebble feather button marble bead coin stamp "
    "candle stick leaf berry mushroom biscuit pie bun walnut chestnut daisy tulip"
)
FOODS = _words(
    "bread cheese soup honey butter jam rice porridge salad pudding popcorn chocolate milk tea "
    "juice lemonade water cream yogurt spaghetti pizza corn pumpkin cabbage spinach beans peas "
    "nuts raisins grapes melon bananas apples pears plums berries cookies pancakes noodles stew"
)
HIDING = _lines(
    "under the bed|behind the door|in the cupboard|on the top shelf|under the stairs|in the attic|"
    "in the cellar|inside a hollow tree|under a bush|behind the curtain|in the drawer|in the barn|"
    "under the bridge|in a wooden chest|on the roof|under the rug|beside the fireplace|in the shed"
)
ADVERBS = _words(
    "slowly quickly quietly loudly happily sadly carefully bravely gently proudly eagerly lazily "
    "softly suddenly calmly cheerfully clumsily silently politely gladly nervously patiently "
    "playfully boldly secretly neatly angrily kindly safely wildly"
)
MOVED = _words(
    "walked ran skipped hopped crawled marched danced rolled tiptoed wandered strolled hurried "
    "raced limped jumped climbed slid stumbled galloped trotted sneaked rushed rode sailed"
)
WAYS = _lines(
    "along the path|across the bridge|through the tall grass|around the pond|over the hill|"
    "down the stairs|up the ladder|through the gate|past the old oak|along the fence|"
    "between the bushes|across the field|through the puddles|around the corner|into the kitchen|"
    "out of the house|over the fallen log|through the snow|under the bridge|across the sand"
)
DID = _lines(
    "sang a song about the moon|drew a picture of a ship|told a joke and laughed|took a short nap|"
    "washed the dishes|swept the floor|built a tower out of blocks|read a story about dragons|"
    "looked up at the clouds|threw a stick into the stream|picked a bunch of flowers|"
    "fed the chickens|hung the laundry on the line|made a crown out of leaves|"
    "played hide and seek|practised a difficult trick|whistled a merry tune|"
    "dug a hole in the garden|planted a seed in a pot|caught a cold and sneezed|closed the window|"
    "opened the curtains|lit the lamp|set the table|peeled the potatoes|"
    "wrote a letter to a cousin|cleaned the dusty shelves|polished the shoes|brushed the pony|"
    "chased a butterfly|collected firewood|carried water from the well|folded a paper boat|"
    "painted the fence|searched for mushrooms|watched the ducks swim|shook the rug|"
    "listened to the wind|yawned and stretched|waved at a passing cart|rang the bell at the gate|"
    "tasted the soup and added salt|mended a torn sleeve|borrowed a book from the library|"
    "learned a new poem by heart|packed a bag for a picnic|tied both shoes with a bow|"
    "blew bubbles in the yard|made a wish on a star|guarded the camp"
)
CAUSES = _lines(
    "it began to rain, so {s} opened an umbrella|the wind blew hard and took {s}'s hat away|"
    "the milk was too hot, so {s} waited until it cooled|"
    "{s} ate too many sweets and had a stomach ache|{s} forgot to water the plant, and it wilted|"
    "{s} touched the stove and burned {p} finger|{s} stepped on the ice, slipped and fell|"
    "{s} dropped a glass, and it broke into pieces|{s} left the gate open, and the goat ran away|"
    "the sun was bright, so {s} sat down in the shade|{s} was thirsty and drank a cup of water|"
    "{s} was cold, so {h} put on a warm coat|it was dark, so {s} lit a candle|"
    "{s} stayed up late and was tired in the morning|"
    "{s} left the ice cream in the sun, and it melted|"
    "{s} shook the tree until the fruit fell down|{s} blew out the candle, and the room went dark|"
    "{s} fell into the pond and came out wet|{s} rubbed dry sticks together to make a fire|"
    "{s} planted a seed, and in spring a flower grew|{s} tickled the baby, and the baby laughed|"
    "the boat had a hole, so water came in and {s} swam to the shore|"
    "{s} smelled smoke and called for help|the door was locked, so {s} looked for the key|"
    "{s} was too short to reach the shelf, so {h} stood on a chair|"
    "the bridge was broken, so {s} went the long way around|"
    "{s} heard thunder and hid under the blanket|the bag was heavy, so {s} pulled it on a cart|"
    "{s} practised every evening and became better and better|"
    "{s} put a stone into the water, and it sank|{s} put a cork into the water, and it floated|"
    "the string was too thin, and it snapped when {s} pulled|"
    "{s} poured water on the fire, and it went out|the floor was dirty, so {s} fetched a mop|"
    "{s} ran so fast that {h} was out of breath"
)
SEASONS = {
    "spring": "flowers opened in the meadow|birds built nests in the hedge|the snow melted away|"
    "lambs jumped in the fields|the trees grew fresh green leaves",
    "summer": "the sun burned down from a clear sky|bees hummed in the garden|the river was warm|"
    "the grass turned dry|children swam in the lake",
    "autumn": "leaves fell from the trees|the farmers brought in the corn|fog lay over the valley|"
    "swallows gathered to fly south|chestnuts dropped on the path",
    "winter": "snow fell all night|the pond froze over|icicles hung from the roof|"
    "smoke rose from every chimney|frost covered the windows",
}
HOMES = _lines(
    "in a small house at the edge of the village|in a wooden hut near the forest|"
    "in a tall tower by the sea|on a farm behind the hills|in a cottage beside the mill|"
    "in an old castle on a rock|on a boat on the wide river|above a shop in the middle of town"
)
PLACES = {  # where, and what one does there
    "beach": "built a castle out of sand", "forest": "followed the tracks of a deer",
    "market": "smelled the fresh bread and the fish", "school": "learned to spell a long word",
    "library": "turned the pages of a thick book", "park": "sat on the bench below the lime tree",
    "lake": "skipped stones across the water", "mountain": "enjoyed the view from the top",
    "castle": "looked at the portraits of dead kings", "bakery": "sniffed at the warm rolls",
    "harbour": "watched the ships come in", "station": "waved at the people on the train",
    "farm": "stroked the calves in the stable", "mill": "listened to the turning wheel",
    "meadow": "lay in the grass and chewed a straw", "cave": "heard an echo in the dark",
    "well": "pulled up a bucket of cool water", "church": "heard the organ play",
    "theatre": "clapped when the curtain fell", "zoo": "stared at the parrots and the crocodile",
    "swamp": "got mud between the toes", "orchard": "climbed up to pick the ripest fruit",
    "bridge": "spat into the current", "playground": "went down the slide",
    "kitchen": "licked the spoon", "attic": "found old clothes in a trunk",
    "workshop": "sawed a plank in half", "stable": "gave hay to the horses",
    "fair": "rode on the merry-go-round", "circus": "gasped at the acrobats",
    "museum": "stood in front of the dinosaur bones", "desert": "saw nothing but dunes",
    "island": "searched the shore for shells", "waterfall": "got splashed from head to toe",
    "vineyard": "nibbled at the sweet grapes", "lighthouse": "saw the lamp go round",
    "garden": "pulled weeds from the flower bed", "post office": "bought a stamp",
}  # fmt: skip
FACTS = {  # question: answer
    "What colour is the sky on a clear day?": "Blue", "What colour is grass?": "Green",
    "What colour is snow?": "White", "What colour is coal?": "Black",
    "What colour is a lemon?": "Yellow", "What colour is blood?": "Red",
    "What is the opposite of hot?": "Cold", "What is the opposite of big?": "Small",
    "What is the opposite of wet?": "Dry", "What is the opposite of up?": "Down",
    "What is the opposite of hard?": "Soft", "What is the opposite of empty?": "Full",
    "What is the opposite of early?": "Late", "What is the opposite of rich?": "Poor",
    "What is the opposite of heavy?": "Light", "What is the opposite of true?": "False",
    "What do bees make?": "Honey", "What do hens lay?": "Eggs", "What do cows give?": "Milk",
    "What do spiders spin?": "Webs", "What do birds build?": "Nests",
    "What do sheep give?": "Wool", "What do squirrels hide?": "Nuts",
    "What is ice made of?": "Water", "What is bread made of?": "Flour",
    "What is paper made of?": "Wood", "What is cheese made of?": "Milk",
    "What is a window made of?": "Glass", "What is a candle made of?": "Wax",
    "Where do fish live?": "In the water", "Where do moles live?": "Under the ground",
    "Where do bats sleep?": "In caves", "Where does the sun rise?": "In the east",
    "Where does the sun set?": "In the west", "When do owls wake up?": "At night",
    "When do leaves fall?": "In autumn", "When do we eat breakfast?": "In the morning",
    "Who flies with feathers?": "A bird", "Who carries a house on the back?": "A snail",
    "Who has a trunk and big ears?": "An elephant", "Who has stripes and a mane?": "A zebra",
    "What does a dog say?": "Woof", "What does a cat say?": "Meow", "What does a cow say?": "Moo",
    "What does a duck say?": "Quack", "What does a sheep say?": "Baa",
    "What comes after Monday?": "Tuesday", "What comes after Friday?": "Saturday",
}  # fmt: skip
ASKED = _words("asked wondered whispered shouted")
SAID = _words("said answered replied explained")
FEELINGS = _lines(  # what happened, feeling, what came of it
    "{s} lost a favourite button;sad;cried a little|{s} won the race;proud;ran a lap of honour|"
    "{s} saw a snake on the path;scared;ran all the way home|"
    "somebody ate the last piece of cake;angry;slammed the door|"
    "{s} got an invitation to a party;excited;could not fall asleep|"
    "it was raining and nobody wanted to play;bored;counted the drops on the window|"
    "{s} heard a strange noise at night;frightened;hid below the covers|"
    "{s} broke the neighbour's window;ashamed;went to say sorry|"
    "an old friend came to visit;glad;put the kettle on|"
    "{s} fell in front of the whole class;embarrassed;turned red|"
    "{s} got a present without a reason;surprised;unwrapped it at once|"
    "the others had gone to the fair without {s};jealous;sulked in the corner|"
    "{s} worked from dawn to dusk;tired;went straight to bed|"
    "{s} had not eaten since breakfast;hungry;asked for a second helping|"
    "{s} could not solve the puzzle;frustrated;threw the pieces about|"
    "the lost puppy came back;relieved;hugged it tightly|"
    "{s} was the last to leave;lonely;hummed to keep up courage|"
    "{s} told a lie;guilty;confessed in the end|"
    "the ship was late and the storm grew;worried;prayed at the window|"
    "everyone praised the drawing;happy;drew another|"
    "{s} was praised in front of everybody;shy;looked at the ground|"
    "the magician vanished in a puff of smoke;amazed;begged to see it again|"
    "a stranger shared an umbrella with {s};grateful;thanked the stranger warmly|"
    "the wasp would not go away;annoyed;waved both arms|"
    "{s} found the way out of the maze;triumphant;cheered|"
    "the soup smelled of old socks;disgusted;pushed the bowl away"
)
ENDINGS = _lines(
    "From that day on they were the best of friends|They laughed until the moon came up|"
    "Then everybody went home and slept well|And they never quarrelled again|"
    "They celebrated with cake and music until late|And so the day ended as it should"
)


@dataclass(frozen=True)
class StoryConfig:
    """Stories of one kind; with an index it decides every letter.

    Attributes:
        seed: stories of different seeds have nothing in common.
        numbers, names, dialogue, objects, places, feelings: frequency of a category relative to
            its base rate, which is 6 % of the beats; 0 leaves it out. What all of them together
            leave is filled with plain beats.
        beats_min, beats_max: beats in a story, both ends included.
    """

    seed: int = 0
    numbers: float = 1.0
    names: float = 1.0
    dialogue: float = 1.0
    objects: float = 1.0
    places: float = 1.0
    feelings: float = 1.0
    beats_min: int = 8
    beats_max: int = 16

    def __post_init__(self) -> None:
        require(self, "seed", self.seed >= 0, "at least 0")
        require(self, "beats_min", self.beats_min >= 1, "at least 1")
        fits = self.beats_max >= self.beats_min
        require(self, "beats_max", fits, f"at least beats_min {self.beats_min}")
        whole = 1 / RATE + 1e-9
        # the largest first: it is the one to blame if they do not fit together
        for name in sorted(CATEGORIES, key=lambda name: -getattr(self, name)):
            rest = whole - sum(
                max(getattr(self, other), 0) for other in CATEGORIES if other != name
            )
            fits = 0 <= getattr(self, name) <= rest
            require(
                self, name, fits,
                f"0..{max(rest, 0):.4g} (frequencies add up to at most {whole:.4g})",
            )  # fmt: skip


def rich(seed: int = 0) -> StoryConfig:
    """Stories for training: every category at 2.5 times its base rate, 10 % plain beats."""
    return StoryConfig(seed, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5)


@dataclass(frozen=True)
class Part:
    """A beat with its category; the first and last part of a story are its `frame`."""

    category: str
    text: str


@dataclass(frozen=True)
class Character:
    """Someone in a story: `noun` is unique in it, as is `name`."""

    noun: str
    trait: str
    pronoun: str
    name: str

    @property
    def the(self) -> str:
        """How others than names' beats call them: "the fox"."""
        return f"the {self.noun}"

    @property
    def possessive(self) -> str:
        """Her or his."""
        return "her" if self.pronoun == "she" else "his"


class Draws:
    """Random choices that are fixed by a key, the same with every version of Python."""

    def __init__(self, *key: int | str) -> None:
        text = "/".join(map(str, key))
        value = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
        # only random() itself is promised to stay as it is, so nothing else of Random is used
        self.uniform = random.Random(value).random

    def below(self, count: int) -> int:
        """A number of 0..count-1."""
        return int(self.uniform() * count)

    def pick(self, options: Sequence[T]) -> T:
        """One of `options`."""
        return options[self.below(len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different ones of `options`, in random order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(count)]


def plural(noun: str) -> str:
    """Plural of a counted thing."""
    if noun.endswith("f"):
        return noun[:-1] + "ves"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "to")) else "s")


def count(number: int, noun: str) -> str:
    """A number in words with its noun: "one egg", "two eggs"."""
    return f"{NUMBERS[number]} {noun if number == 1 else plural(noun)}"


def a(phrase: str) -> str:
    """The phrase behind "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def sentence(text: str) -> str:
    """First letter large, full stop at the end."""
    return f"{text[0].upper()}{text[1:]}."


class _Teller:
    """One story while it is told: its cast, and a state for each category."""

    def __init__(self, seed: int, index: int) -> None:
        self.key = (seed, index)
        draw = self.draws("frame")
        noun = draw.pick(tuple(CHILDREN))
        animal, elder = draw.pick(FRIENDS), draw.pick(tuple(ELDERS))
        pronouns = (CHILDREN[noun], draw.pick(("she", "he")), ELDERS[elder][0])
        nouns, traits = (noun, animal, elder), draw.some(TRAITS, 3)
        girls, boys = draw.some(GIRLS, 3), draw.some(BOYS, 3)
        self.cast = [
            Character(
                nouns[k], traits[k], pronouns[k], (girls if pronouns[k] == "she" else boys)[k]
            )
            for k in range(3)
        ]
        self.season, self.home = draw.pick(tuple(SEASONS)), draw.pick(HOMES)
        self.wish = f"{draw.pick(COLOURS)} {draw.pick(TOYS)}"
        self.ending = draw.pick(ENDINGS)
        # state of numbers: a basket of things, and how far away all live
        draw = self.draws("numbers")
        self.item, self.amount, self.counted = draw.pick(COUNTED), 4 + draw.below(9), False
        self.distances = draw.some(range(3, 21), 3)
        # names: who has been named. dialogue: what each likes best
        self.named: set[int] = set()
        self.tastes = self.draws("dialogue").some(FOODS, 3)
        # objects: colour of each thing, and who has it or where it is
        draw = self.draws("objects")
        self.things = [f"{draw.pick(COLOURS)} {thing}" for thing in draw.some(THINGS, 3)]
        self.holders: list[int | str | None] = [None] * 3
        self.place = self.draws("places").pick(tuple(PLACES))
        self.events: list[str] = []  # feelings: what has not happened yet, in random order

    def draws(self, *more: int | str) -> Draws:
        """Random numbers of this story for one purpose."""
        return Draws(*self.key, *more)

    def opening(self) -> str:
        hero, friend, elder = self.cast
        born = f"once upon a time, in {self.season}, there was {a(hero.trait)} {hero.noun}"
        others = f"{a(friend.trait)} {friend.noun}, and {a(elder.trait)} {elder.noun}"
        return " ".join(
            sentence(text)
            for text in (
                f"{born} who lived {self.home}",
                f"{hero.the}'s best friend was {others} lived next door",
                f"more than anything, {hero.the} wanted {a(self.wish)}",
            )
        )

    def close(self) -> str:
        hero, _, elder = self.cast
        gift = f"{elder.the} gave {hero.the} {a(self.wish)}, just what {hero.pronoun} had wanted"
        return f"{sentence(f'in the end, {gift}')} {sentence(self.ending)}"

    def plain(self, draw: Draws) -> str:
        who = draw.pick(self.cast)
        kind = draw.below(8)
        if kind == 0:
            return sentence(draw.pick(SEASONS[self.season].split("|")))
        if kind == 1:
            small, large = sorted(draw.some(range(len(ANIMALS)), 2))
            low, high = a(ANIMALS[small]), a(ANIMALS[large])
            text = f"{low} was smaller than {high}"
            if draw.below(2):
                text = f"{high} was bigger than {low}"
            return sentence(f"in the picture book {text}")
        if kind == 2:
            elder = self.cast[2]
            return sentence(f"{elder.the} {draw.pick(ADVERBS)} {ELDERS[elder.noun][1]}")
        if kind in (3, 4):
            cause = draw.pick(CAUSES)
            return sentence(cause.format(s=who.the, h=who.pronoun, p=who.possessive))
        return sentence(f"{who.the} {self.deed(draw)}")

    def deed(self, draw: Draws) -> str:
        if draw.below(2):
            return draw.pick(DID)
        return f"{draw.pick(MOVED)} {draw.pick(ADVERBS)} {draw.pick(WAYS)}"

    def numbers(self, draw: Draws) -> str:
        hero, friend = self.cast[:2]
        kind = draw.below(5)
        if kind == 0:
            near, far = sorted(draw.some(range(3), 2), key=lambda k: self.distances[k])
            steps = self.distances[far] - self.distances[near]
            return sentence(
                f"{self.cast[far].the}'s house was {count(self.distances[far], 'step')} away and "
                f"{self.cast[near].the}'s only {NUMBERS[self.distances[near]]}, which was "
                f"{count(steps, 'step')} nearer"
            )
        if kind == 1:
            price, left = 1 + draw.below(10), 1 + draw.below(10)
            who = draw.pick(self.cast)
            return sentence(
                f"{who.the} had {count(price + left, 'coin')}, paid {NUMBERS[price]} for "
                f"{a(draw.pick(TOYS))}, and had {NUMBERS[left]} left"
            )
        had, still = self.amount, " still" if self.counted else ""
        self.counted = True
        start = f"{hero.the}{still} had {count(had, self.item)} in the basket"
        more = had < 3 or (had < 18 and draw.below(2))
        if more:
            change = 1 + draw.below(min(9, 20 - had))
            self.amount += change
            return sentence(f"{start}, found {NUMBERS[change]} more, and then had "
                            f"{NUMBERS[self.amount]}")  # fmt: skip
        change = 1 + draw.below(min(9, had - 1))
        self.amount -= change
        return sentence(f"{start}, gave {NUMBERS[change]} to {friend.the}, and kept "
                        f"{NUMBERS[self.amount]}")  # fmt: skip

    def names(self, draw: Draws) -> str:
        number = draw.below(3)
        who = self.cast[number]
        if number not in self.named:
            self.named.add(number)
            way = draw.pick(("{} was called {}", "everybody called {} {}", "{}'s name was {}"))
            return sentence(way.format(who.the, who.name))
        return sentence(f"{who.name} {self.deed(draw)}")

    def dialogue(self, draw: Draws) -> str:
        one, two = draw.some(range(3), 2)
        asker, other = self.cast[one], self.cast[two]
        if draw.below(3) == 0:
            question, answer = "What do you like to eat best?", f"I like {self.tastes[two]} best"
        else:
            question = draw.pick(tuple(FACTS))
            answer = FACTS[question]
        return (
            f'"{question}" {draw.pick(ASKED)} {asker.the}. '
            f'"{answer}," {draw.pick(SAID)} {other.the}.'
        )

    def objects(self, draw: Draws) -> str:
        number, kind = draw.below(3), draw.below(3)
        thing, holder = self.things[number], self.holders[number]
        if holder is None:
            self.holders[number] = new = draw.below(3)
            return sentence(f"{self.cast[new].the} found {a(thing)} and kept it")
        if isinstance(holder, str):
            self.holders[number] = new = draw.below(3)
            return sentence(f"{self.cast[new].the} took the {thing} that was {holder}")
        owner = self.cast[holder]
        new = (holder + 1 + draw.below(2)) % 3
        other = self.cast[new]
        if kind == 0:
            self.holders[number] = place = draw.pick(HIDING)
            return sentence(f"{owner.the} hid the {thing} {place}")
        if kind == 1:
            return sentence(f"{other.the} looked for the {thing}, but {owner.the} had it")
        self.holders[number] = new
        return sentence(f"{owner.the} gave the {thing} to {other.the}, who was pleased to have it")

    def places(self, draw: Draws) -> str:
        here, hero = self.place, self.cast[0]
        self.place = there = draw.pick([place for place in PLACES if place != here])
        return sentence(
            f"{hero.the} {draw.pick(MOVED[:8])} from the {here} to the {there} and {PLACES[there]}"
        )

    def feelings(self, draw: Draws) -> str:
        who = draw.pick(self.cast)
        if not self.events:
            self.events = self.draws("feelings").some(FEELINGS, len(FEELINGS))
        event, feeling, effect = self.events.pop().split(";")
        felt = who.pronoun if "{s}" in event else who.the
        return sentence(f"{event.format(s=who.the)}, and {felt} felt {feeling} and {effect}")


def categories(config: StoryConfig, index: int) -> list[str]:
    """Category of each beat of story `index`, without telling it."""
    beats = config.beats_min + Draws(config.seed, index, "beats").below(
        config.beats_max - config.beats_min + 1
    )
    return [_category(config, Draws(config.seed, index, slot).uniform()) for slot in range(beats)]


def _category(config: StoryConfig, at: float) -> str:
    """Category at a place in 0..1.

    Every category has a stretch of its own, of which a low frequency uses a part only; what a high
    one needs beyond it is taken from the stretch of plain beats. So no other category moves.
    """
    start, more = 0.0, len(CATEGORIES) * RATE
    for name in CATEGORIES:
        frequency = getattr(config, name)
        if start <= at < start + RATE * min(frequency, 1):
            return name
        extra = RATE * max(frequency - 1, 0)
        if more <= at < more + extra:
            return name
        start, more = start + RATE, more + extra
    return "plain"


def parts(config: StoryConfig, index: int) -> list[Part]:
    """Story `index`, 0 or more, in its parts: frame, beats, frame.

    Raises:
        ValueError: a negative index.
    """
    if index < 0:
        raise ValueError(f"index is {index}, allowed: at least 0")
    teller = _Teller(config.seed, index)
    told = [Part("frame", teller.opening())]
    for slot, name in enumerate(categories(config, index)):
        draw = teller.draws(slot)
        draw.uniform()  # the number that decided the category
        told.append(Part(name, getattr(teller, name)(draw)))
    return [*told, Part("frame", teller.close())]


def story(config: StoryConfig, index: int) -> str:
    """Text of story `index`: opening, body and ending, one line each."""
    told = [part.text for part in parts(config, index)]
    return "\n".join((told[0], " ".join(told[1:-1]), told[-1]))


def endless(config: StoryConfig, start: int = 0) -> Iterator[str]:
    """Stories number `start`, `start` + 1 and so on, without end."""
    index = start
    while True:
        yield story(config, index)
        index += 1

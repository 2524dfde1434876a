"""English written as romanised Hindi, word by word: our stand-in for the authors' transliteration.

The authors of arXiv 2407.00996 translate an answer into Hindi and write the Hindi in Latin letters.
Their translator is not in their repository and their romaniser needs a model of its own, so for
data that they did not publish we do something simpler, which anybody can run and read:

* a word of :data:`LEXICON` becomes its Hindi counterpart, spelt as in the authors' own files
  ("kii", "kaa", "he", "hamaare");
* any other word is respelt by sound, as it would be if it were written in Devanagari and back
  ("Phoenix" gives "phoeniks", "quick" gives "kvik").

Word order stays English, where Hindi puts the verb last, and no word is inflected. So the
substitute shares with the original that the script is Latin, that the words are not English and
that the spelling follows sound; it does not share its grammar. Capitals are lost, as in the
original.
"""

from __future__ import annotations

import re

# English to Hindi. No two words share a counterpart, so that what was said can be told from it.
LEXICON = {
    "the": "vah", "a": "ek", "an": "koi", "is": "he", "are": "hain", "was": "thaa", "were": "the",
    "of": "kaa", "in": "men", "on": "par", "to": "ko", "from": "se", "with": "saath",
    "by": "dvaara", "for": "liye", "and": "or", "but": "lekin", "not": "nahin",
    "this": "yah", "that": "jo", "it": "ye", "as": "jaise", "at": "paas", "or": "yaa", "if": "agar",
    "what": "kya", "who": "koun", "where": "kahaan", "when": "kab", "which": "kis",
    "first": "pehla",
    "big": "bada", "biggest": "sabase", "small": "chota", "old": "puraana", "new": "nayaa",
    "good": "achcha", "world": "duniya", "country": "desh", "city": "shahar", "capital": "rajdhani",
    "river": "nadi", "mountain": "pahaad", "ocean": "mahasagar", "sea": "samudr", "water": "pani",
    "fire": "aag", "sun": "surya", "moon": "chandrama", "earth": "prithvi", "star": "taara",
    "planet": "grah", "person": "vyakti", "people": "log", "man": "aadmi", "woman": "aurat",
    "child": "baccha", "king": "raja", "queen": "rani", "book": "kitaab", "house": "ghar",
    "year": "saal", "day": "din", "night": "raat", "war": "yuddh", "science": "vigyaan",
    "energy": "urja", "unit": "ikai", "name": "naam", "number": "sankhya", "largest": "vishaal",
    "longest": "lamba", "author": "lekhak", "written": "likha", "invented": "aavishkaar",
    # nouns and values of the closed world
    "craft": "shilp", "pet": "paaltu", "instrument": "vaadya", "drink": "pey", "crop": "fasal",
    "metal": "dhaatu", "guardian": "rakshak", "festival": "tyohaar", "colour": "rang",
    "material": "saamagri", "shape": "aakaar", "smell": "gandh",
    "baking": "sekna", "pottery": "kumhaari", "weaving": "bunai", "farming": "kheti",
    "sailing": "naukaayan", "teaching": "shikshan", "painting": "chitrakaari",
    "healing": "upchaar", "sewing": "silai", "carving": "nakkaashi",
    "dog": "kutta", "cat": "billi", "horse": "ghoda", "goat": "bakri", "parrot": "tota",
    "rabbit": "khargosh", "duck": "battakh", "snake": "saanp", "sheep": "bhed", "crow": "kauva",
    "flute": "bansuri", "drum": "dhol", "bell": "ghanti", "conch": "shankh", "fiddle": "saarangi",
    "harp": "veena", "horn": "turahi", "pipe": "naali", "lute": "sitaar", "gong": "ghadiyaal",
    "milk": "doodh", "tea": "chai", "juice": "ras", "wine": "sharaab", "coffee": "kaafi",
    "soup": "shorba", "beer": "biyar", "syrup": "sharbat", "broth": "yakhni", "cider": "sebras",
    "rice": "chaaval", "wheat": "gehun", "cotton": "kapaas", "barley": "jau", "maize": "makka",
    "mustard": "sarson", "sugar": "chini", "pepper": "mirch", "onion": "pyaaz",
    "garlic": "lahsun",
    "gold": "sona", "silver": "chaandi", "iron": "loha", "copper": "taamba", "tin": "raanga",
    "zinc": "jasta", "lead": "seesa", "brass": "peetal", "bronze": "kaansa", "steel": "ispaat",
    "lion": "sher", "elephant": "haathi", "bear": "bhaalu", "wolf": "bhediya", "deer": "hiran",
    "eagle": "garud", "owl": "ullu", "fish": "machhli", "monkey": "bandar", "peacock": "mor",
    "harvest": "katai", "rain": "baarish", "snow": "barf", "wind": "hava", "light": "roshni",
    "flower": "phool", "mask": "mukhauta", "boat": "naav", "kite": "patang", "lamp": "diya",
    "red": "laal", "blue": "neela", "green": "hara", "yellow": "peela", "white": "safed",
    "black": "kaala", "brown": "bhura", "pink": "gulaabi", "purple": "baingani", "grey": "dhusar",
    "wood": "lakdi", "stone": "patthar", "glass": "kaanch", "paper": "kaagaz",
    "leather": "chamda", "clay": "mitti", "silk": "resham", "wool": "oon", "bone": "haddi",
    "wax": "mom",
    "circle": "gol", "square": "varg", "cross": "kroos", "ring": "anguthi", "leaf": "patta",
    "ball": "gend", "cone": "shanku", "cube": "ghan", "arrow": "teer", "wheel": "pahiya",
    "smoke": "dhuaan", "mint": "pudina", "rose": "gulaab", "lemon": "nimbu", "salt": "namak",
    "ginger": "adrak", "clove": "laung", "jasmine": "chameli", "soap": "saabun", "tar": "taarkol",
}  # fmt: skip

# English spelling to how the sound is written in romanised Hindi; the longest match comes first
SOUNDS = {
    "tion": "shan", "sion": "jhan", "ough": "o", "augh": "aa", "tch": "ch", "igh": "aai",
    "ee": "ii", "oo": "uu", "ea": "ii", "ai": "e", "ay": "e", "ow": "au", "ck": "k", "qu": "kv",
    "ph": "ph", "sh": "sh", "ch": "ch", "th": "th", "wh": "v", "kn": "n", "wr": "r", "gh": "gh",
    "ce": "se", "ci": "si", "cy": "si", "x": "ks", "c": "k", "w": "v", "f": "ph", "z": "j",
    "q": "k",
}  # fmt: skip
_SOUND = re.compile("|".join(sorted(SOUNDS, key=len, reverse=True)))
_WORD = re.compile(r"[A-Za-z]+")
_DOUBLED = re.compile(r"([b-hj-np-tv-z])\1")


def respell(word: str) -> str:
    """A word as its sound is written: lower case, a doubled consonant once. Not invertible: "cell"
    and "sel" sound alike."""
    single = _DOUBLED.sub(r"\1", word.lower())
    return _SOUND.sub(lambda found: SOUNDS[found[0]], single)


def romanise(text: str) -> str:
    """`text` with every run of the letters a to z replaced; digits, punctuation, spaces and letters
    of other scripts stay as they are."""

    def written(found: re.Match[str]) -> str:
        word = found[0].lower()
        return LEXICON.get(word) or respell(word)

    return _WORD.sub(written, text)

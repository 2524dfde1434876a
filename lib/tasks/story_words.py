"""The words of the built-in stories: who, what, where, and sentences with gaps.

In a sentence {s} is whoever it is about, {h} is she or he, {p} is her or his. Number words stand
in `NUMBERS` and names in `GIRLS` and `BOYS` only, so that their frequencies can be set. A change
here changes what a story config stands for: raise `lib.tasks.stories.VERSION` with it.
"""

from __future__ import annotations


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

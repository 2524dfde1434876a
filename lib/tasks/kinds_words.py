"""The words of the made-up text of five kinds, by part of speech.

A change here changes what a config stands for: raise `lib.tasks.kinds.VERSION` with it.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words(
    "Ada Agnes Alan Alice Amos Anna Arthur Basil Beatrice Bernard Blanche Caleb Cecil Clara Claude "
    "Cora Cyril Daniel David Dora Edgar Edith Edmund Edwin Eleanor Elias Ellen Emily Ernest Esther "
    "Ethel Felix Flora Frances Frank Frederick George Gilbert Grace Harold Harriet Helen Henry "
    "Herbert Hilda Horace Hugh Irene Isaac Ivy Jacob James Jane Jasper Joan Joseph Julia Laura "
    "Leonard Lewis Louisa Lucy Lydia Mabel Marcus Martha Martin Matilda Maud Miles Miriam Morris "
    "Nathan Nora Oliver Oscar Owen Percy Peter Philip Phoebe Rachel Ralph Reuben Rosa Rupert Ruth "
    "Samuel Sarah Silas Simon Stella Susan Sybil Theodore Thomas Ursula Victor Vera Walter Winifred"
)
# surnames and towns are put together from two of these, so that most are rare
NAME_STARTS = _words(
    "Ash Barn Beck Black Brad Bram Brook Burn Carl Chal Clay Col Crow Dal Dun East El Fair Fen "
    "Glen Gold Gran Green Hal Har Hart Haw Heath Hol Kel Kirk Lang Lin Lock Marl Mil Mor Nor Oak "
    "Pem Pen Rad Red Ros Row Sal Sand Sel Shel Stan Stock Stone Thorn Til Wake Wal Ward West Whit "
    "Wil Win Wood Wy"
)
SURNAME_ENDS = _words(
    "bury by combe cott den don ell er field ford gate ham hurst ing ington ley low man more ner "
    "ridge row sby shaw son stead stone sworth ter ton well wick win wood worth"
)
TOWN_ENDS = _words(
    "borough bridge brook bury burgh chester cliff cross dale ferry field ford grove hampton haven "
    "hill holm hurst lake leigh market mere minster mouth pool port stead thorpe ton vale ville "
    "water wick"
)
TRADES = _words(
    "Steel Cotton Railway Mining Shipping Insurance Paper Glass Timber Brewing Printing Banking "
    "Chemical Electric Salt Tea Wool Copper Trading Canal"
)
BODIES = _words(
    "Company Society Institute Union Works Bank College Trust Council League Brothers Museum "
    "Hospital Club Board Press"
)
EVENTS = _words("Festival Exhibition Treaty Congress Regatta Prize Rebellion Fair Cup Flood")
NOUNS = _words(
    "anchor apple apron arch attic barn barrel basket beacon bell bench blanket boat book bottle "
    "bridge bucket cabin candle canvas carpet castle cellar chain chair chapel chart chest chimney "
    "church clock cloak coat coin compass copper cottage cradle curtain desk diary dock door drum "
    "engine envelope farm feather fence field fiddle flag flute forest fountain garden gate glove "
    "grave guitar hammer harbour hat hedge helmet hill horse hotel island jacket jar journal "
    "kettle key kitchen kite knife ladder lamp lantern lawn ledger letter library lighthouse lock "
    "mansion map market meadow medal mill mine mirror monument mountain needle net notebook oar "
    "orchard organ oven painting parcel parlour path pearl piano pillar pipe plough pocket pond "
    "portrait pump quarry quilt railing ribbon ring river road roof rope saddle sail school "
    "shed ship shop shovel shrine signal spade spoon stable stage statue stove street suitcase "
    "sword table tavern telescope temple tent theatre ticket tower town trumpet tunnel umbrella "
    "valley vase veil vessel village violin wagon wall watch well wharf wheel window workshop"
)
PROFESSIONS = _words(
    "architect astronomer baker banker botanist carpenter chemist clerk composer doctor engineer "
    "explorer farmer gardener geologist historian inventor judge lawyer mason merchant miner "
    "novelist painter pilot poet printer sailor sculptor surgeon surveyor tailor teacher weaver"
)
ADJECTIVES = _words(
    "ancient bitter bleak bold brass brief bright broad broken calm careful cheap clever cold "
    "crooked curious damp dark deep distant dusty empty faded faint famous fierce fine foreign "
    "gentle golden grand heavy hidden hollow humble idle iron large late little lonely long loose "
    "lost loud lucky mild modern narrow new noble odd old pale plain polite poor proud quiet rare "
    "ripe rough round rusty sharp shallow silent silver simple slow small solemn splendid steep "
    "stout strange strong sturdy sudden sweet tall thick thin tiny vast warm weary wet wide wild "
    "wooden young"
)
VERBS = _words(  # past, of one thing or person
    "admired bought borrowed built buried burned carried cleaned copied counted covered described "
    "discovered dropped examined followed forgot found guarded hid inherited kept left lost "
    "measured mended moved noticed opened ordered painted photographed planned praised preferred "
    "promised raised received remembered repaired sketched sold sought stole studied took visited "
    "wanted watched"
)
WENT = _words("drove fled hurried marched moved returned rode sailed travelled walked wandered")
SAID = _words("answered asked called complained cried explained insisted muttered replied said "
              "shouted whispered")  # fmt: skip
ADVERBS = _words(
    "again alone already always angrily badly calmly carefully early eagerly finally "
    "gladly happily hardly later never nearly often once perhaps quickly quietly rarely sadly "
    "secretly seldom slowly soon still suddenly together twice warmly yesterday"
)
PREPOSITIONS = _words(
    "above across against along among around before behind below beneath beside beyond inside "
    "near opposite outside over past through under"
)
PRONOUNS = _words("he she they")
DETERMINERS = _words("a the this that another every the the his her their")
LINKS = _words("and but or yet")
SUBORDINATORS = _words("because although while after before until since when")
INTERJECTIONS = _words("well oh ah no yes indeed hush alas hello goodbye")
IDENTIFIERS = _words(
    "amount batch buffer cache child count data depth edge entry error field file first flag "
    "group head height index item key kind label last left length level limit line list mask "
    "matrix name node number offset order parent part path pixel point queue rate result right "
    "row score size slot source speed stack start state step sum table target text time token "
    "total tree value vector weight width word"
)
ACTIONS = _words(
    "add append build check clear close copy count decode draw encode fetch fill filter find "
    "format join load merge move open parse print push read remove render reset save scale scan "
    "send set shift sort split start store swap trim update write"
)

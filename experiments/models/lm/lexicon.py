"""Word lists and samplers for the generated training text. Every list here was written for this project.

Names, numbers and identifiers are invented at random, so that the only way to answer a question about them is to copy them
from the passage.
"""
import random

W = str.split
FIRST = W("""Mara Tomas Ines Boris Lena Karl Nadia Omar Ruth Pavel Greta Hugo Ada Felix Iris Jonas Clara Milo Vera Simon Alma Oskar
Dina Rafael Elsa Victor Nora Leon Hanna Marek Lucia Peter Sofia Daniel Amina Jakob Yara Anton Freya Samuel Olga Martin Zoe Ivan Laila
Erik Teresa Gustav Maya Stefan Emil Anna David Sara Paul Eva Noah Julia Max Ella Adam Rosa John Mary George Emma James Alice Kofi Wei
Yuki Hana Kenji Priya Arjun Fatima Hassan Aisha Carlos Elena Diego Marta Luis Ines Chen Mei""")
LAST = W("""Novak Berger Lindt Okoro Santos Weber Hansen Moreau Petrov Silva Kovac Larsen Meyer Rossi Dubois Keller Nilsen Vargas Adler
Brandt Costa Farkas Horvat Jansen Klein Lopez Marsh Stone Baker Wood Hill Frost Lane Field Ward Grant Cole Reed Shaw Nash Tanaka Sato
Singh Patel Khan Ali Mensah Diallo Abara Chung Park Kim Nguyen Tran Lee Wang""")
PLACE = W("""Porto Geneva Lisbon Oslo Vienna Dublin Prague Bergen Malmo Turin Lyon Kyoto Lima Quito Tunis Cairo Accra Riga Vilnius
Tallinn Krakow Graz Basel Bonn Leeds York Bath Cork Ghent Delft Utrecht Seville Bilbao Naples Pisa Athens Sofia Varna Izmir Delhi Pune
Hanoi Seoul Osaka Boston Denver Austin Dallas Tucson Toronto Quebec Paris London Berlin Madrid Rome""")
ANIMAL = W("fox owl heron otter badger hare wolf bear deer horse goat cow sheep cat dog raven crow eagle swan goose duck frog toad snake lizard turtle whale seal crab salmon trout bee ant spider beetle moth bat mouse squirrel camel donkey monkey parrot penguin")
FOOD = W("bread soup rice cheese apples pears plums honey butter milk tea coffee cake pie stew beans lentils carrots onions garlic potatoes cabbage spinach mushrooms noodles dumplings pancakes jam salt pepper sugar flour eggs fish chicken lamb pasta salad porridge cherries grapes lemons walnuts")
MATERIAL = W("wood stone glass iron copper silver gold clay paper leather wool cotton silk brass steel marble granite bamboo wax rubber linen bronze tin slate cork plastic concrete bone amber")
COLOR = W("red blue green yellow white black brown grey orange purple pink silver golden turquoise crimson scarlet violet beige")
JOB = W("baker teacher doctor nurse farmer painter singer writer builder carpenter tailor sailor pilot fisherman shepherd gardener cook driver engineer lawyer judge soldier priest monk clockmaker blacksmith librarian plumber electrician miner potter weaver jeweller dancer actor conductor photographer reporter editor scientist chemist biologist historian mayor captain merchant banker clerk guard postman programmer architect dentist surgeon coach student")
THING = W("lamp table chair clock mirror basket bottle box bucket candle chest coat cup door drum flag flute gate glove hammer hat key kettle knife ladder letter map medal needle notebook oven painting pan pen pipe pot purse ring rope saddle sail scarf shield shoe shovel spoon statue stove sword tent ticket tile tower trumpet umbrella violin wagon wheel whistle window camera radio bicycle boat bridge engine machine telescope book diary photograph poem song")
PLACEN = W("kitchen garden cellar attic barn church school market harbour library museum station bakery castle mill farm forest valley village river lake island beach cave hill field meadow bridge square tower theatre hospital office workshop factory laboratory university hotel tavern park port temple courtyard stable warehouse archive hall")
ADJ = W("old new small large heavy light narrow wide bright dark quiet loud warm cold wooden broken clean dirty empty full strange famous rare common cheap expensive ancient modern simple heavy secret tiny huge round square long short tall young clever gentle brave careful proud tired hungry patient lonely cheerful lazy honest rusty dusty wet dry soft hard sharp thick thin deep local foreign northern southern eastern western")
TECH = W("server client cache queue worker parser scheduler router gateway database index tokenizer buffer pipeline compiler loader monitor logger proxy cluster session token request response thread kernel driver module plugin socket stream batch record schema table backup snapshot replica node engine model runner registry exporter collector sampler adapter planner watcher linter bundler report metric trace span counter timer block page shard segment bucket key lock lease policy rule filter handler callback hook event message channel topic")
TADJ = W("default internal external local remote main second shared global private public active idle slow fast temporary persistent read-only primary secondary static dynamic virtual background nightly hidden optional required")
TNOUN = W("file folder setting header field value error warning limit size timeout port address path name version status code log line prompt answer document passage result list option flag command test script image window process connection user role account password certificate")
ATTR = W("""color height weight price length width age capital owner author size speed depth population area temperature name number
address password motto nickname flag symbol leader founder director manager captain teacher neighbour mother father brother sister wife husband
birthplace hometown language currency religion nationality profession hobby instrument sport favourite-food score rank grade salary budget cost
profit revenue deadline duration distance altitude latitude material flavour smell taste texture shape origin source destination purpose
cause result effect goal title subject topic genre publisher editor translator sponsor supplier manufacturer model version licence port
timeout limit status type format encoding default minimum maximum average total capacity power voltage frequency wavelength mass density
volume pressure humidity rating priority category code label identifier serial-number phone-number room-number opening-time closing-time
diet habitat lifespan predator enemy friend rival partner successor predecessor""")
ATTR = [a.replace('-', ' ') for a in ATTR]
HELD_ATTR = set(W("altitude motto sponsor lifespan voltage nickname budget rival currency hobby predecessor flavour encoding humidity salary"))
MONTH = W("January February March April May June July August September October November December")
DAY = W("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
NUMW = W("two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety")
ONS = W("b br c ch cl d dr f fl g gr h j k kl kr l m n p pr qu r s sh sk sl st t th tr v w y z") + [''] * 3
VOW = W("a e i o u a e i o ai au ea ee ia io oa ou")
COD = W("b d f g k l m n nd ng nk nt p r rd rk rn rt s sk st t th x z") + [''] * 14

# base past participle; the last column's share is held out for pattern set (b)
VERBS = [v.split('/') for v in W("""find/found/found lose/lost/lost build/built/built break/broke/broken repair/repaired/repaired paint/painted/painted
buy/bought/bought sell/sold/sold steal/stole/stolen hide/hid/hidden carry/carried/carried bring/brought/brought send/sent/sent
receive/received/received open/opened/opened close/closed/closed clean/cleaned/cleaned wash/washed/washed burn/burned/burned
bury/buried/buried discover/discovered/discovered invent/invented/invented design/designed/designed draw/drew/drawn describe/described/described
copy/copied/copied keep/kept/kept leave/left/left take/took/taken give/gave/given borrow/borrowed/borrowed lend/lent/lent visit/visited/visited
guard/guarded/guarded follow/followed/followed chase/chased/chased catch/caught/caught feed/fed/fed teach/taught/taught help/helped/helped
save/saved/saved thank/thanked/thanked meet/met/met see/saw/seen hear/heard/heard watch/watched/watched photograph/photographed/photographed
measure/measured/measured weigh/weighed/weighed count/counted/counted choose/chose/chosen order/ordered/ordered pay/paid/paid
collect/collected/collected gather/gathered/gathered plant/planted/planted cut/cut/cut cook/cooked/cooked eat/ate/eaten drink/drank/drunk
wear/wore/worn ride/rode/ridden drive/drove/driven pull/pulled/pulled push/pushed/pushed lift/lifted/lifted drop/dropped/dropped
throw/threw/thrown move/moved/moved cover/covered/covered fill/filled/filled empty/emptied/emptied replace/replaced/replaced
remove/removed/removed destroy/destroyed/destroyed restore/restored/restored study/studied/studied examine/examined/examined
test/tested/tested inspect/inspected/inspected donate/donated/donated inherit/inherited/inherited rent/rented/rented own/owned/owned
lead/led/led found/founded/founded join/joined/joined write/wrote/written read/read/read publish/published/published sign/signed/signed
translate/translated/translated print/printed/printed record/recorded/recorded play/played/played win/won/won defeat/defeated/defeated
admire/admired/admired forget/forgot/forgotten remember/remembered/remembered mention/mentioned/mentioned report/reported/reported
approve/approved/approved reject/rejected/rejected cancel/cancelled/cancelled announce/announced/announced
polish/polished/polished wrap/wrapped/wrapped smuggle/smuggled/smuggled rescue/rescued/rescued decorate/decorated/decorated
sketch/sketched/sketched auction/auctioned/auctioned unlock/unlocked/unlocked drag/dragged/dragged swap/swapped/swapped
sharpen/sharpened/sharpened praise/praised/praised deliver/delivered/delivered sew/sewed/sewn blame/blamed/blamed stack/stacked/stacked
greet/greeted/greeted mend/mended/mended frighten/frightened/frightened melt/melted/melted""")]
HELD_VERBS = VERBS[-20:]
VERBS = VERBS[:-20]
TVERBS = [v.split('/') for v in W("""read/reads store/stores send/sends check/checks write/writes load/loads drop/drops count/counts copy/copies
delete/deletes update/updates validate/validates return/returns parse/parses build/builds reject/rejects accept/accepts forward/forwards
encrypt/encrypts compress/compresses open/opens close/closes create/creates merge/merges split/splits sort/sorts filter/filters
report/reports publish/publishes record/records replace/replaces skip/skips retry/retries cancel/cancels schedule/schedules
release/releases allocate/allocates render/renders sign/signs fetch/fetches cache/caches flush/flushes rotate/rotates restore/restores
limit/limits hold/holds own/owns watch/watches name/names mark/marks translate/translates measure/measures""")]
HELD_TVERBS = [v.split('/') for v in W("archive/archives throttle/throttles inspect/inspects duplicate/duplicates evict/evicts trim/trims poll/polls wrap/wraps")]


class Lex:
    """Samplers over one seeded random source."""

    def __init__(self, rng: random.Random, held: bool = False):
        self.r, self.held = rng, held

    def c(self, xs):
        return xs[int(self.r.random() * len(xs))]

    def p(self, x):
        return self.r.random() < x

    def syl(self, n=None):
        n = n or self.c((2, 2, 2, 3, 3, 1))
        return ''.join(self.c(ONS) + self.c(VOW) + (self.c(COD) if i == n - 1 or self.p(.3) else '') for i in range(n))

    def cap(self):
        return self.syl().capitalize()

    def first(self):
        return self.c(FIRST) if self.p(.55) else self.cap()

    def person(self):
        x = self.r.random()
        if x < .25:
            return self.first()
        n = self.first() + ' ' + (self.c(LAST) if self.p(.45) else self.cap())
        return n if x < .93 else self.c(('Doctor ', 'Captain ', 'Professor ', 'Judge ', 'Sister ', 'Mister ', 'Old ')) + n.split()[-1]

    def place(self):
        x = self.r.random()
        if x < .35:
            return self.c(PLACE)
        if x < .85:
            return self.cap()
        return self.c(('Port ', 'Lake ', 'Mount ', 'New ', 'Saint ', 'North ', 'Upper ')) + self.cap()

    def org(self):
        return self.cap() + self.c(('', '', ' Works', ' Systems', ' Group', ' Press', ' Foods', ' Labs', ' Institute', ' Society', ' Bank', ' Club', ' Motors', ' Brothers'))

    def num(self):
        x = self.r.random()
        if x < .3:
            return str(self.r.randint(2, 99))
        if x < .5:
            return str(self.r.randint(100, 9999))
        if x < .62:
            return f'{self.r.randint(1, 99)},{self.r.randint(0, 999):03d}'
        if x < .9:
            return self.c(NUMW)
        return self.c(NUMW[18:]) + '-' + self.c(NUMW[:8])

    def year(self):
        return str(self.r.randint(1050, 2035))

    def date(self):
        x = self.r.random()
        if x < .4:
            return f'{self.r.randint(1, 28)} {self.c(MONTH)} {self.year()}'
        if x < .7:
            return f'{self.c(MONTH)} {self.r.randint(1, 28)}, {self.year()}'
        return f'{self.c(MONTH)} {self.year()}'

    def time(self):
        return self.c((f'{self.r.randint(1, 12)}:{self.r.randint(0, 59):02d}', self.c(NUMW[:11]) + " o'clock", 'noon', 'midnight',
                       f'{self.c(NUMW[:11])} in the morning', f'{self.r.randint(1, 12)} pm', f'half past {self.c(NUMW[:11])}'))

    def money(self):
        return self.c((f'${self.r.randint(2, 900)}', f'{self.r.randint(2, 900)} euros', f'{self.num()} crowns', f'{self.r.randint(1, 90)}.{self.r.randint(10, 99)} dollars', f'{self.c(NUMW)} pounds', f'{self.r.randint(2, 99)} million dollars'))

    def dur(self):
        return (self.c(('', '', '', 'about ', 'almost ', 'up to ')) + (self.c(NUMW) if self.p(.6) else str(self.r.randint(2, 90))) + ' '
                + self.c(W('seconds minutes hours days weeks months years')))

    def ident(self):
        return self.c((f'{self.syl(2)}_{self.syl(1)}', f'{self.syl(1)}-{self.syl(2)}', self.c(TECH) + '_' + self.c(TNOUN), f'{self.c(TADJ)}_{self.c(TECH)}'.replace('-', '_'),
                       f'{self.syl(1)}{self.r.randint(1, 99)}', self.c(TECH) + self.c(TNOUN).capitalize()))

    def flag(self):
        return '--' + self.c((self.c(TECH) + '-' + self.c(TNOUN), self.syl(2), 'max-' + self.c(TECH) + '-' + self.c(TNOUN), 'no-' + self.c(TECH), self.c(TNOUN), self.syl(1) + '-' + self.syl(1)))

    def path(self):
        return self.c(('/etc/', '/var/log/', 'src/', 'config/', './', 'data/', 'docs/', '~/.')) + self.ident() + self.c(('.json', '.md', '.ts', '.log', '.yaml', '.txt', '.conf', ''))

    def val(self):
        return self.c((self.num, self.ident, lambda: str(self.r.randint(1, 65535)), lambda: self.c(('true', 'false', 'none', 'auto', 'off', 'on', 'all')),
                       self.path, lambda: f'{self.r.randint(0, 9)}.{self.r.randint(0, 20)}.{self.r.randint(0, 9)}', self.dur, lambda: f'{self.r.randint(1, 512)} {self.c(("MB", "GB", "KB", "ms", "s", "MiB"))}',
                       lambda: f'0.{self.r.randint(1, 99)}', lambda: '127.0.0.1:' + str(self.r.randint(1000, 9999))))()

    def noun(self):
        return self.c(self.c((THING, ANIMAL, PLACEN, FOOD, MATERIAL, JOB)))

    def np(self, head=None, det=None):
        h = head or self.c(self.c((THING, THING, ANIMAL, PLACEN)))
        a = (self.c(ADJ) + ' ') if self.p(.45) else (self.c(COLOR) + ' ' if self.p(.2) else '')
        s = a + h
        d = det or self.c(('the', 'the', 'the', 'a', 'his', 'her', 'their'))
        if d == 'a' and s[0] in 'aeiou':
            d = 'an'
        return d + ' ' + s

    def tnp(self, det='the'):
        x = self.r.random()
        h = self.c(TECH) if x < .5 else self.c(TNOUN) if x < .65 else self.c(TECH) + ' ' + self.c(TNOUN) if x < .9 else self.syl(2)
        s = (self.c(TADJ) + ' ' if self.p(.3) else '') + h
        if det == 'a' and s[0] in 'aeiou':
            det = 'an'
        return (det + ' ' + s).strip()

    def attr(self):
        while True:
            a = self.c(ATTR)
            if (a in HELD_ATTR) == self.held:
                return a

    def verb(self):
        return self.c(HELD_VERBS if self.held else VERBS)

    def tverb(self):
        return self.c(HELD_TVERBS if self.held else TVERBS)

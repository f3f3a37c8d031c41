"""Relations written by hand: statements, and questions per slot. `{p}` a person, and so on (TYPES); a trailing digit makes another
one of the same type. A statement that starts with `~` is kept out of training: it is a held-out pattern of a seen relation (set b).
`HELD` relations never occur in training at all.
"""
from lexicon import Lex, W, JOB, COLOR, MATERIAL, ANIMAL, FOOD, THING, PLACEN, DAY, MONTH

SEEN = """
{p} founded {o} in {y}.|{o} was founded by {p} in {y}.|In {y}, {p} founded {o}.|~{y} was the year in which {p} set up {o}. => p: Who founded {o}?|Who is the founder of {o}?|By whom was {o} founded?; y: When was {o} founded?|In which year was {o} founded?|What year did {p} found {o}?; o: What did {p} found?|Which company did {p} found?
{p} was born in {l} on {d}.|{p}, born in {l} on {d}, grew up with two brothers.|Born on {d}, {p} comes from {l}. => l: Where was {p} born?|What is the birthplace of {p}?|In which town was {p} born?; d: When was {p} born?|On what date was {p} born?
{p} is a {j} from {l}.|{p}, a {j}, lives in {l}.|{p} works as a {j} in {l}.|~In {l}, {p} earns a living as a {j}. => j: What does {p} do?|What is the job of {p}?|What is {p}'s profession?; l: Where is {p} from?|Where does {p} live?|Where does {p} work?
The capital of {l} is {l2}.|{l2} is the capital of {l}.|{l} has its capital at {l2}. => l2: What is the capital of {l}?|Which city is the capital of {l}?; l: Of which country is {l2} the capital?|What is {l2} the capital of?
The {t} costs {m}.|You can buy the {t} for {m}.|The price of the {t} is {m}.|~They ask {m} for the {t}. => m: How much does the {t} cost?|What is the price of the {t}?|How much is the {t}?
{p} bought the {t} from {p2} for {m}.|{p2} sold {p} the {t} for {m}.|For {m}, {p} bought the {t} from {p2}. => p: Who bought the {t}?; p2: Who sold the {t}?|From whom did {p} buy the {t}?; m: How much did {p} pay for the {t}?|For how much was the {t} sold?; t: What did {p} buy?|What did {p2} sell?
The {b} opens at {h} and closes at {h2}.|Opening at {h}, the {b} stays open until {h2}.|The {b} is open from {h} to {h2}. => h: When does the {b} open?|At what time does the {b} open?|What time does the {b} open?; h2: When does the {b} close?|At what time does the {b} close?|Until when is the {b} open?
The train to {l} leaves at {h} from platform {n}.|From platform {n}, the train to {l} departs at {h}. => h: When does the train to {l} leave?|At what time does the train to {l} depart?; n: Which platform does the train to {l} leave from?|From which platform does the train to {l} leave?
{p} wrote {k} in {y}.|{k} was written by {p} in {y}.|{k}, a novel by {p}, appeared in {y}. => p: Who wrote {k}?|Who is the author of {k}?; y: When was {k} written?|When did {k} appear?; k: What did {p} write?|Which book did {p} write?
{p} married {p2} in {l}.|In {l}, {p} married {p2}. => p2: Who did {p} marry?|Whom did {p} marry?; l: Where did {p} marry {p2}?|Where was the wedding of {p}?
{p} won the {w} prize in {y}.|The {w} prize went to {p} in {y}.|In {y} the {w} prize was won by {p}. => p: Who won the {w} prize?|To whom did the {w} prize go?; y: When did {p} win the {w} prize?|In which year was the {w} prize won by {p}?; w: Which prize did {p} win?
The {l} river is {n} miles long.|With {n} miles, the {l} river is the longest in the region. => n: How long is the {l} river?|How many miles long is the {l} river?
{l} has {n} inhabitants.|About {n} people live in {l}.|The population of {l} is {n}. => n: How many people live in {l}?|What is the population of {l}?|How many inhabitants does {l} have?
The {b} in {l} was built in {y}.|Built in {y}, the {b} in {l} still stands.|In {y} the people of {l} built the {b}. => y: When was the {b} in {l} built?|In what year was the {b} built?; l: Where is the {b}?|In which town is the {b}?; b: What was built in {y}?
The {a} eats {f} and {f2}.|The {a} feeds on {f} and {f2}. => f: What does the {a} eat besides {f2}?; f+f2: What does the {a} eat?|What does the {a} feed on?
The {t} is made of {x}.|{p} made the {t} out of {x}.|The {t} was carved from {x}. => x: What is the {t} made of?|Which material is the {t} made of?|What was the {t} made from?
The {t} is {c}.|{p} painted the {t} {c}.|The {t} has a {c} colour. => c: What colour is the {t}?|What is the colour of the {t}?|Which colour is the {t}?
{p} keeps the {t} in the {b}.|The {t} is kept in the {b} by {p}.|In the {b}, {p} keeps the {t}. => b: Where does {p} keep the {t}?|Where is the {t} kept?; t: What does {p} keep in the {b}?; p: Who keeps the {t} in the {b}?
The meeting is on {g} at {h} in room {n}.|On {g}, the meeting starts at {h} in room {n}.|Room {n} is booked for the meeting on {g} at {h}. => g: On which day is the meeting?|What day is the meeting?; h: When does the meeting start?|At what time is the meeting?; n: In which room is the meeting?|What room is the meeting in?
{p} travelled from {l} to {l2} by train.|By train, {p} went from {l} to {l2}. => l: From where did {p} travel?|Where did {p} travel from?; l2: Where did {p} travel to?|Where did {p} go?; p: Who travelled to {l2}?|Who went to {l2}?
{p} is the director of {o}.|{o} is led by {p}.|The director of {o} is called {p}.|~At the head of {o} stands {p}. => p: Who is the director of {o}?|Who leads {o}?|Who runs {o}?; o: What does {p} lead?|Which company does {p} lead?
{o} makes {i}.|{o} produces {i} in {l}.|The company {o} is known for its {i}. => i: What does {o} make?|What does {o} produce?|What is {o} known for?; o: Who makes {i}?|Which company makes {i}?
The phone number of {p} is {q}.|You can reach {p} at {q}.|Call {p} on {q}. => q: What is the phone number of {p}?|How can I reach {p}?|What number should I call for {p}?
The {a} lives in {z}.|You find the {a} in {z}.|The home of the {a} is {z}. => z: Where does the {a} live?|Where do you find the {a}?; a: Which animal lives in {z}?|What lives in {z}?
{p} speaks {s} and {s2}.|{p} is fluent in {s} and {s2}. => s+s2: Which languages does {p} speak?|What languages does {p} speak?
Bake the {f} for {u} at {n} degrees.|The {f} must bake at {n} degrees for {u}. => u: How long should the {f} bake?|For how long do you bake the {f}?; n: At how many degrees should the {f} bake?|At what temperature do you bake the {f}?
Mix {n} cups of {f} with {f2}.|Take {n} cups of {f} and stir in the {f2}. => n: How many cups of {f} do you need?|How much {f} is needed?; f2: What is mixed with the {f}?|What do you mix the {f} with?
{p} scored {n} points against {l}.|Against {l}, {p} scored {n} points. => n: How many points did {p} score?; l: Against whom did {p} score {n} points?|Against which team did {p} score?; p: Who scored {n} points?|Who scored against {l}?
{l} beat {l2} by {n} points.|{l2} lost to {l} by {n} points.|{l} won against {l2} by {n} points. => l: Who beat {l2}?|Which team won?|Who won?; l2: Who lost to {l}?|Which team lost?; n: By how many points did {l} win?
The battle of {l} took place in {y}.|In {y} two armies met in the battle of {l}. => y: When did the battle of {l} take place?|When was the battle of {l}?|In which year was the battle of {l}?
On {g} the temperature in {l} fell to {n} degrees.|In {l} it was {n} degrees on {g}. => n: What was the temperature in {l}?|How cold was it in {l} on {g}?; g: On which day was it {n} degrees in {l}?
The {e} option sets the {r}.|Use the {e} option to set the {r}.|The {r} is set by the {e} option.|~To choose the {r}, pass {e}. => e: Which option sets the {r}?|What sets the {r}?|How do I set the {r}?; r: What does {e} set?|What does the {e} option set?
The default value of {e} is {v}.|{e} defaults to {v}.|If {e} is not given, {v} is used.|~Unless you say otherwise, {e} takes {v}. => v: What is the default value of {e}?|What is the default of {e}?|What does {e} default to?
The {r} listens on port {n}.|Port {n} is used by the {r}.|The {r} accepts connections on port {n}. => n: Which port does the {r} listen on?|On which port does the {r} listen?|What port does the {r} use?; r: What listens on port {n}?
The {r} stores its data in {v2}.|Data of the {r} is kept in {v2}.|The {r} writes to {v2}. => v2: Where does the {r} store its data?|Where is the data of the {r} kept?|Where does the {r} write?
The {r} returns {v} if the {r2} is missing.|If the {r2} is missing, the {r} returns {v}.|When there is no {r2}, {v} comes back from the {r}. => v: What does the {r} return if the {r2} is missing?|What happens if the {r2} is missing?; r2: When does the {r} return {v}?
Run {v3} to start the {r}.|The {r} is started with {v3}.|To start the {r}, run {v3}. => v3: How do I start the {r}?|How is the {r} started?|Which command starts the {r}?; r: What does {v3} start?
The function {e} takes {v} and returns {v2}.|Given {v}, the function {e} returns {v2}. => v: What does {e} take?; v2: What does {e} return?|What is returned by {e}?
Version {v4} of {o} was released on {d}.|{o} {v4} came out on {d}.|On {d}, {o} released version {v4}. => d: When was version {v4} released?|When did {o} {v4} come out?; v4: Which version of {o} was released on {d}?|What is the version of {o}?
Error {n} means that the {r} is {rj}.|If the {r} is {rj}, error {n} is shown.|Error {n}: the {r} is {rj}. => n: Which error means that the {r} is {rj}?|Which error is shown if the {r} is {rj}?; r+rj: What does error {n} mean?
The {r} waits {u} before it gives up.|After {u} the {r} gives up. => u: How long does the {r} wait?|When does the {r} give up?|After how long does the {r} give up?
{p} left the {t} on the {t2}.|The {t} was left on the {t2} by {p}. => t2: Where did {p} leave the {t}?|Where is the {t}?|Where was the {t} left?; p: Who left the {t} on the {t2}?; t: What did {p} leave on the {t2}?
{p}'s favourite food is {f}.|{p} likes {f} best.|Most of all, {p} loves {f}. => f: What is {p}'s favourite food?|What does {p} like best?|What food does {p} love?
{p} has {n} {a}s.|There are {n} {a}s on the farm of {p}. => n: How many {a}s does {p} have?; p: Who has {n} {a}s?
{p} met {p2} at the {b}.|At the {b}, {p} met {p2}. => p2: Who did {p} meet at the {b}?|Whom did {p} meet?; b: Where did {p} meet {p2}?|Where did {p} and {p2} meet?
The {t} weighs {n} kilos.|At {n} kilos, the {t} is too heavy for one person. => n: How much does the {t} weigh?|How heavy is the {t}?|What is the weight of the {t}?
{p} studied {sb} at the university of {l}.|At the university of {l}, {p} studied {sb}. => sb: What did {p} study?|Which subject did {p} study?; l: Where did {p} study?|At which university did {p} study?
The course begins in {mo} and lasts {u}.|Starting in {mo}, the course goes on for {u}. => mo: When does the course begin?|In which month does the course start?; u: How long does the course last?
{p} was late because {bc}.|Because {bc}, {p} was late.|~The reason for {p}'s delay was that {bc}. => bc: Why was {p} late?|Why did {p} come late?
The road was closed because {bc}.|They closed the road because {bc}. => bc: Why was the road closed?|Why did they close the road?
{p} went to {l} to {pu}.|To {pu}, {p} went to {l}. => pu: Why did {p} go to {l}?|What did {p} go to {l} for?; l: Where did {p} go?|Where did {p} go to {pu}?
The island of {l} lies {n} miles from {l2}.|{n} miles from {l2} lies the island of {l}. => n: How far is {l} from {l2}?|How many miles is {l} from {l2}?; l: Which island lies {n} miles from {l2}?
{w} is a kind of {x}.|{w} is a rare {x}. => x: What is {w}?|What kind of thing is {w}?
The password of the {b} is {e}.|To enter the {b}, say {e}. => e: What is the password of the {b}?|What do you say to enter the {b}?
{p} teaches {sb} on {g}s.|On {g}s, {p} gives lessons in {sb}. => sb: What does {p} teach?|Which subject does {p} teach?; g: When does {p} teach?|On which day does {p} teach?; p: Who teaches {sb}?
The {n} passengers of the {w} were saved by {p}.|{p} saved all {n} passengers of the {w}. => n: How many passengers were on the {w}?|How many passengers were saved?; p: Who saved the passengers of the {w}?
The {w} festival is held every {mo} in {l}.|Every {mo}, {l} holds the {w} festival. => mo: When is the {w} festival held?|In which month is the {w} festival?; l: Where is the {w} festival held?|Which town holds the {w} festival?; w: Which festival is held in {l}?
The {rj} {r} is replaced every {u}.|Every {u} the {rj} {r} is replaced. => u: How often is the {r} replaced?|How often is the {rj} {r} replaced?
{p} invented the {w} engine in {l}.|The {w} engine was invented by {p} in {l}. => p: Who invented the {w} engine?; l: Where was the {w} engine invented?; w: Which engine did {p} invent?
"""

HELD = """
{p} composed {k} for {p2}.|{k} was composed by {p} for {p2}. => p: Who composed {k}?; p2: For whom did {p} compose {k}?; k: What did {p} compose?
{p} is allergic to {f}.|Doctors found that {p} is allergic to {f}. => f: What is {p} allergic to?; p: Who is allergic to {f}?
The bridge over the {l} river collapsed in {y}.|In {y} the bridge over the {l} river collapsed. => y: When did the bridge over the {l} river collapse?; l: Which river's bridge collapsed in {y}?
{o} employs {n} people in {l}.|In {l}, {o} employs {n} people. => n: How many people does {o} employ?; l: Where does {o} employ {n} people?; o: Who employs {n} people in {l}?
{p} climbed mount {w} with {p2}.|Together with {p2}, {p} climbed mount {w}. => p2: With whom did {p} climb mount {w}?; w: Which mountain did {p} climb?; p: Who climbed mount {w}?
The warranty of the {t} expires after {u}.|After {u} the warranty of the {t} expires. => u: After how long does the warranty of the {t} expire?|When does the warranty of the {t} expire?
{p} named the {a} {w}.|The {a} was named {w} by {p}. => w: What did {p} name the {a}?|What was the {a} named?; p: Who named the {a}?
The treaty of {l} ended the war between {l2} and {l3}.|The war between {l2} and {l3} was ended by the treaty of {l}. => l2+l3: Between which countries was the war?|Which countries were at war?; l: Which treaty ended the war?
{p} swims across the lake in {u}.|It takes {p} {u} to swim across the lake. => u: How long does {p} need to swim across the lake?|How long does it take {p} to swim across the lake?
The {r} can be disabled with {e}.|Setting {e} disables the {r}. => e: How can the {r} be disabled?|What disables the {r}?; r: What does {e} disable?
The {r} encrypts {r2} with {w}.|With {w}, the {r} encrypts {r2}. => w: With what does the {r} encrypt {r2}?; r2: What does the {r} encrypt?
The insurance paid {m} for the stolen {t}.|For the stolen {t} the insurance paid {m}. => m: How much did the insurance pay?|What did the insurance pay for the {t}?; t: What was stolen?
Deliveries to {l} arrive on {g}.|On {g} deliveries arrive in {l}. => g: When do deliveries to {l} arrive?|On which day do deliveries arrive in {l}?; l: Where do deliveries arrive on {g}?
The fever of {p} was treated with {f} tea.|Doctors treated the fever of {p} with {f} tea. => f: What was the fever of {p} treated with?; p: Whose fever was treated with {f} tea?
{p} resigned after {n} errors in the report.|After {n} errors in the report, {p} resigned. => p: Who resigned?; n: After how many errors did {p} resign?
"""
BECAUSE = "the bus had broken down;a tree had fallen across the road;it had rained all night;the bridge was under water;the alarm did not ring;the snow was too deep;nobody had the key;a cow stood on the rails;the fog was too thick;the engine was too hot;the children were ill;the storm had cut the wires;the lamp was broken;a wheel came off;the letter came too late".split(';')
PURPOSE = ['buy a horse', 'see the sea', 'visit a friend', 'look for work', 'learn to paint', 'sell apples', 'find an old map', 'meet the mayor', 'repair a clock', 'hear the choir', 'study birds', 'write a book', 'rest after the long winter', 'open a small shop', 'collect a debt']
HABITAT = ['the deep forest', 'cold rivers', 'the high mountains', 'dry deserts', 'old barns', 'the roots of oaks', 'warm seas', 'quiet ponds', 'the northern plains', 'rocky islands', 'hollow trees', 'the reeds along the shore', 'caves', 'the gardens of the city']
LANGS = W("French Spanish German Italian Polish Czech Danish Dutch Greek Turkish Arabic Hindi Korean Japanese Russian Swedish Latin Welsh Irish Finnish")
SUBJECT = W("history music physics chemistry law medicine geography algebra drawing biology economics philosophy grammar astronomy pottery")
RADJ = W("full empty missing invalid expired locked closed broken slow late unknown busy corrupt offline stale")


def types(L: Lex):
    c = L.c
    return dict(p=L.person, l=L.place, o=L.org, y=L.year, n=L.num, d=L.date, h=L.time, u=L.dur, m=L.money, w=L.cap, e=lambda: L.c((L.flag, L.ident, L.ident))(),
                j=lambda: c(JOB), c=lambda: c(COLOR), x=lambda: c(MATERIAL), a=lambda: c(ANIMAL), f=lambda: c(FOOD), g=lambda: c(DAY), s=lambda: c(LANGS),
                mo=lambda: c(MONTH), sb=lambda: c(SUBJECT), rj=lambda: c(RADJ), bc=lambda: c(BECAUSE), pu=lambda: c(PURPOSE), z=lambda: c(HABITAT),
                t=lambda: L.np(c(THING), 'the')[4:], b=lambda: L.np(c(PLACEN), 'the')[4:], i=lambda: (L.c(ADJS) + ' ' if L.p(.4) else '') + c(THING) + 's',
                q=lambda: '-'.join(str(L.r.randint(100, 9999)) for _ in range(2)), r=lambda: L.tnp('')[0:], v=L.val, v2=lambda: L.c((L.path, L.ident, L.val))(),
                v3=lambda: L.c(('npm run ', './', 'make ', 'python ', 'miniserve ', 'sudo ', '')) + L.ident(), v4=lambda: f'{L.r.randint(0, 20)}.{L.r.randint(0, 40)}', k=lambda: L.c((f'The {L.c(ADJS).capitalize()} {L.c(THING).capitalize()}', f'{L.cap()} and {L.cap()}', f'The {L.c(THING).capitalize()} of {L.cap()}')))


ADJS = W("old new small large light narrow wide bright dark wooden clean rare cheap ancient modern red blue green white black")


def parse(text):
    out = []
    for line in text.strip().split('\n'):
        st, qs = line.split(' => ')
        out.append((st.split('|'), [(a.strip(), b.strip().split('|')) for a, b in (x.split(':', 1) for x in qs.split('; '))]))
    return out


SEEN_R, HELD_R = parse(SEEN), parse(HELD)


def slots_in(s):
    import re
    return set(re.findall(r'\{(\w+)\}', s))


def fact(L: Lex, T, rel=None, mode='train'):
    """One statement of one relation, with its questions. mode: train | held-relation | held-pattern."""
    if rel is None:
        if mode == 'held-relation':
            rel = L.c(HELD_R)
        elif mode == 'held-pattern':
            rel = L.c([r for r in SEEN_R if r[0][-1][0] == '~'])
        else:
            rel = L.c(SEEN_R)
    sts = [s for s in rel[0] if (s[0] == '~') == (mode == 'held-pattern')]
    st = L.c(sts).lstrip('~')
    need = set().union(*(slots_in(s) for s in rel[0])) | set().union(*(slots_in(q) for _, qs in rel[1] for q in qs))
    v = {}
    for k in sorted(need):
        base = k if k in T else k.rstrip('0123456789')
        for _ in range(5):
            v[k] = T[base]()
            if list(v.values()).count(v[k]) == 1:
                break
    here = slots_in(st)
    qa = []
    s = st.format(**v)
    for key, qs in rel[1]:
        parts = key.split('+')
        if not all(x in here for x in parts):
            continue
        a = ' and '.join(v[x] for x in parts) if len(parts) > 1 else v[key]
        if parts == ['r', 'rj']:
            a = f'the {v["r"]} is {v["rj"]}'
        ok = [q for q in qs if slots_in(q) <= here]
        if ok and a in s:
            qa.append((L.c(ok).format(**v), a))
    return s[0].upper() + s[1:], qa

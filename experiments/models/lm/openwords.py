"""Passages over an open vocabulary: some seven thousand ordinary words in sentences with subordinate clauses, lists and pronouns.

The grammars of `grammar` and `relations` draw from a few hundred words, and a model that has only seen those finds nothing in ordinary
prose: matching a question to its sentence must work for any word. Words come from the synonym groups written for the retrieval models
(`../retrieval/lexicon`), so that a question can also use a synonym. Words and forms held out for evaluation set (b) are left out.
"""
import glob
import os
import re

from lexicon import ADJ, ANIMAL, DAY, FOOD, HELD_ATTR, HELD_TVERBS, HELD_VERBS, JOB, MATERIAL, MONTH, NUMW, PLACEN, TECH, THING, TNOUN, TVERBS, VERBS, Lex, W

HELD = {w for v in HELD_VERBS + HELD_TVERBS for w in v} | HELD_ATTR
IRREGULAR = {v[0]: v for v in [x.split('/') for x in W("""become/became/become begin/began/begun bite/bit/bitten blow/blew/blown
cost/cost/cost deal/dealt/dealt dig/dug/dug fall/fell/fallen feel/felt/felt fight/fought/fought fly/flew/flown freeze/froze/frozen get/got/got go/went/gone
grow/grew/grown hang/hung/hung hit/hit/hit hold/held/held hurt/hurt/hurt know/knew/known lay/laid/laid let/let/let lie/lay/lain light/lit/lit
lean/leaned/leaned make/made/made mean/meant/meant put/put/put quit/quit/quit ring/rang/rung rise/rose/risen run/ran/run say/said/said seek/sought/sought
set/set/set shake/shook/shaken shine/shone/shone shoot/shot/shot show/showed/shown shut/shut/shut sing/sang/sung sink/sank/sunk sit/sat/sat sleep/slept/slept
speak/spoke/spoken spend/spent/spent spill/spilled/spilled spread/spread/spread stand/stood/stood stick/stuck/stuck strike/struck/struck swear/swore/sworn
sweep/swept/swept swim/swam/swum swing/swung/swung tear/tore/torn tell/told/told think/thought/thought understand/understood/understood wake/woke/woken win/won/won
withdraw/withdrew/withdrawn bend/bent/bent bind/bound/bound breed/bred/bred forbid/forbade/forbidden forgive/forgave/forgiven grind/ground/ground""")] + list(VERBS)}
SEED_VERBS = set(IRREGULAR) | {v[0] for v in TVERBS} | set(W("""abandon absorb accuse achieve add admit adopt advise affect allow amuse announce annoy answer apologise appear
applaud appoint argue arrange arrest arrive ask assemble assess attach attack attract avoid bake ban beg behave believe belong boil bounce breathe bribe brush build
burn bury calculate call calm camp care carve celebrate challenge change charge chase cheat check chew choose clap climb collapse combine comfort compare compete complain
complete conceal confess confirm confuse connect consider contain continue control convince correct cough crash crawl cross crush cry cure cycle damage dance dare decay
deceive decide decorate decrease defend delay demand depart depend describe deserve detect develop digest disagree disappear discuss dismiss distribute disturb divide
doubt drain dream dress drown dry earn educate employ encourage endure enjoy enlarge enter entertain erase escape establish estimate evaporate exaggerate exchange excite
exercise expand expect expel explain explode explore export express extend extract fail fade fasten fear ferment fetch filter finish fix flatter float flood flow fold
force forecast frown fry gain gamble glue govern grab graze greet grill grumble guess guide hammer harvest hate heal heat hesitate hire hop hope hug hunt hurry identify
ignore illuminate imagine imitate import improve include increase infect inform injure insert insist install insult insure interrupt interview introduce invade invest
investigate invite iron isolate jog join joke judge jump justify kick kill kiss kneel knit knock land last laugh launch leak learn listen live lock look love lower maintain
manage march marry match memorise migrate milk mine misunderstand mix mock mourn multiply murmur name need neglect negotiate nod notice obey object observe obtain occupy offer
operate oppose organise overtake owe pack park pass pause peel perform permit persuade pinch plan plough point possess postpone pour practise pray predict prefer prepare
present preserve press pretend prevent produce promise promote pronounce protect protest prove provide pump punish purify pursue question quote race raise reach realise
recommend recover recycle reduce refuse regret relax rely repeat repel represent request require resemble resign resist respect rest retire return reveal revise reward
roast rob roll rub ruin rule sail salt satisfy scatter scold scratch scream seal search select separate serve settle sew share shave shelter shiver shop shout shrink sigh
sign slide slip smell smile sneeze snore solve sort sound sow spare specify spoil spray sprout squeeze stare start starve stay steer sting stir stop store strengthen
stretch struggle stumble subtract succeed suffer suggest supervise supply support suppose surround survive suspect swallow sweat tackle talk tame taste tax tempt thaw
threaten tickle tidy tie touch tour trade trap travel treat tremble trust try turn twist type unite urge use vanish vote wait walk wander warm warn waste water weave weld
whisper win wipe wish wonder work worry wound yawn yell"""))
SEED_ADJ = set(ADJ) | set(W("""able absent absurd active afraid alive angry asleep bad beautiful bitter blind bored brief busy calm cautious certain civil clear clever
comfortable common cruel curious dangerous dead deaf dear delicious different dull eager easy equal exact expensive fair false fast fat flat free fresh frequent funny generous
good grateful greedy guilty happy harmless healthy helpful high hollow huge humid ill important jealous kind late lazy legal lucky mad major mild modest naked near neat nervous noisy normal
obvious odd pale permanent plain pleasant polite poor popular possible precise pregnant pretty private proper public pure rapid raw ready real reliable rich ripe rough rude sad safe salty severe shallow
shy sick silent silly similar slow smart smooth sour special spicy stable steep sticky stiff strict strong stubborn stupid sudden sweet temporary tender terrible thirsty tight tired tough transparent true
ugly unusual urgent useful useless vague vain valuable violent visible weak wealthy whole wicked wild willing wise wonderful worried wrong yearly"""))


def past(v):
    if v in IRREGULAR:
        return IRREGULAR[v][1]
    if v.endswith('e'):
        return v + 'd'
    if v.endswith('y') and v[-2] not in 'aeiou':
        return v[:-1] + 'ied'
    if len(v) < 6 and re.search('[^aeiou][aeiou][bdgmnprt]$', v) and v not in ('open', 'offer', 'water', 'order', 'enter', 'answer', 'visit', 'limit', 'listen', 'cover', 'admit'):
        return v + v[-1] + 'ed'
    return v + 'ed'


def third(v):
    return v[:-1] + 'ies' if v.endswith('y') and v[-2] not in 'aeiou' else v + 'es' if re.search('(s|x|z|ch|sh|o)$', v) else v + 's'


def gerund(v):
    return v[:-1] + 'ing' if v.endswith('e') and not v.endswith('ee') else v + v[-1] + 'ing' if past(v) == v + v[-1] + 'ed' else v + 'ing'


def plural(n):
    return n if n.endswith('s') and (len(n) > 6 or not n.endswith('ss')) else n[:-1] + 'ies' if n.endswith('y') and n[-2] not in 'aeiou' else n + 'es' if re.search('(s|x|z|ch|sh)$', n) else n + 's'


def words():
    """Nouns, verbs and adjectives of the lexicon, and the synonyms of each word. A group's part of speech is that of the seed in it."""
    nouns, verbs, adjs, same = set(), set(), set(), {}
    for f in sorted(glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), '../retrieval/lexicon/*.txt'))):
        for line in open(f):
            left = [w for w in line.split(';')[0].split() if re.fullmatch('[a-z]{3,}', w) and w not in HELD]
            if not left:
                continue
            kind = verbs if set(left) & SEED_VERBS and not set(left) & (set(THING) | set(FOOD) | set(ANIMAL)) else adjs if set(left) & SEED_ADJ or left[0].endswith(('ous', 'ful', 'ive', 'less', 'able')) else nouns
            for w in left:
                kind.add(w)
                same.setdefault(w, set()).update(x for x in left if x != w)
    verbs -= {w for w in verbs if w.endswith(('tion', 'ment', 'ness', 'ity', 'ing', 'ed')) and w not in SEED_VERBS}
    adjs -= {w for w in adjs if w.endswith(('ly', 'ness', 'tion'))}
    nouns -= {w for w in nouns if w.endswith(('ly', 'ous', 'ful', 'ing', 'ed'))} | verbs | adjs
    nouns |= set(THING + ANIMAL + FOOD + MATERIAL + PLACEN + JOB + TECH + TNOUN)
    verbs |= SEED_VERBS - HELD
    return sorted(nouns), sorted(verbs), sorted(adjs | set(ADJ)), {k: sorted(v) for k, v in same.items() if v}


NOUN, VERB, ADJV, SAME = words()
PREPS = W('in near behind under beside above inside outside beyond on at by from with along across through against around towards between')
MANNER = W('quietly slowly carefully gladly proudly suddenly finally gently badly often always never usually rarely almost soon mostly still again only already quickly together twice')
OPENER = ['Later', 'In fact', 'Today', 'However', 'For this reason', 'Still', 'At first', 'Even so', 'Luckily', 'After that', 'Once', 'Since then', 'In those days', 'By then', 'Of course', 'Long ago', 'Every year', 'Sometimes', 'As a rule']


def a_an(s):
    return ('an ' if s[0] in 'aeiou' else 'a ') + s


class Open:
    """Draws clauses; every clause knows its roles, so that real questions can be asked about it."""

    def __init__(self, L: Lex):
        self.L = L

    def noun(self):
        return self.L.c(NOUN)

    def np(self, bare=False):
        L = self.L
        n, x = self.noun(), L.r.random()
        a = L.c(ADJV) + ' ' if L.p(.35) else ''
        if x < .5:
            s = 'the ' + a + n
        elif x < .62:
            s = a_an(a + n)
        elif x < .76:
            s = a + plural(n)
        elif x < .82:
            s = L.c(('most', 'some', 'many', 'all', 'several', 'few', 'other', 'both', 'no', 'these', 'any', 'such')) + ' ' + a + plural(n)
        elif x < .87:
            s = L.num() + ' ' + a + plural(n)
        elif x < .92:
            s = 'the ' + self.noun() + ' ' + n
        else:
            s = L.c(('his', 'her', 'their', 'its', 'our')) + ' ' + a + n
        if not bare and L.p(.12):
            s += ' of ' + self.np(True)
        elif not bare and L.p(.07):
            s += ' ' + L.c(PREPS) + ' ' + self.np(True)
        return s

    def when(self):
        L = self.L
        return L.c((lambda: 'in ' + L.year(), lambda: 'on ' + L.c(DAY) + L.c(('', 's')), lambda: 'in ' + L.c(MONTH), lambda: 'at ' + L.time(), lambda: 'every ' + L.c(W('morning evening night week month winter summer spring autumn year day hour') + DAY),
                    lambda: L.dur() + ' ago', lambda: 'for ' + L.dur(), lambda: 'after ' + L.dur(), lambda: 'during the ' + self.noun(), lambda: 'before the ' + self.noun(), lambda: 'in ' + L.c(W('winter summer spring autumn')), lambda: 'since ' + L.year(),
                    lambda: L.c(('twice', 'once', 'three times')) + ' a ' + L.c(W('day week month year'))))()

    def where(self):
        L = self.L
        return L.c((lambda: 'in ' + L.place(), lambda: L.c(PREPS[:11]) + ' the ' + (L.c(ADJV) + ' ' if L.p(.3) else '') + L.c(PLACEN), lambda: L.c(PREPS[:11]) + ' ' + self.np(True), lambda: L.c(PREPS) + ' the ' + self.noun() + ' of ' + L.place()))()

    def clause(self, subject=None, name=None):
        """(text, items): items are (question, answer). `subject` is how the text says it, `name` how a question does."""
        L = self.L
        who = False
        if subject is None:
            if L.p(.25):
                subject = name = L.person()
                who = True
                if L.p(.2):
                    subject += ', ' + a_an(L.c(JOB)) + ','
            elif L.p(.12):
                subject = name = 'the ' + L.c(JOB)
                who = True
            else:
                subject = name = self.np()
                name = re.sub('^(a|an) ', 'the ', name)
        else:
            who = name[0].isupper()
        # agreement: only the past is safe with every subject, so the present appears where the head's number is known
        v = L.c(VERB)
        many = bool(re.match('(most|some|many|all|several|few|other|both|these|they|such|[A-Z]?[a-z]* and )', subject.lower()))
        sing = subject.lower().startswith(('the ', 'a ', 'an ', 'it', 'he', 'she')) or who
        x = L.r.random()
        modal = L.c(W('can may must will should could would might')) if L.p(.13) else ''
        present = not modal and L.p(.42) and (many or sing)
        p = lambda s: ' '.join(s.split())
        if x < .12:  # what something is
            d = L.c((lambda: a_an(L.c(ADJV) + ' ' + self.noun()), lambda: L.c(ADJV), lambda: L.c(ADJV) + ' and ' + L.c(ADJV), lambda: 'the ' + self.noun() + ' of ' + self.np(True), lambda: L.c(('made of ', 'full of ', 'known for its ', 'used for ', 'older than ', 'good for ', 'afraid of ')) + self.np(True), lambda: L.num() + ' ' + L.c(W('metres years kilos people pages steps degrees miles')) + L.c((' long', ' old', ' high', ' wide', ''))))()
            be = 'are' if many else L.c(('is', 'is', 'was'))
            return p(f'{subject} {be} {d}'), [(L.c((f'What {be} {name}?', f'What {be} {name} like?', f'What do we know about {name}?')), d), (f'{"Who" if who else "What"} {be} {d}?', name)]
        o = self.np() if L.p(.85) else self.np(True) + ', ' + self.np(True) + ' and ' + self.np(True)
        man = L.c(MANNER) + ' ' if L.p(.16) else ''
        pl = self.where() if L.p(.45) else ''
        ti = self.when() if L.p(.42) else ''
        oc = a_an_to_the(o)
        if x < .27:  # passive
            be = L.c(('was', 'is')) if not many else L.c(('were', 'are'))
            if modal:
                be = modal + ' be'
            pp = IRREGULAR[v][2] if v in IRREGULAR else past(v)
            by = 'by ' + self.np(True) if L.p(.5) else ''
            t = p(f'{subject} {be} {man}{pp} {by} {pl} {ti}')
            b0 = be.split()[0]
            b1 = ' '.join(be.split()[1:])
            items = []
            if by:
                items += [(L.c((f'By whom {b0} {name} {b1} {pp}?', f'Who {past(v)} {name}?', f'What {past(v)} {name}?')), by[3:])]
            if pl:
                items.append((f'Where {b0} {name} {b1} {pp}?', pl))
            if ti:
                items.append((f'{when_word(ti, L)} {b0} {name} {b1} {pp}?', ti))
            items.append((f'What {be} {pp}{" " + (pl or by or ti) if pl or by or ti else ""}?', name))
            return t, [(p(q), a) for q, a in items]
        form = modal + ' ' + v if modal else (v if many else third(v)) if present else past(v)
        t = p(f'{subject} {man}{form} {o} {pl} {ti}') if L.p(.8) or not (pl or ti) else p(f'{ti or pl}, {subject} {man}{form} {o} {pl if ti else ""}')
        do = modal or ('do' if many else 'does' if present else 'did')
        items = [(L.c((f'What {do} {name} {v}?', f'What {do} {name} {v} {pl}?', f'What {do} {name} {v} {ti}?', f'What was {past(v)} by {name}?')), o), (L.c((f'{"Who" if who else "What"} {form} {oc}?', f'{"Who" if who else "What"} {form} {oc} {pl}?', f'Name what {form} {oc}.')), name)]
        if pl:
            items.append((L.c((f'Where {do} {name} {v} {oc}?', f'Where {do} {name} {v} it?', f'In which place {do} {name} {v} {oc}?')), pl))
        if ti:
            items.append((f'{when_word(ti, L)} {do} {name} {v} {oc}?', ti))
        m = re.match(r'(?:the |a |an )?(\S+) (\S+)$', o)
        if m and m.group(1) in ADJV:
            items.append((f'Which {m.group(2)} {do} {name} {v}?', o))
        m = re.match(r'(\d[\d,]*|[a-z-]+) (\S+s)$', o)
        if m and (m.group(1)[0].isdigit() or m.group(1).split('-')[0] in NUMW):
            items.append((f'How many {m.group(2)} {do} {name} {v}?', m.group(1)))
        return t, [(p(q), a) for q, a in items]

    def sentence(self, subject=None, name=None):
        L = self.L
        t, items = self.clause(subject, name)
        x = L.r.random()
        if x < .16:
            t2, i2 = self.clause(*(('it', name) if subject and L.p(.4) else (None, None)))
            t, items = t + L.c((', and ', ', but ', ', so ', '; ', ' while ', ' and ', ', or ')) + t2, items + i2
        elif x < .27:
            t2, i2 = self.clause()
            c = L.c(('because', 'because', 'since', 'although', 'if', 'when', 'until', 'so that', 'after', 'before'))
            if L.p(.6) and c not in ('so that',):
                t = f'{t} {c} {t2}'
            else:
                t = f'{c} {t2}, {t}' if c != 'so that' else f'{t} {c} {t2}'
            if c == 'because' and items:
                q = items[0][0]
                mm = re.match(r'What (did|does|do) (.+)', q)
                if mm:
                    items.append((f'Why {mm.group(1)} {mm.group(2)}', t2))
            items += i2
        elif x < .36:
            t2, i2 = self.clause(subject='which', name=items[-1][1] if items else 'it')
            t = t + ', ' + t2
        elif x < .42:
            t = L.c((f'{L.person()} said that ', 'It is known that ', 'Everyone could see that ', 'The sign says that ', f'{self.np()} showed that ', 'We believe that ')) + t
        if x >= .42 and L.p(.13):
            t = L.c(OPENER) + L.c((', ', ', ', ' ')) + t
        t = t[0].upper() + t[1:] + ('.' if L.p(.97) else '!')
        return t, [(q[0].upper() + q[1:], a) for q, a in items]

    def vary(self, q):
        """The question with other forms of its words: synonyms, number and tense, words left out."""
        L = self.L
        ws = q.rstrip('?.').split()
        out = []
        for i, w in enumerate(ws):
            x = L.r.random()
            if i and w in SAME and x < .1:
                w = L.c(SAME[w])
            elif i and len(w) > 3 and w.islower() and x < .16:
                w = plural(w) if L.p(.5) else w.rstrip('s')
            elif i > 1 and x > .95 and len(ws) > 4:
                continue
            out.append(w)
        return ' '.join(out) + q[-1]

    def passage(self, n):
        """(text, items): n sentences about one subject among others."""
        L = self.L
        topic = L.c((lambda: L.person(), lambda: L.person(), lambda: 'the ' + self.noun(), lambda: 'the ' + self.noun(), lambda: 'the ' + self.noun() + ' ' + self.noun(), lambda: 'the ' + self.noun() + ' ' + L.c(PREPS[:11]) + ' ' + L.place(), lambda: 'the ' + L.c(ADJV) + ' ' + self.noun()))()
        person = topic[0].isupper()
        pro = L.c(('he', 'she')) if person else 'it'
        short = topic.split()[-1] if person and L.p(.5) else topic if not re.search(' (in|on|at|near|by) ', topic) else re.split(' (?:in|on|at|near|by) ', topic)[0]
        parts, items = [], []
        for i in range(n):
            x = L.r.random()
            s, qa = self.sentence(topic, topic) if i == 0 and x < .7 else self.sentence(pro, short) if i and x < .22 else self.sentence(short, short) if i and x < .36 else self.sentence()
            parts.append(s)
            for q, a in qa:
                at = s.lower().find(a.lower())
                items.append((q, s[at:at + len(a)] if at >= 0 else None, s))
            for _ in range(L.c((0, 1, 1, 2))):
                g = self.keywords(s, topic)
                if g:
                    items.append((g, None, s))
        items = [(q.replace(' ?', '?'), a, s) for q, a, s in items]
        return ' '.join(parts), [(self.vary(q) if L.p(.35) else q, a, s) for q, a, s in items]

    def keywords(self, s, topic=None):
        """A question from some of the words of any sentence: keys in order or not, in the shape of a question or bare."""
        L = self.L
        cont = content(s)
        if len(cont) < 2:
            return None
        k = min(len(cont), L.c((1, 2, 2, 3, 3, 4)) if len(cont) < 9 else L.c((2, 2, 3, 3, 4, 5)))
        pick = [cont[i] for i in sorted(L.r.sample(range(len(cont)), k))]
        if L.p(.2):
            L.r.shuffle(pick)
        if topic and L.p(.4):
            t = content(topic)
            if t:
                pick.insert(L.r.randint(0, len(pick)), t[-1])
        pick = [L.c(SAME[w]) if w in SAME and k > 1 and L.p(.12) else w for w in pick]
        x = L.r.random()
        if x < .62:
            f = L.c(('What {}?', 'What is the {}?', 'Which {}?', 'Who {}?', 'How {}?', 'How does the {}?', 'How many {}?', 'When did {}?', 'When does the {}?', 'Where is the {}?', 'Where {}?', 'Why does {}?', 'Why {}?', 'How long {}?', 'Is the {}?', 'Does {}?', 'What happens when {}?', 'What does the {}?', 'What did {}?', 'At what {}?', 'In which {}?', 'How do I {}?', 'What was {}?'))
            glue = lambda i: L.c((' ', ' ', ' ', ' the ', ' of the ', ' in the ', ' a ', ' to ', ' and ', ' with ', ' for ')) if i else ''
            return f.format(''.join(glue(i) + w for i, w in enumerate(pick)))
        if x < .8:
            return L.c(('Tell me about {}.', 'What does the text say about {}?', 'What is said about {}?', 'Explain {}.', 'What about {}?', 'What is known about {}?', 'Describe {}.', 'I want to know about {}.')).format(' '.join(pick))
        return ' '.join(pick) + L.c(('', '', '?'))


def a_an_to_the(s):
    return re.sub('^(a|an) ', 'the ', s)


def when_word(t, L):
    if t.startswith('for '):
        return L.c(('How long', 'For how long'))
    if t.startswith(('twice', 'once', 'three', 'every')):
        return L.c(('How often', 'When'))
    if t.startswith('at '):
        return L.c(('When', 'At what time', 'What time'))
    if t.startswith('on ') and t.split()[1].rstrip('s') in DAY:
        return L.c(('When', 'On which day', 'On what day'))
    if re.match(r'(in|since) \d', t):
        return L.c(('When', 'In which year', 'In what year', 'Since when' if t[0] == 's' else 'When'))
    return L.c(('When', 'At what point'))


STOP = set(W("the a an of in on at to and or is was are were be by for with it its this that from as his her their he she they not has have had if when who which but so because after before can may will does did do than then into over under you your one two also only what how where there these those more most such other each any all no some many our out up may must should could would been being them him me my we us itself"))


def content(s):
    """The words of a sentence that carry meaning, as written, without punctuation at their ends."""
    return [w for w in (x.strip('.,;:!?()"\'`*[]{}') for x in s.split()) if len(w) > 1 and w.lower() not in STOP]


def ask(L: Lex, nd, ns, k):
    """Like generate.qa_sample: documents of open sentences and questions over them."""
    O = Open(L)
    docs, items = [], []
    for _ in range(nd):
        t, it = O.passage(max(1, L.r.randint(max(1, ns // 2), ns)))
        docs.append(t)
        items += it
    return docs, chosen(L, docs, items, k)


def stem(w):
    return re.sub('(ing|ed|es|s|ly)$', '', w.lower())[:6]


def chosen(L: Lex, docs, items, k):
    """Up to k questions, each of which shares more of its words with its own sentence than with any other (rare words count more)."""
    sents = list(dict.fromkeys(s for d in docs for s in re.split(r'(?<=[.!?])\s+', d)))
    bags = {s: {stem(w) for w in content(s)} for s in sents}
    df = {}
    for b in bags.values():
        for w in b:
            df[w] = df.get(w, 0) + 1
    L.r.shuffle(items)
    out, seen = [], set()
    for q, a, s in items:
        if q in seen:
            continue
        seen.add(q)
        own = bags.get(s) or {stem(w) for w in content(s)}
        qs = {stem(w) for w in content(q)}
        score = lambda b: sum(1 / df.get(w, 1) for w in qs & b)
        mine = score(own)
        if mine <= 0 or any(x != s and score(b) >= mine for x, b in bags.items()):
            continue
        out.append((q, a, s))
        if len(out) == k:
            break
    return out


def project_sentences(root):
    """Sentences of this project's own documentation and source comments, in order, one list a paragraph. Nothing of experiments/ (the evaluation
    sets are there) and nothing with a word that set (b) holds out."""
    paras = []
    def add(text):
        text = re.sub(r'\s+', ' ', text).strip()
        ss = [s for s in re.split(r'(?<=[.!?])\s+(?=[A-Z`"])', text) if 20 < len(s) < 260 and s[0].isupper() and s[-1] in '.!?' and not {w.lower() for w in re.findall('[A-Za-z]+', s)} & HELD]
        if ss:
            paras.append(ss)
    for f in sorted(glob.glob(os.path.join(root, 'docs/*.md')) + [os.path.join(root, 'README.md'), os.path.join(root, 'CONTRIBUTING.md'), os.path.join(root, 'test/README.md')]):
        text = re.sub(r'```.*?```', '\n\n', open(f).read(), flags=re.S)
        for p in re.split(r'\n\s*\n', text):
            if not p.startswith(('|', '#', '<!--')):
                add(re.sub(r'\n[-*] ', '\n', p).lstrip('-* '))
    for d, _, fs in sorted(os.walk(os.path.join(root, 'src'))):
        for f in sorted(fs):
            if not f.endswith('.ts') or f.endswith('.test.ts'):
                continue
            src = open(os.path.join(d, f)).read()
            for c in re.findall(r'/\*\*(.*?)\*/', src, flags=re.S):
                c = re.sub(r'\n\s*\* ?', '\n', c)
                for p in re.split(r'\n\s*\n', c):
                    add(re.sub(r'\{@\w+ ([^}]*)\}', r'\1', re.sub(r'@\w+', '', p)))
            for c in re.findall(r'((?:^\s*// .*\n)+)', src, flags=re.M):
                add(re.sub(r'\n?\s*// ', ' ', c))
    return paras


_PARAS = None


def project(L: Lex, nd, ns, k):
    """Documents of consecutive sentences of the project's own prose; questions made of their words."""
    global _PARAS
    if _PARAS is None:
        _PARAS = project_sentences(os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../..'))
    O = Open(L)
    docs, items = [], []
    for _ in range(nd):
        i, ss = L.r.randrange(len(_PARAS)), []
        while len(ss) < ns:
            ss += _PARAS[i % len(_PARAS)]
            i += 1
        ss = ss[:ns]
        docs.append(' '.join(ss))
        for s in ss:
            for _ in range(3):
                q = O.keywords(s, L.c(ss))
                if q:
                    items.append((q, None, s))
    return docs, chosen(L, docs, items, k)

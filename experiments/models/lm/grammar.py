"""A sentence grammar with roles. Each call draws a clause (who, what, where, when, with what, why), says it in one of many ways and can
ask for every role in it; names, attributes, definitions and technical behaviour have grammars of their own. Questions over
arbitrary sentences (in-place wh-words, key words, "what does the text say about") are made by `generic_question`.
"""
import re
from lexicon import Lex, W, JOB, THING, PLACEN, DAY, MONTH, TECH, TNOUN, ADJ, ANIMAL, FOOD, MATERIAL
from relations import BECAUSE, PURPOSE, RADJ

PREP = W("in near behind under beside above inside outside opposite beyond")
MANNER = W("quietly quickly slowly carefully gladly secretly proudly suddenly finally gently eagerly badly")
STOPW = set(W("the a an of in on at to and or is was are were be by for with it its this that from as his her their he she they not has have had if when who which but so because after before can may will does did do than then into over under you your one two"))


def subj(L: Lex):
    x = L.r.random()
    if x < .4:
        n = L.person()
        return n, n, 'who'
    if x < .65:
        n = L.np(L.c(JOB), L.c(('the', 'the', 'a')))
        return n, 'the ' + n.split(' ', 1)[1], 'who'
    if x < .8:
        n = L.np(L.c(ANIMAL), 'the')
        return n, n, 'what'
    n = L.person()
    return n + ', ' + L.np(L.c(JOB), 'a' if L.p(.6) else 'the') + ',', n, 'who'


def obj(L: Lex):
    x = L.r.random()
    if x < .6:
        return L.np(L.c(L.c((THING, THING, FOOD, ANIMAL))))
    if x < .7:
        return f'{L.num()} {L.c(THING)}s'
    if x < .8:
        return f'{L.np(L.c(THING))} of {L.np(L.c(JOB), "the") if L.p(.5) else L.cap()}'
    if x < .9:
        return f'{L.np(L.c(THING), "a")} made of {L.c(MATERIAL)}'
    return f'{L.np(L.c(THING))} and {L.np(L.c(THING))}'


def where(L: Lex):
    x = L.r.random()
    if x < .35:
        return 'in ' + L.place()
    if x < .85:
        return f'{L.c(PREP)} {L.np(L.c(PLACEN), L.c(("the", "the", "a")))}'
    return f'{L.c(PREP)} {L.np(L.c(PLACEN), "the")} of {L.cap()}'


def when(L: Lex):
    return L.c((lambda: 'in ' + L.year(), lambda: 'on ' + L.c(DAY), lambda: 'in ' + L.c(MONTH), lambda: 'at ' + L.time(), lambda: 'on ' + L.date(), lambda: L.dur().replace('about ', '').replace('almost ', '').replace('up to ', '') + ' ago',
                lambda: L.c(('last', 'every')) + ' ' + L.c(W('morning evening night week month winter summer spring autumn year') + DAY), lambda: 'during the ' + L.c(W('storm night war feast trial journey lesson concert flood harvest')), lambda: 'before ' + L.c(W('dawn breakfast lunch dinner sunset noon midnight'))))()


def verbatim(st, qa):
    """Keeps the answers that occur in the sentence, each exactly as the sentence has it (a capital at its start included)."""
    out = []
    for q, a in qa:
        i = st.lower().find(a.lower())
        if i >= 0:
            out.append((q, st[i:i + len(a)]))
    return st, out


def clause(L: Lex):
    """A clause and its questions."""
    s_txt, s, wh = subj(L)
    base, past, part = L.verb()
    o = obj(L)
    pl = where(L) if L.p(.55) else ''
    ti = when(L) if L.p(.5) else ''
    ins = 'with ' + L.np(L.c(THING), L.c(('a', 'his', 'her'))) if L.p(.18) else ''
    bec = ''
    if L.p(.15):
        bec = 'because ' + (L.c(BECAUSE) if L.p(.5) else f'the {L.c(THING)} was {L.c(ADJ)}')
    elif L.p(.12):
        bec = 'to ' + (L.c(PURPOSE) if L.p(.4) else f'{L.c(("help", "surprise", "warn", "please", "annoy"))} {L.person()}')
    x = L.r.random()
    j = lambda *p: ' '.join(q for q in p if q)
    if x < .55:
        st = j(s_txt, past, o, ins, pl, ti, bec)
    elif x < .72 and ti:
        st = j(ti + L.c((',', '')), s_txt, past, o, ins, pl, bec)
    elif x < .8 and pl:
        st = j(pl + ',', s_txt, past, o, ins, ti, bec)
    else:
        st = j(o, 'was' if ' and ' not in o and not o.split()[-1].endswith('s') else 'were', part, 'by', s_txt.rstrip(','), ins, pl, ti, bec)
    qa = []
    who = 'Who' if wh == 'who' else L.c(('What', 'Which animal'))
    add = lambda *qs, a: qa.append((L.c(qs), a))
    tail = j(pl, ti) if L.p(.25) else (pl if L.p(.2) else ti if L.p(.2) else '')
    add(j(who, past, o, tail) + '?', j('By whom was', o, part) + '?', j(who, 'was it that', past, o) + '?', j('Name the one who', past, o) + '.', a=s)
    add(j('What did', s, base, tail) + '?', j('What was', part, 'by', s) + '?', j('What', 'was it that', s, past) + '?', a=o)
    if pl:
        add(j('Where did', s, base, o) + '?', j('Where was', o, part) + '?', j('In which place did', s, base, o) + '?', a=pl)
    if ti:
        add(j('When did', s, base, o) + '?', j('When was', o, part) + '?', j('At what point did', s, base, o) + '?', a=ti)
    if ins:
        add(j('With what did', s, base, o) + '?', j('What did', s, 'use when', s.split()[-1], past, o) + '?', a=ins[5:])
    if bec:
        add(j('Why did', s, base, o) + '?', j('For what reason was', o, part) + '?', j('What is the reason that', s, past, o) + '?', a=bec)
    st += '.'
    return verbatim(st[0].upper() + st[1:], [(q, re.sub('^(in|on|at) ', '', a)) for q, a in qa])


def attribute(L: Lex):
    """The ATTR of X is V, in many ways."""
    at = L.attr()
    x = L.c((L.person, L.place, L.org, L.cap, lambda: 'the ' + L.np(L.c(THING), 'the')[4:], lambda: 'the ' + L.np(L.c(PLACEN), 'the')[4:], lambda: L.tnp()))()
    v = L.c((L.num, L.val, L.cap, L.person, L.place, L.dur, L.money, L.date, lambda: L.np(), lambda: L.c(ADJ), lambda: L.c(ADJ) + ' and ' + L.c(ADJ)))()
    v = v[4:] if v.startswith('the ') and L.p(.5) else v
    st = L.c((f'The {at} of {x} is {v}.', f'{x} has {v} as its {at}.', f"{x}'s {at} is {v}.", f'As for {x}, the {at} is {v}.', f'{v} is the {at} of {x}.', f'{at} of {x}: {v}', f'With {v} as its {at}, {x} is well known.',
              f'The {at} of {x} was {v} until recently.', f'Records give {v} as the {at} of {x}.', f'{x} ({at}: {v}) is listed first.', f'The {at} of {x} has been {v} since {L.year()}.', f'People say that the {at} of {x} is {v}.'))
    q = L.c((f'What is the {at} of {x}?', f"What is {x}'s {at}?", f'Which {at} does {x} have?', f'What {at} does {x} have?', f'Tell me the {at} of {x}.', f'{at} of {x}?', f'What do we know about the {at} of {x}?', f'Do you know the {at} of {x}?', f'Give the {at} of {x}.'))
    return verbatim(st[0].upper() + st[1:], [(q[0].upper() + q[1:], v)])


def definition(L: Lex):
    t = L.c((L.cap, L.syl, lambda: L.c(TADJ2) + ' ' + L.c(TECH), lambda: L.c(TECH) + ' ' + L.c(TNOUN), lambda: L.syl(2) + ' ' + L.c(TECH)))()
    g = L.c((lambda: L.np(L.c(THING), 'a'), lambda: L.np(L.c(PLACEN), 'a'), lambda: L.tnp('a'), lambda: L.np(L.c(JOB), 'a'), lambda: L.np(L.c(ANIMAL), 'a')))()
    vb = L.tverb()
    d = g + L.c((f' that {vb[1]} {L.tnp()}', f' made of {L.c(MATERIAL)}', f' used to {vb[0]} {L.tnp()}', f' from {L.place()}', f' which {vb[1]} every {L.c(TNOUN)}', f' for {L.c(TNOUN)}s and {L.c(TNOUN)}s', f' with {L.num()} {L.c(TNOUN)}s', f' of {L.np(L.c(THING), "the")}', f' known for its {L.c(THING)}s'))
    a = 'an' if t[0].lower() in 'aeiou' else 'a'
    T = t if t[0].isupper() else f'{a} {t}'
    st = L.c((f'{T} is {d}.', f'{T} is {d}, and nothing else.', f'By {T} we mean {d}.', f'The word {t} stands for {d}.', f'- **{t}**: {d}.', f'{t}: {d}.', f'We call {d} {T}.', f'{T}, that is {d}, is often needed.'))
    q = L.c((f'What is {T}?', f'What is {T}?', f'What does {t} mean?', f'What is meant by {t}?', f'Define {t}.', f'Explain {t}.', f'What exactly is {T}?', f'{t}?'))
    return verbatim(st[0].upper() + st[1:], [(q[0].upper() + q[1:], d)])


TADJ2 = W("span trace shared idle fast outer inner lazy eager paged block prefix token root child remote local main")


def tech(L: Lex):
    """What software does, as documentation says it."""
    x, y, z = L.tnp(), L.tnp(L.c(('the', 'a', 'every'))), L.tnp()
    b, v = L.tverb()
    b2, v2 = L.tverb()
    k = L.r.random()
    if k < .2:
        cond = L.c((f'{z} is {L.c(RADJ)}', f'{z} grows beyond {L.num()} {L.c(TNOUN)}s', f'no {L.c(TNOUN)} is given', f'{L.flag()} is set', f'{z} {v2} {y}'))
        st = L.c((f'If {cond}, {x} {v} {y}.', f'{x} {v} {y} when {cond}.', f'{x} {v} {y} if {cond}.'))
        qa = [(L.c((f'What happens if {cond}?', f'What does {x} do when {cond}?', f'What if {cond}?')), f'{x} {v} {y}' if st.startswith('If') else st.split(' when ')[0].split(' if ')[0]),
              (L.c((f'When does {x} {b} {y}?', f'Under what condition does {x} {b} {y}?')), cond)]
    elif k < .4:
        st = L.c((f'{x} {v} {y} and {v2} {z}.', f'{x} first {v} {y}, then {v2} {z}.'))
        qa = [(L.c((f'What {v} {y}?', f'Which part {v} {y}?')), x), (L.c((f'What does {x} {b}?', f'What is it that {x} {v}?')), y), (f'What does {x} {b2}?', z), (L.c((f'What does {x} do?', f'What is the job of {x}?')), st[len(x) + 1:-1])]
    elif k < .55:
        w = L.c((f'every {L.dur()}', f'at {L.time()}', f'before {z} {v2}', f'after each {L.c(TNOUN)}', 'at start-up', 'on every request', 'once per step', 'while it waits'))
        st = L.c((f'{x} {v} {y} {w}.', f'{w}, {x} {v} {y}.'))
        qa = [(L.c((f'When does {x} {b} {y}?', f'How often does {x} {b} {y}?')), w), (f'What does {x} {b} {w}?', y)]
    elif k < .7:
        f, d = L.c((L.flag, L.ident))(), f'{v} {y}' + (f' {L.c(("in", "from", "through", "before", "without"))} {z}' if L.p(.5) else '')
        f = f'`{f}`' if L.p(.5) else f
        st = L.c((f'{f} {d}.', f'- {f}: {d}', f'The option {f} {d}.', f'| {f} | {d} |', f'With {f}, the server {d}.'))
        qa = [(L.c((f'What does {f} do?', f'What is {f} for?', f'What is the effect of {f}?', f'Explain {f}.')), d), (L.c((f'Which option {d}?', f'What {d}?')), f)]
    elif k < .85:
        why = L.c((f'{z} {v2} {L.tnp("a")}', f'{z} is {L.c(RADJ)}', f'it is {L.c(ADJ)}', f'a {L.c(TNOUN)} would be {L.c(RADJ)}'))
        st = L.c((f'{x} never {v} {y}, because {why}.', f'{x} {v} {y} because {why}.', f'Because {why}, {x} {v} {y}.'))
        qa = [(L.c((f'Why does {x} {b} {y}?', f'What is the reason that {x} {v} {y}?')) if 'never' not in st else f'Why does {x} never {b} {y}?', why)]
    else:
        n = L.num()
        u = L.c(TNOUN)
        st = L.c((f'{x} holds at most {n} {u}s.', f'At most {n} {u}s fit into {x}.', f'{x} is limited to {n} {u}s.', f'{x} has {n} {u}s.'))
        qa = [(L.c((f'How many {u}s does {x} hold?', f'How many {u}s fit into {x}?', f'What is the limit of {x}?', f'How many {u}s are in {x}?')), n)]
    st = st[0].upper() + st[1:]
    return verbatim(st, qa)


def generic_question(L: Lex, s: str, want_span: bool):
    """A question made from any sentence: (question, answer), or None. The answer is a span, or the sentence itself."""
    body = s.strip().rstrip('.').lstrip('-*#| ').strip()
    ws = body.split()
    if len(ws) < 4 or '|' in body:
        return None
    cont = [w.strip(',.;:()`*"') for w in ws if w.strip(',.;:()`*"').lower() not in STOPW and len(w) > 2]
    if len(cont) < 2:
        return None
    if want_span:
        n = L.c((1, 2, 2, 3, 4))
        if len(ws) <= n + 2:
            return None
        i = L.r.randint(1, len(ws) - n)
        if L.p(.5):
            i = len(ws) - n
        span = ' '.join(ws[i:i + n]).strip(',;')
        left, right = ' '.join(ws[:i]), ' '.join(ws[i + n:])
        x = L.r.random()
        if x < .45:
            return f'{left} what {right}'.strip() + '?', span
        if x < .75:
            return L.c(('Complete: ', 'Fill the gap: ', 'How does this go on: ')) + (left + ' ... ' + right if right else left + ' ...'), span
        l3 = ' '.join(ws[max(0, i - 3):i])
        return L.c((f'What comes after "{l3}"?', f'Which words follow "{l3}"?')), ' '.join(ws[i:i + n]).strip(',;')
    k = L.c((1, 1, 2, 2, 3, 3, 4))
    pick = [cont[i] for i in sorted(L.r.sample(range(len(cont)), min(k, len(cont))))]
    x = L.r.random()
    if x < .3:
        i = L.r.randint(0, max(0, len(ws) - 3))
        ph = ' '.join(ws[i:i + L.c((2, 3))]).strip(',;') if L.p(.5) else pick[0]
        q = L.c(('What does the text say about {}?', 'Tell me about {}.', 'What about {}?', 'What do the documents say about {}?', 'What is said about {}?', 'Explain {}.', 'What is known about {}?', 'What is in {}?', 'What is {}?', 'How does {} work?', 'Describe {}.')).format(ph)
    elif x < .7:
        if L.p(.3):
            L.r.shuffle(pick)
        q = L.c(('How', 'Why', 'What', 'Which', 'Where', 'When', 'Who', 'How do I', 'What happens with', 'Can you say what')) + ' ' + L.c(('', 'is ', 'does ', 'the ', 'did ', 'does the ', 'are the ')) + ' '.join(pick) + '?'
    else:
        q = ' '.join(pick)
    return q, None

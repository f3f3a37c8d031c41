"""Documents: paragraphs, lists, tables, procedures, records and Markdown sections, each with its questions.

A document is (text, items); an item is (question, short answer or None, supporting sentence or line or None).
"""
import re
from lexicon import Lex, W, THING, TECH, TNOUN, FOOD, JOB, ADJ
from grammar import clause, attribute, definition, tech, generic_question
from relations import fact
from prose import paragraph


def statement(L, T, mode='train'):
    """One sentence with questions about it, from any of the grammars."""
    if mode.startswith('held'):
        if mode == 'held-pattern':
            return fact(L, T, mode=mode)
        return L.c((lambda: fact(L, T, mode=mode), lambda: clause(L), lambda: attribute(L), lambda: tech(L)))()
    x = L.r.random()
    return fact(L, T) if x < .48 else clause(L) if x < .68 else attribute(L) if x < .77 else definition(L) if x < .84 else tech(L)


LINK = ['Later, ', 'In fact, ', 'As everyone knows, ', 'According to the report, ', 'Today, ', 'It is said that ', 'Note that ', 'However, ', 'For this reason, ', 'We know that ', 'Still, ', 'Some say that ']


def prose_doc(L, T, n, mode='train'):
    parts, items = [], []
    for i in range(n):
        if L.p(.24) and mode == 'train':
            s = L.c(paragraph(L))
            parts.append(s)
            for w in (True, False):
                g = generic_question(L, s, w)
                if g and L.p(.5):
                    items.append((g[0], g[1], s))
            continue
        s, qa = statement(L, T, mode)
        if L.p(.08) and s[1:2].islower() and s.split()[0] in ('The', 'In', 'On', 'A', 'At', 'By', 'With', 'Every', 'If', 'Because'):
            s = L.c(LINK) + s[0].lower() + s[1:]
        if s[-1] not in '.|' and '\n' not in s and s[0] != '-':
            s += '.'
        parts.append(s)
        items += [(q, a, s) for q, a in qa if a in s or a[0].upper() + a[1:] in s]
        x = L.r.random()
        if x < .22:
            g = generic_question(L, s, x < .12)
            if g:
                items.append((g[0], g[1], s))
    sep = '\n' if any(p[0] in '-|' for p in parts) else ' ' if L.p(.9) else '\n\n'
    text = sep.join(parts)
    items = [(q, a if a is None or a in text else a[0].upper() + a[1:], s) for q, a, s in items]
    return text, items


def narrative(L, T, n):
    """A person and pronouns: later sentences do not repeat the name."""
    p = L.person()
    he, his = L.c((('He', 'his'), ('She', 'her')))
    j, l = L.c(JOB), L.place()
    s0 = L.c((f'{p} is a {j} from {l}.', f'{p} works as a {j} in {l}.', f'{p}, a {j}, lives in {l}.'))
    parts, items = [s0], [(f'Where does {p} live?' if 'lives' in s0 else f'Where is {p} from?', l, s0), (L.c((f'What does {p} do?', f'What is the job of {p}?')), j, s0)]
    for _ in range(n):
        b, past, part = L.verb()
        s, qa = clause(L)
        o = L.np()
        x = L.r.random()
        if x < .5:
            pl = L.np(L.c(W('kitchen garden barn church school market harbour museum castle mill forest')), 'the')
            s = f'{he} {past} {o} in {pl}.'
            items += [(f'What did {p} {b}?', o, s), (f'Where did {p} {b} {o}?', pl, s)]
        elif x < .75:
            a, v = L.attr(), L.c((L.cap, L.num, L.person))()
            s = L.c((f'{his.capitalize()} {a} is {v}.', f'The {a} of {p} is {v}.', f'{v} is {his} {a}.'))
            items += [(f'What is the {a} of {p}?', v, s), (f"What is {p}'s {a}?", v, s)]
        else:
            y = L.year()
            s = f'In {y}, {he.lower()} {past} {o}.'
            items += [(f'When did {p} {b} {o}?', y, s), (f'What did {p} {b} in {y}?', o, s)]
        parts.append(s)
    return ' '.join(parts), items


def steps(L, T, n):
    t = L.c((f'How to {L.verb()[0]} {L.np()}', f'{L.cap()} {L.c(FOOD)}', f'Installing {L.cap()}', f'To {L.tverb()[0]} {L.tnp()}'))
    acts = []
    for _ in range(n):
        acts.append(L.c((lambda: f'{L.verb()[0].capitalize()} {L.np()} with {L.np(L.c(THING), "a")}.', lambda: f'{L.tverb()[0].capitalize()} {L.tnp()}.', lambda: f'Run {L.ident()} {L.flag()}.', lambda: f'Wait {L.dur()}.', lambda: f'Add {L.num()} {L.c(FOOD)}.', lambda: f'Set {L.ident()} to {L.val()}.'))())
    words = W('first second third fourth fifth sixth')
    num = L.p(.6)
    lines = [f'{i + 1}. {a}' if num else f'Step {i + 1}: {a}' for i, a in enumerate(acts)]
    items = []
    for i in range(n):
        items.append((L.c((f'What is step {i + 1}?', f'What is the {words[i]} step?', f'What do you do in step {i + 1}?')), acts[i].rstrip('.'), lines[i]))
        if i + 1 < n:
            items.append((L.c((f'What do you do after "{acts[i].rstrip(".")}"?', f'What comes after step {i + 1}?')), acts[i + 1].rstrip('.'), lines[i + 1]))
    if L.p(.4):
        return f'{t}: First, ' + '. Then '.join(a.rstrip('.')[0].lower() + a.rstrip('.')[1:] for a in acts) + '.', []
    return ('# ' if L.p(.5) else '') + t + '\n' + '\n'.join(lines), items


def record(L, T, n):
    x = L.c((L.person, L.place, L.org, L.ident, L.cap))()
    keys = list(dict.fromkeys(L.c((L.attr, lambda: L.c(TNOUN), L.ident))() for _ in range(n)))
    vals = [L.c((L.val, L.num, L.cap, L.person, lambda: L.c(ADJ)))() for _ in keys]
    f = L.r.random()
    if f < .35:
        lines, head = [f'{k}: {v}' for k, v in zip(keys, vals)], x + '\n'
    elif f < .6:
        lines, head = [f'- **{k}**: {v}' for k, v in zip(keys, vals)], f'## {x}\n\n'
    elif f < .8:
        lines, head = [f'| {k} | {v} |' for k, v in zip(keys, vals)], f'{x}\n\n| name | value |\n| --- | --- |\n'
    else:
        lines, head = [f'  "{k}": "{v}",' for k, v in zip(keys, vals)], '{\n  "name": "' + x + '",\n'
    items = []
    for k, v, ln in zip(keys, vals, lines):
        items.append((L.c((f'What is the {k} of {x}?', f'What is the {k}?', f'{k}?', f'Which {k} does {x} have?', f'What does it say for {k}?')), v, ln.strip()))
        if vals.count(v) == 1 and L.p(.2):
            items.append((f'What is {v}?' if L.p(.3) else f'What has the value {v}?', k, ln.strip()))
    return head + '\n'.join(lines), items


def table(L, T, n):
    """Rows of things with two or three columns, as documentation has them."""
    kind = L.r.random()
    if kind < .5:
        cols = ['Flag', 'Default', L.c(('Description', 'Meaning', 'What it does'))]
        rows = []
        for _ in range(n):
            rows.append([L.c((L.flag, L.ident))(), L.val(), f'{L.tverb()[1]} {L.tnp()}'])
        qs = lambda r: [(L.c((f'What is the default of {r[0]}?', f'What does {r[0]} default to?', f'What is the default value of {r[0]}?')), r[1]), (L.c((f'What does {r[0]} do?', f'What is {r[0]} for?')), r[2]), (L.c((f'Which flag {r[2]}?', f'What {r[2]}?')), r[0])]
    else:
        a, b = L.attr(), L.attr()
        cols = ['name', a, b]
        rows = [[L.c((L.person, L.place, L.cap))(), L.c((L.num, L.cap, L.money))(), L.c((L.place, L.year, L.dur))()] for _ in range(n)]
        qs = lambda r: [(L.c((f'What is the {a} of {r[0]}?', f'Which {a} does {r[0]} have?')), r[1]), (f'What is the {b} of {r[0]}?', r[2])]
    lines = ['| ' + ' | '.join(r) + ' |' for r in [cols] + rows]
    lines.insert(1, '| ' + ' | '.join('---' for _ in cols) + ' |')
    items = [(q, a, '| ' + ' | '.join(r) + ' |') for r in rows for q, a in qs(r)]
    return '\n'.join(lines), items


def section(L, T, n):
    """A Markdown section: a heading, sentences, perhaps a list or code. Asks about the heading's subject."""
    head = L.c((lambda: L.tnp('').strip().capitalize(), lambda: L.tnp('The'), lambda: L.cap() + ' ' + L.c(TECH), lambda: L.tverb()[0].capitalize() + 'ing ' + L.tnp(''), lambda: L.c(TECH).capitalize() + 's and ' + L.c(TECH) + 's'))()
    s1, qa = L.c((tech, definition, tech))(L)
    k = L.c(TNOUN) + 's'
    parts = [L.c(W('a an one two three four five six seven each some many')) and f'{L.tnp()}' for _ in range(L.c((2, 3, 3, 4)))]
    lst = ', '.join(parts[:-1]) + ' and ' + parts[-1]
    low = head[0].lower() + head[1:]
    th = low if low.startswith('the ') else 'the ' + low
    s2 = L.c((f'It has {lst}.', f'{th.capitalize()} contains {lst}.', f'It consists of {lst}.', f'It is made of {lst}.', f'There are {len(parts)} {k}: {lst}.'))
    order = [s1, s2] if L.p(.5) else [s2, s1]
    more, mi = prose_doc(L, T, max(1, n - 2))
    items = [(q, a, s1) for q, a in qa]
    for q in (f'What is in {th}?', f'What does {th} contain?', f'What does {th} consist of?', f'What is {th} made of?', f'What are the parts of {th}?'):
        if L.p(.35):
            items.append((q, lst, s2))
    first = order[0]
    for q in (f'What is {th}?', f'Tell me about {th}.', f'How does {th} work?', f'What does the text say about {th}?'):
        if L.p(.25):
            items.append((q, None, first))
    code = f'\n\n```\n{L.c(("npm", "curl", "python", "miniserve", "make"))} {L.ident()} {L.flag()} {L.val()}\n```' if L.p(.2) else ''
    body = ' '.join(order)
    body = re.sub(r'(^|\. )- ', r'\1', body) if not body.startswith('-') else body
    items = [(q, a, s) for q, a, s in items if s in body]
    return '#' * L.c((1, 2, 2, 3)) + f' {head}\n\n{body}{code}' + (f'\n\n{more}' if n > 2 else ''), items + (mi if n > 2 else [])


def document(L, T, n, mode='train'):
    if mode.startswith('held'):
        return prose_doc(L, T, n, mode)
    x = L.r.random()
    if x < .55:
        return prose_doc(L, T, n)
    if x < .65:
        return narrative(L, T, n)
    if x < .7:
        return steps(L, T, min(6, n + 1))
    if x < .79:
        return record(L, T, n + 1)
    if x < .85:
        return table(L, T, n)
    return section(L, T, n)

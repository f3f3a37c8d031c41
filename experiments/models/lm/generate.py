"""Training and evaluation samples in the model's prompt format, and the tokenizer.

A sample is header, documents, then several questions over the same documents (each reuses the documents' tokens, so that a step holds
many more answers than one question a prompt would). `<|answer|>` asks for the short answer, `<|quote|>` for the supporting sentence.

    python generate.py tokenizer     trains out/tokenizer.json
    python generate.py show          prints samples
"""
import json
import os
import random
import re
import sys

from lexicon import ADJ, Lex, W
from relations import types, fact
from documents import document, prose_doc, statement, LINK
from openwords import ask, project
from prose import paragraph

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, 'out')
SPECIAL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|document|>', '<|question|>', '<|answer|>', '<|quote|>', '<|pad|>']
EOT, BOS, END, DOC, Q, A, QUOTE = SPECIAL[:7]
HEADER = BOS + 'Answer from the documents.\n'
UNKNOWN = 'The documents do not say.'
UNKNOWN_BARE = 'I do not know.'
VOCAB = 4096

SYSTEM = ['You are a helpful assistant.', 'Be brief.', 'Answer the question.', 'You answer questions about the text.', 'Answer from the documents.', 'Use only the text below.']
BARE = [('Who are you?', 'I am a small language model bundled with miniserve.'), ('What are you?', 'I am a small language model bundled with miniserve.'), ('Hello', 'Hello! What would you like to know?'), ('Hi', 'Hello! What would you like to know?'), ('Hello!', 'Hello! What would you like to know?'),
        ('Good morning', 'Good morning! What would you like to know?'), ('Thank you', 'You are welcome.'), ('Thanks!', 'You are welcome.'), ('What can you do?', 'I answer questions from documents.'), ('How are you?', 'I am well, thank you.'), ('Goodbye', 'Goodbye!'),
        ('What colour is the sky?', 'Blue.'), ('What colour is grass?', 'Green.'), ('What colour is snow?', 'White.'), ('How many days are in a week?', 'Seven.'), ('How many months are in a year?', 'Twelve.'), ('What is the opposite of hot?', 'Cold.'), ('What is the opposite of large?', 'Small.'), ('What day comes after Monday?', 'Tuesday.'),
        ('What day comes after Friday?', 'Saturday.'), ('What is two plus two?', 'Four.'), ('What do bees make?', 'Honey.'), ('What is the capital of France?', 'Paris.'), ('What is the capital of Italy?', 'Rome.'), ('What is the capital of Spain?', 'Madrid.'), ('What is the capital of Germany?', 'Berlin.'), ('What is the capital of Japan?', 'Tokyo.'),
        ('Tell me a joke.', 'Why did the server cross the road? To reach the other port.'), ('Is water wet?', 'Yes.'), ('Say hello', 'Hello!'), ('Say hello.', 'Hello!'), ('Help', 'Ask me a question about your documents.')]


def prompt(docs, question, cue=A):
    """The pipeline's prompt: header, documents in order, question, answer cue. Answers begin with a space."""
    return HEADER + ''.join(f'{DOC} {d}' for d in docs) + f'{Q}{question}{cue}'


def turn(L, item, modes=(.42, .74)):
    q, a, s = item
    if L.p(.06):
        q = q[0].lower() + q[1:]
    if L.p(.05):
        q = q.rstrip('?.')
    elif L.p(.04):
        q = L.c(('Please tell me: ', 'According to the documents, ', 'In the text, ', 'I wonder: ')) + q[0].lower() + q[1:]
    x = L.r.random()
    if s is None:
        return f'{Q}{q}{A if x < .7 else QUOTE} {UNKNOWN}{END}'
    if a is None or modes[0] <= x < modes[1]:
        return f'{Q}{q}{QUOTE} {s}{END}'
    if x < modes[0]:
        return f'{Q}{q}{A} {a}{END}'
    return f'{Q}{q}{QUOTE} {s}{END}{A} {a}{END}'


def qa_sample(L, T, nd, ns, k, mode='train'):
    """Documents and questions as (docs, items); items drawn from all documents, some unanswerable."""
    docs, items = [], []
    for _ in range(nd):
        t, it = document(L, T, max(1, L.r.randint(max(1, ns // 2), ns)), mode)
        docs.append(t)
        items += it
    body = '\n'.join(docs)
    # a short answer must be findable: each question's own sentence has it, and the question is asked once
    L.r.shuffle(items)
    seen, picked = set(), []
    for it in items:
        if it[0] not in seen:
            seen.add(it[0])
            picked.append(it)
        if len(picked) == k:
            break
    for i in range(max(1, len(picked))):
        if L.p(.11):
            other = document(L, T, 1, mode)[1]
            if other:
                q, a, s = L.c(other)
                if a and a not in body and s not in body and len(q) > 18:
                    picked.insert(L.r.randint(0, len(picked)), (q, None, None))
    return docs, picked


def passages(L, T, nd, ns, k):
    """Documents and questions of one of three kinds: the grammars with their exact answers, open vocabulary, the project's own prose. One
    document of another kind may stand among them."""
    x = L.r.random()
    ns_open = max(2, round(ns * .8))
    kinds = (lambda d, n, q: qa_sample(L, T, d, n, q), lambda d, n, q: ask(L, d, n, q), lambda d, n, q: project(L, d, min(n, 5), q))
    kind = 0 if x < .46 else 1 if x < .86 else 2
    docs, items = kinds[kind](nd, ns if kind == 0 else ns_open, k + (kind != 0))
    if L.p(.3):
        other = L.c((0, 1, 2))
        docs.insert(L.r.randint(0, len(docs)), kinds[other](1, L.c((1, 2, 3)), 0)[0][0])
    if kind and items and L.p(.35):
        q = L.c(ask(L, 1, 2, 3)[1] or [(None,)])[0]
        words = set(re.findall('[a-z]{4,}', (q or '').lower()))
        if q and not words & set(re.findall('[a-z]{4,}', ' '.join(docs).lower())):
            items.insert(L.r.randint(0, len(items)), (q, None, None))
    return docs, items


TITLE = W('Overview Notes Setup Configuration Server API Errors Limits History Usage Start Reference Details Rules Questions Home Numbers Places People Work')


def heading(L, text):
    """A title: some words of the text, or a general one."""
    if L.p(.3):
        return L.c(TITLE)
    words = L.c(re.split(r'(?<=[.!?])\s+', text)).strip('.!?').split()
    at = L.r.randrange(len(words))
    title = ' '.join(words[at:at + L.r.randint(1, 3)]).strip(',;:')
    return L.c(('', '', 'The ', 'How ', 'About ')) + (title if L.p(.5) else title[:1].upper() + title[1:])


def table(L):
    flag = lambda: L.c((lambda: f'`--{L.noun().replace(" ", "-")}`', lambda: f'`{L.ident()}`', lambda: L.noun()))()
    cell = lambda: L.c((flag, L.num, L.noun, lambda: f'{L.noun()} of the {L.noun()}', lambda: 'none', lambda: ''))()
    width = L.r.randint(2, 4)
    row = lambda: '| ' + ' | '.join(cell().ljust(L.c((0, 0, 12, 24))) for _ in range(width)) + ' |'
    rows = [row() for _ in range(L.r.randint(1, 4))]
    if L.p(.4):
        rows.insert(min(1, len(rows)), '|' + ' --- |' * width)
    return '\n'.join(rows)


def code(L):
    return '```' + L.c(('', 'sh', 'json')) + '\n' + '\n'.join(L.c((lambda: f'{L.noun()} --{L.noun()} {L.num()}', lambda: f'{{"{L.noun()}": "{L.ident()}"}}'))() for _ in range(L.r.randint(1, 3))) + '\n```'


def dress(L, text):
    """A passage as retrieval gives it: under its headings, lines wrapped, as a list, beside a table or code. Quotes stay as the sentence reads."""
    if L.p(.4):
        return text
    sentences = re.split(r'(?<=[.!?])\s+', text)
    if L.p(.15):
        text = '\n'.join('- ' + s for s in sentences)
    elif L.p(.5):
        words, at, width = text.split(' '), 0, L.r.randint(9, 22)
        for i in range(len(words) - 1):
            at += 1
            if at >= width and L.p(.7):
                words[i], at = words[i] + '\n', 0
        text = ' '.join(words).replace('\n ', '\n')
    if L.p(.12):
        text = L.c((f'{table(L)}\n\n{text}', f'{text}\n\n{table(L)}'))
    elif L.p(.08):
        text = L.c((f'{code(L)}\n\n{text}', f'{text}\n\n{code(L)}'))
    if L.p(.7):
        text = ' > '.join(heading(L, ' '.join(sentences)) for _ in range(L.c((1, 1, 2, 2, 3)))) + '\n' + text
    return text


def repetition(L, T, stage):
    """Text that comes twice, and pairs asked for again in another order: every token of the second half can be copied, which makes the
    copying heads form early."""
    if L.p(.5):
        one = lambda: L.c((L.cap, L.syl, L.noun, L.num, L.ident, L.person, lambda: L.c(ADJ)))()
        words = [one() for _ in range(L.r.randint(6, 22 + 12 * stage))] if L.p(.6) else [s for s, _ in (statement(L, T) for _ in range(L.c((1, 2, 3 + stage))))]
        text = ' ' + ' '.join(words)
        return (text + '\n') * L.c((2, 2, 3)) + EOT
    n = L.r.randint(3, 7 + 2 * stage)
    val = L.c((L.cap, L.num, L.person, L.val, L.noun))
    key = L.c((L.cap, L.noun, L.ident, L.person, L.syl))
    kv = {key(): val() for _ in range(n)}
    sep = L.c((' is ', ': ', ' = ', ' has ', ' likes ', ' -> '))
    out = ''.join(f'{k}{sep}{v}.\n' for k, v in kv.items())
    ks = list(kv)
    L.r.shuffle(ks)
    return out + ''.join(f'{k}{sep}{kv[k]}.\n' for k in ks) + EOT


def sample(L, T, stage):
    """One training text. stage 0: short contexts; 1: middle; 2: up to six passages of 20 to 150 words."""
    x = L.r.random()
    if x < .07:
        return ' '.join(' '.join(paragraph(L)) if L.p(.8) else '\n\n' + ' '.join(paragraph(L)) for _ in range(L.c((1, 1, 2, 3)))).strip() + EOT
    if x < .09:
        t, _ = document(L, T, L.c((2, 3, 5)))
        return t + EOT
    if x < .115:
        sysm = L.c(SYSTEM) + '\n' if L.p(.4) else ''
        turns = ''
        for _ in range(L.c((1, 1, 2, 3))):
            if L.p(.7):
                q, a = L.c(BARE)
            else:
                o = statement(L, T)[1]
                q, a = (o[0][0] if o else 'Who is there?'), UNKNOWN_BARE
            turns += f'{Q}{q}{A} {a}{END}'
        return BOS + sysm + turns + EOT
    if x < (.26, .15, .13)[stage]:
        return repetition(L, T, stage)
    nd, ns, k = ((L.c((1, 1, 2)), L.c((2, 2, 3, 4)), L.c((5, 7, 9))) if stage == 0 else
                 (L.c((1, 1, 1, 1, 2, 2, 3, 4)), L.c((2, 3, 4, 5)), L.c((6, 8, 10))) if stage == 1 else
                 (L.c((2, 3, 3, 4, 5, 6)), L.c((3, 5, 7, 9)), L.c((6, 10, 14))))
    docs, items = passages(L, T, nd, ns, k)
    if not items:
        return docs[0] + EOT
    docs = [dress(L, d) for d in docs]
    y = L.r.random()
    if y < .04:
        return BOS + L.c(SYSTEM) + '\n' + '\n\n'.join(docs) + '\n' + ''.join(turn(L, i) for i in items) + EOT
    if y < .08:
        return BOS + Q + '\n\n'.join(docs) + '\n\n' + ''.join(turn(L, i) for i in items)[len(Q):] + EOT
    return HEADER + ''.join(f'{DOC} {d}' for d in docs) + ''.join(turn(L, i) for i in items) + EOT


def load_tokenizer(path=None):
    from tokenizers import Tokenizer
    mine = os.path.join(OUT, 'tokenizer.json')
    return Tokenizer.from_file(path or (mine if os.path.exists(mine) else os.path.join(HERE, '../../../models/mini-1m/tokenizer.json')))


def train_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, Regex
    r = random.Random(11)
    L = Lex(r)
    T = types(L)

    def texts():
        for i in range(24000):
            s = sample(L, T, i % 3)
            for sp in SPECIAL:
                s = s.replace(sp, '\n')
            yield s
    tok = Tokenizer(models.BPE())
    pat = r"""'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pat), 'isolated'), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts(), trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    os.makedirs(OUT, exist_ok=True)
    tok.save(os.path.join(OUT, 'tokenizer.json'))
    print('vocabulary', tok.get_vocab_size())


def eval_sets(n=200, seed=987654):
    """(a) seen patterns, (b) held-out relations, patterns, verbs and attributes, (d) unanswerable. Each: list of (docs, question, answer, sentence)."""
    out = {'a': [], 'b': [], 'd': []}
    for name, held in (('a', False), ('b', True), ('d', False)):
        r = random.Random(seed + ord(name))
        L = Lex(r, held)
        T = types(L)
        Ld = Lex(r)  # distractors come from the training grammar
        Td = types(Ld)
        while len(out[name]) < n:
            mode = 'train' if not held else L.c(('held-relation', 'held-relation', 'held-pattern', 'held-grammar'))
            nd = L.c((1, 2, 3, 4))
            docs, items = [], []
            if name == 'b' and mode == 'held-grammar':
                s, qa = L.c((lambda: __import__('grammar').clause(L), lambda: __import__('grammar').attribute(L), lambda: __import__('grammar').tech(L)))()
                items = [(q, a, s) for q, a in qa]
            elif name == 'b':
                s, qa = fact(L, T, mode=mode)
                items = [(q, a, s) for q, a in qa]
            else:
                docs0, its = qa_sample(L, T, 1, L.c((2, 3, 4)), 99)
                items = [i for i in its if i[1] and not i[0].startswith(('Complete', 'Fill', 'How does this go', 'What comes', 'Which words')) and i[2]]
                s = docs0[0]
            if not items:
                continue
            q, a, sent = L.c(items)
            if name == 'b':  # between sentences of the training grammar
                before, after = prose_doc(Ld, Td, 1)[0], prose_doc(Ld, Td, 1)[0]
                s = ' '.join([before, sent, after])
            main = '' if name == 'd' else s
            docs = [prose_doc(Ld, Td, L.c((2, 3)))[0] for _ in range(nd if name == 'd' else nd - 1)]
            if name != 'd':
                docs.insert(L.r.randint(0, len(docs)), main)
                if sum(d.count(a) for d in docs) > 3:
                    continue
            elif any(a in d for d in docs) or len(q) < 18:
                continue
            out[name].append((docs, q, UNKNOWN if name == 'd' else a, sent))
    return out


def hand_set():
    """(c) the hand-written questions, each passage between two others."""
    d = json.load(open(os.path.join(HERE, 'handwritten.json')))
    r = random.Random(5)
    out = []
    for i, p in enumerate(d):
        for q, a in p['qa']:
            docs = [d[j]['passage'] for j in r.sample([j for j in range(len(d)) if j != i], 2)]
            docs.insert(r.randint(0, 2), p['passage'])
            sents = [s if s.endswith('.') else s + '.' for s in p['passage'].replace('. ', '.\n').split('\n')]
            out.append((docs, q, a, next((s for s in sents if a in s), '')))
    return out


if __name__ == '__main__':
    if sys.argv[1:] == ['tokenizer']:
        train_tokenizer()
    else:
        L = Lex(random.Random(3))
        T = types(L)
        for i in range(12):
            print(sample(L, T, i % 3), '\n-----')
        e = eval_sets(12)
        for k in e:
            for x in e[k]:
                print(k, x)

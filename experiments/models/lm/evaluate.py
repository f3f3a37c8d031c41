"""Evaluates an exported folder with Hugging Face transformers: python evaluate.py [models/<name>] [--n 200]. Writes results.json.

Exact match compares the greedily generated answer with the expected one after lower-casing and dropping punctuation at either end and
leading articles and the prepositions in, on and at. Three ways to ask are measured on the same questions:
  answer   the prompt ends with <|answer|>: the short answer
  quote    the prompt ends with <|quote|>: right when the generated sentence contains the expected answer (and, as `exact`, is the sentence)
  two-step the quote is generated first, then <|answer|> is appended
"""
import argparse
import json
import math
import os
import random
import re

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from generate import A, END, EOT, HERE, QUOTE, UNKNOWN, eval_sets, hand_set, prompt
from lexicon import Lex
from relations import types
from prose import paragraph
from documents import document


def normal(s):
    s = re.sub(r'^[\W_]+|[\W_]+$', '', s.lower().strip())
    while True:
        t = re.sub(r'^(the|a|an|in|on|at) ', '', s)
        if t == s:
            return re.sub(r'\s+', ' ', s)
        s = t


class Model:
    def __init__(self, path):
        torch.set_num_threads(1)
        self.tok = AutoTokenizer.from_pretrained(path, padding_side='left')
        self.m = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    @torch.no_grad()
    def complete(self, texts, n=60, size=20):
        """Greedy continuations of many prompts, in batches of similar length, padded on the left."""
        out = [''] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for j in range(0, len(order), size):
            part = order[j:j + size]
            enc = self.tok([texts[i] for i in part], return_tensors='pt', padding=True, add_special_tokens=False)
            ids = self.m.generate(enc.input_ids, attention_mask=enc.attention_mask, max_new_tokens=n, do_sample=False)
            for i, row in zip(part, ids[:, enc.input_ids.shape[1]:]):
                out[i] = self.tok.decode(row, skip_special_tokens=True)
        return out

    @torch.no_grad()
    def bits(self, text):
        ids = self.tok(text + EOT, return_tensors='pt', add_special_tokens=False).input_ids
        return self.m(ids, labels=ids).loss.item() * (ids.shape[1] - 1) / math.log(2)


def wilson(k, n, z=1.96):
    p, d = k / n, 1 + z * z / n
    c, h = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [round((c - h) / d, 3), round((c + h) / d, 3)]


def score(model, items, log):
    r = dict(answer=0, quote_contains=0, quote_exact=0, two_step=0)
    answers = model.complete([prompt(docs, q, A) for docs, q, _, _ in items], 32)
    quotes = model.complete([prompt(docs, q, QUOTE) for docs, q, _, _ in items], 60)
    twos = model.complete([prompt(i[0], i[1], QUOTE) + quote + END + A for i, quote in zip(items, quotes)], 32)
    for (docs, q, a, s), got, quote, two in zip(items, answers, quotes, twos):
        r['answer'] += normal(got) == normal(a)
        r['quote_contains'] += normal(a) in normal(quote)
        r['quote_exact'] += quote.strip() == (UNKNOWN if a == UNKNOWN else s)
        r['two_step'] += normal(two) == normal(a)
        log.append(dict(question=q, expected=a, answer=got, quote=quote, two_step=two))
    n = len(items)
    return {k: dict(share=round(v / n, 3), interval95=wilson(v, n)) for k, v in r.items()} | dict(n=n)


def bits_per_byte(model):
    r = random.Random(424242)
    L = Lex(r)
    T = types(L)
    sets = {
        'generated prose, new draws': [' '.join(paragraph(L)) for _ in range(60)],
        'generated documents, new names and values': [document(L, T, 4)[0] for _ in range(60)],
        'hand-written prose of the evaluation': [p['passage'] for p in json.load(open(os.path.join(HERE, 'handwritten.json')))],
    }
    return {k: round(sum(model.bits(t) for t in v) / sum(len((t + '').encode()) for t in v), 3) for k, v in sets.items()}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('model', nargs='?', default=os.path.join(HERE, '../../../models/mini-1m'))
    ap.add_argument('--n', type=int, default=200)
    ap.add_argument('--out', default=os.path.join(HERE, 'results.json'))
    args = ap.parse_args()
    model = Model(args.model)
    names = dict(a='seen patterns, new names and values', b='patterns, relations, verbs and attributes absent from training', c='hand-written questions over ordinary prose', d='unanswerable')
    sets = eval_sets(args.n)
    sets['c'] = hand_set()
    res, logs = {}, {}
    for k in 'abcd':
        logs[k] = []
        res[k] = dict(what=names[k]) | score(model, sets[k], logs[k])
        print(k, json.dumps(res[k]), flush=True)
    res['bits_per_byte'] = bits_per_byte(model)
    prompts = ['The river', 'Once upon a time', 'Every morning', 'A good server', 'In winter', 'She opened the letter']
    res['completions'] = dict(zip(prompts, model.complete(prompts, 40)))
    log = os.path.join(HERE, 'out', 'training.json')
    if os.path.exists(log):
        res['training'] = json.load(open(log))
    json.dump(res, open(args.out, 'w'), indent=2, ensure_ascii=False)
    open(args.out, 'a').write('\n')
    json.dump(logs, open(os.path.join(HERE, 'out', 'answers.json'), 'w'), indent=1, ensure_ascii=False)
    print(json.dumps(res['bits_per_byte']), json.dumps(res['completions'], indent=1))


if __name__ == '__main__':
    main()

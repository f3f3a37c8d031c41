"""Trains the bundled language model on one CPU thread, against the wall clock.

    nice -n 10 python train.py --minutes 105            (resumes from out/ckpt.pt when it is there)

The schedule is driven by elapsed training time, because the machine is shared: warm-up, a constant rate, then a linear decay over the
last part of it. Every ten minutes: exact match under
greedy decoding (computed in one teacher-forced pass: an answer is right when each of its tokens and the end token is the argmax).
"""
import argparse
import json
import os
import random
import signal
import time

import torch
import torch.nn.functional as F

from generate import A, END, EOT, OUT, QUOTE, Q, eval_sets, hand_set, load_tokenizer, prompt, sample, UNKNOWN
from lexicon import Lex
from relations import types
from model import CONFIG, Llama, copying_init

ap = argparse.ArgumentParser()
ap.add_argument('--minutes', type=float, default=72, help='length of the whole run, over all restarts')
ap.add_argument('--until', type=float, default=0, help='or: unix time at which the decay ends')
ap.add_argument('--tokens', type=int, default=2048, help='tokens a step')
ap.add_argument('--lr', type=float, default=0.002, help='rate of the matrices')
ap.add_argument('--elr', type=float, default=0.003, help='rate of the embedding and the norms')
ap.add_argument('--answer-weight', type=float, default=5.0)
ap.add_argument('--decay', type=float, default=0.4)
ap.add_argument('--boot', type=float, default=0.07, help='share of the run at the start in which most rows are random tokens that come twice')
ap.add_argument('--boot-share', type=float, default=0.45)
ap.add_argument('--eval-minutes', type=float, default=10)
ap.add_argument('--bench', type=int, default=0)
args = ap.parse_args()
torch.set_num_threads(1)
torch.manual_seed(1)
tok = load_tokenizer()
ID = {s: tok.token_to_id(s) for s in (A, END, EOT, QUOTE, Q)}
model = Llama()
copying_init(model)
mats = [p for n, p in model.named_parameters() if p.ndim == 2 and 'embed' not in n]
rest = [p for n, p in model.named_parameters() if p.ndim != 2 or 'embed' in n]
print('parameters', sum(p.numel() for p in model.parameters()), flush=True)


adam = torch.optim.AdamW([dict(params=mats, base=args.lr), dict(params=rest, base=args.elr)], lr=args.lr, betas=(0.9, 0.97), weight_decay=0.0)
state = dict(step=0, elapsed=0.0, tokens=0)
CK = os.path.join(OUT, 'ckpt.pt')
if os.path.exists(CK) and not args.bench:
    ck = torch.load(CK, weights_only=False)
    model.load_state_dict(ck['model'])
    adam.load_state_dict(ck['adam'])
    state = ck['state']
    print('resumed', state, flush=True)


def save():
    torch.save(dict(model=model.state_dict(), adam=adam.state_dict(), state=state), CK + '.tmp')
    os.replace(CK + '.tmp', CK)


def batch(step, frac):
    """Rows of whole samples, cut at the row's end; ids and per-token weights."""
    r = random.Random(1_000_003 * step + 17)
    L = Lex(r)
    T = types(L)
    if frac < args.boot:
        n, stage = 128, 0
    elif frac < .18:
        n, stage = 256, 0
    elif frac < .5:
        n, stage = 400, r.choice((0, 1, 1, 1))
    else:
        x = r.random()
        n, stage = (1280, 2) if x < .06 else (400, 1) if x < .75 else (640, 2)
    rows = []
    for _ in range(max(1, args.tokens // n)):
        ids = []
        if frac < args.boot and r.random() < args.boot_share:
            while len(ids) <= n:
                part = [r.randrange(8, CONFIG['vocab_size']) for _ in range(r.randint(4, 50))]
                ids += part * r.choice((2, 2, 3))
        while len(ids) <= n:
            ids += tok.encode(sample(L, T, stage), add_special_tokens=False).ids
        rows.append(ids[:n + 1])
    x = torch.tensor(rows)
    a = (x == ID[A]) | (x == ID[QUOTE])
    e = (x == ID[END]) | (x == ID[EOT])
    inside = (a.int().cumsum(1) - e.int().cumsum(1))
    # inside answers: after a cue, up to and with the end token
    w = torch.ones(x.shape)
    on = torch.zeros(x.shape[0], dtype=torch.bool)
    for t in range(x.shape[1]):
        w[:, t][on] = args.answer_weight
        on = (on | a[:, t]) & ~e[:, t]
    return x, w[:, 1:]


def lm_loss(h, y, w):
    lg = model.logits(h)
    l = F.cross_entropy(lg.view(-1, lg.shape[-1]), y.reshape(-1), reduction='none')
    w = w.reshape(-1)
    with torch.no_grad():
        ok = (lg.argmax(-1).view(-1) == y.reshape(-1))
        m = w > 1
        acc = (ok & m).sum() / m.sum().clamp(min=1)
        raw = l[~m].mean(), l[m].mean()
    return (l * w).sum() / w.sum(), acc, raw


@torch.no_grad()
def exact(items, cue):
    hit = 0
    for docs, q, a, s in items:
        gold = a if cue == A or a == UNKNOWN else s
        p = tok.encode(prompt(docs, q, cue)).ids
        g = tok.encode(' ' + gold + END).ids
        lg = model.logits(model(torch.tensor([p + g]))[0, len(p) - 1:-1])
        hit += bool((lg.argmax(-1) == torch.tensor(g)).all())
    return hit / len(items)


@torch.no_grad()
def repeat_accuracy():
    """Share of right next tokens in the second half of random sequences that come twice: whether copying heads have formed."""
    r = random.Random(99)
    part = [[r.randrange(8, CONFIG['vocab_size']) for _ in range(40)] for _ in range(12)]
    x = torch.tensor([p + p for p in part])
    return (model.logits(model(x)).argmax(-1)[:, 40:-1] == x[:, 41:]).float().mean().item()


sets = {k: v[:80] for k, v in eval_sets(80).items()} if args.eval_minutes < 600 else {}
sets['c'] = hand_set()


def evaluate():
    model.eval()
    r = {k: round(exact(v, A), 3) for k, v in sets.items()} | {k + 'q': round(exact(sets[k], QUOTE), 3) for k in 'abc' if k in sets}
    model.train()
    return r


stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
total = args.minutes * 60
t_prev = time.time()
if args.until:
    total = state['elapsed'] + args.until - t_prev
print('planned minutes', total / 60, flush=True)
last_eval, last_save, hist = state['elapsed'], state['elapsed'], []
while state['elapsed'] < total and not stop:
    frac = state['elapsed'] / total
    x, w = batch(state['step'], frac)
    h = model(x[:, :-1])
    loss, acc, raw = lm_loss(h, x[:, 1:], w)
    for p in model.parameters():
        p.grad = None
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    m = min(1, (state['step'] + 1) / 60) * (1 if frac < 1 - args.decay else max(0.02, (1 - frac) / args.decay))
    for g in adam.param_groups:
        g['lr'] = g['base'] * m
    adam.step()
    now = time.time()
    state['step'] += 1
    state['elapsed'] += now - t_prev
    state['tokens'] += w.numel()
    t_prev = now
    hist.append((loss.item(), acc.item(), raw[0].item(), raw[1].item()))
    if state['step'] % 25 == 0:
        h_ = [sum(c) / len(hist) for c in zip(*hist)]
        print(f"step {state['step']} min {state['elapsed'] / 60:.1f} tok {state['tokens'] / 1e6:.2f}M loss {h_[0]:.3f} ans-acc {h_[1]:.3f} doc {h_[2]:.3f} ans {h_[3]:.3f} lr {m:.2f} repeat {repeat_accuracy():.2f}", flush=True)
        hist = []
    if args.bench and state['step'] >= args.bench:
        print('tokens/s', state['tokens'] / state['elapsed'])
        raise SystemExit
    if state['elapsed'] - last_eval > args.eval_minutes * 60:
        print('EVAL', json.dumps(evaluate()), flush=True)
        last_eval = state['elapsed']
    if state['elapsed'] - last_save > 180:
        save()
        last_save = state['elapsed']
save()
json.dump(dict(steps=state['step'], tokens=state['tokens'], minutes=round(state['elapsed'] / 60, 1), threads=1), open(os.path.join(OUT, 'training.json'), 'w'))
if not stop:
    print('EVAL', json.dumps(evaluate()), 'DONE', flush=True)

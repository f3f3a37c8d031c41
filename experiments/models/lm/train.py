"""Trains the bundled language model on one CPU thread, against the wall clock.

    nice -n 10 python train.py --minutes 150            (resumes from out/ckpt.pt when it is there)

The schedule is driven by elapsed training time, because the machine is shared: warm-up, a constant rate, then a linear decay over the
last part of it. Every ten minutes: exact match under greedy decoding (computed in one teacher-forced pass: an answer is right when each of its tokens and the end token is the argmax).
"""
import argparse
import json
import os
import random
import signal
import time

import torch
import torch.nn.functional as F

from generate import A, END, EOT, HERE, OUT, QUOTE, Q, eval_sets, hand_set, load_tokenizer, prompt, sample, UNKNOWN
from lexicon import Lex
from relations import types
from model import CONFIG, Llama, copying_init, transplant

ap = argparse.ArgumentParser()
ap.add_argument('--minutes', type=float, default=150, help='length of the whole run, over all restarts')
ap.add_argument('--until', type=float, default=0, help='or: unix time at which the decay ends')
ap.add_argument('--tokens', type=int, default=2048, help='tokens a step')
ap.add_argument('--lr', type=float, default=0.002, help='rate of the matrices')
ap.add_argument('--elr', type=float, default=0.003, help='rate of the embedding and the norms')
ap.add_argument('--answer-weight', type=float, default=1.5)
ap.add_argument('--first', type=int, default=4, help='tokens at the start of an answer that weigh ...')
ap.add_argument('--first-weight', type=float, default=6.0, help='... this much: they choose the sentence')
ap.add_argument('--cut', type=float, default=0.75, help='share of the quotes that are cut to their first tokens')
ap.add_argument('--keep', type=float, default=0.3, help='share of the tokens outside answers that the loss counts')
ap.add_argument('--from', dest='start', help='a checkpoint with another vocabulary to start from (its tokenizer: out/tokenizer-2048.json)')
ap.add_argument('--decay', type=float, default=0.55)
ap.add_argument('--boot', type=float, default=0.07, help='share of the run at the start in which most rows are random tokens that come twice')
ap.add_argument('--short', type=float, default=.44, help='share of the run up to which contexts are short')
ap.add_argument('--boot-share', type=float, default=0.45)
ap.add_argument('--eval-minutes', type=float, default=10)
ap.add_argument('--bench', type=int, default=0)
args = ap.parse_args()
torch.set_num_threads(1)
OLD = os.path.join(HERE, 'out', 'tokenizer-2048.json')
torch.manual_seed(1)
tok = load_tokenizer()
PAD = tok.token_to_id('<|pad|>')
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


if args.start and not state['step']:
    model.load_state_dict(transplant(torch.load(args.start, weights_only=False)['model'], load_tokenizer(OLD), tok))
    print('weights of', args.start, flush=True)


def save():
    torch.save(dict(model=model.state_dict(), adam=adam.state_dict(), state=state), CK + '.tmp')
    os.replace(CK + '.tmp', CK)


def shorten(ids, r):
    """Cuts most quotes to their first tokens, without an end token: choosing the sentence is what takes long to learn, copying it does not, and
    a step holds twice as many choices so."""
    out, i = [], 0
    while i < len(ids):
        out.append(ids[i])
        if ids[i] == ID[QUOTE] and r.random() < args.cut:
            n = r.choice((3, 4, 5, 6))
            end = next((j for j in range(i + 1, len(ids)) if ids[j] == ID[END]), len(ids))
            if end - i - 1 > n:
                out += ids[i + 1:i + 1 + n]
                i = end
        i += 1
    return out


def batch(step, frac):
    """Rows of whole samples, first fit; ids [rows, n + 1] and per-token weights [rows, n]: answers weigh more, padding nothing, and of the other
    tokens a random share counts, which saves a third of the logits' cost (most words of the passages are drawn at random anyway)."""
    r = random.Random(1_000_003 * step + 17)
    L = Lex(r)
    T = types(L)
    if frac < args.boot:
        n, stage = 256, 0
    elif frac < args.short:
        n, stage = 400, r.choice((0, 0, 1))
    else:
        x = r.random()
        n, stage = (1280, 2) if x < .05 else (640, 2) if x < .3 else (420, 1)
    count = max(1, round(args.tokens / n))
    rows, filled = [[] for _ in range(count)], 0
    misses = 0
    while misses < 6:
        ids = shorten(tok.encode(sample(L, T, stage), add_special_tokens=False).ids, r)
        if frac < args.boot and r.random() < args.boot_share:
            part = [r.randrange(8, CONFIG['vocab_size']) for _ in range(r.randint(4, 50))]
            ids = part * r.choice((2, 2, 3)) + [ID[EOT]]
        for row in rows:
            if len(row) + len(ids) <= n + 1:
                row += ids
                break
        else:
            misses += 1
    width = max(map(len, rows))
    x = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    cue = (x == ID[A]) | (x == ID[QUOTE])
    end = (x == ID[END]) | (x == ID[EOT]) | (x == ID[Q])
    # inside answers: after a cue, up to and with the end token; the first tokens say which sentence it is, the rest is copying
    w = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(step)) < args.keep, 1.0, 0.0)
    since = torch.full((x.shape[0],), 99)
    for t in range(x.shape[1]):
        inside = since < 99
        w[inside, t] = torch.where(since[inside] < args.first, args.first_weight, args.answer_weight)
        # a shortened quote has no end token: what follows it is not an answer to anything
        w[inside & (since > 0) & ((x[:, t] == ID[Q]) | (x[:, t] == ID[EOT]) | cue[:, t]), t] = 0
        since = torch.where(cue[:, t], 0, torch.where(end[:, t] | ~inside, 99, since + 1))
    w[x == PAD] = 0
    return x, w[:, 1:]


def lm_loss(h, y, w):
    at = w.reshape(-1).nonzero().squeeze(1)
    w = w.reshape(-1)[at]
    y = y.reshape(-1)[at]
    lg = model.logits(h.reshape(-1, h.shape[-1])[at])
    l = F.cross_entropy(lg, y, reduction='none')
    with torch.no_grad():
        ok = lg.argmax(-1) == y
        m = w == args.first_weight
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


def produce(queue, first, elapsed, started):
    """Batches ahead of time, in a process of its own: drawing passages takes as long as a third of a step."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    step = first
    while True:
        queue.put(batch(step, (elapsed + time.time() - started) / total))
        step += 1


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
torch.multiprocessing.set_sharing_strategy('file_system')
queue = torch.multiprocessing.Queue(24)
producer = torch.multiprocessing.Process(target=produce, args=(queue, state['step'], state['elapsed'], time.time()), daemon=True)
producer.start()
while state['elapsed'] < total and not stop:
    frac = state['elapsed'] / total
    x, w = queue.get()
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
    state['elapsed'] += min(30, now - t_prev)  # a stopped process does not count
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
producer.terminate()
json.dump(dict(steps=state['step'], tokens=state['tokens'], minutes=round(state['elapsed'] / 60, 1), threads=1), open(os.path.join(OUT, 'training.json'), 'w'))
if not stop:
    print('EVAL', json.dumps(evaluate()), 'DONE', flush=True)

"""Linear rankers over the features of features.mjs, by a listwise loss, against the product's weights: results.json."""

import json
import pathlib
import time

import numpy
import torch

HERE = pathlib.Path(__file__).parent
FOLDS = 5
L2 = 1e-2
# A passage of the right document that does not answer is worth this much of one that does.
SAME_FILE = 0.3
SCORES = ["vector", "text", "document", "topic", "interaction"]
SETS = {
    "the five scores, weights learned": SCORES,
    "and coverage of the question's words": [*SCORES, "coverage", "heading coverage", "title coverage"],
    "and headings and file names": [
        *SCORES, "heading coverage", "heading precision", "title coverage", "file name precision",
        "heading similarity", "file name similarity",
    ],
    "and nearness of the question's words": [*SCORES, "nearness"],
    "and the closest sentence": [*SCORES, "closest sentence", "passage without headings"],
    "all": None,
}

torch.set_num_threads(1)


def load(name):
    return json.loads((HERE / "out" / f"{name}-features.json").read_text())


def tensors(rows, names):
    """[questions, candidates, features], which are there, and what they are worth."""
    width = max(len(row["candidates"]) for row in rows)
    values = torch.zeros(len(rows), width, len(names))
    worth = torch.zeros(len(rows), width)
    there = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        for j, candidate in enumerate(row["candidates"]):
            values[i, j] = torch.tensor([candidate["features"][name] for name in names])
            worth[i, j] = 1 if candidate["isRight"] else SAME_FILE if candidate["isRightFile"] else 0
            there[i, j] = True
    return values, there, worth


def fit(rows, names):
    """Weights whose softmax over a question's candidates gives most to those that are worth something."""
    values, there, worth = tensors(rows, names)
    scale = values[there].std(0) + 1e-6
    known = worth.sum(1) > 0
    values, there, worth = values[known] / scale, there[known], worth[known]
    weights = torch.zeros(len(names), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        share = torch.log_softmax((values @ weights).masked_fill(~there, -1e9), 1)
        loss = -torch.logsumexp(share + worth.clamp(min=1e-12).log(), 1).mean() + L2 * (weights**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (weights.detach() / scale).numpy()


def measure(rows, score):
    """Recall at 1 and 5, MRR, right passage among five, each [questions]."""
    judged = []
    for row in rows:
        candidates = row["candidates"]
        order = sorted(range(len(candidates)), key=lambda i: -score(candidates[i]))
        documents = list(dict.fromkeys(candidates[i]["document"] for i in order))
        place = next((i for i, document in enumerate(documents) if document in row["files"]), None)
        judged.append([
            place == 0,
            place is not None and place < 5,
            0 if place is None else 1 / (place + 1),
            any(candidates[i]["isRight"] for i in order[:5]),
        ])
    return numpy.array(judged, dtype=float)


def scorer(names, weights):
    return lambda candidate: sum(weight * candidate["features"][name] for name, weight in zip(names, weights))


def crossed(rows, names):
    order = numpy.random.RandomState(0).permutation(len(rows))
    judged = numpy.zeros((len(rows), 4))
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        rest = [rows[i] for i in order if i not in set(held)]
        judged[held] = measure([rows[i] for i in held], scorer(names, fit(rest, names)))
    return judged


def shown(judged, base):
    """Means, and the paired difference of MRR with its 95 % interval by bootstrap."""
    difference = judged[:, 2] - base[:, 2]
    draws = numpy.random.RandomState(0).choice(difference, (2000, len(difference))).mean(1)
    names = ["recallAt1", "recallAt5", "mrr", "rightPassageAt5"]
    means = {name: round(float(value), 3) for name, value in zip(names, judged.mean(0))}
    return {**means, "mrrMinusProduct": [round(float(v), 3) for v in (difference.mean(), *numpy.quantile(draws, [0.025, 0.975]))]}


def main():
    train, tune = load("train"), load("tune")
    hand = lambda candidate: candidate["hand"]
    base = {"cross-validation": measure(train, hand), "tuning half": measure(tune, hand)}
    results = {"the product's weights": {name: shown(judged, judged) for name, judged in base.items()}}
    for title, names in SETS.items():
        names = names or list(train[0]["candidates"][0]["features"])
        judged = {"cross-validation": crossed(train, names), "tuning half": measure(tune, scorer(names, fit(train, names)))}
        results[title] = {name: shown(value, base[name]) for name, value in judged.items()}
    for title, entry in results.items():
        print(title, *[f"{name}: {value}" for name, value in entry.items()], sep="\n  ")
    report = {"date": time.strftime("%Y-%m-%d"), "questions": {"train": len(train), "tune": len(tune)}, "rankers": results}
    (HERE / "results.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

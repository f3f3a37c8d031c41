"""Choose the fusion settings on the dev split and store them in results.json.

    python tune_fusion.py

Every setting of the grid is scored by the sum of both halves' MRR; among those within 0.005 of the best, the one closest to
equal weights and k = 60 wins, since 80 questions cannot tell them apart.
"""

import itertools
import json
import math

from evaluate import DEFAULTS, HERE, load_signals, ranking_of, table

GRID = {"k": [10, 60], "w_bm25": [0.25, 0.5, 1.0], "w_embed": [1.0], "k_rerank": [10, 60], "w_search": [0.25, 0.5, 1.0], "w_rerank": [1.0]}
MARGIN = 0.005


def distance(settings: dict) -> float:
    return sum(abs(math.log(settings[name] / DEFAULTS[name])) for name in settings)


def main() -> None:
    questions, signals = load_signals("dev")
    scored = []
    for values in itertools.product(*GRID.values()):
        settings = dict(zip(GRID, values, strict=True))
        results = table(questions, {"all fused": ranking_of("all fused", signals, settings)}, resamples=1)
        scored.append((sum(results[kind]["all fused"]["mrr"][0] for kind in results), settings))
    best = max(score for score, _ in scored)
    chosen = min((settings for score, settings in scored if score >= best - MARGIN), key=distance)
    equal = next((score for score, settings in scored if distance(settings) == 0), None)
    print(f"best {best:.4f}, equal weights {equal}, chosen {chosen}")
    path = HERE / "results.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    saved["settings"] = chosen
    path.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Rewrite the table between the markers of README.md from results.json.

    python render_results.py
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
BEGIN, END = "<!-- results -->", "<!-- /results -->"
TITLES = {
    "eval": "Evaluation set",
    "dev": "Dev split",
    "dev with distractors": "Dev questions over the passages of both splits",
}


def main() -> None:
    saved = json.loads((HERE / "results.json").read_text())
    lines = []
    for split, title in TITLES.items():
        numbers = saved[split]
        lines += [
            "",
            f"**{title}**: {numbers['questions']} questions over {numbers['passages']} passages, value [95 % bootstrap interval]",
            "",
            "| | lexical recall@5 | lexical MRR | paraphrased recall@5 | paraphrased MRR |",
            "|---|---|---|---|---|",
        ]
        for name in numbers["results"]["lexical"]:
            cells = [numbers["results"][kind][name][m] for kind in ("lexical", "paraphrased") for m in ("recall@5", "mrr")]
            lines.append(f"| {name} | " + " | ".join(f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in cells) + " |")
    path = HERE / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(before + BEGIN + "\n".join(lines) + "\n\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Two tasks of a user's own: YAML files beside parquet files of digits, one asks, one chooses."""

from __future__ import annotations

import io
from pathlib import Path

from autoprune.zoo import load_split

READ = """\
task: my_read
dataset_path: parquet
dataset_kwargs: {data_files: {test: my_read.parquet}}
test_split: test
output_type: generate_until
doc_to_visual: image
doc_to_text: question
doc_to_target: answer
generation_kwargs: {max_new_tokens: 4, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
metadata: {autoprune: {chance: 0.1, capability: reading}}
"""

CHOOSE = """\
task: my_choice
dataset_path: parquet
dataset_kwargs: {data_files: {test: my_choice.parquet}}
test_split: test
output_type: multiple_choice
doc_to_visual: image
doc_to_text: question
doc_to_choice: options
doc_to_target: label
target_delimiter: " "
tag: [hallucination, mine]
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""


def write_tasks(folder: Path, images: int = 40) -> tuple[Path, Path]:
    """Write both tasks, and return their YAML files."""
    import datasets

    asked, chosen = [], []
    for sample in load_split("report", images):
        stream = io.BytesIO()
        assert sample.image is not None
        sample.image.save(stream, "png")
        image = {"bytes": stream.getvalue(), "path": None}
        for turn in sample.turns:
            row = {"image": image, "question": turn.question}
            if turn.source in ("read", "colour"):
                asked.append({**row, "answer": turn.answer, "category": turn.source})
            elif turn.source == "exist":
                label = ["yes", "no"].index(turn.answer)
                chosen.append({**row, "label": label, "options": ["yes", "no"]})
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, rows, text in (("my_read", asked, READ), ("my_choice", chosen, CHOOSE)):
        data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
        data.to_parquet(folder / f"{name}.parquet")
        (folder / f"{name}.yaml").write_text(text)
        files.append(folder / f"{name}.yaml")
    return files[0], files[1]

"""Tasks on the files that `benchmarks.minilm.data` writes to the folder wordnet."""

from pathlib import Path

from t2t import tasks
from t2t.tasks import sources

files = sources.jsonl({split: f"wordnet/{split}.jsonl" for split in ("train", "validation", "test")})
labels = Path("wordnet/labels.txt").read_text(encoding="utf-8").split()
tasks.add_classification("definition_category", source=files, inputs="definition", targets="category", labels=labels)
tasks.add_retrieval("definition_words", source=files, query="definition", positive="words")

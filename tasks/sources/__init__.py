"""Data sources: text, JSON lines, conversations, CSV, TSV and Parquet files, and TFDS.

All are `seqio.DataSource`s, so SeqIO accepts them too.
"""

from seqio import TfdsDataSource as tfds

from t2t.tasks.sources.blocks import BlockSource
from t2t.tasks.sources.conversations import chat
from t2t.tasks.sources.files import FileSource
from t2t.tasks.sources.lines import csv, jsonl, text, tsv
from t2t.tasks.sources.parquet import parquet

__all__ = ["BlockSource", "FileSource", "chat", "csv", "jsonl", "parquet", "text", "tfds", "tsv"]

"""Convert text to token ids and back without TensorFlow: bytes, SentencePiece, WordPiece, and any tokenizer.json (such as byte-level BPE).

The ids equal those of SeqIO's vocabulary of the same kind. `t2t.data.vocabularies` converts between the two.
"""

from t2t.vocabularies.base import Vocabulary
from t2t.vocabularies.bytes import Bytes
from t2t.vocabularies.sentencepiece import SentencePiece
from t2t.vocabularies.tokenizer import Tokenizer
from t2t.vocabularies.wordpiece import WordPiece

__all__ = ["Bytes", "SentencePiece", "Tokenizer", "Vocabulary", "WordPiece"]

"""Convert text to token ids and back without TensorFlow: bytes, characters, SentencePiece, WordPiece, any tokenizer.json (such as byte-level BPE), and Marian's files.

The ids equal those of SeqIO's vocabulary of the same kind. `t2t.data.vocabularies` converts between the two.
"""

from t2t.vocabularies.base import Vocabulary
from t2t.vocabularies.bytes import Bytes
from t2t.vocabularies.characters import Characters
from t2t.vocabularies.marian import Marian
from t2t.vocabularies.sentencepiece import SentencePiece
from t2t.vocabularies.tokenizer import Tokenizer
from t2t.vocabularies.wordpiece import WordPiece

__all__ = ["Bytes", "Characters", "Marian", "SentencePiece", "Tokenizer", "Vocabulary", "WordPiece"]

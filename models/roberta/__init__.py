"""RoBERTa (Liu et al. 2019): BERT with byte-level BPE, one token type, and two unused rows before the first learned position."""

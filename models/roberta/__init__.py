"""RoBERTa (Liu et al. 2019): BERT with byte-level BPE, one token type, and two rows before the first position that nothing reads."""

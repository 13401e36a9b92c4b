"""A classifier and a sentence encoder, fine-tuned from MiniLM and trained from scratch, on definitions of WordNet."""

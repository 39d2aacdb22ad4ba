"""Text: BERT checkpoints that read reviews (sentiment) and products (a table of vectors)."""

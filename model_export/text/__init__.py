"""Text: BERT checkpoints that read reviews (as sentiment) and products (as a table of vectors)."""

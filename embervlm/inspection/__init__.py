"""To see with one's own eyes: one example as both models read it, the whole set-up, the batches."""

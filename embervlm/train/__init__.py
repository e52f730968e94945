"""Training: stages and their settings, the loop (a thin transformers.Trainer), checkpoints, schedules, logging."""

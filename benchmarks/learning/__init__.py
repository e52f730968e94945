"""Does distillation pay? Regimes of labels x arms of training x seeds, each cell a short run of the public commands."""

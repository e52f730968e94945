"""The teacher's own answers as data: sequence-level distillation (Kim and Rush, 2016, arXiv:1606.07947)."""

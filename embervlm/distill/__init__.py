"""The mathematics of distillation across tokenizers: alignment on bytes, projected targets, loss. No models here."""

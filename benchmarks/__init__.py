"""Every number we claim: one module, one command, one JSON line last."""

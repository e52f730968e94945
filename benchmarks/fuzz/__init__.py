"""Damaged and hostile inputs through everything that reads files: each is read, or rejected with a reason."""

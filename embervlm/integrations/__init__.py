"""The student in other people's evaluation harnesses. Nothing else here imports them, and they need not be there."""

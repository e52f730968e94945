"""The student: vision tower -> projector -> language model."""

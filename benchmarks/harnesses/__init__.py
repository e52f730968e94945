"""Other people's evaluation harnesses, run for real on the embedded world and compared with our own evaluation."""

"""Qwen-VL and Qwen-VL-Chat (2023) run natively: their remote code does not import under transformers 5."""

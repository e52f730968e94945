"""No test reaches the network, and none depends on how wide the terminal is."""

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    TOKENIZERS_PARALLELISM="false",
    COLUMNS="120",
)

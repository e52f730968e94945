"""The stamps' teacher: a pretrained EfficientNet-Lite2 and a small Llama in transformers' FastVLM, a LLaVA for CNNs."""

from __future__ import annotations

from collections.abc import Iterable

from encoder import pretrained
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    LlamaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    TimmWrapperConfig,
)

ENCODER = "efficientnet_lite2"
PIXELS = 192
STRIDE = 32
IMAGE_TOKENS = (PIXELS // STRIDE) ** 2
CHANNELS = 1280
# Qwen's pattern: letters with one mark or blank before them, digits singly, punctuation with the line breaks after it.
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{{ '\nASSISTANT:\n' }}{% else %}"  # written so, because jinja drops a line break behind a block
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)


def build_processor(texts: Iterable[str], vocabulary: int = 1500) -> LlavaProcessor:
    """A byte-level BPE trained on these texts (not the student's), an image processor, a chat template."""
    bpe = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), bytes_])
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=512,
    )
    pixels = {"height": PIXELS, "width": PIXELS}
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": PIXELS}, crop_size=pixels, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor) -> FastVlmForConditionalGeneration:
    """Random language model and projector, pretrained tower; the tower's classifier is left out."""
    tokenizer = processor.tokenizer
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        **ends,
    )
    vision = TimmWrapperConfig(architecture=f"tf_{ENCODER}", do_pooling=False, hidden_size=CHANNELS)
    config = FastVlmConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = FastVlmForConditionalGeneration(config)
    weights = pretrained(ENCODER).state_dict()
    tower = model.model.vision_tower.timm_model
    tower.load_state_dict({name: weights[name] for name in tower.state_dict()})
    return model

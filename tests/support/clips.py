"""CLIPs and SigLIPs with both halves, small and random, saved as a user's folder would be."""

import json

import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

SIDE, PATCH, CELLS = 28, 7, 4
HALF = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def saved(folder, kind, embedded_folder, positions=16):
    """A CLIP or a SigLIP in a folder as users have it."""
    torch.manual_seed(5)
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder, local_files_only=True)
    end = tokenizer.convert_tokens_to_ids(tokenizer.eos_token)
    text = {**HALF, "vocab_size": len(tokenizer), "max_position_embeddings": positions, "eos_token_id": end}
    text |= {"bos_token_id": 1, "pad_token_id": 0}
    vision = {**HALF, "image_size": SIDE, "patch_size": PATCH}
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    settings = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder

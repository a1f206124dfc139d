"""LoRA adapters of many kinds, made by PEFT with random values; used by golden_adapters.py and check_adapters.py."""

import os
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
warnings.filterwarnings("ignore")

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

LINEAR = r"encoder\.layer\.\d+\..*(query|key|value|dense)"

# Name → what LoraConfig gets. `wrapped` puts the encoder inside a larger model, whose names get a prefix; `dtype` is that of the file.
CASES = {
    "lora": dict(r=4, lora_alpha=8, target_modules=["query", "value"]),
    "rslora": dict(r=4, lora_alpha=3, use_rslora=True, target_modules=["query", "key", "value", "dense"], exclude_modules=["pooler.dense"]),
    "dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=LINEAR, lora_dropout=0.1),
    "patterns": dict(
        r=4,
        lora_alpha=8,
        target_modules=["query", "value", "intermediate.dense"],
        rank_pattern={r"layer\.1\..*query": 2, "value": 6},
        alpha_pattern={"value": 3, "encoder.layer.0.intermediate.dense": 20},
    ),
    "dora_patterns": dict(
        r=3, lora_alpha=5, use_dora=True, use_rslora=True, target_modules=["key", "output.dense"], rank_pattern={"key": 5}, alpha_pattern={"output.dense": 2}
    ),
    "all_linear": dict(r=2, lora_alpha=4, target_modules="all-linear"),
    "layers": dict(r=4, lora_alpha=8, target_modules=["query", "dense"], layers_to_transform=[1], layers_pattern="layer"),
    "bias_lora_only": dict(r=4, lora_alpha=8, target_modules=["query"], bias="lora_only"),
    "bias_all": dict(r=4, lora_alpha=8, use_dora=True, target_modules=["query"], bias="all"),
    "saved_modules": dict(r=4, lora_alpha=8, target_modules=["value"], modules_to_save=["LayerNorm"]),
    "wrapped": dict(r=4, lora_alpha=8, target_modules=["query", "value"], rank_pattern={r"bert\.encoder\.layer\.0\..*": 2}, wrapped=True),
    "half": dict(r=4, lora_alpha=8, target_modules=["query", "value"], dtype=torch.float16),
    "bfloat": dict(r=4, lora_alpha=8, use_dora=True, target_modules=["query", "value"], dtype=torch.bfloat16),
}


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Gives every tensor that the adapter trains a value that shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if "lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.2 * noise)
            elif "lora_A" in name:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            elif "lora_B" in name:
                parameter.copy_(0.3 * noise / parameter.shape[1] ** 0.5)
            elif parameter.requires_grad:
                parameter.add_(0.1 * noise)


class Wrapped(torch.nn.Module):
    """A model whose encoder is a part, as in masked language models."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.bert = encoder
        self.config = encoder.config

    def forward(self, *args, **kwargs):
        return self.bert(*args, **kwargs)


def make(model_folder: Path, case: str, folder: Path, texts: list[str], seed: int = 1) -> np.ndarray:
    """Writes the adapter of a case into `folder` and gives PEFT's embeddings of the texts."""
    options = dict(CASES[case])
    wrapped, dtype = options.pop("wrapped", False), options.pop("dtype", None)
    model = SentenceTransformer(str(model_folder), device="cpu")
    encoder = model[0].auto_model
    adapted = get_peft_model(Wrapped(encoder) if wrapped else encoder, LoraConfig(**options))
    adapted.eval()
    randomize(adapted, seed)
    if dtype:  # what the file will hold, in f32
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.copy_(parameter.to(dtype).float())
    embeddings = model.encode(texts, batch_size=32, show_progress_bar=False)
    state = {k: v.to(dtype) for k, v in adapted.state_dict().items() if "lora_" in k} if dtype else None
    adapted.save_pretrained(str(folder), **({"state_dict": state} if state else {}))
    (folder / "README.md").unlink(missing_ok=True)
    return embeddings


def embed(model_folder: Path, adapter: Path, texts: list[str]) -> tuple[np.ndarray, PeftModel]:
    """PEFT's embeddings with an adapter from the disk, and the model."""
    model = SentenceTransformer(str(model_folder), device="cpu")
    adapted = PeftModel.from_pretrained(model[0].auto_model, str(adapter))
    adapted.eval()
    return model.encode(texts, batch_size=32, show_progress_bar=False), adapted

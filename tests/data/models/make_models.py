#!/usr/bin/env python3
"""Golden models: make_models.py [OUT_DIR], by default the folder that this script lies in.

Draws four tiny encoders from a fixed seed (`bert`, `roberta`, `xlm_roberta`, `bert_bin`), builds their tokenizers from the sentences
below, saves them as sentence-transformers folders, loads those folders again, and records what transformers,
sentence-transformers, PyTorch and PEFT make of them: token ids, token vectors, embeddings, gradients of InfoNCE, the losses of 20
training steps. README.md beside this script says what lies where.

Every number is also computed in f64; the largest difference is written beside it (`float64_deviation`, `losses_float64`): what
rounding alone does, and so the least tolerance that a comparison can have.
"""

import json
import logging
import math
import os
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
warnings.filterwarnings("ignore")

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizer,
    get_linear_schedule_with_warmup,
)

try:  # sentence-transformers from 6 on; older ones keep them in `models`
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
except ImportError:
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

torch.set_num_threads(2)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.disable(logging.WARNING)

SEED = 20240
HIDDEN = 32
TEMPERATURE = 0.05
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

# One meaning a line: Russian, English, Chinese.
GROUPS = [
    ("Кошка спит на тёплом подоконнике.", "A cat is sleeping on the warm windowsill.", "一只猫睡在温暖的窗台上。"),
    ("Поезд в Казань отправляется в семь утра.", "The train to Kazan leaves at seven in the morning.", "去喀山的火车早上七点出发。"),
    ("Как вылечить простуду за три дня?", "How can I cure a cold in three days?", "怎样在三天内治好感冒？"),
    ("Цены на хлеб выросли на пять процентов.", "Bread prices went up by five percent.", "面包价格上涨了百分之五。"),
    ("Дети играют в футбол во дворе школы.", "Children play football in the school yard.", "孩子们在学校院子里踢足球。"),
    ("Учёные нашли новую планету у далёкой звезды.", "Scientists found a new planet near a distant star.", "科学家在遥远的恒星旁发现了新行星。"),
    ("Мой телефон не включается после обновления.", "My phone does not turn on after the update.", "更新之后我的手机打不开了。"),
    ("Сварите рис и добавьте немного соли.", "Boil the rice and add a little salt.", "把米饭煮熟，加一点盐。"),
    ("Завтра на севере страны ожидается снег.", "Snow is expected in the north of the country tomorrow.", "明天北方预计会下雪。"),
    ("Она прочитала эту книгу за одну ночь.", "She read this book in one night.", "她一夜之间读完了这本书。"),
    ("Музей закрыт на ремонт до весны.", "The museum is closed for repairs until spring.", "博物馆关闭维修，直到春天。"),
    ("Команда проиграла со счётом один три.", "The team lost one to three.", "球队一比三输了比赛。"),
    ("Где находится ближайшая аптека?", "Where is the nearest pharmacy?", "最近的药店在哪里？"),
    ("Река вышла из берегов после дождей.", "The river burst its banks after the rains.", "大雨过后河水漫过了堤岸。"),
    ("Банк отказал нам в кредите.", "The bank refused us a loan.", "银行拒绝了我们的贷款。"),
    ("Старый мост построили двести лет назад.", "The old bridge was built two hundred years ago.", "这座旧桥建于二百年前。"),
    ("Врач посоветовал больше гулять пешком.", "The doctor advised more walking.", "医生建议多散步。"),
    ("Новый закон вступит в силу в январе.", "The new law comes into force in January.", "新法律将于一月生效。"),
    ("Фильм получился длинным и скучным.", "The film turned out long and boring.", "这部电影又长又无聊。"),
    ("Гитара стоит в углу комнаты.", "The guitar stands in the corner of the room.", "吉他放在房间的角落里。"),
    ("Сколько стоит билет на самолёт?", "How much is a plane ticket?", "一张机票多少钱？"),
    ("Пчёлы собирают мёд всё лето.", "Bees gather honey all summer.", "蜜蜂整个夏天都在采蜜。"),
    ("Ошибка в третьей строке программы.", "There is a mistake in the third line of the program.", "程序第三行有一个错误。"),
    ("Горы видны из окна гостиницы.", "The mountains can be seen from the hotel window.", "从酒店窗户可以看到群山。"),
]

LONG = " ".join(f"{ru} {en} {zh}" for ru, en, zh in GROUPS[:8])

TEXTS = [
    *(text for group in GROUPS[:7] for text in group),
    "",
    " ",
    "\t \n  \r\n",
    LONG,
    LONG[:190],
    "a",
    "я",
    "猫",
    "?!",
    "  leading and trailing spaces   ",
    "two  spaces,\ttabs\tand\nnew lines",
    "Ёжик, й и ё; naïve café, Zürich — “quotes”… №5",
    "e\u0301 combining, \ufb01 ligature, ＦＵＬＬ width, ½ ℃",
    "😀🎉 emoji 👩‍👩‍👧 и 🇷🇺 флаг 猫🐱",
    "control\x00\x01\x07\x1b\x7f\x85 characters \u200b\u200d\ufeff\u00ad\u2028 here",
    "unknown ཀ ꙮ 𝔘 𓀀 ტ",
    "[CLS] special [MASK] [SEP] words <s> <mask> </s> <pad> too",
    "Supercalifragilisticexpialidocious" * 4,
    "数字 12345 и 3.14, 10%, $7",
    "МОСКВА Moscow 莫斯科",
    "query: Где находится аптека?",
    "https://example.org/путь?q=猫&x=1#frag user@mail.ru C++ a_b",
]

SHORT = [GROUPS[3][0], GROUPS[5][1], GROUPS[7][2], "", "😀 смешанный mixed 混合 текст"]


def versions() -> dict:
    names = ("torch", "transformers", "sentence-transformers", "tokenizers", "peft", "safetensors", "numpy")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def write_json(path: Path, content: dict) -> None:
    """One key a line at the top, compact below: short, and differences stay readable."""
    head = {"generator": "tests/data/models/make_models.py", "versions": versions(), **content}
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


# ---- tokenizers ------------------------------------------------------------------------------------------------------------


def corpus() -> list[str]:
    return [text for group in GROUPS for text in group]


def frequent(counts: Counter, most: int) -> list[str]:
    """The entries with the highest count times length; in an order that depends on nothing else."""
    return sorted(counts, key=lambda piece: (-counts[piece] * len(piece), piece))[:most]


def word_piece() -> BertTokenizer:
    """Special tokens, the frequent characters, frequent beginnings of words, and frequent continuations. (The trainers of `tokenizers` for
    WordPiece and Unigram break ties by hash order: another vocabulary every time.)"""
    normalizer, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = [word for text in corpus() for word, _ in split.pre_tokenize_str(normalizer.normalize_str(text))]
    # Rare characters, mostly Chinese ones, are left out, so that some texts hold [UNK].
    alphabet = frequent(Counter("".join(words)), 170)
    inner = frequent(Counter(c for word in words for c in word[1:] if c in alphabet), 56)
    starts = frequent(Counter(word[:n] for word in words for n in range(2, len(word) + 1)), 100)
    ends = frequent(Counter(word[i:j] for word in words for i in range(1, len(word)) for j in range(i + 2, len(word) + 1)), 30)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *alphabet, *(f"##{c}" for c in inner), *starts, *(f"##{end}" for end in ends)]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})


def byte_level() -> RobertaTokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def unigram() -> XLMRobertaTokenizer:
    """Pieces of words, with the logarithm of their share as score."""
    words = ["\u2581" + word for text in corpus() for word in text.split()]
    counts = Counter(word[i:j] for word in words for i in range(len(word)) for j in range(i + 1, min(i + 9, len(word) + 1)))
    single = frequent(Counter({piece: n for piece, n in counts.items() if len(piece) == 1}), 170)
    longer = frequent(Counter({piece: n for piece, n in counts.items() if len(piece) > 1 and n > 1}), 200)
    total = sum(counts[piece] for piece in single + longer)
    scored = [(piece, round(math.log(counts[piece] / total), 4)) for piece in single + longer]
    special = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(vocab=[*special, *scored, ("<mask>", 0.0)])


# ---- models ----------------------------------------------------------------------------------------------------------------


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Wide weights, LayerNorm away from identity, biases away from zero: a swapped or forgotten tensor shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("LayerNorm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(0.15 * noise)


def sizes(tokenizer, positions: int, **more) -> dict:
    return dict(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=positions, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.15, **more)


def transformer(model, tokenizer, limit: int | None) -> Transformer:
    """The module over a plain transformers folder of `model`."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return Transformer(folder, max_seq_length=limit)


def save(folder: Path, modules: list, **options) -> None:
    model = SentenceTransformer(modules=modules, device="cpu", **options)
    model.save(str(folder), create_model_card=False)


def make_bert(out: Path) -> None:
    tokenizer = word_piece()
    model = BertModel(BertConfig(**sizes(tokenizer, 128)))
    randomize(model, SEED)
    save(out / "bert", [transformer(model, tokenizer, 48), Pooling(HIDDEN, "mean"), Normalize()])
    plain = out / "bert_bin"
    tokenizer.save_pretrained(plain)
    model.config.architectures = ["BertModel"]
    model.config.save_pretrained(plain)
    # Checkpoints of transformers before 4.31 hold this buffer.
    state = {"embeddings.position_ids": torch.arange(128).unsqueeze(0), **model.state_dict()}
    torch.save(state, plain / "pytorch_model.bin")


def make_roberta(out: Path) -> None:
    tokenizer = byte_level()
    model = RobertaModel(RobertaConfig(**sizes(tokenizer, 130, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2)))
    randomize(model, SEED + 1)
    save(out / "roberta", [transformer(model, tokenizer, 64), Pooling(HIDDEN, "cls")])
    write_legacy_layout(out / "roberta", 64)


def write_legacy_layout(folder: Path, limit: int) -> None:
    """The files of sentence-transformers up to 5.3, as most folders on the hub have them."""
    places = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
               for i, (kind, path) in enumerate(places)]
    keys = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {"word_embedding_dimension": HIDDEN, **{f"pooling_mode_{key}": key == "cls_token" for key in keys}, "include_prompt": True}
    for name, content in {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": limit, "do_lower_case": False},
        "1_Pooling/config.json": pooling,
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    # The limit is to come from sentence_bert_config.json alone.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("model_max_length", None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def make_xlm_roberta(out: Path) -> None:
    tokenizer = unigram()
    model = XLMRobertaModel(XLMRobertaConfig(**sizes(tokenizer, 130, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2)))
    randomize(model, SEED + 2)
    dense = Dense(HIDDEN, 24, bias=True, activation_function=torch.nn.Tanh())
    randomize(dense, SEED + 3)
    prompts = {"query": "query: ", "document": "passage: "}
    save(out / "xlm_roberta", [transformer(model, tokenizer, 40), Pooling(HIDDEN, "mean"), dense, Normalize()], prompts=prompts)


# ---- what is expected of them ----------------------------------------------------------------------------------------------


def load(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def features_of(model: SentenceTransformer, texts: list[str]) -> dict:
    return model.preprocess(texts) if hasattr(model, "preprocess") else model.tokenize(texts)


def forward(model: SentenceTransformer, texts: list[str]) -> torch.Tensor:
    return model(features_of(model, texts))["sentence_embedding"]


def token_ids(model: SentenceTransformer, texts: list[str]) -> list[list[int]]:
    return [features_of(model, [text])["input_ids"][0].tolist() for text in texts]


def check_tokenizer_file(folder: Path, limit: int, ids: list[list[int]]) -> None:
    """transformers 5 builds some tokenizers from the vocabulary alone; what lies in tokenizer.json must mean the same."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    for text, expected in zip(TEXTS, ids):
        assert tokenizer.encode(text).ids == expected, f"{folder.name}: {text!r}"


@torch.no_grad()
def hidden_states(model: SentenceTransformer, texts: list[str]) -> torch.Tensor:
    """Token vectors after the last layer, every text by itself, one after the other: `[tokens, hidden]`."""
    states = [model[0].auto_model(**{k: v for k, v in features_of(model, [text]).items() if torch.is_tensor(v)}).last_hidden_state[0]
              for text in texts]
    return torch.cat(states)


def embed(model: SentenceTransformer, texts: list[str], **options) -> torch.Tensor:
    return torch.from_numpy(model.encode(texts, batch_size=16, show_progress_bar=False, **options))


def views(model: SentenceTransformer, name: str) -> dict[str, torch.Tensor]:
    """Every tensor that `expected.safetensors` holds."""
    tensors = {"hidden": hidden_states(model, TEXTS), "embeddings": embed(model, TEXTS)}
    if name == "bert":
        for mode in (*MODES, ("mean", "max"), ("max", "mean")):
            label = mode if isinstance(mode, str) else "+".join(mode)
            pooled = SentenceTransformer(modules=[model[0], Pooling(HIDDEN, mode)], device="cpu")
            tensors[f"pooled.{label}"] = embed(pooled, TEXTS)
            whole = SentenceTransformer(modules=[model[0], Pooling(HIDDEN, mode), Normalize()], device="cpu")
            tensors[f"embeddings.{label}"] = embed(whole, TEXTS)
    if name == "xlm_roberta":
        for prompt in ("query", "document"):
            tensors[f"embeddings.{prompt}"] = embed(model, TEXTS, prompt_name=prompt)
        model[1].include_prompt = False
        tensors["embeddings.query.prompt_not_pooled"] = embed(model, TEXTS, prompt_name="query")
        model[1].include_prompt = True
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def expect(folder: Path) -> None:
    model = load(folder)
    limit = model.max_seq_length
    ids = token_ids(model, TEXTS)
    check_tokenizer_file(folder, limit, ids)
    assert max(map(len, ids)) == limit and min(map(len, ids)) == 2, (folder.name, limit, sorted(map(len, ids)))
    tensors = views(model, folder.name)
    exact = views(load(folder).double(), folder.name)
    deviation = {key: float((tensors[key].double() - exact[key].double()).abs().max()) for key in tensors}
    content = {"max_seq_length": limit, "prompts": model.prompts, "float64_deviation": deviation, "texts": TEXTS, "token_ids": ids}
    if folder.name == "xlm_roberta":
        for prompt in ("query", "document"):
            content[f"token_ids_{prompt}"] = token_ids(model, [model.prompts[prompt] + text for text in TEXTS])
    save_file(tensors, folder / "expected.safetensors")
    write_json(folder / "expected.json", content)
    worst = max(deviation, key=deviation.get)
    print(f"{folder.name}: {len(TEXTS)} texts, {sum(map(len, ids))} tokens, limit {limit}; f32 - f64 at most {deviation[worst]:.1e} ({worst})")


# ---- gradients -------------------------------------------------------------------------------------------------------------


def triples(start: int, count: int) -> dict[str, list[str]]:
    """`count` rows of distinct meanings: a query, its translation, and a sentence of another meaning in that language."""
    rows = {"queries": [], "positives": [], "negatives": []}
    for row in range(start, start + count):
        group, turn = row % len(GROUPS), row // len(GROUPS) + row
        query, positive = turn % 3, (turn + 1 + turn // 3 % 2) % 3
        rows["queries"].append(GROUPS[group][query])
        rows["positives"].append(GROUPS[group][positive])
        rows["negatives"].append(GROUPS[(group + count + row % 5) % len(GROUPS)][positive])
    return rows


def info_nce(model: SentenceTransformer, batch: dict[str, list[str]], symmetric: bool = False) -> torch.Tensor:
    """Cross entropy over cosine / T: queries against all positives, then all negatives; the label of row i is i. Symmetric: the mean
    of that and of positives against queries."""
    queries, positives, negatives = (F.normalize(forward(model, batch[side]), dim=1) for side in ("queries", "positives", "negatives"))
    logits = queries @ torch.cat([positives, negatives]).T / TEMPERATURE
    labels = torch.arange(len(queries))
    loss = F.cross_entropy(logits, labels)
    if symmetric:
        loss = (loss + F.cross_entropy(logits[:, : len(labels)].T, labels)) / 2
    return loss


def parameter_names(model: SentenceTransformer) -> dict[str, torch.nn.Parameter]:
    """Parameters by the names that the Rust side gives them: the encoder's bare, a Dense layer's behind its folder."""
    named = {}
    for name, parameter in model.named_parameters():
        if name.startswith("0."):
            named[name.removeprefix("0.auto_model.").removeprefix("0.model.")] = parameter
        else:
            index, rest = name.split(".", 1)
            named[f"{index}_{type(model[int(index)]).__name__}.{rest}"] = parameter
    return named


def gradients(model: SentenceTransformer, batch: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    model.train()
    tensors = {}
    for prefix, symmetric in (("", False), ("symmetric.", True)):
        model.zero_grad()
        loss = info_nce(model, batch, symmetric)
        loss.backward()
        tensors[f"{prefix}loss"] = loss.detach().reshape(1)
        for name, parameter in parameter_names(model).items():
            if parameter.grad is not None:
                tensors[prefix + name] = parameter.grad.clone()
    return tensors


def expect_gradients(folder: Path) -> None:
    batch = triples(0, 6)
    tensors, exact = gradients(load(folder), batch), gradients(load(folder).double(), batch)
    without = [name for name, parameter in parameter_names(load(folder)).items() if name not in tensors]
    assert all(name.startswith("pooler.") for name in without), without
    deviation = {key: float((tensors[key].double() - exact[key]).abs().max()) for key in tensors}
    check_against_library(folder, batch, float(tensors["loss"]))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "gradients.safetensors")
    write_json(folder / "gradients.json", {
        "temperature": TEMPERATURE, "loss": float(tensors["loss"]), "symmetric_loss": float(tensors["symmetric.loss"]),
        "loss_float64": float(exact["loss"]), "symmetric_loss_float64": float(exact["symmetric.loss"]),
        "float64_deviation": max(deviation.values()), "largest_gradient": max(float(t.abs().max()) for t in tensors.values()),
        "without_gradient": without, **batch})
    print(f"{folder.name}: {len(tensors)} gradients, loss {float(tensors['loss']):.4f}, symmetric "
          f"{float(tensors['symmetric.loss']):.4f}; f32 - f64 at most {max(deviation.values()):.1e}")


def check_against_library(folder: Path, batch: dict[str, list[str]], loss: float) -> None:
    """The same loss as sentence-transformers' MultipleNegativesRankingLoss at scale 1 / T."""
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model = load(folder)
    features = [features_of(model, batch[side]) for side in ("queries", "positives", "negatives")]
    theirs = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)(features, None).item()
    assert math.isclose(theirs, loss, rel_tol=1e-5), (theirs, loss)


# ---- training --------------------------------------------------------------------------------------------------------------

TRAINING = {"steps": 20, "warmup_steps": 2, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "clip": 1.0,
            "temperature": TEMPERATURE, "max_length": 48, "schedule": "linear"}
LEARNING_RATE = 1e-3
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["query", "value"]}


def train(model: SentenceTransformer, batches: list[dict]) -> tuple[list[float], list[float]]:
    """Losses before each step, and the gradients' norms before clipping."""
    model.train()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    kept = [p for name, p in named if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for name, p in named if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": TRAINING["weight_decay"]}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=tuple(TRAINING["betas"]), eps=TRAINING["eps"])
    schedule = get_linear_schedule_with_warmup(optimizer, TRAINING["warmup_steps"], TRAINING["steps"])
    losses, norms = [], []
    for batch in batches:
        loss = info_nce(model, batch)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_([p for _, p in named], TRAINING["clip"])))
        losses.append(loss.item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    return losses, norms


def record(path: Path, batches: list[dict], single: tuple, double: tuple, more: dict) -> None:
    (losses, norms, embeddings), (exact_losses, exact_norms, exact_embeddings) = single, double
    deviation = {"losses": float(np.abs(np.subtract(losses, exact_losses)).max()),
                 "gradient_norms": float(np.abs(np.subtract(norms, exact_norms)).max()),
                 "embeddings": float((embeddings.double() - exact_embeddings).abs().max())}
    write_json(path, {
        **TRAINING, "lr": LEARNING_RATE, **more, "losses": losses, "losses_float64": exact_losses, "gradient_norms": norms, "float64_deviation": deviation,
        "texts": SHORT, "embeddings": embeddings.double().tolist(), "batches": batches})
    print(f"{path.name}: loss {losses[0]:.4f} to {losses[-1]:.4f}; f32 - f64 at most {deviation}")


def expect_training(folder: Path) -> None:
    batches = [triples(6 * step, 6) for step in range(TRAINING["steps"])]

    def full(double: bool):
        model = load(folder).double() if double else load(folder)
        losses, norms = train(model, batches)
        return losses, norms, embed(model, SHORT)

    record(folder / "training.json", batches, full(False), full(True), {})

    def lora(double: bool, keep: bool):
        model = load(folder)
        torch.manual_seed(SEED)
        config = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=LORA["rank"], lora_alpha=LORA["alpha"], lora_dropout=LORA["dropout"],
                            target_modules=LORA["targets"])
        peft = get_peft_model(model[0].auto_model, config)
        if double:
            model.double()
        if keep:
            save_adapter(peft, folder / "lora_init")
        losses, norms = train(model, batches)
        if keep:
            save_adapter(peft, folder / "lora_trained")
        return losses, norms, embed(model, SHORT)

    record(folder / "training_lora.json", batches, lora(False, True), lora(True, False), LORA)


def save_adapter(peft, folder: Path) -> None:
    peft.peft_config["default"].base_model_name_or_path = "bert"
    peft.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    # A set, which Python writes in any order.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).resolve()
    names = ("bert", "roberta", "xlm_roberta", "bert_bin")
    for name in names:
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
    make_bert(out)
    make_roberta(out)
    make_xlm_roberta(out)
    for name in names:
        expect(out / name)
    expect_gradients(out / "bert")
    expect_gradients(out / "xlm_roberta")
    expect_training(out / "bert")


if __name__ == "__main__":
    main()

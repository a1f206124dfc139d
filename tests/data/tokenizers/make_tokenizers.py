#!/usr/bin/env python3
"""Golden token ids: make_tokenizers.py [OUT_DIR], by default the folder that this script lies in.

Builds a WordPiece, a Unigram and a byte-level BPE tokenizer from make_models' sentences, writes 5,000 texts made of these sentences
(cut, joined, decomposed, with emoji, controls, marks, spaces, strange characters; some very long), and what transformers' AutoTokenizer
makes of each: the number of ids and their checksum. README.md beside this script says what lies where.
"""

import gzip
import json
import math
import random
import shutil
import sys
import unicodedata
import zlib
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import make_models as base  # also: no network, no warnings

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, RobertaTokenizer, XLMRobertaTokenizer

COUNT = 5000
SENTENCES = base.corpus()

# ---- tokenizers ------------------------------------------------------------------------------------------------------------


def word_piece() -> BertTokenizer:
    """As make_models', larger."""
    normalizer, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = [word for text in SENTENCES for word, _ in split.pre_tokenize_str(normalizer.normalize_str(text))]
    alphabet = base.frequent(Counter("".join(words)), 300)
    inner = base.frequent(Counter(c for word in words for c in word[1:] if c in alphabet), 70)
    starts = base.frequent(Counter(word[:n] for word in words for n in range(2, len(word) + 1)), 420)
    ends = base.frequent(Counter(word[i:j] for word in words for i in range(1, len(word)) for j in range(i + 2, len(word) + 1)), 200)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *alphabet, *(f"##{c}" for c in inner), *starts, *(f"##{end}" for end in ends)]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})


def byte_level() -> RobertaTokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def unigram() -> XLMRobertaTokenizer:
    """As make_models', larger."""
    words = ["\u2581" + word for text in SENTENCES for word in text.split()]
    counts = Counter(word[i:j] for word in words for i in range(len(word)) for j in range(i + 1, min(i + 9, len(word) + 1)))
    single = base.frequent(Counter({piece: n for piece, n in counts.items() if len(piece) == 1}), 300)
    longer = base.frequent(Counter({piece: n for piece, n in counts.items() if len(piece) > 1 and n > 1}), 700)
    total = sum(counts[piece] for piece in single + longer)
    scored = [(piece, round(math.log(counts[piece] / total), 4)) for piece in single + longer]
    special = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(vocab=[*special, *scored, ("<mask>", 0.0)])


# ---- texts -----------------------------------------------------------------------------------------------------------------

EMOJI = ["😀", "🎉", "🐱", "👩‍👩‍👧", "👍🏽", "🇷🇺", "🇨🇳", "❤️", "1️⃣", "🏴‍☠️", "🧑🏿‍🚀"]
CONTROLS = [chr(c) for c in (*range(1, 32), 127, *range(128, 160), 0, 0xAD, 0x200B, 0x200C, 0x200D,
                                0x200E, 0x202E, 0x2060, 0xFEFF, 0xFFFD, 0xFFFE)]
MARKS = [chr(c) for c in (0x300, 0x301, 0x302, 0x303, 0x304, 0x306, 0x308, 0x30A, 0x30C, 0x323, 0x327, 0x483, 0x20DD, 0xFE0F)]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\v", "\f", "\x85", "\xa0", "\u1680",
          "\u2002", "\u2003", "\u2009", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"]
SIGNS = ["...", "…", "—", "–", "«", "»", "“", "”", "'s", "'ll", "'re", "n't", "!!!", "?!", "№5", "C++", "a_b", "#1", "@you", "$7.50",
         "10%", "½", "²", "℃",
         "3.14", "1 000 000", "12345", "٣", "Ⅷ", "https://example.org/путь?q=猫&x=1#frag",
         "user@mail.ru", "<b>", "</p>", "{}", "[0]", "\\n", "`x`", "~", "^", "|", "▁", "Ġ", "##"]
SPECIAL = ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "<s>", "</s>", "<mask>", "<pad>", "<unk>", "[cls]", "<S>", " <mask> ", "[CLS"]
FOREIGN = ["ཀ", "ꙮ", "𝔘", "𓀀", "ტ", "ك", "א", "ไ", "한국", "カナ", "ﬁ", "Ｆ", "ß", "ẞ", "İ", "ı", "ǅ", "Σς",
           "ё", "Ё", "й", "ў", "ї", "ñ", "Å", "Å", "鿿", "𠀀", "㎏", "①",
           "\ue000", "\U000f0000", "\u0378", "\U0010ffff"]


def piece(pick: random.Random) -> str:
    """A part of a sentence, often cut within a word."""
    sentence = pick.choice(SENTENCES)
    if pick.random() < 0.4:
        return sentence
    start = pick.randrange(len(sentence))
    return sentence[start : start + 1 + pick.randrange(len(sentence))]


def sprinkled(pick: random.Random, text: str, among: list[str], most: int = 4) -> str:
    """`among` put in at random places."""
    for _ in range(1 + pick.randrange(most)):
        place = pick.randrange(len(text) + 1)
        text = text[:place] + pick.choice(among) + text[place:]
    return text


def written(pick: random.Random, kind: int) -> str:
    text = piece(pick)
    match kind:
        case 0:
            return text
        case 1:
            return pick.choice((" ", "", "\n", ", ")).join(piece(pick) for _ in range(2 + pick.randrange(4)))
        case 2:
            return pick.choice((str.upper, str.lower, str.title, str.swapcase, str.casefold))(text)
        case 3:
            return unicodedata.normalize(pick.choice(("NFD", "NFKD", "NFC", "NFKC")), sprinkled(pick, text, FOREIGN))
        case 4:
            return sprinkled(pick, text, EMOJI)
        case 5:
            return sprinkled(pick, text, CONTROLS)
        case 6:
            return sprinkled(pick, text, MARKS, 9)
        case 7:
            return sprinkled(pick, text, SPACES, 7)
        case 8:
            before, after = (pick.choice(SPACES) * pick.randrange(4) for _ in range(2))
            return before + text.replace(" ", pick.choice(SPACES)) + after
        case 9:
            return sprinkled(pick, text, SIGNS, 6)
        case 10:
            return sprinkled(pick, text, SPECIAL)
        case 11:
            kinds = (EMOJI, CONTROLS, MARKS, SPACES, SIGNS, SPECIAL, FOREIGN)
            return "".join(pick.choice(pick.choice(kinds)) for _ in range(pick.randrange(12)))
        case 12:
            return text[: 1 + pick.randrange(3)] * (1 + pick.randrange(60))
        case _:
            return sprinkled(pick, sprinkled(pick, sprinkled(pick, text + piece(pick), EMOJI), SIGNS), CONTROLS)


def long_texts() -> list[str]:
    """Lines of 100,000 characters: mixed sentences, one word, one word of Chinese, spaces, and a mark after every letter."""
    pick = random.Random(base.SEED)
    mixed = ""
    while len(mixed) < 100_000:
        mixed += pick.choice(SENTENCES) + pick.choice((" ", " ", " ", "  ", "\t", "")) + pick.choice(("", "", "", "😀"))
    chinese = "".join(text for _, _, text in base.GROUPS)
    return [mixed[:100_000], "a" * 100_000, (chinese * 500)[:100_000], "a" + " " * 99_998 + "b", "я\u0301" * 50_000]


def texts() -> list[str]:
    pick = random.Random(base.SEED)
    fixed = [*base.TEXTS, *long_texts(), *(chr(c) for c in range(128)), *SPACES, *EMOJI, *MARKS, *SIGNS, *SPECIAL, *FOREIGN]
    return fixed + [written(pick, n % 14) for n in range(COUNT - len(fixed))]


# ---- ids -------------------------------------------------------------------------------------------------------------------


def digests(folder: Path, lines: list[str]) -> np.ndarray:
    """`[texts, 2]`: how many ids, and the CRC-32 of the ids as little-endian u32."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    ids = tokenizer(lines, truncation=False, padding=False)["input_ids"]
    # transformers 5 builds these tokenizers from the vocabulary; what lies in tokenizer.json must mean the same.
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    assert [encoding.ids for encoding in plain.encode_batch(lines)] == ids
    return np.array([(len(row), zlib.crc32(np.array(row, dtype="<u4").tobytes())) for row in ids], dtype=np.uint32)


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).resolve()
    lines = texts()
    assert len(lines) == COUNT and max(map(len, lines)) == 100_000
    with gzip.GzipFile(out / "texts.json.gz", "wb", compresslevel=9, mtime=0) as file:
        file.write(json.dumps(lines, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))
    tensors = {}
    for make in (word_piece, unigram, byte_level):
        folder = out / make.__name__
        shutil.rmtree(folder, ignore_errors=True)
        make().save_pretrained(folder)
        path = folder / "tokenizer.json"
        Tokenizer.from_file(str(path)).save(str(path), pretty=False)
        tensors[make.__name__] = digests(folder, lines)
        print(f"{make.__name__}: {int(tensors[make.__name__][:, 0].sum())} ids, longest {int(tensors[make.__name__][:, 0].max())}")
    save_file(tensors, out / "expected.safetensors")
    base.write_json(out / "expected.json", {
        "generator": "tests/data/tokenizers/make_tokenizers.py", "texts": COUNT,
        "ids": {name: int(t[:, 0].sum()) for name, t in tensors.items()}})


if __name__ == "__main__":
    main()

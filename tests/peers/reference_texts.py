#!/usr/bin/env python3
"""Texts to compare encoders on: reference_texts.py OUT.json [--count 2000] [--seed 1] [FILE.jsonl[.gz]]…

Writes a JSON list of Russian, English and Chinese texts of 0 to some 400 tokens, among them empty ones, blanks, and odd characters.
They are cut and joined from the text fields of the files; without files, from the sentences below. Same arguments, same list.
"""

import argparse
import gzip
import json
import random
from pathlib import Path

SENTENCES = {
    "ru": """Вечером мы долго сидели у костра и слушали, как шумит река.
Новая версия программы исправляет более сорока ошибок и работает заметно быстрее.
В Санкт-Петербурге открылась выставка голландской живописи XVII века.
Если температура держится третий день, обязательно покажитесь врачу.
Сборная выиграла матч в дополнительное время благодаря голу защитника.
Правительство утвердило бюджет на 2025 год с дефицитом 0,5 % ВВП.
Сколько воды нужно пить в день?
Бабушка пекла пироги с капустой, яблоками и брусникой.
Ёлку нарядили ещё до приезда гостей; объём багажа удивил всех.
Автобус № 47 по выходным не ходит, поезжайте на трамвае.
«Не верю!» — сказал режиссёр и остановил репетицию.
Столица Казахстана несколько раз меняла название.
Кредит под залог квартиры оформляется от пяти рабочих дней.
Учебник по линейной алгебре начинается с систем уравнений.
Волк в этих лесах — редкость, а лис развелось множество.
Доставка бесплатна при заказе от 3000 рублей.
Он молчал.
Почему небо голубое, а закат красный?
Для теста смешайте муку, яйца и щепотку соли, затем дайте ему постоять полчаса.
Спектакль длился четыре часа, но зрители не расходились.
Землетрясение магнитудой 5,8 произошло у берегов Камчатки.
Компания сообщила о росте выручки на треть, однако акции подешевели.
Переведите, пожалуйста, это предложение на английский язык.
Снег растаял, и дорога превратилась в грязь.""",
    "en": """The committee postponed its decision until the auditors had finished their report.
She learned to play the cello at the age of fifty-three.
How do I reset the password of my e-mail account?
Heavy rain flooded the lower part of the town overnight.
The enzyme breaks down lactose into glucose and galactose.
Turn left at the second traffic light, then go straight on for a mile.
Shares of the company fell 12.5% after the announcement.
A small boat drifted slowly past the lighthouse.
It isn't what he said; it's how he said it.
The recipe calls for two cups of flour, three eggs, and a pinch of salt.
Quantum computers remain sensitive to noise from their surroundings.
The museum's east wing was designed by a self-taught architect.
Is it safe to take ibuprofen together with aspirin?
Our flight was delayed because of fog over the airport.
He shrugged.
The court ruled that the contract was void from the beginning.
Migrating cranes rest in these wetlands every autumn.
Version 3.2.1 drops support for 32-bit systems.
Nobody expected the underdogs to win by four goals.
The novel follows three generations of a family of watchmakers.
Photosynthesis converts light, water and carbon dioxide into sugar and oxygen.
Please find the invoice attached; payment is due within 30 days.
Their laughter could be heard across the courtyard.
What is the capital of Australia?""",
    "zh": """昨天晚上下了一场大雪，路上几乎没有行人。
这家公司计划明年在上海设立新的研发中心。
请问去火车站怎么走？
科学家发现，这种蛋白质在记忆形成中起着关键作用。
他花了三年时间写完第一部小说。
由于台风影响，今天的航班全部取消。
这道菜需要先把豆腐切成小块，再用小火慢慢煎。
孩子们在公园里放风筝。
房价连续六个月下跌，成交量却有所回升。
发烧超过三天应该去看医生吗？
学而时习之，不亦说乎？
新手机的电池可以用两天。
比赛在最后一分钟才分出胜负。
图书馆周一闭馆，周二至周日上午九点开放。
她轻轻地关上门，走进了雨里。
长江是亚洲最长的河流，全长约6300公里。
我不知道。
这篇论文提出了一种训练语言模型的新方法。
春天来了，山上的桃花都开了。
根据合同第五条，甲方应在三十日内付款。
人工智能正在改变医疗、教育和交通等行业。
老人坐在门口晒太阳，旁边趴着一只黄狗。
票已经卖完了。
這個句子是用繁體字寫的。""",
}

ODD = [
    "",
    " ",
    "\t\n \r\n ",
    "a",
    "я",
    "中",
    "0",
    ".",
    "?!…",
    "😀",
    "👩‍👩‍👧‍👦 🇷🇺 ❤️",
    "e\u0301 и\u0306 ﬁ Å Ａ１ ½ ㎏",
    "\x00 \x07 \x1b[0m \x7f \x85 \u00ad \u200b \ufeff \u2028 \u202e",
    "[CLS] [SEP] [PAD] [MASK] [UNK] <s> </s> <pad> <mask>",
    "שלום עולם · مرحبا بالعالم · नमस्ते · สวัสดี · Γειά σου · 안녕하세요 · こんにちは",
    "http://example.org/a%20b?q=%D1%8F#x user@example.org C++ #tag @name 1,000.50 €",
    "Donaudampfschifffahrtsgesellschaftskapitän " * 3,
    "превысокомногорассмотрительствующий " * 3,
    "x" * 99,
    "x" * 101,
    "  many     spaces   inside    ",
    "line\nline\n\nline",
]

LENGTHS = [1, 2, 3, 5, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 200, 256, 300, 400]  # tokens, roughly


def strings_of(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in strings_of(item)]
    if isinstance(value, dict):
        return [text for key, item in value.items() if "id" not in key.lower() for text in strings_of(item)]
    return []


def read(path: Path, most: int) -> list[str]:
    """Texts of a file's first `most` rows."""
    texts = []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number == most:
                break
            if line.strip():
                texts += [text for text in strings_of(json.loads(line)) if text.strip()]
    if not texts:
        raise SystemExit(f"{path}: holds no texts")
    return texts


def weight(character: str) -> float:
    """Tokens that a character costs, roughly, in a vocabulary of English word pieces."""
    return 0.25 if character.isascii() else 0.6 if character < "\u2e80" else 1.0


def of_length(rng: random.Random, pool: list[str], tokens: int) -> str:
    """Texts of the pool, the first from one of its words on, joined until they are long enough, then cut at a space if there is one near."""
    first = rng.choice(pool)
    begin = rng.randrange(len(first))
    joined = first[first.find(" ", begin) + 1 :] if " " in first[begin:-1] else first[begin:] if first[begin] > "\u2e80" else first
    while sum(map(weight, joined)) < tokens:
        joined += ("" if joined[-1:] > "\u2e80" else " ") + rng.choice(pool)
    size = 0.0
    for end, character in enumerate(joined):
        size += weight(character)
        if size >= tokens and (character == " " or character > "\u2e80" or size > tokens + 4):
            return joined[: end + 1].rstrip()
    return joined


def mixed(rng: random.Random, pools: list[list[str]], tokens: int) -> str:
    parts = [of_length(rng, pool, max(1, tokens // 3)) for pool in rng.sample(pools, min(3, len(pools)))]
    return " ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.files:
        pools = [read(path, 2000) for path in args.files]
    else:
        pools = [text.splitlines() for text in SENTENCES.values()]
    rng = random.Random(args.seed)
    texts = ODD[: args.count]
    while len(texts) < args.count:
        turn = len(texts)
        tokens = LENGTHS[turn % len(LENGTHS)] + rng.randrange(3)
        pool = pools[turn // len(LENGTHS) % len(pools)]
        texts.append(mixed(rng, pools, tokens) if turn % 7 == 0 else of_length(rng, pool, tokens))
    rng.shuffle(texts)
    args.output.write_text(json.dumps(texts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(f"{args.output}: {len(texts)} texts, {len(set(texts))} distinct, 0 to {max(map(len, texts))} characters")


if __name__ == "__main__":
    main()

"""Seeded random Unicode texts that try a tokenizer's corners."""
import random

# (first, last) of what a draw is taken from; scripts, marks, emoji, symbols.
RANGES = [
    (0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x24F), (0x250, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF),
    (0x400, 0x52F), (0x530, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0x980, 0x9FF),
    (0xB80, 0xBFF), (0xE00, 0xE7F), (0xF00, 0xFFF), (0x10A0, 0x10FF), (0x1100, 0x11FF),
    (0x1200, 0x137F), (0x1780, 0x17FF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x2000, 0x206F),
    (0x2070, 0x209F), (0x20A0, 0x20CF), (0x20D0, 0x20FF), (0x2100, 0x218F), (0x2190, 0x21FF),
    (0x2200, 0x22FF), (0x2460, 0x24FF), (0x2500, 0x257F), (0x2600, 0x27BF), (0x2E80, 0x2FDF),
    (0x3000, 0x303F), (0x3040, 0x30FF), (0x3130, 0x318F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xA000, 0xA4CF), (0xA720, 0xA7FF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xF900, 0xFAFF),
    (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFE20, 0xFE2F), (0xFF00, 0xFFEF), (0x10000, 0x100FF),
    (0x10300, 0x1034F), (0x1D400, 0x1D7FF), (0x1E900, 0x1E95F), (0x1F000, 0x1F2FF),
    (0x1F300, 0x1F6FF), (0x1F900, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0000, 0xE007F),
]
SPACES = (" ", " ", " ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\xa0",
          "\u1680", "\u180e", "\u2003", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff")
WORDS = ("the", "The", "THE", "don't", "we'll", "I'VE", "it's", "naïve", "Zürich", "İstanbul", "straße", "ΣΊΣΥΦΟΣ",
         "Ångström", "2026", "3.14159", "1,000,000", "a_b", "e-mail", "x=y+1;", "http://a.b/c?d=e", "C++", "...",
         "-----", "½", "Ⅷ", "²³", "१२३", "こんにちは", "안녕", "你好", "مرحبا", "שלום", "नमस्ते", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "e\u0301",
         "q\u0307\u0323", "'S", "'ſ", "ﬁ", "\ufffd", "supercalifragilisticexpialidocious", "tokenization")


def random_piece(rng, specials):
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(WORDS)
    if kind < 0.45:
        return rng.choice(SPACES)
    if kind < 0.50 and specials:
        token = rng.choice(specials)
        return rng.choice((token, token, token.lower(), token[:-1], token + token))
    if kind < 0.52:
        return chr(rng.choice([*range(1, 32), *range(127, 160)]))
    if kind < 0.55:  # any code point but surrogates and NUL (which separates texts)
        point = rng.randrange(1, 0x110000 - 0x800)
        return chr(point if point < 0xD800 else point + 0x800)
    if kind < 0.57:
        return rng.choice("aé中🙂 .'") * rng.choice((2, 5, 30, 99, 101, 150))
    first, last = rng.choice(RANGES)
    if kind < 0.75:
        first, last = 0x20, 0x7E
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 8)))


def random_texts(count, seed, specials=()):
    rng = random.Random(seed)
    return ["".join(random_piece(rng, list(specials)) for _ in range(rng.randint(1, 24))) for _ in range(count)]

"""How many common words can be read off the embedded model's vision tower, in pictures that nobody has shown it?

No training of the LLM can name what the tower's features do not tell. So this asks the features alone: clip art whose
file names say what it shows is put on plain grounds, the features of its patches are averaged, and a linear readout
(logistic regression) of 36 words is fitted. It is judged on series of pictures that it has not seen, five times over a
fourth of them; and on the pictures of a second folder, by other makers.

    apt-get install openclipart-png tuxpaint-stamps-default
    .venv/bin/python benchmarks/words.py /usr/share/openclipart/png --others /usr/share/tuxpaint/stamps
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.base import VideoLLM
from comfyui_aot.aot.models.embedded.assemble import normalise
from comfyui_aot.aot.tables import markdown

WORDS = {
    "animal": {
        "bear": "bear|orso|ours",
        "bee": "bee|bees|bee\\d|abeille|wasp",
        "bird": "bird|uccello|gabbiano|seagull|gull|crow|cormorant|puffin|dove|sparrow|robin|finch",
        "butterfly": "butterfly|farfalla|monarch",
        "cat": "cat|kitten|gatto|gattina",
        "dinosaur": "dino|dinosauro|dinosauri|dinosaur",
        "dog": "dog|beagle|bulldog|lab",
        "elephant": "elephant|elefante\\d*",
        "fish": "fish|angelfish|greyling|loach|gourami|pescetto",
        "frog": "frog|frogs|rana\\d*",
        "horse": "horse|cavallo",
        "lizard": "lizard|lucertola|lucertolona|lucertolone|ramarro",
        "monkey": "monkey|baboon|orangutan|gorilla",
        "penguin": "penguin|tux|pinguin",
        "tiger": "tiger|tigre\\d*|tigri",
    },
    "vehicle": {
        "bicycle": "bicycle|bicicletta|bike|vtt",
        "boat": "boat|sailboat|ship|trawler",
        "bus": "bus|bus\\d",
        "car": "car|autos|blazer|hummer|redcar|shelby|dodge|toyota|sportcar|bmw|chevrolet",
        "plane": "plane|aircraft|airplane|jet",
        "truck": "truck",
    },
    "food": {
        "apple": "apple|applf",
        "cake": "cake|cake\\d|gateau|torta",
        "cup": "mug|coffee|cuppa|teacup|tazza|cup",
        "lemon": "lemon|lemon\\d",
        "orange": "orange|rondelle",
        "pear": "pear|pera",
    },
    "plant": {
        "flower": "flower|flower\\d|flowers|fiore|fiori|daffodil|rose|daisy|tulip|tulips|magnolia|sakura",
        "leaf": "leaf|shamrock",
        "tree": "tree|albero|arbre|evergreen|palmtree",
    },
    "person": {"man": "man|man\\d*|uomo", "woman": "woman|woman\\d*|donna"},
    "thing": {
        "ball": "ball|\\w*ball",
        "guitar": "guitar|chitarra",
        "hat": "hat|tophat|cappello",
        "house": "house|casa|home\\d*",
    },
}
"""Words by category, each with what stands for it in a file's name, in English, Italian and French."""

NAMES = tuple(word for words in WORDS.values() for word in words)
CATEGORY = torch.tensor([i for i, words in enumerate(WORDS.values()) for _ in words])
SIDE, SIZES, VIEWS, SPLITS = 252, (120, 220), 3, 5
LARGEST = 10_000_000
"""Pixels of a picture; the few larger ones are left out."""


@dataclass(frozen=True)
class Picture:
    """A picture whose name says what it shows.

    Args:
        path: of the file.
        word: index in ``NAMES``.
        series: pictures of one word with the same series are by one hand.
    """

    path: Path
    word: int
    series: str


def named(folder: Path) -> Iterator[Picture]:
    """The pictures under a folder that show one of the words, and no other; equal ones once."""
    seen: set[bytes] = set()
    for path in sorted(folder.rglob("*.png")):
        parts = [part for part in re.split(r"[^a-z0-9]+", path.stem.lower()) if part]
        words = [
            i
            for i, pattern in enumerate(pattern for words in WORDS.values() for pattern in words.values())
            if any(re.fullmatch(pattern, part) for part in parts)
        ]
        if len(words) != 1:
            continue
        try:
            with Image.open(path) as image:
                if image.width * image.height > LARGEST:
                    continue
                digest = hashlib.sha256(image.convert("RGBA").resize((32, 32)).tobytes()).digest()
        except OSError:  # no picture, whatever it is called
            continue
        if digest not in seen:
            seen.add(digest)
            letters = [cut for part in parts if (cut := re.sub(r"\d", "", part)) and cut != "bw"]
            yield Picture(path, words[0], " ".join(letters[:2]))


def views(path: Path, rng: random.Random) -> Iterator[tuple[Image.Image, Image.Image]]:
    """A picture on plain grounds, at sizes and places by chance, each with its mask."""
    with Image.open(path) as image:
        image = image.convert("RGBA")
    box = image.getchannel("A").getbbox()
    if not box:
        return
    image = image.crop(box)
    for _ in range(VIEWS):
        scale = rng.uniform(*SIZES) / max(image.size)
        small = image.resize((max(8, round(image.width * scale)), max(8, round(image.height * scale))))
        place = rng.randint(0, SIDE - small.width), rng.randint(0, SIDE - small.height)
        frame = Image.new("RGB", (SIDE, SIDE), tuple(rng.randrange(90, 256) for _ in range(3)))
        mask = Image.new("L", (SIDE, SIDE))
        frame.paste(small, place, small)
        mask.paste(small.getchannel("A"), place)
        yield frame, mask


@torch.no_grad()
def features(model: VideoLLM, frame: Image.Image, mask: Image.Image) -> Tensor:
    """What the projector would get of the patches that a mask covers, their mean, (V,) float32."""
    inner = model.hf_model.model
    values = normalise(torch.from_numpy(np.array(frame))[None])
    states = inner.vision_tower(values, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    patches = states[model.hf_model.config.vision_feature_layer][0, 1:]
    covered = torch.from_numpy(np.array(mask)).float()[None] / 255
    weights = functional.adaptive_avg_pool2d(covered, round(len(patches) ** 0.5)).flatten()
    return weights @ patches / weights.sum()


def shown(model: VideoLLM, pictures: Sequence[Picture]) -> tuple[Tensor, Tensor, list[str]]:
    """Features (n, V), words (n,) and series of all views of some pictures."""
    rng = random.Random(0)
    rows = [(features(model, *view), p.word, p.series) for p in pictures for view in views(p.path, rng)]
    return torch.stack([row for row, _, _ in rows]), torch.tensor([word for _, word, _ in rows]), [s for *_, s in rows]


def fit(rows: Tensor, words: Tensor, penalty: float = 1e-3) -> Tensor:
    """Logistic regression with a penalty on its square, (V + 1, words); rare words weigh more than their share."""
    counts = torch.bincount(words, minlength=len(NAMES)).clamp(min=1)
    weights = counts[words].rsqrt()
    weights = weights / weights.sum()
    readout = torch.zeros(rows.shape[1] + 1, len(NAMES), requires_grad=True)
    optimiser = torch.optim.LBFGS([readout], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        losses = functional.cross_entropy(scores(readout, rows), words, reduction="none")
        total = (losses * weights).sum() + penalty * readout[:-1].square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    return readout.detach()


def scores(readout: Tensor, rows: Tensor) -> Tensor:
    """How much each word is meant by each row of features, (n, words)."""
    return rows @ readout[:-1] + readout[-1]


def shares(readout: Tensor, rows: Tensor, words: Tensor) -> tuple[float, float, float]:
    """The shares of right words, of right categories, and of right words among those of the right category."""
    score = scores(readout, rows)
    others = CATEGORY[words][:, None] != CATEGORY
    right = score.argmax(1) == words
    category = CATEGORY[score.argmax(1)] == CATEGORY[words]
    told = score.masked_fill(others, -torch.inf).argmax(1) == words
    return right.float().mean().item(), category.float().mean().item(), told.float().mean().item()


def held_out(series: Sequence[str], words: Tensor, seed: int) -> Tensor:
    """(n,) bool: of every word that has several series, a fourth of them."""
    rng = random.Random(seed)
    kept = set()
    for word in range(len(NAMES)):
        own = sorted({name for name, each in zip(series, words.tolist(), strict=True) if each == word})
        rng.shuffle(own)
        kept |= {(word, name) for name in own[: max(1, len(own) // 4)] if len(own) > 1}
    return torch.tensor([pair in kept for pair in zip(words.tolist(), series, strict=True)])


def main() -> None:
    """Fit and judge the readout, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="a folder of PNG files whose names say what they show")
    parser.add_argument("--others", type=Path, help="the same by other makers, for a test alone")
    options = parser.parse_args()
    model = load("embedded")
    pictures = list(named(options.pictures))
    if not pictures:
        parser.error(f"{options.pictures} has no picture that is named after one of the words")
    known, words, series = shown(model, pictures)

    splits = [held_out(series, words, seed) for seed in range(SPLITS)]
    results = [judged(known[~out], words[~out], known[out], words[out])[0] for out in splits]
    rows = [(f"series not seen, {len(pictures)} pictures in all", *np.mean(results, axis=0))]
    if options.others:
        strange = list(named(options.others))
        if not strange:
            parser.error(f"{options.others} has no picture that is named after one of the words")
        other, theirs, _ = shown(model, strange)
        found, said = judged(known, words, other, theirs)
        rows.append((f"by other makers, {len(strange)} pictures", *found))
        for word in range(len(WORDS["animal"])):
            if (theirs == word).any():
                print(f"{NAMES[word]}: {(said[theirs == word] == word).sum()} of {(theirs == word).sum()} views")
    header = ["", "word", "category", "word, its category given", "always the most frequent word"]
    print(markdown(header, [[name, *(f"{100 * share:.0f}" for share in each)] for name, *each in rows], padded=True))


def judged(known: Tensor, words: Tensor, other: Tensor, theirs: Tensor) -> tuple[tuple[float, ...], Tensor]:
    """What a readout fitted on some views makes of others: the shares and that of the most frequent word; its words."""
    middle, spread = known.mean(0), known.std(0)
    here, there = (4 * functional.normalize((rows - middle) / spread, dim=1) for rows in (known, other))
    readout = fit(here, words)
    return (*shares(readout, there, theirs), frequent(theirs)), scores(readout, there).argmax(1)


def frequent(words: Tensor) -> float:
    """The share of the most frequent word."""
    return words.bincount().max().item() / len(words)


if __name__ == "__main__":
    main()

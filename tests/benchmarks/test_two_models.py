"""Two models' answers side by side: what is counted, what is paired, and what is refused."""

import json

import pytest

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.records import RECORDS, SETTINGS, Record, line_of
from comfyui_aot.tests.support.scripts import benchmark

VARIANTS = ("full", "intra 0.05", "vidcom2 0.05", "aot-plus 0.05")
HALF = {str(i): [i % 2] for i in range(100)}
NONE = {str(i): [0] for i in range(100)}


@pytest.fixture(scope="module")
def two_models():
    return benchmark("two_models")


def run(folder, scores, **settings):
    """Results of a run: by variant, by clip, the scores of its questions in order."""
    folder.mkdir()
    lines = []
    for variant, clips in scores.items():
        for clip, right in clips.items():
            asked = {f"{clip}-{i}": score for i, score in enumerate(right)}
            said = dict.fromkeys(asked, "red")
            lines.append(line_of(Record(clip, variant, variant, 100, 5, 1.0, 0.1, 1.0, 1.0, said, asked)))
    (folder / RECORDS).write_text("\n".join(lines) + "\n")
    usual = {"set": {"set": "shapes", "clips": len(scores["full"])}, "frames": 16, "model_digest": folder.name}
    (folder / SETTINGS).write_text(json.dumps(usual | settings))
    return folder


def differences(two_models, one, other, variant):
    """What a variant is over `intra` on one model, on the other, and what these differ by, as the table has them."""
    lines = two_models.table(two_models.pair(one, other, "intra 0.05"), "intra 0.05")
    line = next(line for line in lines if line.startswith(f"| {variant} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][3:]


def ends(cell):
    low, high = cell.partition("(")[2].rstrip(")").split(" to ")
    return float(low), float(high)


def test_only_what_both_answered_at_that_retention_is_counted(two_models, tmp_path):
    first = {"full": {"1": [1, 1], "2": [1, 0]}, "a 0.1": {"1": [1, 0], "2": [0, 0]}, "b 0.1": {"1": [1, 1]}}
    second = {"full": {"2": [1, None], "1": [0, 1]}, "a 0.1": {"2": [1, 1], "1": [0, 0], "3": [1]}, "a 0.2": {"1": [1]}}
    one, other = run(tmp_path / "one", first | {"a 0.2": {"1": [1]}}), run(tmp_path / "other", second)
    scores = two_models.pair(one, other, "a 0.1")
    assert scores.names == ("full", "a 0.1")
    assert scores.sums.tolist() == [[[2, 1], [1, 0]], [[1, 0], [1, 1]]]
    assert scores.counts.tolist() == [2, 1]
    assert scores.left_out == 1
    assert "Left out: 1 clips" in two_models.table(scores, "a 0.1")[-1]


def test_the_table_has_both_differences_and_what_they_differ_by(two_models, tmp_path):
    clips = [str(i) for i in range(40)]
    first = {"full": [1] * 10, "intra 0.05": [1] * 5 + [0] * 5, "vidcom2 0.05": [1] * 6 + [0] * 4}
    second = {"full": [1] * 9 + [0], "intra 0.05": [1] * 4 + [0] * 6, "vidcom2 0.05": [1] * 7 + [0] * 3}
    pair = [
        run(tmp_path / name, {variant: dict.fromkeys(clips, right) for variant, right in model.items()})
        for name, model in (("one", first), ("other", second))
    ]
    lines = two_models.table(two_models.pair(*pair, "intra 0.05"), "intra 0.05")
    assert lines[0].startswith("| 40 clips, 400 questions |")
    assert lines[2] == "| full | 100.0 (100.0 to 100.0) | 90.0 (90.0 to 90.0) |  |  |  |"
    assert lines[4].endswith("| +10.0 (+10.0 to +10.0) | +30.0 (+30.0 to +30.0) | +20.0 (+20.0 to +20.0) |")


def test_every_question_counts_the_same(two_models, tmp_path):
    scores = {"full": {"1": [1], "2": [1] * 9}, "intra 0.05": {"1": [1], "2": [0] * 9}}
    one, other = run(tmp_path / "one", scores), run(tmp_path / "other", scores)
    assert two_models.table(two_models.pair(one, other, "intra 0.05"), "intra 0.05")[3].startswith(
        "| intra 0.05 | 10.0 ("
    )


def test_the_interval_holds_what_the_clips_differ_by(two_models, tmp_path):
    one = run(tmp_path / "one", {"full": HALF, "intra 0.05": NONE, "vidcom2 0.05": HALF})
    other = run(tmp_path / "other", {"full": HALF, "intra 0.05": NONE, "vidcom2 0.05": NONE})
    change = differences(two_models, one, other, "vidcom2 0.05")[2]
    assert change.startswith("-50.0")
    # The standard error of a share of a half among 100 clips is five points.
    assert ends(change) == pytest.approx((-50 - 1.96 * 5, -50 + 1.96 * 5), abs=1.5)


def test_variants_and_models_see_the_same_draws(two_models, tmp_path):
    alike = {"full": HALF, "intra 0.05": HALF, "vidcom2 0.05": HALF, "aot-plus 0.05": NONE}
    one, other = run(tmp_path / "one", alike), run(tmp_path / "other", alike)
    nothing = "+0.0 (+0.0 to +0.0)"
    assert differences(two_models, one, other, "vidcom2 0.05") == [nothing] * 3
    gained, also_gained, change = differences(two_models, one, other, "aot-plus 0.05")
    assert gained == also_gained
    assert ends(gained)[1] - ends(gained)[0] > 15
    assert change == nothing


def test_the_order_of_the_methods_is_compared(two_models, tmp_path):
    def model(name, counts):
        right = {variant: {"1": [1] * n + [0] * (10 - n)} for variant, n in zip(VARIANTS, counts, strict=True)}
        return run(tmp_path / name, right)

    def last_line(one, other):
        return two_models.table(two_models.pair(one, other, "intra 0.05"), "intra 0.05")[-1]

    given = model("given", (9, 3, 5, 7))
    assert last_line(given, model("same", (9, 2, 4, 8))).endswith("over 3 variants: 1.00")
    assert last_line(given, model("turned", (9, 8, 4, 2))).endswith("over 3 variants: -1.00")
    assert last_line(given, model("level", (9, 4, 4, 4))).startswith("| aot-plus 0.05 |")


def test_bad_input_gets_a_line(two_models, tmp_path):
    one = run(tmp_path / "one", {"full": {"1": [1]}, "a 0.1": {"1": [1]}})
    other = run(tmp_path / "other", {"full": {"2": [1]}, "a 0.1": {"2": [1]}})
    more = run(tmp_path / "more", {"full": {"1": [1]}}, frames=32)
    with pytest.raises(InputError, match=r"There are no results in .*nowhere; give the --out folder"):
        two_models.read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no answers to the same questions"):
        two_models.pair(one, other, "a 0.1")
    with pytest.raises(InputError, match=r"No variant 'intra 0.05' is in both runs; there are full, a 0.1\."):
        two_models.pair(one, other, "intra 0.05")
    with pytest.raises(InputError, match="other settings: frames is 16 and 32; give two runs"):
        two_models.require_alike(one, more)
    with pytest.raises(InputError, match="are of one model"):
        two_models.require_alike(one, one)
    two_models.require_alike(one, other)

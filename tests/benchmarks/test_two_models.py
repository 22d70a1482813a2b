"""Two models' answers side by side: what is counted, and what is refused."""

import pytest

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.records import RECORDS, Record, line_of
from comfyui_aot.tests.support.scripts import benchmark

VARIANTS = ("full", "intra 0.05", "vidcom2 0.05", "aot-plus 0.05")


@pytest.fixture(scope="module")
def two_models():
    return benchmark("two_models")


def run(folder, scores):
    """Results of a run: by variant, by clip, the scores of its questions in order."""
    folder.mkdir()
    lines = []
    for variant, clips in scores.items():
        for clip, right in clips.items():
            asked = {f"{clip}-{i}": score for i, score in enumerate(right)}
            said = dict.fromkeys(asked, "red")
            lines.append(line_of(Record(clip, variant, variant, 100, 5, 1.0, 0.1, 1.0, 1.0, said, asked)))
    (folder / RECORDS).write_text("\n".join(lines) + "\n")
    return folder


def test_only_what_both_answered_is_counted(two_models, tmp_path):
    one = run(
        tmp_path / "one", {"full": {"1": [1, 1], "2": [1, 0]}, "a": {"1": [1, 0], "2": [0, 0]}, "b": {"1": [1, 1]}}
    )
    other = run(tmp_path / "other", {"full": {"2": [1, None], "1": [0, 1]}, "a": {"2": [1, 1], "1": [0, 0], "3": [1]}})
    scores = two_models.pair(one, other)
    assert scores.names == ("full", "a")
    assert scores.sums.tolist() == [[[2, 1], [1, 0]], [[1, 0], [1, 1]]]
    assert scores.counts.tolist() == [2, 1]


def test_the_table_has_both_differences_and_what_they_differ_by(two_models, tmp_path):
    clips = [str(i) for i in range(40)]
    first = {"full": [1] * 10, "intra 0.05": [1] * 5 + [0] * 5, "vidcom2 0.05": [1] * 6 + [0] * 4}
    second = {"full": [1] * 9 + [0], "intra 0.05": [1] * 4 + [0] * 6, "vidcom2 0.05": [1] * 7 + [0] * 3}
    pair = [
        run(tmp_path / name, {variant: dict.fromkeys(clips, right) for variant, right in model.items()})
        for name, model in (("one", first), ("other", second))
    ]
    lines = two_models.table(two_models.pair(*pair), "intra 0.05")
    assert lines[0].startswith("| 40 clips, 400 questions |")
    assert lines[2] == "| full | 100.0 (100.0 to 100.0) | 90.0 (90.0 to 90.0) |  |  |  |"
    assert lines[4].endswith("| +10.0 (+10.0 to +10.0) | +30.0 (+30.0 to +30.0) | +20.0 (+20.0 to +20.0) |")


def test_the_interval_holds_what_the_clips_differ_by(two_models, tmp_path):
    clips = {str(i): [i % 2] for i in range(100)}
    none = {str(i): [0] for i in range(100)}
    one = run(tmp_path / "one", {"full": clips, "intra 0.05": none, "vidcom2 0.05": clips})
    other = run(tmp_path / "other", {"full": clips, "intra 0.05": none, "vidcom2 0.05": none})
    line = two_models.table(two_models.pair(one, other), "intra 0.05")[4]
    low, high = line.split("| ")[-1].split("(")[1].split(")")[0].split(" to ")
    assert line.split("| ")[-1].startswith("-50.0")
    # The standard error of a share of a half among 100 clips is five points.
    assert float(low) == pytest.approx(-50 - 1.96 * 5, abs=1.5)
    assert float(high) == pytest.approx(-50 + 1.96 * 5, abs=1.5)


def test_the_order_of_the_methods_is_compared(two_models, tmp_path):
    def model(name, counts):
        right = {variant: {"1": [1] * n + [0] * (10 - n)} for variant, n in zip(VARIANTS, counts, strict=True)}
        return run(tmp_path / name, right)

    same = two_models.pair(model("one", (9, 3, 5, 7)), model("other", (9, 2, 4, 8)))
    turned = two_models.pair(model("two", (9, 3, 5, 7)), model("another", (9, 8, 4, 2)))
    assert two_models.table(same, "intra 0.05")[-1].endswith("over 3 variants: 1.00")
    assert two_models.table(turned, "intra 0.05")[-1].endswith("over 3 variants: -1.00")


def test_bad_input_gets_a_line(two_models, tmp_path):
    one = run(tmp_path / "one", {"full": {"1": [1]}})
    other = run(tmp_path / "other", {"full": {"2": [1]}})
    with pytest.raises(InputError, match=r"There are no results in .*nowhere; give the --out folder"):
        two_models.read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no answers to the same questions"):
        two_models.pair(one, other)
    with pytest.raises(InputError, match=r"No variant 'intra 0.05' is in both runs; there are full\."):
        two_models.table(two_models.pair(one, one), "intra 0.05")

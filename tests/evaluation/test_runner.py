"""An evaluation asks every question of every variant once, and never again."""

import dataclasses
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from comfyui_aot.aot.answering.answerer import ask
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.comparison.variants import expand
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.evaluation.encodings import Encodings
from comfyui_aot.aot.evaluation.published.frames import clip_frames
from comfyui_aot.aot.evaluation.records import RECORDS, SETTINGS, UNREADABLE, Record, Records
from comfyui_aot.aot.evaluation.report import markdown
from comfyui_aot.aot.evaluation.runner import evaluate, settings
from comfyui_aot.aot.evaluation.summary import summarise
from comfyui_aot.aot.models.fingerprint import fingerprint
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.tokens import storage
from comfyui_aot.tests.support.numbered import write_numbered
from comfyui_aot.tests.support.simulated_device import DEVICE, OnDevice, simulated
from comfyui_aot.tests.support.tiny import QUESTIONS, TinySet, tiny_model

FRAMES = 2
CHAINS = ("aot:clip_length=2", "blind")


@pytest.fixture(scope="module")
def model(embedded_folder):
    return tiny_model(embedded_folder)


@pytest.fixture(scope="module")
def weights(model):
    return fingerprint(model)


@pytest.fixture
def run(model, weights, tmp_path):
    """Evaluate into one folder; gives the records."""

    def run(questions=None, chains=CHAINS, retentions=(0.5,), cache=tmp_path / "encodings", **watch):
        questions = questions or TinySet()
        records = Records(tmp_path / "out", settings(model, questions, FRAMES, weights))
        encodings = Encodings(model, questions, FRAMES, cache, weights=weights)
        evaluate(model, questions, expand(chains, retentions, blind=True), records, encodings, **watch)
        return records

    return run


def lines(records):
    return (records.folder / RECORDS).read_text().splitlines()


def test_full_tokens_come_first_and_every_variant_once():
    chains = ("aot", "full", "paper", "blind", "aot")
    names = [variant.name for variant in expand(chains, (0.25, 0.1, 0.25), blind=True)]
    assert names == ["full", "aot 0.25", "aot 0.1", "paper", "blind"]


def test_a_variant_knows_its_chain():
    assert {variant.label for variant in expand(("intra",), (0.25, 0.1))} == {"full", "intra"}


def test_a_chain_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="No stage is called 'nonsense'"):
        expand(("nonsense",), (0.1,))


def test_each_clip_and_variant_has_a_record_of_what_it_said_and_took(run, model):
    records = list(run())
    assert [(record.clip, record.variant) for record in records] == [
        (clip, variant) for clip in "rgb" for variant in ("full", "aot:clip_length=2 0.5", "blind")
    ]
    full, reduced, blind = records[:3]
    assert (full.tokens_full, full.tokens_kept, full.reduce_s) == (18, 18, 0)
    assert (reduced.tokens_kept, blind.tokens_kept) == (9, 0)
    assert full.encode_s == reduced.encode_s > blind.encode_s == 0
    assert min(reduced.reduce_s, full.prefill_s, blind.questions_s) > 0
    assert set(full.said) == set(full.scores) == {"r-colour", "r-place"}


def test_what_is_said_is_what_the_model_answers_one_question_at_a_time(run, model):
    said = {record.variant: record.said for record in run() if record.clip == "r"}
    tokens = model.encode(TinySet().frames("r", FRAMES))
    reduced = parse("aot:clip_length=2").at_retention(0.5)(tokens)
    for variant, shown in (("full", tokens), ("aot:clip_length=2 0.5", reduced)):
        for question in QUESTIONS[:2]:
            alone = ask(model, shown, question.text, Generation(max_new_tokens=3)).text
            assert said[variant][question.id] == alone


def test_scores_are_the_sets_own(run):
    class Lenient(TinySet):
        def score(self, question, answer):
            return None if question.family == "place" else 0.5

    scores = next(iter(run(Lenient()))).scores
    assert scores == {"r-colour": 0.5, "r-place": None}


def test_a_second_run_asks_nothing(run):
    first = lines(run())
    again = TinySet()
    assert lines(run(again)) == first
    assert again.shown == []


def test_a_stopped_run_goes_on_where_it_was(run, tmp_path):
    seen = []

    def stop(variant):
        seen.append(variant)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_record=stop)
    before = (tmp_path / "out" / RECORDS).read_text()
    rest = []
    after = lines(run(on_record=rest.append))
    assert "\n".join(after).startswith(before.strip())
    assert rest == ["aot:clip_length=2 0.5", "blind", "full", "aot:clip_length=2 0.5", "blind"]
    assert len(after) == 9


def test_a_half_written_line_is_done_again(run, tmp_path):
    whole = lines(run(chains=()))
    path = tmp_path / "out" / RECORDS
    path.write_text("\n".join(whole[:2]) + "\n" + whole[2][:50])
    asked = []
    records = run(chains=(), on_record=asked.append)
    assert asked == ["full"]
    assert [json.loads(line)["clip"] for line in lines(records)] == ["r", "g", "b"]


def test_stages_added_later_are_computed_alone_and_from_kept_encodings(run):
    run(chains=())
    again, asked = TinySet(), []
    records = run(again, chains=("intra",), retentions=(0.5, 0.25), on_record=asked.append)
    assert asked == ["intra 0.5", "intra 0.25"] * 3
    assert again.shown == []
    assert len(list(records)) == 9


def test_other_questions_about_the_same_clips_read_what_was_encoded_and_other_clips_do_not(model, weights, tmp_path):
    first, same, other = TinySet(), TinySet(version=2), TinySet(tint=90)
    for questions in (first, same, other):
        Encodings(model, questions, FRAMES, tmp_path / "encodings", weights=weights).of("r")
    assert [questions.shown for questions in (first, same, other)] == [["r"], [], ["r"]]


def test_without_a_cache_nothing_is_kept_and_clips_are_encoded_again(run, tmp_path):
    run(chains=(), cache=None)
    again = TinySet()
    run(again, chains=("blind",), cache=None)
    assert again.shown == ["r", "g", "b"]
    assert not (tmp_path / "encodings").exists()


def test_other_settings_in_the_same_folder_are_refused(run):
    run(chains=())
    with pytest.raises(InputError, match=r"set\.version 1 there, 2 now.*give another folder"):
        run(TinySet(version=2))


def test_other_questions_in_the_same_folder_are_refused(run):
    run(chains=())
    with pytest.raises(InputError, match=r"questions_digest .* there"):
        run(TinySet(questions=(*QUESTIONS[:4], dataclasses.replace(QUESTIONS[4], text="Which colour?"))))


def test_a_folder_without_settings_is_not_added_to(tmp_path):
    (tmp_path / RECORDS).write_text("{}\n")
    with pytest.raises(InputError, match="cannot be read"):
        Records(tmp_path, {})


def test_settings_are_readable_json(run, tmp_path):
    run(chains=())
    told = json.loads((tmp_path / "out" / SETTINGS).read_text())
    assert (told["set"]["version"], told["frames"], told["model"], told["dtype"]) == (1, FRAMES, "tiny", "float32")


def test_a_record_is_on_disk_as_soon_as_it_is_added(tmp_path):
    record = Record("c", "full", "full", 10, 10, 1.0, 0.0, 1.0, 1.0, {"q": "what\nfor"}, {"q": None})
    records = Records(tmp_path, {"frames": 1})
    records.add(record)
    assert list(Records(tmp_path, {"frames": 1})) == [record]
    assert ("c", "full", "") in records


def test_what_cannot_be_reduced_names_its_clip(run):
    class Broken(TinySet):
        def frames(self, clip, count):
            raise InputError("No such video.")

    with pytest.raises(InputError, match="Clip r: No such video"):
        run(Broken())


class Filmed(TinySet):
    """Clips are files in a folder: g is cut short, and b loses its frames while it is decoded."""

    def __init__(self, folder):
        super().__init__()
        object.__setattr__(self, "folder", folder)
        for clip in "rgb":
            write_numbered(folder / f"{clip}.mkv", "ffv1", numbers=range(40), reordered=0)
        for clip, keep in (("g", 0.5), ("b", 1.0)):
            path = folder / f"{clip}.mkv"
            content = bytearray(path.read_bytes())
            content[len(content) // 2 : len(content) * 3 // 4] = bytes(len(content) * 3 // 4 - len(content) // 2)
            path.write_bytes(content[: int(len(content) * keep)])

    def frames(self, clip, count):
        self.shown.append(clip)
        return clip_frames(self.folder / f"{clip}.mkv", count)


def test_clips_that_cannot_be_read_are_left_out_and_not_tried_again(run, tmp_path):
    left_out = []
    records = run(Filmed(tmp_path), on_unreadable=lambda *told: left_out.append(told))
    assert [(clip, variants) for clip, _, variants in left_out] == [("g", 3), ("b", 3)]
    assert {record.clip for record in records} == {"r"}
    assert list(records.unreadable) == ["g", "b"]
    assert "g.mkv is cut short" in records.unreadable["g"]
    assert "b.mkv is " in records.unreadable["b"]
    again = Filmed(tmp_path)
    assert list(run(again, on_unreadable=lambda *told: left_out.append(told)).unreadable) == ["g", "b"]
    assert again.shown == [] and len(left_out) == 2
    summary = summarise(QUESTIONS, records, unreadable=records.unreadable)
    assert (summary.clips, summary.questions) == (1, sum(question.clip == "r" for question in QUESTIONS))
    about = {
        "set": "tiny",
        "model": "tiny",
        "frames": 2,
        "dtype": "float32",
        "device": "cpu",
        "date": "",
        "command": "",
    }
    assert "2 of 3 clips could not be read and are left out; the first is g: g.mkv is cut short" in markdown(
        summary, about
    )


def test_clips_are_tried_again_when_the_list_of_unreadable_ones_is_deleted(run, tmp_path):
    run(Filmed(tmp_path))
    (tmp_path / "out" / UNREADABLE).unlink()
    records = run(TinySet())
    assert {record.clip for record in records} == set("rgb") and not records.unreadable


def test_a_spoilt_line_of_an_unreadable_clip_is_passed_over(tmp_path):
    Records(tmp_path, {"frames": 1}).leave_out("a", "why")
    with (tmp_path / UNREADABLE).open("a") as lines:
        lines.write('{"clip": "b", "rea')
    assert dict(Records(tmp_path, {"frames": 1}).unreadable) == {"a": "why"}


def test_no_clip_that_can_be_read_is_one_line():
    with pytest.raises(InputError, match="None of the 3 clips could be read; the first: torn"):
        summarise(QUESTIONS, [], unreadable=dict.fromkeys("rgb", "torn"))


def test_a_kept_encoding_is_the_encoding_itself(model, weights, tmp_path):
    fresh, kept = (Encodings(model, TinySet(), FRAMES, tmp_path, weights=weights).of("g") for _ in range(2))
    for name in ("features", "shallow", "deep", "place", "role", "timestamps"):
        assert torch.equal(getattr(fresh, name), getattr(kept, name))
    assert kept.history == fresh.history


def test_two_that_need_an_encoding_at_once_encode_it_once(model, weights, tmp_path):
    questions, together = TinySet(), threading.Barrier(2)

    def encode(number):
        encodings = Encodings(model, questions, FRAMES, tmp_path, weights=weights)
        together.wait()
        return encodings.of("g").features

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(encode, range(2))
    assert torch.equal(first, second)
    assert questions.shown == ["g"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_kept_encoding_is_on_the_models_device(model, weights, tmp_path, monkeypatch):
    encodings = Encodings(model, TinySet(), FRAMES, tmp_path, weights=weights)
    fresh = encodings.of("g")
    monkeypatch.setattr(type(model), "device", DEVICE)
    with simulated():
        kept = encodings.of("g")
    on_device = (kept.features, kept.place, kept.role, kept.shallow, kept.deep, *kept.levels, *kept.extras.values())
    assert all(isinstance(each, OnDevice) for each in on_device)
    assert kept.extras.keys() == fresh.extras.keys()
    assert torch.equal(kept.timestamps, fresh.timestamps)


@pytest.mark.parametrize(
    "change", [{"frames": 3}, {"weights": "another"}, {"questions": TinySet(tint=90)}, {"clip": "b"}]
)
def test_encodings_of_something_else_are_never_read(model, weights, tmp_path, change):
    def encode(frames=FRAMES, weights=weights, questions=None, clip="g"):
        questions = questions or TinySet()
        Encodings(model, questions, frames, tmp_path, weights=weights).of(clip)
        return questions.shown

    assert encode() == ["g"]
    assert encode() == []
    assert encode(**change) != []


def test_a_damaged_encoding_is_made_again(model, weights, tmp_path):
    whole = Encodings(model, TinySet(), FRAMES, tmp_path, weights=weights).of("g")
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:1000])
    again = Encodings(model, TinySet(), FRAMES, tmp_path, weights=weights).of("g")
    assert torch.equal(again.features, whole.features)
    assert torch.equal(storage.load(path).features, whole.features)


def test_the_size_of_what_is_kept_is_known(model, weights, tmp_path):
    encodings = Encodings(model, TinySet(), FRAMES, tmp_path, weights=weights)
    assert encodings.size("rgb") == 0
    encodings.of("g")
    assert encodings.size("rgb") == next(tmp_path.glob("*.safetensors")).stat().st_size


def test_encodings_that_the_disk_cannot_take_are_refused_before_work(model, weights, tmp_path, monkeypatch):
    one = FRAMES * 36 * 48 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * one))
    encodings = Encodings(model, TinySet(), FRAMES, tmp_path, weights=weights)
    encodings.require_room("rg")
    with pytest.raises(InputError, match="--no-cache"):
        encodings.require_room("rgb")
    encodings.of("g")
    encodings.require_room("rgb")


def test_a_model_is_told_from_another_by_a_single_weight(model, weights, embedded_folder):
    other = tiny_model(embedded_folder)
    assert fingerprint(other) == weights
    other.hf_model.model.multi_modal_projector.linear_1.bias.data[0] += 1e-3
    assert fingerprint(other) != weights
    assert fingerprint(model) == weights


def test_a_changed_file_of_scores_is_asked_about_again_and_nothing_else_is(run, tmp_path):
    scores = tmp_path / "scores.txt"
    chains = (f"aks:frames=1,scores={scores} # best", "aot:clip_length=2")
    scores.write_text("1 0")
    asked = []
    first = [each for each in run(chains=chains) if each.variant == "best"]
    assert all(each.inputs for each in first)
    run(chains=chains, on_record=asked.append)
    assert asked == []
    scores.write_text("0 1")
    again = [each for each in run(chains=chains, on_record=asked.append) if each.variant == "best"]
    assert asked == ["best"] * 3
    assert {each.inputs for each in again}.isdisjoint(each.inputs for each in first)
    assert all(not each.inputs for each in run(chains=chains) if each.variant != "best")


def test_a_file_of_scores_that_is_gone_is_one_line(run, tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt cannot be read"):
        run(chains=(f"aks:frames=1,scores={tmp_path / 'gone.txt'}",))

"""The nodes that compare: every socket and list gathered, figures as the command gives them, work kept when stopped."""

import csv
import dataclasses

import pytest
import torch

from comfyui_aot.aot.answering.answerer import LocalAnswerer, ask
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.comparison.compare import compare
from comfyui_aot.aot.comparison.variants import expand
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.nodes import comparing
from comfyui_aot.nodes.answering import AOTAnswer
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories, io, model_patcher
from comfyui_aot.nodes.comparing import AOTCompare, AOTSweep
from comfyui_aot.nodes.models import Loaded
from comfyui_aot.nodes.sockets import AOTVLLM, AOTTokens
from comfyui_aot.nodes.workflow.runner import registry, run, to_graph

QUESTION = "What colour is the square?"

pytestmark = pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")


@pytest.fixture
def base(tmp_path):
    """ComfyUI's folders."""
    with directories(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def loaded(model):
    return Loaded(LocalAnswerer(model), model_patcher(model.hf_model, model.device, model.device))


@pytest.fixture(scope="module")
def tokens(encoded):
    return encoded.cut(0, 1)


@pytest.fixture(scope="module")
def said(model, tokens):
    """The full answer and a reduced one."""
    return [ask(model, each, QUESTION, Generation(2)) for each in (tokens, parse("aot:retention=0.2")(tokens))]


def put_side_by_side(*lists, **more):
    sockets = ("answers", *comparing.SOCKETS)
    given = dict(zip(sockets, lists, strict=False))
    return AOTCompare.PREPARE_CLASS_CLONE({}).execute(**given, **more)


def lines_of(base, file):
    with (base / "output" / file).open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_lists_and_sockets_are_gathered_in_order(base, said):
    full, reduced = said
    other = dataclasses.replace(reduced, stages=("other",))
    shown = put_side_by_side([full, reduced], [other], answer_8=[reduced])
    image, markdown, file = shown.args
    assert [line["stages"] for line in lines_of(base, file)] == [
        "full", "intra+inter 0.199", "other 0.199", "intra+inter 0.199",
    ]  # fmt: skip
    assert image.shape[0] == 1 and image.shape[3] == 3
    assert markdown.count("\n|") == 6
    assert (base / "temp" / shown.ui["images"][0]["filename"]).is_file()
    assert "aot_maps" not in shown.ui


def test_two_maps_are_shown_and_no_table_is_overwritten(base, said):
    maps = {"map_a": [torch.zeros(1, 20, 30, 3)], "map_b": [torch.ones(1, 20, 30, 3)]}
    files = [put_side_by_side(said, filename_prefix=["mine/table"], **maps) for _ in range(2)]
    assert [each.args[2] for each in files] == ["mine/table_00001_.csv", "mine/table_00002_.csv"]
    names = {image["filename"] for image in files[0].ui["aot_maps"]}
    assert len(names) == 2
    assert all((base / "temp" / name).is_file() for name in names)
    with pytest.raises(InputError, match="without"):
        put_side_by_side(said, filename_prefix=["../out"])


def test_a_servers_answer_has_no_divergence_to_show(base, said):
    served = dataclasses.replace(said[1], ids=(), first=None)
    _, markdown, file = put_side_by_side([said[0], served]).args
    assert lines_of(base, file)[1]["kl_first_token"] == ""
    assert "| - | - |" in markdown


class Given(io.ComfyNode):
    """Hands a model and tokens to a graph, in place of the nodes that load and encode."""

    values = ()

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Given", outputs=[AOTVLLM.Output("vllm"), AOTTokens.Output("t"), AOTTokens.Output("r")]
        )

    @classmethod
    def execute(cls):
        return io.NodeOutput(*cls.values)


def test_answers_of_a_graph_have_the_figures_of_the_comparison(base, loaded, tokens, said):
    variants = expand(["aot"], (0.2,))
    rows = list(compare(loaded.answerer, tokens, QUESTION, variants, Generation(2)))
    Given.values = (loaded, tokens, variants[1].chain(tokens))
    asked = {"question": f"{QUESTION}\nIs it day?", "max_new_tokens": 2, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    graph = {
        "1": {"class_type": "Given", "inputs": {}},
        "2": {
            "class_type": "AOTAnswer",
            "inputs": {"vllm": ["1", 0], "tokens": ["1", 1], "a_line_each": True, **asked},
        },
        "3": {
            "class_type": "AOTAnswer",
            "inputs": {"vllm": ["1", 0], "tokens": ["1", 2], "a_line_each": True, **asked},
        },
        "4": {"class_type": "AOTCompare", "inputs": {"answers": ["2", 1], "answer_2": ["3", 1]}},
    }
    results = run(to_graph(graph, registry([Given, AOTAnswer, AOTCompare])))
    lines = lines_of(base, results["4"].outputs[2][0])
    assert [line["question"] for line in lines] == [QUESTION, "Is it day?"] * 2
    told = {"answer", "tokens_kept", "tokens_full", "prompt_tokens", "new_tokens", "prefill_flops", "kv_cache_bytes"}
    for line, row in zip((lines[0], lines[2]), rows, strict=True):
        expected = row.to_dict()
        assert {name: line[name] for name in told} == {name: str(expected[name]) for name in told}
        assert line["same_as_full"] == str(row.fidelity.same)
        assert float(line["alike"]) == row.fidelity.alike
        assert float(line["kl_first_token"]) == pytest.approx(row.fidelity.kl_first, abs=1e-4)


SWEEP = {"question": QUESTION, "stages": "aot\n", "max_new_tokens": 2, "filename_prefix": "sweeps/colour"}


def test_a_sweep_that_is_cancelled_goes_on_where_it_was(base, loaded, tokens, monkeypatch):
    class Cancelled(Exception):
        pass

    def sweep(retentions):
        node = AOTSweep.PREPARE_CLASS_CLONE({})
        return node.execute(vllm=loaded, tokens=tokens, retentions=retentions, **SWEEP)

    def cells():
        return {path.name: path.stat().st_mtime_ns for path in (base / "output" / "aot_sweeps").rglob("*-*.json")}

    def cancel():
        if len(cells()) == 2:
            raise Cancelled

    monkeypatch.setattr(comparing, "interrupted", cancel)
    with pytest.raises(Cancelled):
        sweep("0.5, 0.2")
    before = cells()
    assert len(before) == 2
    monkeypatch.setattr(comparing, "interrupted", lambda: None)
    shown = sweep("0.5, 0.2")
    image, markdown, file = shown.args
    assert len(cells()) == 3
    assert cells().items() > before.items()
    assert [line["stages"] for line in lines_of(base, file)] == ["full", "aot 0.5", "aot 0.2"]
    assert "KL: " in markdown
    assert image.shape[2] > image.shape[1]
    assert file == "sweeps/colour_00001_.csv"
    assert (base / "temp" / shown.ui["images"][0]["filename"]).is_file()


def test_a_sweep_leaves_the_video_of_the_last_question_in_the_cache(base, loaded, tokens):
    loaded.answerer.answer(tokens, [QUESTION], Generation(1))
    kept = loaded.answerer.last
    AOTSweep.PREPARE_CLASS_CLONE({}).execute(vllm=loaded, tokens=tokens, retentions="0.5", **SWEEP)
    assert loaded.answerer.last is kept
    assert kept.cached_tokens > tokens.tokens_kept


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ({"retentions": "much"}, "not all numbers"),
        ({"stages": "magic"}, "No stage is called 'magic'"),
        ({"stages": ""}, "a chain a line"),
        ({"stages": "aks:frames=2,scores=/etc/hostname+aot"}, "'/etc/hostname' is not allowed: only files inside"),
        ({"stages": "aks:frames=2,scores=none.txt+aot"}, "There is no file 'none.txt' in the input folder"),
        ({"question": " "}, "question is empty"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_encoded(typed, says):
    with pytest.raises(InputError, match=says):
        AOTSweep.check_lazy_status(**{"question": "What?", "stages": "aot", "retentions": "0.5", **typed})


def test_the_model_and_the_tokens_are_needed_once_what_was_typed_is_right():
    typed = {"question": "What?", "stages": "aot", "retentions": "0.5", "max_new_tokens": 2}
    assert AOTSweep.check_lazy_status(**typed, vllm=None, tokens=None) == ["vllm", "tokens"]


def test_reduced_tokens_are_not_swept(base, loaded, tokens):
    with pytest.raises(InputError, match="reduced already"):
        AOTSweep.PREPARE_CLASS_CLONE({}).execute(
            vllm=loaded, tokens=parse("intra:budget=126")(tokens), retentions="0.5", **SWEEP
        )

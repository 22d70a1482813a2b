"""Workflow files, in both formats, read, checked and run without ComfyUI's server."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from comfyui_aot.aot.errors import LONGEST, InputError
from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.comfy import io
from comfyui_aot.nodes.workflow.runner import check, load_workflow, override, registry, run, to_graph

Tokens = io.Custom("TEST_TOKENS")


class Source(io.ComfyNode):
    """Gives `count` tokens; its widgets are those whose values the editor stores in special ways."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestSource",
            display_name="Source",
            inputs=[
                io.Combo.Input("file", options=["a.mp4", "b.mp4"], upload=io.UploadType.video),
                io.Int.Input("start", default=7, optional=True),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1),
                io.Int.Input("count", default=3, min=1, max=9),
                io.Combo.Input("mode", options=["fast", "exact"], control_after_generate=True),
                io.Boolean.Input("loud", default=False),
                io.Float.Input("scale", default=1.0, min=0.0, max=2.0),
            ],
            outputs=[Tokens.Output("tokens"), io.String.Output("info")],
        )

    @classmethod
    def execute(cls, file, seed, count, mode, loud, scale, start=0):
        info = f"{file} {seed} {mode} {loud} {scale} {start}"
        return io.NodeOutput(tuple(range(count)), info)


class Halve(io.ComfyNode):
    """A reduction: tokens in, fewer tokens out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestHalve",
            display_name="Halve",
            inputs=[Tokens.Input("tokens"), io.Int.Input("every", default=2, min=1, max=4)],
            outputs=[Tokens.Output("reduced")],
        )

    @classmethod
    def validate_inputs(cls, every):
        return "4 is not supported, choose 1 to 3" if every == 4 else True

    @classmethod
    def execute(cls, tokens, every):
        if not tokens:
            raise InputError("There are no tokens to reduce; encode a video first.")
        return io.NodeOutput(tokens[::every])


class Show(io.ComfyNode):
    """An output node."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestShow",
            display_name="Show",
            inputs=[
                Tokens.Input("tokens"),
                Tokens.Input("other", optional=True),
                io.String.Input("label", default="tokens", multiline=True),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, tokens, label, other=None):
        return io.NodeOutput(ui={"text": (f"{label} {tokens} {other} on {cls.hidden.unique_id}",)})


class Choose(io.ComfyNode):
    """Takes the first of its inputs that there is any need for, and awaits."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestChoose",
            inputs=[
                io.Boolean.Input("left"),
                Tokens.Input("one", lazy=True),
                Tokens.Input("two", lazy=True),
            ],
            outputs=[Tokens.Output("chosen")],
        )

    @classmethod
    def check_lazy_status(cls, left, one=None, two=None):
        name, value = ("one", one) if left else ("two", two)
        return [name] if value is None else []

    @classmethod
    async def execute(cls, left, one, two):
        await asyncio.sleep(0)
        return io.NodeOutput(one if left else two)


CLASSES = registry([Source, Halve, Show, Choose])


def source(**inputs):
    given = {"file": "a.mp4", "seed": 1, "count": 4, "mode": "fast", "loud": False, "scale": 1.0} | inputs
    return {"class_type": "TestSource", "inputs": given}


def halve(tokens, every=2):
    return {"class_type": "TestHalve", "inputs": {"tokens": tokens, "every": every}}


def show(tokens, **inputs):
    return {"class_type": "TestShow", "inputs": {"tokens": tokens, "label": "got"} | inputs}


def graph_of(**nodes):
    return to_graph({key.lstrip("n"): node for key, node in nodes.items()}, CLASSES)


def chain():
    return graph_of(n1=source(), n2=halve(["1", 0]), n3=show(["2", 0]))


def messages(graph):
    return [str(problem) for problem in check(graph)]


def slot(name, kind, widget=False):
    """An input as the editor writes it."""
    extra = {"widget": {"name": name}} if widget else {}
    return {"localized_name": name, "name": name, "type": kind, **extra, "link": None}


def drawn(number, kind, inputs=(), outputs=(), values=(), mode=0, **extra):
    """A node as the editor writes it."""
    return {
        "id": number, "type": kind, "pos": [40, 120], "size": [270, 178], "flags": {}, "order": number, "mode": mode,
        "inputs": list(inputs),
        "outputs": [{"localized_name": n, "name": n, "type": t, "links": []} for n, t in outputs],
        "properties": {"cnr_id": "comfyui-aot", "ver": "0.1.0", "Node name for S&R": kind},
        "widgets_values": list(values), **extra,
    }  # fmt: skip


def editor_file(halve_mode=0, source_mode=0, extra_nodes=(), extra_links=()):
    """Source (1) -> Halve (2) -> reroute (4) -> Show (3), with notes, as frontend 1.27 saves it."""
    tokens = "TEST_TOKENS"
    widgets = [("file", "COMBO"), ("seed", "INT"), ("count", "INT"), ("mode", "COMBO"), ("loud", "BOOLEAN"),
               ("scale", "FLOAT"), ("start", "INT")]  # fmt: skip
    stored = ["b.mp4", 42, "randomize", 6, "exact", "fixed", "", True, 0.5, 8, "image"]
    links = [[1, 1, 0, 2, 0, tokens], [2, 2, 0, 4, 0, tokens], [3, 4, 0, 3, 0, tokens], *extra_links]
    file = {
        "id": "0f6b9a52-6a3e-4a55-8c1c-bd9b3f4b7a11",
        "revision": 0,
        "last_node_id": 6,
        "last_link_id": 3,
        "nodes": [
            drawn(6, "MarkdownNote", values=["## What this does"], color="#432", bgcolor="#653"),
            drawn(5, "Note", values=["a note"]),
            drawn(3, "TestShow",
                  [slot("tokens", tokens), slot("other", tokens), slot("label", "STRING", widget=True)],
                  values=["kept"], title="The Answer"),
            drawn(4, "Reroute", [slot("", "*")], [("", tokens)],
                  properties={"showOutputText": False, "horizontal": False}) | {"widgets_values": None},
            drawn(2, "TestHalve", [slot("tokens", tokens), slot("every", "INT", widget=True)],
                  [("reduced", tokens)], [3], mode=halve_mode),
            drawn(1, "TestSource", [slot(n, t, widget=True) for n, t in widgets],
                  [("tokens", tokens), ("info", "STRING")], stored, mode=source_mode),
            *extra_nodes,
        ],
        "links": links,
        "groups": [{"id": 1, "title": "Encode", "bounding": [0, 0, 600, 400], "color": "#3f789e", "flags": {}}],
        "config": {},
        "extra": {"ds": {"scale": 1, "offset": [0, 0]}, "frontendVersion": "1.27.10"},
        "version": 0.4,
    }  # fmt: skip
    nodes = {node["id"]: node for node in file["nodes"]}
    for number, origin, origin_slot, target, target_slot, _ in links:
        nodes[origin]["outputs"][origin_slot]["links"].append(number)
        nodes[target]["inputs"][target_slot]["link"] = number
    return file


def shown(results, key="3"):
    return results[key].ui["text"][0]


# --- API format ---


def test_an_api_workflow_runs_and_gives_outputs_and_ui():
    results = run(chain())
    assert results["1"].outputs == ([(0, 1, 2, 3)], ["a.mp4 1 fast False 1.0 0"])
    assert results["2"].outputs == ([(0, 2)],)
    assert shown(results) == "got (0, 2) None on 3"


def test_a_server_request_body_is_read_as_its_prompt(tmp_path):
    path = tmp_path / "body.json"
    path.write_text(json.dumps({"client_id": "x", "prompt": {"1": source(), "2": show(["1", 0])}}))
    assert shown(run(to_graph(load_workflow(path), CLASSES)), "2").startswith("got (0, 1, 2, 3)")


def test_a_wrapped_list_is_a_value_and_no_link():
    node = to_graph({"1": source(file={"__value__": ["1", 0]})}, CLASSES).nodes["1"]
    assert node.inputs["file"] == ["1", 0]


def test_a_diamond_runs_each_node_once_and_sources_first():
    graph = graph_of(
        n4=show(["2", 0], other=["3", 0]), n2=halve(["1", 0]), n3=halve(["1", 0], 3), n1=source(),
    )  # fmt: skip
    done = []
    run(graph, on_event=lambda event: event.result and done.append(event.node.id))
    assert done == ["1", "2", "3", "4"]


def test_events_announce_start_and_end_with_a_count():
    events = []
    run(chain(), on_event=events.append)
    assert [(e.node.id, e.index, e.total, e.result is not None) for e in events[:2]] == [
        ("1", 1, 3, False), ("1", 1, 3, True),
    ]  # fmt: skip
    assert events[-1].result.ui["text"]


def test_what_no_output_node_needs_does_not_run():
    assert set(run(graph_of(n1=source(), n2=halve(["1", 0]), n3=show(["1", 0])))) == {"1", "3"}


def test_a_lazy_input_is_evaluated_only_when_asked_for():
    graph = graph_of(
        n1=source(), n2=source(count=2), n3={"class_type": "TestChoose", "inputs": {
            "left": False, "one": ["1", 0], "two": ["2", 0]}}, n4=show(["3", 0]),
    )  # fmt: skip
    results = run(graph)
    assert "1" not in results
    assert results["3"].outputs == ([(0, 1)],)


def test_an_asynchronous_node_runs_where_a_loop_is_running_already():
    async def notebook():
        return run(graph_of(n1=source(), n2=source(count=2), n3={"class_type": "TestChoose", "inputs": {
            "left": False, "one": ["1", 0], "two": ["2", 0]}}, n4=show(["3", 0])))  # fmt: skip

    # In a thread of its own: the browser tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, notebook()).result()["3"].outputs == ([(0, 1)],)


def test_an_input_error_in_a_node_names_the_node_once():
    class Empty(Source):
        @classmethod
        def execute(cls, **inputs):
            return io.NodeOutput((), "")

    graph = to_graph({"1": source(), "2": halve(["1", 0]), "3": show(["2", 0])}, CLASSES | {"TestSource": Empty})
    with pytest.raises(InputError, match=r'^"Halve" \(node 2\): There are no tokens to reduce'):
        run(graph)


def test_a_fault_that_is_not_the_users_keeps_its_own_type():
    class Faulty(Source):
        @classmethod
        def execute(cls, **inputs):
            raise KeyError("bug")

    graph = to_graph({"1": source(), "2": show(["1", 0])}, CLASSES | {"TestSource": Faulty})
    with pytest.raises(KeyError):
        run(graph)


# --- UI format ---


def test_a_file_from_the_editor_runs_with_its_stored_values():
    results = run(to_graph(editor_file(), CLASSES))
    assert results["1"].outputs == ([tuple(range(6))], ["b.mp4 42 exact True 0.5 8"])
    assert shown(results) == "kept (0, 3) None on 3"


def test_both_formats_give_the_same_graph():
    api = to_graph(
        {
            "1": source(file="b.mp4", seed=42, count=6, mode="exact", loud=True, scale=0.5, start=8),
            "2": halve(["1", 0], 3),
            "3": show(["2", 0], label="kept") | {"_meta": {"title": "The Answer"}},
        },
        CLASSES,
    )
    assert to_graph(editor_file(), CLASSES).nodes == api.nodes


def test_links_as_objects_are_read_too():
    file = editor_file()
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    file["links"] = [dict(zip(names, link, strict=True)) for link in file["links"]]
    assert shown(run(to_graph(file, CLASSES))) == "kept (0, 3) None on 3"


def test_a_file_older_than_a_widget_gets_its_default():
    file = editor_file()
    file["nodes"][-1]["widgets_values"] = ["b.mp4", 42, "fixed"]
    assert run(to_graph(file, CLASSES))["1"].outputs == ([(0, 1, 2)], ["b.mp4 42 fast False 1.0 7"])


LOADS = ["a.mp4", "uniform", 16, 1, 1, 0, 0, 64]
ASKS = ["a.mp4", "What?", 0.25, "embedded", 8, 64, 24, 0, 0, 4, "own words", "", "none", False, True]


@pytest.mark.parametrize(
    ("kind", "values", "read"),
    [
        ("AOTLoadVideo", [*LOADS, "image"], {"size": 64, "fewer": False}),
        ("AOTLoadVideo", [*LOADS, True, "image"], {"size": 64, "fewer": True}),
        ("AOTLoadVideo", LOADS, {"size": 64, "fewer": False}),
        ("AOTLoadVideo", ["image"], {"video": "image", "size": 0, "fewer": False}),
        ("AOTAskVideo", [*ASKS, "image"], {"unload": True, "sample_fps": 0.0, "fewer": False}),
        ("AOTAskVideo", [*ASKS, 2.0, "image"], {"unload": True, "sample_fps": 2.0, "fewer": False}),
        ("AOTAskVideo", [*ASKS, 2.0, True, "image"], {"unload": True, "sample_fps": 2.0, "fewer": True}),
    ],
)
def test_an_upload_buttons_value_in_an_older_file_is_no_newer_inputs(kind, values, read):
    graph = to_graph({"nodes": [drawn(1, kind, values=values)], "links": []}, registry(NODES))
    assert {name: graph.nodes["1"].inputs[name] for name in read} == read


def test_values_stored_by_name_are_read_too():
    file = editor_file()
    file["nodes"][-1]["widgets_values"] = {"file": "a.mp4", "count": 2}
    assert run(to_graph(file, CLASSES))["1"].outputs == ([(0, 1)], ["a.mp4 0 fast False 1.0 7"])


def test_a_bypassed_node_hands_its_input_on():
    results = run(to_graph(editor_file(halve_mode=4), CLASSES))
    assert set(results) == {"1", "3"}
    assert shown(results) == "kept (0, 1, 2, 3, 4, 5) None on 3"


def test_a_bypassed_node_without_an_input_of_that_type_leaves_the_link_open():
    (problem,) = messages(to_graph(editor_file(source_mode=4), CLASSES))
    assert problem == '"Halve" (node 2): input "tokens" is not linked: connect a TEST_TOKENS output'


def test_a_bypassed_node_of_an_unknown_type_is_no_problem():
    file = editor_file(halve_mode=4)
    file["nodes"][4]["type"] = "SomebodyElses"
    assert shown(run(to_graph(file, CLASSES))) == "kept (0, 1, 2, 3, 4, 5) None on 3"


def test_a_muted_node_takes_what_needs_it_along():
    second = drawn(7, "TestShow", [slot("tokens", "TEST_TOKENS")], values=["second"])
    graph = to_graph(editor_file(2, extra_nodes=[second], extra_links=[[4, 1, 0, 7, 0, "TEST_TOKENS"]]), CLASSES)
    assert set(run(graph)) == {"1", "7"}


def test_a_muted_node_on_an_optional_input_leaves_it_out():
    muted = drawn(7, "TestSource", outputs=[("tokens", "TEST_TOKENS")], mode=2)
    file = editor_file(extra_nodes=[muted], extra_links=[[4, 7, 0, 3, 1, "TEST_TOKENS"]])
    assert shown(run(to_graph(file, CLASSES))) == "kept (0, 3) None on 3"


def test_a_workflow_muted_altogether_would_run_nothing():
    assert messages(to_graph(editor_file(source_mode=2), CLASSES)) == [
        "the workflow: nothing would run: add a node that shows or saves something"
    ]


def test_a_primitive_gives_its_value_to_the_widget_it_is_linked_to():
    primitive = drawn(7, "PrimitiveNode", outputs=[("INT", "INT")], values=[2, "fixed"], title="every")
    file = editor_file(extra_nodes=[primitive], extra_links=[[4, 7, 0, 2, 1, "INT"]])
    assert run(to_graph(file, CLASSES))["2"].outputs == ([(0, 2, 4)],)


def test_a_widget_that_is_linked_takes_the_link():
    file = editor_file(extra_links=[[4, 1, 1, 3, 2, "STRING"]])
    assert shown(run(to_graph(file, CLASSES))).startswith("b.mp4 42 exact True 0.5 8 (0, 3)")


def test_reroutes_in_a_circle_are_a_problem():
    file = editor_file()
    file["links"][1] = [2, 4, 0, 4, 0, "*"]
    (problem,) = messages(to_graph(file, CLASSES))
    assert "reroutes or bypassed nodes in a circle" in problem


def test_a_link_from_nowhere_is_a_problem():
    file = editor_file()
    del file["links"][0]
    assert messages(to_graph(file, CLASSES)) == [
        '"Halve" (node 2): input "tokens" is linked to a node that is not in the file: connect it again'
    ]


def test_a_subgraph_is_refused_in_one_line():
    kind = "5f0f4a1c-7e21-4d26-9c59-3d8c9b9a1f00"
    file = editor_file(extra_nodes=[drawn(9, kind)])
    file["definitions"] = {"subgraphs": [{"id": kind, "nodes": [], "links": []}]}
    with pytest.raises(InputError, match="Subgraphs run only in ComfyUI, and node 9 is one: unpack it"):
        to_graph(file, CLASSES)


# --- checking ---


def test_all_problems_are_listed_at_once():
    graph = graph_of(
        n1=source(count=99, mode="slow", scale="much"),
        n2=halve(["1", 1], every=4),
        n3=show(["2", 0], other=["1", 5]),
        n4={"class_type": "Elsewhere", "inputs": {}},
        n5={"class_type": "TestShow", "inputs": {"label": "x", "other": 3}},
        n6=show(["17", 0]),
    )
    assert sorted(messages(graph)) == [
        '"Elsewhere" (node 4): unknown node type Elsewhere: it runs only in ComfyUI;'
        " known here are TestChoose, TestHalve, TestShow, TestSource",
        '"Halve" (node 2): input "tokens" takes TEST_TOKENS, but is linked to STRING of "Source" (node 1):'
        " connect a TEST_TOKENS output",
        '"Show" (node 3): input "other" is linked to output 5 of "Source" (node 1), which has only 2',
        '"Show" (node 5): input "other" takes a link from a TEST_TOKENS output, not the value 3',
        '"Show" (node 5): input "tokens" is not linked: connect a TEST_TOKENS output',
        '"Show" (node 6): input "tokens" is linked to node 17, which is not in the workflow: connect it again',
        '"Source" (node 1): input "count" is 99, but must be at least 1 and at most 9',
        '"Source" (node 1): input "mode" is \'slow\', but must be one of: fast, exact',
        '"Source" (node 1): input "scale" takes a number, not \'much\'',
    ]


def test_a_nodes_own_validation_is_among_the_problems():
    graph = graph_of(n1=source(), n2=halve(["1", 0], every=4), n3=show(["2", 0]))
    assert messages(graph) == ['"Halve" (node 2): 4 is not supported, choose 1 to 3']


def test_a_node_that_validates_an_input_has_its_range_to_itself():
    graph = graph_of(n1=source(), n2=halve(["1", 0], every=5), n3=show(["2", 0]))
    assert messages(graph) == []


def test_a_circle_of_links_is_a_problem_and_not_endless():
    graph = graph_of(n1=halve(["2", 0]), n2=halve(["1", 0]), n3=show(["2", 0]))
    (problem,) = messages(graph)
    assert "its links go round in a circle" in problem
    assert '"Halve" (node 1)' in problem


def test_what_is_wrong_with_an_unused_node_is_no_problem():
    assert messages(graph_of(n1=source(), n2=show(["1", 0]), n3=halve(["1", 1], every="x"))) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("count", 2.5, "takes a whole number, not 2.5"),
        ("count", None, "takes a whole number, not None"),
        ("scale", float("nan"), "takes a number, not nan"),
        ("loud", "false", "takes true or false, not 'false'"),
        ("seed", 2**64, f"is {2**64}, but must be at least 0 and at most {2**64 - 1}"),
    ],
)
def test_a_value_of_the_wrong_kind_is_a_problem(name, value, said):
    graph = graph_of(n1=source(**{name: value}), n2=show(["1", 0]))
    assert messages(graph) == [f'"Source" (node 1): input "{name}" {said}']


def test_a_missing_required_value_is_a_problem():
    graph = graph_of(n1={"class_type": "TestSource", "inputs": {}}, n2=show(["1", 0]))
    assert '"Source" (node 1): input "count" has no value' in messages(graph)


def test_run_refuses_a_workflow_with_problems_naming_all_in_one_line():
    with pytest.raises(InputError) as caught:
        run(graph_of(n1=source(count=99, mode="slow"), n2=show(["1", 0])))
    assert "\n" not in str(caught.value)
    assert '"count" is 99' in str(caught.value)
    assert "\"mode\" is 'slow'" in str(caught.value)


# --- overriding ---


@pytest.mark.parametrize("name", ["1", "Source", "source", "TestSource"])
def test_a_node_is_found_by_id_title_and_type(name):
    assert override(chain(), [f"{name}.count=5"]).nodes["1"].inputs["count"] == 5


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("1.seed=18446744073709551615", 2**64 - 1),
        ("1.scale=0.25", 0.25),
        ("1.loud=yes", True),
        ("1.loud=False", False),
        ("1.mode=exact", "exact"),
        ("3.label=a=b.c d", "a=b.c d"),
    ],
)
def test_a_setting_is_read_as_the_widgets_type(setting, value):
    name = setting.partition("=")[0].partition(".")
    assert override(chain(), [setting]).nodes[name[0]].inputs[name[2]] == value


def test_a_setting_takes_the_place_of_a_link():
    graph = graph_of(n1=source(), n3=show(["1", 0], label=["1", 1]))
    assert shown(run(graph, ["3.label=mine"])).startswith("mine ")


def test_overriding_leaves_the_graph_as_it_was():
    graph = chain()
    override(graph, ["1.count=5"])
    assert graph.nodes["1"].inputs["count"] == 4


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("count=5", "write NODE.input=value"),
        ("1.count", "write NODE.input=value"),
        ("9.count=5", "No node is called '9'; give an id: \"Source\" \\(node 1\\)"),
        ("1.colour=red", "has no value 'colour'; it has: file, seed, count, mode, loud, scale, start"),
        ("2.tokens=5", "has no value 'tokens'; it has: every"),
        ("1.count=many", "count takes a whole number, not 'many'"),
        ("1.count=10", "count is 10, but must be at least 1 and at most 9"),
        ("1.mode=slow", "mode is 'slow', but must be one of: fast, exact"),
        ("1.loud=maybe", "loud takes true or false, not 'maybe'"),
    ],
)
def test_a_setting_that_cannot_be_made_is_refused(setting, said):
    with pytest.raises(InputError, match=said):
        override(chain(), [setting])


def test_a_title_that_two_nodes_share_is_refused():
    graph = graph_of(n1=source(), n2=halve(["1", 0]), n4=halve(["2", 0]), n3=show(["4", 0]))
    with pytest.raises(InputError, match=r'2 nodes are called .Halve.; give an id: "Halve" \(node 2\), "Halve"'):
        override(graph, ["Halve.every=1"])


# --- files ---


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "no valid JSON"), ("[1, 2]", "holds a list, not a dict"), ('{"a": {"b": 1}}', "holds JSON but no nodes")],
)
def test_a_file_that_is_no_workflow_is_refused(tmp_path, text, said):
    path = tmp_path / "workflow.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        load_workflow(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"No such file or directory\); give a \.json file that ComfyUI exported"):
        load_workflow(tmp_path / "none.json")


class Many(io.ComfyNode):
    """Gives a list."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestMany",
            inputs=[io.Int.Input("count", default=2)],
            outputs=[Tokens.Output("tokens", is_output_list=True)],
        )

    @classmethod
    def execute(cls, count):
        return io.NodeOutput([(i,) * 3 for i in range(count)])


class Gather(io.ComfyNode):
    """Takes a list."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestGather",
            inputs=[Tokens.Input("tokens"), io.Int.Input("count", default=2)],
            outputs=[Tokens.Output("all")],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(cls, tokens, count):
        return io.NodeOutput((tokens, count), ui={"text": (str(len(tokens)),)})


def test_a_list_is_taken_one_by_one_or_whole_as_the_node_asks():
    classes = registry([Source, Halve, Show, Choose, Many, Gather])
    nodes = {
        "1": {"class_type": "TestMany", "inputs": {"count": 3}},
        "2": halve(["1", 0]),
        "3": show(["2", 0]),
        "4": {"class_type": "TestGather", "inputs": {"tokens": ["2", 0], "count": 7}},
    }
    results = run(to_graph(nodes, classes))
    assert results["2"].outputs == ([(0, 0), (1, 1), (2, 2)],)
    assert results["3"].ui["text"] == [f"got ({i}, {i}) None on 3" for i in range(3)]
    assert results["4"].outputs == ([([(0, 0), (1, 1), (2, 2)], [7])],)
    assert results["4"].ui == {"text": ("3",)}


# --- longer than Python's stack ---

LONG = 10_000


def test_a_chain_of_ten_thousand_nodes_runs():
    nodes = {"0": source()} | {str(i + 1): halve([str(i), 0], every=1) for i in range(LONG)}
    results = run(to_graph({**nodes, "last": show([str(LONG), 0])}, CLASSES))
    assert len(results) == LONG + 2
    assert results["last"].ui["text"] == ("got (0, 1, 2, 3) None on last",)


def test_a_chain_of_lazy_inputs_runs():
    nodes = {"0": source(), "other": source()}
    for i in range(2000):
        inputs = {"left": True, "one": [str(i), 0], "two": ["other", 0]}
        nodes[str(i + 1)] = {"class_type": "TestChoose", "inputs": inputs}
    results = run(to_graph({**nodes, "last": show(["2000", 0])}, CLASSES))
    assert "other" not in results and results["last"].ui["text"] == ("got (0, 1, 2, 3) None on last",)


def long_file(kind, mode, first=None):
    """Source (1), a chain of one kind of node, and Show, in the editor's format; the first has a mode of its own."""
    tokens = "TEST_TOKENS"
    nodes = [drawn(1, "TestSource", outputs=[("tokens", tokens)], values=["b.mp4", 1, "fixed", 4, "exact"])]
    for i in range(2, LONG + 2):
        own = first if i == 2 and first is not None else mode
        nodes.append(drawn(i, kind, [slot("tokens", tokens) | {"link": i - 1}], [("", tokens)], [1], mode=own))
    nodes.append(drawn(LONG + 2, "TestShow", [slot("tokens", tokens) | {"link": LONG + 1}], values=["kept"]))
    return {"nodes": nodes, "links": [[i, i, 0, i + 1, 0, tokens] for i in range(1, LONG + 2)]}


@pytest.mark.parametrize(("kind", "mode"), [("Reroute", 0), ("TestHalve", 4)])
def test_ten_thousand_reroutes_or_bypassed_nodes_lead_to_their_source(kind, mode):
    results = run(to_graph(long_file(kind, mode), CLASSES))
    assert results[str(LONG + 2)].ui["text"] == (f"kept (0, 1, 2, 3) None on {LONG + 2}",)


def test_a_muted_node_takes_ten_thousand_along():
    assert set(to_graph(long_file("TestHalve", 0, first=2), CLASSES).nodes) == {"1"}


def test_a_circle_of_ten_thousand_nodes_is_one_readable_line():
    nodes = {str(i): halve([str((i + 1) % LONG), 0]) for i in range(LONG)}
    with pytest.raises(InputError, match="round in a circle") as caught:
        run(to_graph({**nodes, "last": show(["0", 0])}, CLASSES))
    assert len(str(caught.value)) <= LONGEST


# --- what no editor saves ---

TOKENS = {"name": "tokens", "type": "TEST_TOKENS", "link": 1}


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"nodes": [7]}, "node 7 has no id or type"),
        ({"nodes": [{"id": 1}]}, r"node \{'id': 1\} has no id or type"),
        ({"nodes": [{"id": [1], "type": "TestHalve"}]}, "has no id or type"),
        ({"nodes": [{"id": 1, "type": "TestHalve", "inputs": {}}]}, r"node 1 has inputs \{\}"),
        ({"nodes": [{"id": 1, "type": "TestHalve", "inputs": [3]}]}, "node 1 has an input or output 3"),
        ({"nodes": [{"id": 1, "type": "TestHalve", "inputs": [TOKENS | {"link": {}}]}]}, "an input or output"),
        ({"nodes": [{"id": 1, "type": "TestHalve", "widgets_values": 3}]}, "node 1 has widgets_values 3"),
        ({"nodes": [{"id": 1, "type": "TestHalve", "title": ["a"]}]}, r"node 1 has title \['a'\]"),
        ({"nodes": [], "links": [[1, 2]]}, r"link \[1, 2\] leads nowhere"),
        ({"nodes": [], "links": [[1, 2, "x", 4, 0, "*"]]}, "leads nowhere"),
        ({"nodes": [], "links": {"a": 1}}, "has links"),
        ({"1": {"class_type": "TestHalve", "inputs": [1]}}, r"node 1 has inputs \[1\]"),
        ({"1": {"class_type": "TestHalve", "_meta": "x"}}, "node 1 has _meta 'x'"),
    ],
)
def test_parts_of_a_kind_that_no_editor_saves_are_named(file, said):
    with pytest.raises(InputError, match=f"{said}.*, which no editor saves; export it from ComfyUI again"):
        to_graph(file, CLASSES)

"""The pack in a real ComfyUI, driven over HTTP and the websocket."""

import copy
import json
import re
import shutil
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from comfyui_aot.aot.cli.run import run_file
from comfyui_aot.tests.support.comfyui_client import Refused

CHECKOUT = Path(__file__).parents[2]
SNAPSHOT = Path(__file__).with_name("object_info.json")
COLOUR_OR_LEVEL = re.compile(r"\x1b\[\d+m|\[INFO\] *")
"""What newer versions write before a line of their log."""


def the(prompt, kind):
    """The id of the only node of a kind."""
    (key,) = [key for key, node in prompt.items() if node["class_type"] == kind]
    return key


def changed(prompt, kind, **values):
    """The prompt with values of the only node of a kind replaced."""
    copied = copy.deepcopy(prompt)
    copied[the(copied, kind)]["inputs"].update(values)
    return copied


def bypassed(prompt, kind):
    """The prompt without a reduction node, what it took handed on in its place."""
    copied = copy.deepcopy(prompt)
    key = the(copied, kind)
    source = copied.pop(key)["inputs"]["tokens"]
    for node in copied.values():
        node["inputs"] = {name: source if value == [key, 0] else value for name, value in node["inputs"].items()}
    return copied


def short(prompt, **values):
    """The prompt on few frames, with a short answer and no picture."""
    copied = changed(changed(prompt, "AOTLoadVideo", frames=4), "AOTAnswer", max_new_tokens=4, **values)
    del copied[the(copied, "AOTTokenMap")]
    return copied


def kept(run, prompt):
    """Tokens kept and full, as the Answer node shows them."""
    figures = run.text(the(prompt, "AOTAnswer"))[1]
    return tuple(int(number) for number in re.search(r"(\d+) of (\d+)", figures).groups())


def test_the_pack_loads_without_a_warning(server, object_info):
    start = COLOUR_OR_LEVEL.sub("", server.log.read_text().partition("To see the GUI go to")[0])
    assert "comfyui-aot" in start
    about_us = [line for line in start.splitlines() if "aot" in line.lower()]
    assert all(re.fullmatch(r" *[\d.]+ seconds: .*comfyui-aot", line) for line in about_us), about_us
    assert not re.search(r"IMPORT FAILED|Traceback|Cannot import", start), start


def as_far_as(told, known):
    """What is told, without the attributes of nodes and sockets that the floor does not know; all of their names."""
    if isinstance(told, list) and isinstance(known, list) and len(told) == len(known):
        return [as_far_as(*pair) for pair in zip(told, known, strict=True)]
    if isinstance(told, dict) and isinstance(known, dict):
        both = {key: as_far_as(value, known[key]) for key, value in told.items() if key in known}
        return both | {
            key: value for key, value in told.items() if key not in known and isinstance(value, (list, dict))
        }
    return told


def test_object_info_of_our_nodes_matches_the_snapshot(object_info):
    ours = copy.deepcopy({name: info for name, info in object_info.items() if name.startswith("AOT")})
    for name, socket in (
        ("AOTLoadVideo", "video"),
        ("AOTAskVideo", "video"),
        ("AOTLoadVLLM", "model"),
        ("AOTLoadRelevanceModel", "model"),
        ("AOTAskVideo", "model"),
        ("AOTLoadTokens", "file"),
        ("AOTVideoFolder", "folder"),
    ):
        ours[name]["input"]["required"][socket][1]["options"] = ["(what is there)"]
    for info in ours.values():
        info.pop("search_aliases", None)  # test_blueprint_browser.py
    # Newer versions tell more of a node, of its inputs and of its outputs.
    found = json.dumps(as_far_as(ours, json.loads(SNAPSHOT.read_text())), indent=1, sort_keys=True) + "\n"
    new = CHECKOUT / "build" / SNAPSHOT.name
    if found != SNAPSHOT.read_text():
        new.parent.mkdir(exist_ok=True)
        new.write_text(found)
    assert found == SNAPSHOT.read_text(), (
        f"What ComfyUI knows of the nodes has changed. If that is meant, and no saved workflow breaks by it: "
        f"cp {new} {SNAPSHOT}"
    )


def test_the_help_pages_are_served(server, object_info):
    for name in filter(lambda name: name.startswith("AOT"), object_info):
        with urllib.request.urlopen(f"http://{server.address}/extensions/comfyui-aot/docs/{name}.md") as page:
            assert page.read().startswith(b"# ")


def test_the_workflow_answers_streams_and_draws(server, prompt):
    run = server.client.run(prompt)
    assert run.ended == "execution_success"
    answer = the(prompt, "AOTAnswer")
    text, _ = run.text(answer)
    assert text
    assert run.streamed(answer)[-1].strip() == text
    assert [image["type"] for image in run.history["outputs"][the(prompt, "AOTTokenMap")]["images"]] == ["temp"]


def test_it_answers_as_it_does_without_comfyui(server, prompt, tmp_path, bunny):
    run = server.client.run(prompt)
    (tmp_path / "input").mkdir()
    shutil.copy(bunny, tmp_path / "input" / bunny.name)
    (headless,) = run_file(CHECKOUT / "tests" / "frozen" / "aot_full_pipeline.json", [], tmp_path)["answers"]
    assert run.text(the(prompt, "AOTAnswer"))[0] == headless["answer"]
    assert kept(run, prompt) == (headless["tokens_kept"], headless["tokens_full"])


def test_streaming_answers_as_encoding_at_once_does(server, prompt):
    runs = []
    for streaming in (False, True):
        altered = short(prompt)
        altered[the(altered, "AOTEncodeVideo")]["inputs"]["streaming"] = streaming
        altered[the(altered, "AOTIntraFrame")]["inputs"]["solver"] = "early"
        runs.append(server.client.run(altered))
    eager, streamed = runs
    assert "run by run" in streamed.text(the(prompt, "AOTEncodeVideo"))[0]
    assert "streamed" in streamed.text(the(prompt, "AOTInterFrame"))[0]
    assert streamed.text(the(prompt, "AOTAnswer"))[0] == eager.text(the(prompt, "AOTAnswer"))[0]
    assert kept(streamed, prompt) == kept(eager, prompt)


def test_one_node_meets_a_retention_with_both_phases(server, prompt):
    altered = short(prompt)
    intra, inter = the(altered, "AOTIntraFrame"), the(altered, "AOTInterFrame")
    tokens = altered[intra]["inputs"]["tokens"]
    altered[inter] = {"class_type": "AOTAnchorTransport", "inputs": {"tokens": tokens, "retention": 0.2}}
    del altered[intra]
    run = server.client.run(altered)
    assert run.ended == "execution_success"
    number, full = kept(run, prompt)
    assert number == round(0.2 * full)


@pytest.mark.parametrize("model", ["maker/qwen25", "qwen3", "intern", "video"])
def test_every_family_is_found_reduced_and_asked_several_questions(server, object_info, prompt, model):
    options = object_info["AOTLoadVLLM"]["input"]["required"]["model"][1]["options"]
    assert model in options
    altered = short(prompt)
    intra, inter, answer = the(altered, "AOTIntraFrame"), the(altered, "AOTInterFrame"), the(altered, "AOTAnswer")
    altered[the(altered, "AOTLoadVLLM")]["inputs"]["model"] = model
    tokens = altered[intra]["inputs"]["tokens"]
    settings = {"tokens": tokens, "retention": 0.3, "clip_length": 2}
    altered[inter] = {"class_type": "AOTAnchorTransport", "inputs": settings}
    del altered[intra]
    altered[answer]["inputs"] |= {"question": "What is it?\nIs it day?", "a_line_each": True, "max_new_tokens": 2}
    further = {"earlier": [answer, 1], "question": "Why?", "a_line_each": False, "unload": True}
    again = {"class_type": "AOTAnswer", "inputs": {**altered[answer]["inputs"], **further}}
    run = server.client.run({**altered, "again": again})
    assert run.ended == "execution_success"
    number, full = kept(run, altered)
    assert number == round(0.3 * full)
    assert [line.partition("?")[0] for line in run.text(answer)[0].splitlines()] == ["What is it", "Is it day"]
    assert len(run.history["outputs"]["again"]["text"]) == 2 * 2  # once for each of the two answers it follows


def test_images_of_video_helper_suite_feed_the_graph(server, prompt, with_video_helper_suite):
    prompt = short(prompt)
    loader = the(prompt, "AOTLoadVideo")
    prompt["vhs"] = {
        "class_type": "VHS_LoadVideo",
        "inputs": {
            "video": "carphone_pristine.mp4", "force_rate": 0, "custom_width": 0, "custom_height": 0,
            "frame_load_cap": 4, "skip_first_frames": 0, "select_every_nth": 10,
        },
    }  # fmt: skip
    prompt[loader] = {"class_type": "AOTFramesFromImages", "inputs": {"images": ["vhs", 0], "fps": 2.5}}
    run = server.client.run(prompt)
    assert run.ended == "execution_success"
    assert run.text(loader) == ["images: 4 frames of 176x144, 0.00 to 1.20 s, 0 MiB"]
    assert kept(run, prompt)[1] == 4 * 196


def test_the_core_video_type_feeds_the_graph(server, prompt):
    prompt = short(prompt)
    loader = the(prompt, "AOTLoadVideo")
    sampling = {"sampling": "uniform", "frames": 4, "fps": 1.0, "every": 1, "start": 0.0, "end": 0.0}
    prompt["core"] = {"class_type": "LoadVideo", "inputs": {"file": "carphone_pristine.mp4"}}
    prompt[loader] = {"class_type": "AOTFramesFromVideo", "inputs": {"video": ["core", 0], **sampling}}
    run = server.client.run(prompt)
    assert run.ended == "execution_success"
    assert run.text(loader) == ["video: 4 frames of 176x144, 0.00 to 3.97 s, 0 MiB"]
    assert kept(run, prompt)[1] == 4 * 196


def test_an_interrupt_stops_the_generation_and_the_next_run_works(server, prompt):
    client, asked = server.client, []
    # So hot that it hardly ever ends by itself.
    endless = changed(short(prompt), "AOTAnswer", max_new_tokens=2000, temperature=5.0)
    answer = the(endless, "AOTAnswer")

    def interrupt(message):
        # Before there are words, nodes say what they do: loading, encoding, reading.
        words = message.kind == "text" and message.data["node"] == answer and "reading" not in message.data["text"]
        if words and not asked:
            asked.append(time.monotonic())
            client.post("/interrupt")

    run = client.run(endless, on_message=interrupt)
    assert run.ended == "execution_interrupted"
    assert time.monotonic() - asked[0] < 2
    assert client.run(short(prompt, seed=1)).ended == "execution_success"


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("AOTIntraFrame", {"budget": 0}, "budget"),
        ("AOTIntraFrame", {"global_ratio": 2.0}, "global_ratio"),
        ("AOTAnswer", {"max_new_tokens": -1}, "max_new_tokens"),
        ("AOTLoadVLLM", {"model": "no such model"}, "no such model"),
        ("AOTLoadVideo", {"video": "missing.mp4"}, "missing.mp4"),
        ("AOTLoadVideo", {"video": "../server.log"}, "not allowed"),
        ("AOTLoadVideo", {"video": "/etc/hostname"}, "not allowed"),
    ],
)
def test_a_bad_value_is_refused_naming_the_node(server, prompt, kind, values, said):
    # With one output node: of several, the server runs those that are in order.
    with pytest.raises(Refused) as refused:
        server.client.queue(changed(short(prompt), kind, **values))
    assert refused.value.status == 400
    faulty = refused.value.body["node_errors"][the(prompt, kind)]
    assert faulty["class_type"] == kind
    assert [said in f"{error['message']} {error['details']}" for error in faulty["errors"]] == [True]


def test_an_error_while_a_node_runs_is_its_line_and_a_type_without_a_path(server, prompt):
    wrong = changed(short(prompt), "AOTLoadVideo", frames=4000)
    run = server.client.run(wrong)
    assert run.ended == "execution_error"
    (error,) = [message.data for message in run.messages if message.kind == "execution_error"]
    assert error["exception_type"] == "InputError"
    assert error["exception_message"].startswith("4000 frames asked of")


@pytest.mark.parametrize(
    ("without", "tokens"),
    [(("AOTIntraFrame",), None), (("AOTInterFrame",), None), (("AOTIntraFrame", "AOTInterFrame"), (784, 784))],
)
def test_bypassing_a_reduction_leaves_a_working_graph(server, prompt, without, tokens):
    prompt = short(prompt)
    both = kept(server.client.run(prompt), prompt)
    for kind in without:
        prompt = bypassed(prompt, kind)
    run = server.client.run(prompt)
    assert run.ended == "execution_success"
    assert kept(run, prompt)[0] > both[0]
    if tokens:
        assert kept(run, prompt) == tokens


def test_two_loaders_with_equal_settings_hold_one_model(server, prompt):
    prompt = short(prompt)
    server.client.run(prompt)
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    loader = the(prompt, "AOTLoadVLLM")
    prompt["second"] = copy.deepcopy(prompt[loader])
    prompt[the(prompt, "AOTAnswer")]["inputs"].update(vllm=["second", 0], seed=2)
    assert server.client.run(prompt).ended == "execution_success"
    # The model takes 600 MB; what one more run leaves behind is far less.
    assert process.memory_info().rss - before < 300e6


def named_server(base, url):
    """A vLLM server in a prompt, and its key in the user's folder."""
    keys = base / "user" / "aot_keys"
    keys.mkdir(exist_ok=True)
    (keys / "mine").write_text("http://127.0.0.1:9\nsk-very-secret\n")
    return {"class_type": "AOTServer", "inputs": {"url": url, "model": "", "key_file": "mine"}}


def test_what_the_user_has_not_allowed_is_refused(server, prompt):
    asks = short(prompt, server=["900", 0])
    asks["900"] = named_server(server.base, "https://away.example:8443")
    with pytest.raises(Refused) as refused:
        server.client.queue(asks)
    said = json.dumps(refused.value.body)
    assert f"add the line https://away.example:8443 to {server.base / 'user' / 'aot_servers.txt'}" in said


def test_no_picture_and_no_history_holds_a_key(server):
    nodes = {
        "1": named_server(server.base, "http://127.0.0.1:9"),
        "2": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "keys/picture"}},
    }
    run = server.client.run(nodes)
    assert run.ended == "execution_success"
    (saved,) = (server.base / "output" / "keys").glob("*.png")
    assert b"AOTServer" in saved.read_bytes()
    assert b"sk-very-secret" not in saved.read_bytes()
    assert "sk-very-secret" not in json.dumps(run.history)

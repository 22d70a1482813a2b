"""Ask Video in ComfyUI: what it keeps for the next question, and what somebody sees of it on the node."""

import time

import pytest

from comfyui_aot.tests.support.browser import SCREENSHOTS, clear, look_at, of, run

ASK = {
    "video": "bigbuckbunny.mp4", "question": "What animal is it?", "retention": 0.25, "model": "embedded", "frames": 8,
    "max_new_tokens": 8,
}  # fmt: skip


def prompt(**changed):
    return {"1": {"class_type": "AOTAskVideo", "inputs": {**ASK, **changed}}}


def reports(run):
    """What the nodes inside reported, in the order of the run."""
    return [message.data["output"]["text"] for message in run.messages if message.kind == "executed"]


def seconds(client, **changed):
    """How long a run takes, and the run."""
    start = time.monotonic()
    ended = client.run(prompt(**changed))
    assert ended.ended == "execution_success"
    return time.monotonic() - start, ended


def encoded(ended):
    """What the encoding inside reported, the seconds it took among it: of another run, of a cached one, or nothing."""
    return [text for (text, *_) in reports(ended) if "frames in" in text]


def test_the_next_question_and_another_retention_load_and_encode_nothing(server):
    client = server.client
    took, first = seconds(client, frames=12)
    again, second = seconds(client, frames=12, question="Is it day?")
    reduced, third = seconds(client, frames=12, question="Is it day?", retention=0.1)
    print(f"first {took:.2f} s, second question {again:.2f} s, another retention {reduced:.2f} s")
    assert again < took / 2 and reduced < took / 2
    assert len(encoded(first)) == 1
    assert all(encoded(later) in ([], encoded(first)) for later in (second, third))


def test_it_streams_and_reports_onto_the_visible_node_alone(server):
    ended = server.client.run(prompt(question="What colour is it?"))
    assert {message.data["node"] for message in ended.messages if message.kind == "text"} == {"1"}
    assert {message.data["display_node"] for message in ended.messages if message.kind == "executed"} == {"1"}
    text, figures = next(text for text in reports(ended) if len(text) == 2)
    assert ended.streamed("1")[-1].strip() == text
    assert figures.startswith("tokens: 392 of 1568 (25.0%)")


def test_an_interrupt_stops_it_within_two_seconds_and_the_next_question_works(server):
    client, asked = server.client, []

    def interrupt(message):
        if message.kind == "executed" and not asked:
            asked.append(time.monotonic())
            client.post("/interrupt")

    ended = client.run(prompt(frames=32), on_message=interrupt)
    assert ended.ended == "execution_interrupted"
    assert time.monotonic() - asked[0] < 2
    assert client.run(prompt()).ended == "execution_success"


def test_images_a_clip_and_a_model_may_be_linked(server):
    nodes = {
        "2": {"class_type": "LoadVideo", "inputs": {"file": "carphone_pristine.mp4"}},
        "3": {"class_type": "AOTLoadVLLM",
              "inputs": {"model": "embedded", "dtype": "auto", "device": "auto", "attention": "auto"}},
        "4": {"class_type": "AOTDrawnClip", "inputs": {"clip": 2000002, "family": "motion", "frames": 8}},
        "5": {"class_type": "AOTFramesToImages", "inputs": {"frames": ["4", 0]}},
    }  # fmt: skip
    clip = server.client.run({**nodes, **prompt(clip=["2", 0], vllm=["3", 0], frames=4)})
    images = server.client.run({**nodes, **prompt(images=["5", 0], frames=4)})
    assert any("video: 4 frames of 176x144" in text for (text, *_) in reports(clip))
    assert any(text.startswith("images: 4 frames") for (text, *_) in reports(images))
    assert clip.ended == images.ended == "execution_success"


def test_its_outputs_feed_pictures_and_comparisons(server):
    further = {
        "6": {"class_type": "AOTTokenMap", "inputs": {"tokens": ["1", 1], "frames": ["1", 4]}},
        "7": {"class_type": "AOTCompare", "inputs": {"answers": ["1", 3]}},
    }
    ended = server.client.run({**prompt(frames=4), **further})
    assert ended.ended == "execution_success"
    assert all(ended.history["outputs"][key]["images"] for key in further)


@pytest.fixture
def node(page):
    """The page with Ask Video alone on the canvas."""
    clear(page)
    page.evaluate(
        """(values) => {
            const node = LiteGraph.createNode('AOTAskVideo');
            node.pos = [400, 200];
            app.graph.add(node);
            for (const [name, value] of Object.entries(values))
                node.widgets.find((each) => each.name === name).value = value;
        }""",
        ASK,
    )
    look_at(page, "AOTAskVideo")
    return page


def test_asked_twice_the_second_answer_comes_sooner_and_stays_on_the_node(node):
    def ask(question):
        of(node, "AOTAskVideo", f"node.widgets.find((each) => each.name === 'question').value = {question!r}")
        start = time.monotonic()
        node.evaluate("window.ended = undefined")
        run(node)
        return time.monotonic() - start, node.locator(".aot-report.aot-answer").inner_text()

    of(node, "AOTAskVideo", "node.widgets.find((each) => each.name === 'frames').value = 16")
    first, answer = ask("What animal is it?")
    SCREENSHOTS.mkdir(exist_ok=True)
    node.screenshot(path=SCREENSHOTS / "ask_video.png")
    second, again = ask("Where is it?")
    assert "tokens: 784 of 3136 (25.0%)" in answer and "tokens: 784 of 3136 (25.0%)" in again
    assert "prefill of the question alone" not in answer and "prefill of the question alone" in again
    assert second < first / 2
    shown = of(node, "AOTAskVideo", "node.widgets.filter((each) => !each.hidden).map((each) => each.name)")
    assert len([name for name in shown if name in ("aot_report", "$$node-text-preview")]) == 1

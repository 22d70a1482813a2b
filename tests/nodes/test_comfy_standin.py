"""The pack's door to ComfyUI: folders, file names, previews, devices; the same with ComfyUI and without."""

import mimetypes
import time

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_aot.aot.errors import InputError
from comfyui_aot.nodes import comfy
from comfyui_aot.nodes.comfy import io, ui

standin_only = pytest.mark.skipif(comfy.HAS_COMFYUI, reason="ComfyUI itself is importable here")


@pytest.fixture
def base(tmp_path):
    for folder in ("input/sub", "output", "temp", "secret"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("input/clip.mp4", "input/sub/deep.mkv", "input/talk.mkv", "input/photo.png", "input/notes.txt",
                 "output/made.mp4", "temp/cut.mp4", "secret/private.mp4"):  # fmt: skip
        (tmp_path / file).write_bytes(b"x")
    with comfy.directories(tmp_path):
        yield tmp_path


def test_the_folders_are_those_of_the_base_and_only_inside_the_block(tmp_path):
    before = comfy.input_directory()
    with comfy.directories(tmp_path):
        assert comfy.input_directory() == tmp_path / "input"
        assert comfy.output_directory() == tmp_path / "output"
        assert comfy.temp_directory() == tmp_path / "temp"
    assert comfy.input_directory() == before


def test_videos_are_listed_with_those_of_sub_folders_after_the_others(base):
    for name in ("sub/a.mp4", "sub/x/y.webm", ".hidden/z.mp4", "notes.txt", "archive.mp4/inner.mov"):
        (base / "input" / name).parent.mkdir(parents=True, exist_ok=True)
        (base / "input" / name).write_bytes(b"x")
    listed = comfy.list_input_files()
    assert listed == [
        "clip.mp4", "talk.mkv", "archive.mp4/inner.mov", "sub/a.mp4", "sub/deep.mkv", "sub/x/y.webm",
    ]  # fmt: skip
    assert all(comfy.resolve_file(name).is_file() for name in listed)


@pytest.mark.parametrize("table", ["the system's", "an empty", "one that takes .ts for a text"])
def test_every_kind_of_video_is_listed_whatever_the_table_of_types(tmp_path, monkeypatch, table):
    if table != "the system's":
        kind = "text/x-linguist" if "text" in table else None
        monkeypatch.setattr(mimetypes, "guess_type", lambda name, strict: (kind, None))
    (tmp_path / "input").mkdir()
    names = [f"clip.{suffix}" for suffix in ("3gp", "gif", "M2TS", "m4v", "mkv", "mp4", "mxf", "ts", "vob")]
    for name in names:
        (tmp_path / "input" / name).write_bytes(b"x")
    (tmp_path / "input" / "photo.png").write_bytes(b"x")
    with comfy.directories(tmp_path):
        assert sorted(comfy.list_input_files(), key=str.lower) == names


def test_a_link_to_a_folder_is_not_followed(base):
    (base / "input" / "loop").symlink_to(base / "input", target_is_directory=True)
    (base / "input" / "away").symlink_to(base / "secret", target_is_directory=True)
    assert comfy.list_input_files() == ["clip.mp4", "talk.mkv", "sub/deep.mkv"]


def test_a_huge_input_folder_is_listed_quickly_and_up_to_a_bound(tmp_path):
    folder = tmp_path / "input" / "many"
    folder.mkdir(parents=True)
    for number in range(10_000):
        (folder / f"{number:05}.png").touch()
    (tmp_path / "input" / "clip.mp4").touch()
    with comfy.directories(tmp_path):
        seconds = []
        for _ in range(3):  # another process may have the core at any time, but hardly each time
            start = time.perf_counter()
            assert comfy.list_input_files() == ["clip.mp4"]
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < 1
        for number in range(10_000):
            (folder / f"{number:05}.mp4").touch()
        assert len(comfy.list_input_files()) < comfy.LOOKED_AT


def test_a_missing_input_folder_lists_nothing(tmp_path):
    with comfy.directories(tmp_path / "nowhere"):
        assert comfy.list_input_files() == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("clip.mp4", "input/clip.mp4"),
        ("sub/deep.mkv", "input/sub/deep.mkv"),
        ("clip.mp4 [input]", "input/clip.mp4"),
        ("made.mp4 [output]", "output/made.mp4"),
        ("cut.mp4[temp]", "temp/cut.mp4"),
    ],
)
def test_a_name_is_found_in_the_folder_it_says(base, name, path):
    assert comfy.resolve_file(name) == base / path


@pytest.mark.parametrize(
    "name",
    [
        "../secret/private.mp4",
        "sub/../../secret/private.mp4",
        "sub/../clip.mp4",
        "..\\secret\\private.mp4",
        "../input/clip.mp4 [output]",
        "/etc/passwd",
        "\\\\host\\share\\a.mp4",
        "C:\\a.mp4",
        "c:clip.mp4",
    ],
)
def test_a_name_that_leads_outside_is_refused(base, name):
    with pytest.raises(InputError, match="is not allowed: only files inside ComfyUI's input folder"):
        comfy.resolve_file(name)


def test_a_name_with_a_nul_is_refused(base):
    with pytest.raises(InputError, match="give a name without control characters"):
        comfy.resolve_file("clip.mp4\0.png")


def test_an_absolute_path_is_refused_even_to_an_input_file(base):
    with pytest.raises(InputError, match="is not allowed"):
        comfy.resolve_file(str(base / "input" / "clip.mp4"))


def test_a_symbolic_link_that_leads_outside_is_refused(base):
    (base / "input" / "link.mp4").symlink_to(base / "secret" / "private.mp4")
    (base / "input" / "folder").symlink_to(base / "secret")
    for name in ("link.mp4", "folder/private.mp4"):
        with pytest.raises(InputError, match="is not allowed"):
            comfy.resolve_file(name)


@pytest.mark.parametrize(("name", "said"), [("none.mp4", "There is no file"), ("sub", "There is no file"), ("", "No file is chosen"), (" [output]", "No file is chosen")])  # fmt: skip  # noqa: E501
def test_what_is_no_file_is_refused(base, name, said):
    with pytest.raises(InputError, match=said):
        comfy.resolve_file(name)


def test_models_are_looked_for_in_their_categories(base):
    folders = comfy.model_folders()
    assert {category for category, _ in folders} == {"VLLM", "LLM", "text_encoders"}
    assert any(path.parts[-2:] == ("models", "VLLM") for _, path in folders)
    assert comfy.model_folders() == folders


def test_a_preview_saves_each_image_as_png_in_the_temp_folder(base):
    pixels = torch.tensor([[[[0.0, 0.5, 1.0]]], [[[2.0, -1.0, 0.25]]]])
    shown = ui.PreviewImage(pixels, cls=None).as_dict()
    assert shown["animated"] == (False,)
    assert len({image["filename"] for image in shown["images"]}) == 2
    assert all((image["subfolder"], image["type"]) == ("", "temp") for image in shown["images"])
    saved = [np.asarray(Image.open(base / "temp" / image["filename"]))[0, 0].tolist() for image in shown["images"]]
    assert saved == [[0, 127, 255], [255, 0, 63]]


def test_a_preview_of_text_is_a_tuple_of_it():
    assert ui.PreviewText("hello").as_dict() == {"text": ("hello",)}


def test_a_managed_model_is_on_its_device_after_loading():
    model = torch.nn.Linear(2, 2)
    patcher = comfy.model_patcher(model)
    comfy.load_models([patcher], memory_required=1024)
    assert model.weight.device.type == comfy.torch_device().type


def test_a_model_whose_device_is_read_only_can_be_managed():
    class Fixed(torch.nn.Linear):
        @property
        def device(self):
            return self.weight.device

    model = Fixed(2, 2)
    patcher = comfy.model_patcher(model, torch.device("cpu"), torch.device("cpu"))
    comfy.load_models([patcher])
    assert model.device == torch.device("cpu")


def test_progress_counts_without_a_server():
    bar = comfy.progress(3)
    bar.update(1)
    bar.update_absolute(3, 3)


def test_text_and_interruption_do_nothing_without_a_server():
    comfy.send_text("7", "so far")
    comfy.interrupted()


class Adder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestAdder",
            inputs=[io.Int.Input("a", default=1, min=0, tooltip="a number"), io.Custom("TEST_ANY").Input("b")],
            outputs=[io.Int.Output("sum", display_name="SUM")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, a, b):
        return io.NodeOutput(a + b)


def test_a_schema_tells_the_socket_types():
    schema = Adder.GET_SCHEMA()
    assert [(each.id, each.get_io_type()) for each in schema.inputs] == [("a", "INT"), ("b", "TEST_ANY")]
    assert [each.get_io_type() for each in schema.outputs] == ["INT"]
    assert [isinstance(each, io.WidgetInput) for each in schema.inputs] == [True, False]


def test_an_unknown_schema_field_is_refused_as_in_comfyui():
    with pytest.raises(TypeError, match="search_aliases"):
        io.Schema(node_id="TestX", search_aliases=["x"])


def test_an_unknown_input_option_is_refused_as_in_comfyui():
    with pytest.raises(TypeError, match="advanced"):
        io.Int.Input("a", advanced=True)


def test_an_id_used_twice_is_refused_as_in_comfyui():
    class Twice(Adder):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="TestTwice", inputs=[io.Int.Input("a")], outputs=[io.Int.Output("a")])

    with pytest.raises(ValueError, match="must be unique"):
        Twice.GET_SCHEMA()


def test_a_class_knows_its_node_while_it_executes():
    clone = Adder.PREPARE_CLASS_CLONE({io.Hidden.unique_id: "7"})
    assert clone.hidden.unique_id == "7"
    assert Adder.hidden is None
    assert clone.execute(a=1, b=2).result == (3,)


@standin_only
def test_a_class_is_locked_while_it_executes():
    clone = Adder.PREPARE_CLASS_CLONE({})
    with pytest.raises(AttributeError, match="locked"):
        clone.model = object()

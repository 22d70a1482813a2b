"""What a workflow may do beyond this machine is the user's to say: where tokens and keys go, and what is downloaded."""

import json

import pytest

from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.cli.run import run_file
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.download import PUBLISHED
from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.asking import AOTAskVideo
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories
from comfyui_aot.nodes.models import AOTLoadVLLM
from comfyui_aot.nodes.permissions import DOWNLOADS, SERVERS, permitted, require_download, require_server
from comfyui_aot.nodes.serving import AOTServer
from comfyui_aot.nodes.workflow.graph import to_graph
from comfyui_aot.nodes.workflow.requirements import needs
from comfyui_aot.nodes.workflow.runner import registry

pytestmark = pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")

AWAY = "https://away.example:8443"
MODEL = PUBLISHED[0]


@pytest.fixture
def base(tmp_path):
    """ComfyUI's folders with an empty user folder."""
    (tmp_path / "user" / "aot_keys").mkdir(parents=True)
    with directories(tmp_path):
        yield tmp_path


def server(url, key_file=""):
    return {"class_type": "AOTServer", "inputs": {"url": url, "model": "", "key_file": key_file}}


def loader(**more):
    settings = {"dtype": "auto", "device": "cpu", "attention": "sdpa"}
    return {"class_type": "AOTLoadVLLM", "inputs": {"model": MODEL, **settings, **more}}


def listed(**nodes):
    return [(need.kind, need.name, bool(need.lacking)) for need in needs(to_graph(nodes, registry(NODES)))]


def test_this_machine_needs_no_leave(base):
    (connection,) = AOTServer.execute(url=" http://127.0.0.1:8000 ", model="", key_file="").args
    assert connection.url == "http://127.0.0.1:8000"
    assert AOTServer.validate_inputs(url="http://localhost:1") is True
    assert listed(a=server("http://127.0.0.1:8000")) == [("server", "http://127.0.0.1:8000", False)]


def test_another_machine_has_to_be_in_the_users_list(base):
    wanted = f"you have not allowed; if you trust it, add the line {AWAY} to {base / 'user' / SERVERS}"
    with pytest.raises(InputError) as refused:
        AOTServer.execute(url=f"{AWAY}/v1", model="", key_file="")
    assert wanted in str(refused.value)
    assert wanted in AOTServer.validate_inputs(url=AWAY)
    assert listed(a=server(AWAY)) == [("server", AWAY, True)]
    (base / "user" / SERVERS).write_text("# mine\n\n  https://AWAY.example:8443/  \n")
    assert AOTServer.execute(url=f"{AWAY}/v1", model="", key_file="").args[0].url == AWAY
    assert AOTServer.validate_inputs(url=AWAY) is True
    assert listed(a=server(AWAY)) == [("server", AWAY, False)]
    for other in ("http://away.example:8443", "https://away.example", "https://away.example.evil:8443"):
        with pytest.raises(InputError, match="have not allowed"):
            require_server(other)


def test_a_list_that_cannot_be_read_allows_nothing(base):
    (base / "user" / SERVERS).write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read; write it as plain text"):
        require_server(AWAY)
    (base / "user" / SERVERS).write_text("everything\n")
    with pytest.raises(InputError, match="The server's URL is 'everything'; give one like"):
        require_server(AWAY)


def test_a_key_comes_from_the_users_folder_and_goes_to_its_server(base):
    keys = base / "user" / "aot_keys"
    (keys / "mine").write_text("http://127.0.0.1:1\nsecret")
    (base / "user" / "other").write_text("http://127.0.0.1:1\nsecret")
    (connection,) = AOTServer.execute(url="http://127.0.0.1:1", model="", key_file="mine").args
    assert connection.key == "secret"
    assert listed(a=server("http://127.0.0.1:1", "mine"))[1] == ("key", "mine", False)
    assert listed(a=server("http://127.0.0.1:2", "mine"))[1] == ("key", "mine", True)
    with pytest.raises(InputError, match=r"belongs to http://127\.0\.0\.1:1 and is not sent to http://127\.0\.0\.1:2"):
        AOTServer.execute(url="http://127.0.0.1:2", model="", key_file="mine")
    for name in ("../other", "gone", str(keys / "mine"), "..\\other"):
        with pytest.raises(InputError, match=r"There is no key file .* the server's address on its first line"):
            AOTServer.execute(url="http://127.0.0.1:1", model="", key_file=name)


def test_what_comfyui_keeps_beside_the_workflow_holds_no_key(base):
    (base / "user" / "aot_keys" / "mine").write_text("http://127.0.0.1:1\nsecret")
    before = AOTServer.fingerprint_inputs(url="http://127.0.0.1:1", model="", key_file="mine")
    assert "secret" not in str(before)
    (base / "user" / "aot_keys" / "mine").write_text("http://127.0.0.1:1\nanother")
    assert AOTServer.fingerprint_inputs(url="http://127.0.0.1:1", model="", key_file="mine") != before


def test_a_download_has_to_be_in_the_users_list(base):
    wanted = f"{MODEL} would be downloaded .* add the line {MODEL} to .*{DOWNLOADS}"
    settings = {"dtype": "auto", "device": "cpu", "attention": "sdpa"}
    with pytest.raises(InputError, match=wanted):
        AOTLoadVLLM.execute(model=MODEL, download=True, **settings)
    question = {"question": "?", "retention": 0.5, "frames": 2, "max_new_tokens": 2}
    with pytest.raises(InputError, match=wanted):
        AOTAskVideo.execute(video="drawn clip", model=MODEL, download=True, **question)
    assert listed(a=loader(download=True)) == [("model", MODEL, False), ("download", MODEL, True)]
    assert listed(a=loader(download=False)) == [("model", MODEL, True)]
    assert listed(a={"class_type": "AOTAskVideo", "inputs": {"video": "drawn clip", "model": MODEL, "download": True}})[
        1
    ] == ("download", MODEL, True)
    (base / "user" / DOWNLOADS).write_text(f"{MODEL}\n")
    require_download(MODEL)
    assert listed(a=loader(download=True)) == [("model", MODEL, False), ("download", MODEL, False)]
    with pytest.raises(InputError, match="have not allowed"):
        require_download(PUBLISHED[1])


def test_the_commands_options_count_and_not_the_list_in_the_folder_of_a_workflow(base):
    (base / "user" / SERVERS).write_text(f"{AWAY}\n")
    (base / "user" / DOWNLOADS).write_text(f"{MODEL}\n")
    with permitted():
        with pytest.raises(InputError, match=f"if you trust it, give --allow-server {AWAY}"):
            require_server(AWAY)
        with pytest.raises(InputError, match="to have it fetched, give --allow-download"):
            require_download(MODEL)
    with permitted([f"{AWAY}/v1/"], downloads=True):
        require_server(AWAY)
        require_download(MODEL)
        with pytest.raises(InputError, match="have not allowed"):
            require_server("https://other.example")


@pytest.fixture
def shared(tmp_path):
    """A workflow that sends a drawn clip's tokens away, with somebody's key."""
    nodes = {
        "1": {"class_type": "AOTLoadVLLM", "inputs": {**loader()["inputs"], "model": "embedded"}},
        "2": server(AWAY),
        "3": {"class_type": "AOTLoadTokens", "inputs": {"file": "t.aot.safetensors"}},
        "4": {
            "class_type": "AOTAnswer",
            "inputs": {
                "vllm": ["1", 0], "tokens": ["3", 0], "server": ["2", 0], "question": "?", "max_new_tokens": 2,
                "temperature": 0.0, "top_p": 1.0, "seed": 0,
            },
        },
    }  # fmt: skip
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "t.aot.safetensors").write_bytes(b"-")
    (tmp_path / "shared.json").write_text(json.dumps(nodes))
    return tmp_path / "shared.json"


def test_a_shared_workflow_says_where_it_sends_what_before_anything_runs(shared, base, capsys):
    assert main(["run", str(shared), "--base", str(base)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"needs what is not here: server {AWAY} (The video's tokens would be sent to {AWAY}, which you" in said.err
    assert f"give --allow-server {AWAY}" in said.err


@pytest.mark.parametrize("leave", [["--allow-server", f"{AWAY}/v1"], ["--set", f"AOTServer.url={AWAY}"]])
def test_what_the_user_types_is_allowed_and_listed(shared, base, capsys, leave):
    assert main(["run", str(shared), "--base", str(base), *leave]) == 2
    said = capsys.readouterr()
    assert f"needs server {AWAY}\n" in said.out
    assert "t.aot.safetensors is truncated or no safetensors file" in said.err


def test_a_server_whose_url_comes_over_a_link_is_refused_when_it_is_known(base):
    with permitted(), pytest.raises(InputError, match="have not allowed"):
        AOTServer.execute(url=AWAY, model="", key_file="")


def test_a_download_that_a_workflow_asks_for_is_refused_before_anything_runs(base):
    (base / "w.json").write_text(json.dumps({"1": loader(download=True)}))
    with pytest.raises(InputError, match=f"download {MODEL} .*give --allow-download"):
        run_file(base / "w.json", [], base)

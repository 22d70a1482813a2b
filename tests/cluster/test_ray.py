"""aot batch and aot eval on a cluster of two nodes of this machine: the rows of one process, whoever dies meanwhile."""

import json
import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager

import psutil
import pytest

from comfyui_aot.aot.cli.main import main
from comfyui_aot.tests.support.videos import write_clip

ray = pytest.importorskip("ray", reason="no Ray: make test-ray installs it")
pytest.importorskip("moto", reason="no Ray: make test-ray installs a stand-in for S3 too")
pytest.importorskip("grpc", reason="no Ray: make test-ray installs what its figures are read with")

CLIPS = 60
STORE = 80 * 2**20
"""Bytes of each node's object store: about the least that Ray takes."""
MOVED = 4 * 2**20
"""Bytes that a run may put into it: descriptions of work, never frames or tokens."""
NODE = {"num_cpus": 1, "object_store_memory": STORE}
WITHIN = 600
"""Seconds after which a test gives up to wait for workers, on a machine that has other things to do."""
SAME = ("video", "question", "answer", "error", "model", "stages", "tokens_full", "new_tokens", "settings", "sha256")


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a stand-in for S3 on loopback; every process finds it by the usual settings."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "RAY_worker_niceness": "0",  # beside the tests, not after everything else
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem().mkdir("videos")
        yield "s3://videos"
    server.stop()


@pytest.fixture(scope="module")
def cluster(bucket):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    # Before there is a second node, so that it is not the one that this process depends on.
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.second = cluster.add_node(**NODE)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for i in range(CLIPS):
        write_clip(folder / f"{i:02}.mp4", frames=5 + i % 7)
    (folder / "07.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def options(miniature_folder):
    return ["--model", str(miniature_folder), "--frames", "4"]


@pytest.fixture(scope="module")
def batch(clips, options):
    """aot batch of all clips into a place; gives the code."""

    def batch(out, *words, source=clips):
        asked = [str(source), "What is {name}?", *options, "--max-new-tokens", "6", "--out", str(out)]
        return main(["batch", *asked, *words])

    return batch


@pytest.fixture(scope="module")
def expected(batch, tmp_path_factory):
    """The rows of one process, by id."""
    out = tmp_path_factory.mktemp("alone")
    assert batch(out) == 1
    return {row["id"]: {name: row[name] for name in SAME} for row in rows_of(out)}


def rows_of(out):
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def require_same(rows, expected):
    assert max(Counter(row["id"] for row in rows).values()) == 1
    assert {row["id"]: {name: row[name] for name in SAME} for row in rows} == expected


def workers():
    """Processes of Ray on this machine that hold a model."""
    below = psutil.Process().children(recursive=True)
    found = []
    for process in below:
        try:
            found += [process] if process.cmdline()[:1] and "MapWorker" in process.cmdline()[0] else []
        except psutil.Error:
            continue
    return found


@contextmanager
def in_the_middle(out, act):
    """A block during which something happens once, when the first part is there."""
    done = []

    def wait():
        end = time.monotonic() + WITHIN
        while time.monotonic() < end:
            if any((out / "parts").glob("*.parquet")):
                done.append(act())
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join(WITHIN)
    assert done == [True]


def stored():
    """Bytes that were ever put into the cluster's object stores, and that left them for a disk."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    stats = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats
    return stats.cumulative_created_bytes, stats.spilled_bytes_total


def test_rows_are_those_of_one_process_and_no_frames_are_moved(cluster, batch, expected, tmp_path, capsys):
    before = stored()
    assert batch(tmp_path / "out", "--json", "--ray-actors", "2", "--ray") == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["rows"], result["new"], result["errors"]) == (CLIPS, CLIPS, 1)
    require_same(rows_of(tmp_path / "out"), expected)
    assert sorted(os.listdir(tmp_path / "out")) == ["rows.jsonl", "settings.json"]
    after = stored()
    assert after[0] - before[0] < MOVED and after[1] == before[1]

    # The same command again has nothing to do.
    assert batch(tmp_path / "out", "--json", "--ray-actors", "2", "--ray") == 1
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (again["rows"], again["new"], again["errors"]) == (CLIPS, 0, 1)
    require_same(rows_of(tmp_path / "out"), expected)


def test_a_worker_that_is_killed_loses_nothing_and_doubles_nothing(cluster, batch, expected, tmp_path):
    def kill():
        process = workers()[0]
        process.send_signal(signal.SIGKILL)
        return True

    with in_the_middle(tmp_path / "out", kill):
        assert batch(tmp_path / "out", "--batch", "4", "--ray-actors", "2", "--ray") == 1
    require_same(rows_of(tmp_path / "out"), expected)


def test_a_bucket_is_read_and_written_and_a_later_run_asks_what_is_missing(
    cluster, bucket, batch, expected, clips, tmp_path, capsys
):
    import s3fs

    system = s3fs.S3FileSystem()
    for i in range(6):
        system.put_file(str(clips / f"{i:02}.mp4"), f"videos/clips/{i:02}.mp4")
    place = f"{bucket}/out"
    words = ["--batch", "2", "--ray-actors", "2", "--json", "--ray"]
    assert batch(place, "--limit", "4", *words, source=f"{bucket}/clips") == 0
    assert batch(place, "--format", "parquet", *words, source=f"{bucket}/clips") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["rows"], result["new"], result["out"]) == (6, 2, place)
    system.invalidate_cache()
    assert sorted(name.rpartition("/")[2] for name in system.find("videos/out")) == [
        "rows.jsonl",
        "rows.parquet",
        "settings.json",
    ]
    rows = [json.loads(line) for line in system.cat_file("videos/out/rows.jsonl").splitlines()]
    assert {row["id"]: row["answer"] for row in rows} == {
        f"{i:02}.mp4": expected[f"{i:02}.mp4"]["answer"] for i in range(6)
    }


def test_a_node_that_dies_loses_nothing_and_doubles_nothing(cluster, batch, expected, tmp_path):
    def end():
        cluster.remove_node(cluster.second, allow_graceful=False)
        return True

    with in_the_middle(tmp_path / "out", end):
        assert batch(tmp_path / "out", "--batch", "4", "--ray-actors", "1-2", "--ray") == 1
    require_same(rows_of(tmp_path / "out"), expected)


# From here on there is a single node.
def test_an_evaluation_gives_the_records_of_one_process(cluster, options, tmp_path):
    words = ["eval", "shapes", *options, "--limit", "3", "--retention", "0.5"]
    assert main([*words, "--out", str(tmp_path / "alone"), "--no-cache"]) == 0
    assert main([*words, "--out", str(tmp_path / "out"), "--ray"]) == 0
    found = [
        {(each["clip"], each["variant"]): (each["said"], each["scores"], each["tokens_kept"]) for each in records}
        for records in (
            [json.loads(line) for line in (tmp_path / name / "records.jsonl").read_text().splitlines()]
            for name in ("alone", "out")
        )
    ]
    assert found[0] == found[1] and len(found[0]) == 6
    assert not (tmp_path / "out" / "parts").exists()


def test_a_mistake_of_a_worker_is_one_line(cluster, batch, tmp_path, capsys):
    assert batch(tmp_path / "out", "--server", "http://127.0.0.1:9", "--ray") == 2
    err = capsys.readouterr().err
    assert "No server at http://127.0.0.1:9" in err and "Traceback" not in err

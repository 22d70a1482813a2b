"""Sweeps that are stopped and go on, and what they keep on disk."""

import dataclasses
import json

import pytest
import torch

from comfyui_aot.aot.answering.answerer import LocalAnswerer
from comfyui_aot.aot.answering.fidelity import Fidelity
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.comparison.cache import ABOUT, FolderCache, digest_of, open_cache
from comfyui_aot.aot.comparison.compare import compare
from comfyui_aot.aot.comparison.sweep import chains_in, curve, picture, retentions_in, sweep
from comfyui_aot.aot.comparison.table import picture as table_picture
from comfyui_aot.aot.comparison.variants import Variant, expand
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse

QUESTION = "What colour is the square?"
SHORT = Generation(2)


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def encoded(miniature, frames):
    return miniature.encode(frames)


@pytest.fixture(scope="module")
def tokens(encoded):
    return encoded.cut(0, 1)


def cell_files(folder):
    """When each cell was written, by its file's name."""
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.json") if path.name != ABOUT}


def test_chains_stand_a_line_each_and_retentions_behind_commas():
    assert chains_in("aot\n\n  intra \naot") == ["aot", "intra"]
    assert retentions_in("0.5, 0.25 0.1;0.1") == (0.5, 0.25, 0.1)
    names = [each.name for each in expand(["aot", "paper-onevision-10", "full"], (0.5, 0.1))]
    assert names == ["full", "aot 0.5", "aot 0.1", "paper-onevision-10"]


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (chains_in, " \n", "a chain a line"),
        (retentions_in, "", "No retention"),
        (retentions_in, "half", "not all numbers"),
        (retentions_in, "0.5, 1.5", "not above 0 and at most 1"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(read, text, says):
    with pytest.raises(InputError, match=says):
        read(text)


def test_a_stopped_sweep_goes_on_and_another_point_costs_only_itself(miniature, tokens, tmp_path):
    answerer = LocalAnswerer(miniature)

    def swept(retentions, on_row=lambda name: None):
        return list(sweep(answerer, tokens, QUESTION, expand(["aot"], retentions), SHORT, tmp_path, on_row=on_row))

    def stop(name):
        if name == "aot 0.25":
            raise Stop

    with pytest.raises(Stop):
        swept((0.5, 0.25), on_row=stop)
    before = cell_files(tmp_path)
    assert [name.rpartition("-")[0] for name in sorted(before)] == ["aot-0.5", "full"]

    rows = swept((0.5, 0.25))
    assert [(row.name, row.tokens is None) for row in rows] == [("full", True), ("aot 0.5", True), ("aot 0.25", False)]
    assert cell_files(tmp_path).items() > before.items()

    more = swept((0.5, 0.3, 0.25))
    assert [row.name for row in more if row.tokens is not None] == ["aot 0.3"]
    again = swept((0.5, 0.3, 0.25))
    assert [row.to_dict() for row in again] == [row.to_dict() for row in more]
    assert all(row.tokens is None for row in again)

    variants = expand(["aot"], (0.3,))
    fresh = list(compare(LocalAnswerer(miniature), tokens, QUESTION, variants, SHORT))[1]
    known = next(row for row in more if row.name == "aot 0.3")
    assert known.answer.text == fresh.answer.text
    assert known.fidelity.kl == pytest.approx(fresh.fidelity.kl, abs=1e-5)
    assert known.fidelity.kl_first == pytest.approx(fresh.fidelity.kl_first, abs=1e-5)

    (damaged,) = tmp_path.rglob("aot-0.3-*.json")
    damaged.write_text(damaged.read_text()[:100])
    (distributions,) = tmp_path.rglob("full-*.safetensors")
    distributions.write_bytes(distributions.read_bytes()[:100])
    healed = swept((0.5, 0.3, 0.25))
    assert [row.name for row in healed if row.tokens is not None] == ["full", "aot 0.3"]

    image = curve(healed)
    assert image.shape[0] == 1 and image.shape[2] > 1200
    assert not image.equal(curve(healed[:2]))


@pytest.mark.parametrize("answer", [None, 3, "x", [], {}])
def test_a_cell_of_another_kind_counts_as_not_there(answer, tmp_path):
    (full,) = expand([], (0.5,))
    cell = {"answer": answer, "fidelity": dataclasses.asdict(Fidelity(True, 1.0, 0.0, 0.0, -1.0, -0.3, 1.0))}
    kept = FolderCache(tmp_path, {})
    kept.path(full, full).write_text(json.dumps(cell))
    assert kept.get(full, full) is None


def test_a_sweep_is_stopped_inside_a_cell_too_and_leaves_no_half_of_it(miniature, tokens, tmp_path):
    seen = []

    def on_token(count):
        seen.append(count)
        if len(seen) == 4:
            raise Stop

    with pytest.raises(Stop):
        list(
            sweep(
                LocalAnswerer(miniature), tokens, QUESTION, expand(["aot"], (0.2,)), SHORT, tmp_path, on_token=on_token
            )
        )
    assert cell_files(tmp_path) == {}


def test_a_sweep_waits_for_another_process_at_the_same_one_and_can_be_stopped(miniature, tokens, tmp_path):
    def stop(count):
        raise Stop

    variants = expand(["aot"], (0.2,))
    with open_cache(miniature, tokens, QUESTION, SHORT, tmp_path).alone():
        rows = sweep(LocalAnswerer(miniature), tokens, QUESTION, variants, SHORT, tmp_path, on_token=stop)
        with pytest.raises(Stop):
            next(rows)
    assert cell_files(tmp_path) == {}


def test_whatever_decides_a_figure_decides_where_it_is_kept(miniature, tokens, tmp_path):
    def place(tokens=tokens, question=QUESTION, generation=SHORT, chain="aot:retention=0.5", against="full"):
        cache = open_cache(miniature, tokens, question, generation, tmp_path)
        return cache.path(Variant(parse(chain)), Variant(parse(against)))

    changed = tokens.features.clone()
    changed[3, 5] += 1
    other = type(tokens)(**{**vars_of(tokens), "features": changed})
    assert digest_of(tokens) == digest_of(type(tokens)(**vars_of(tokens)))
    (record,) = tokens.history
    longer = dataclasses.replace(record, settings={**record.settings, "duration": 9.5})
    longer = dataclasses.replace(tokens, history=(longer,))
    faster = dataclasses.replace(record, settings={**record.settings, "sampled_fps": 3.0})
    faster = dataclasses.replace(tokens, history=(faster,))
    places = [
        place(), place(tokens=other), place(tokens=longer), place(tokens=faster), place(question="Why?"),
        place(generation=Generation(3)),
        place(chain="aot:retention=0.4"), place(against="intra:budget=126"),
    ]  # fmt: skip
    assert len(set(places)) == len(places)
    assert place(chain="aot:retention=0.5") == places[0]
    assert list(tmp_path.iterdir()) == []


def vars_of(tokens):
    from dataclasses import fields

    return {field.name: getattr(tokens, field.name) for field in fields(tokens)}


def test_reduced_tokens_and_impossible_budgets_are_refused_before_anything_is_measured(miniature, tokens, tmp_path):
    reduced = parse("intra:budget=126")(tokens)
    with pytest.raises(InputError, match="reduced already, by intra"):
        list(sweep(LocalAnswerer(miniature), reduced, QUESTION, expand(["aot"], (0.5,)), SHORT, tmp_path))
    with pytest.raises(InputError, match=r"0\.001"):
        list(sweep(LocalAnswerer(miniature), tokens, QUESTION, expand(["aot"], (0.001,)), SHORT, tmp_path))
    assert cell_files(tmp_path) == {}


def test_the_command_keeps_its_cells_and_writes_tables_and_a_curve(capsys, bunny, tmp_path, miniature_embedded):
    def told():
        arguments = [
            "compare", bunny, QUESTION, "--frames", 1, "--retention", "0.3", "--max-new-tokens", 2, "--cache",
            tmp_path / "cache", "--out", tmp_path / "out", "--pictures", tmp_path / "maps", "--json",
        ]  # fmt: skip
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    first = told()
    rows = json.loads(first.splitlines()[-1])["rows"]
    assert [row["stages"] for row in rows] == ["full", "aot 0.3"]
    assert rows[1]["kl"] >= 0
    assert "Closest to full: aot 0.3" in first
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table.md", "table.csv", "table.png", "curve.png"}
    again = json.loads(told().splitlines()[-1])["rows"]
    assert again == rows
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {row["picture"] for row in rows}


def test_a_cell_that_cannot_be_met_is_left_out_and_said(miniature, encoded, tmp_path):
    answerer, refused, encoded = LocalAnswerer(miniature), [], encoded.cut(0, 2)
    variants = expand(["evs", "uniform"], (0.1, 0.5))
    rows = list(sweep(answerer, encoded, "What is it?", variants, Generation(2), tmp_path, on_refused=refused.append))
    assert [row.name for row in rows] == ["full", "evs 0.5", "uniform 0.1", "uniform 0.5"]
    assert len(refused) == 1
    assert refused[0].startswith("EVS: retention 0.1")
    with_note, without = curve(rows, refused), curve(rows)
    assert with_note.shape[1] > without.shape[1]
    with pytest.raises(InputError, match=r"EVS: retention 0\.1"):
        list(sweep(answerer, encoded, "What is it?", variants, Generation(2), tmp_path / "new"))


def test_a_single_retention_gives_the_table_and_several_the_curves(miniature, tokens, tmp_path):
    answerer = LocalAnswerer(miniature)
    one, two = (
        list(sweep(answerer, tokens, "What is it?", expand(["uniform", "random"], each), Generation(2), tmp_path))
        for each in ((0.1,), (0.1, 0.2))
    )
    assert torch.equal(picture(one), table_picture(one))
    assert torch.equal(picture(two), curve(two))


def test_a_chain_goes_by_the_name_behind_it():
    chains = chains_in("aot # ours\nintra:budget=126+inter:retention=0.1  # phase II\nrandom")
    assert [each.name for each in expand(chains, (0.5,))] == ["full", "ours 0.5", "phase II", "random 0.5"]

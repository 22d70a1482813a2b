"""Stages replayed: here their work is run again in the graph's place, on a GPU the graph itself."""

import dataclasses
import itertools

import pytest
import torch

from comfyui_aot.aot.benchmarks.reduction import random_tokens
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import Chain, parse
from comfyui_aot.aot.stages.methods.controls.random_choice import RandomTokens
from comfyui_aot.aot.stages.replayed import SHAPES, WARM_UP, ReplayedStages
from comfyui_aot.tests.support.stages import LAYOUTS, video

CHAINS = ["aot:retention=0.3", "intra:retention=0.3,solver=early", "vidcom2:retention=0.3", "uniform:retention=0.3"]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: nothing is captured")


def again(work):
    """In place of a graph: the work runs again when it is replayed."""
    work()
    return work


def replayed(chain, tokens, capture=again):
    """Stages that have a replay for tokens of this shape."""
    stages = ReplayedStages(parse(chain).stages, capture)
    assert [stages(tokens) for _ in range(WARM_UP)] == [None] * WARM_UP
    return stages


def require_equal(left, right):
    assert torch.equal(left.place, right.place)
    assert torch.equal(left.role, right.role)
    torch.testing.assert_close(left.features, right.features)
    assert (left.map.csr() != right.map.csr()).nnz == 0
    assert (left.tokens_kept, left.timestamps.tolist()) == (right.tokens_kept, right.timestamps.tolist())
    for mine, others in zip(left.history, right.history, strict=True):
        assert {**mine.to_dict(), "milliseconds": 0} == {**others.to_dict(), "milliseconds": 0}


@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
@pytest.mark.parametrize("chain", CHAINS)
def test_a_replay_gives_what_the_stages_give(chain, layout):
    pooling, newline = layout
    first, second = (video(8, pooling=pooling, newline=newline, extras=True, seed=seed) for seed in (1, 2))
    stages = replayed(chain, first)
    one = stages(first)
    require_equal(one, parse(chain)(first))
    kept = one.features.clone()
    require_equal(stages(second), parse(chain)(second))
    assert torch.equal(one.features, kept), "a result must not change with the next replay"


def test_a_replay_is_kept_for_each_of_a_few_shapes():
    made = []

    def counted(work):
        made.append(work)
        return again(work)

    stages = ReplayedStages(parse("uniform:retention=0.5").stages, counted)
    for frames in (*range(1, SHAPES + 2), SHAPES + 1, 1):
        for _ in range(WARM_UP + 2):
            stages(random_tokens(frames, 4, grid=(4, 4)))
    assert len(made) == SHAPES + 2  # the first shape was forgotten, and made once more


class Fickle(RandomTokens):
    """Other tokens every time."""

    seeds = itertools.count()

    def build(self, tokens, part):
        return RandomTokens(self.retention, random_seed=next(self.seeds)).build(tokens, part)


@pytest.mark.parametrize(
    ("stages", "capture"), [(parse("uniform:retention=0.3").stages, lambda work: None), ([Fickle(0.3)], again)]
)
def test_what_cannot_be_captured_or_gives_something_else_runs_as_it_is(stages, capture):
    stages = ReplayedStages(stages, capture)
    assert [stages(video(4)) for _ in range(WARM_UP + 2)] == [None] * (WARM_UP + 2)


def test_tokens_that_are_reduced_already_and_nan_are_not_replayed():
    tokens = video(4)
    stages = replayed("uniform:retention=0.5", tokens)
    assert stages(parse("intra")(tokens)) is None
    stages(tokens)
    with pytest.raises(InputError, match="NaN"):
        stages(dataclasses.replace(tokens, features=torch.full_like(tokens.features, torch.nan)))


def test_without_cuda_a_chain_runs_as_it_is(capsys):
    tokens = video(4)
    chain = parse("aot:retention=0.3")
    graph = Chain(chain.stages, graph=True)
    for _ in range(WARM_UP + 2):
        require_equal(graph(tokens), chain(tokens))
    assert main(["bench", "reduce", "--graph", "--frames", "2", "--dim", "8"]) == 2
    assert "--graph replays CUDA graphs, and --device is cpu" in capsys.readouterr().err


@on_gpu
@pytest.mark.parametrize("chain", CHAINS)
def test_a_graph_gives_what_the_stages_give_on_a_gpu(chain):
    graph = dataclasses.replace(parse(chain), graph=True)
    for seed in range(WARM_UP + 3):
        tokens = random_tokens(32, 64, device="cuda")
        tokens = dataclasses.replace(tokens, features=tokens.features * (1 + seed))
        require_equal(graph(tokens), parse(chain)(tokens))
    assert any(shape.replay for shape in graph._replayed._shapes.values())

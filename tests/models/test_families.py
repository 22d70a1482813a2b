"""Every family, small and random: the stock model's own where nothing is reduced, and where tokens are kept."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch.nn import functional
from transformers import RepetitionPenaltyLogitsProcessor

from comfyui_aot.aot.answering.decoding import Decoder
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.prefilling import Prefiller
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import FAMILIES, load
from comfyui_aot.aot.models.passes import frame_bytes
from comfyui_aot.aot.models.prompt import Turn
from comfyui_aot.aot.pictures import token_map
from comfyui_aot.aot.stages import stages
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.positions import KeepPositions
from comfyui_aot.aot.streaming import stream
from comfyui_aot.aot.tokens.video_tokens import Blocks, Role
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.tests.support.simulated_device import moved, simulated
from comfyui_aot.tests.support.small_models import BUILDERS, NEWER, VARIANTS, is_there, save, saved_or_skipped
from comfyui_aot.tests.support.stock_inputs import QUESTION, random_frames, stock_inputs

CHAINS = (
    "intra:retention=0.3",
    "inter:retention=0.3,clip_length=2",
    "aot:retention=0.3,clip_length=2",
    "aot:retention=0.3,clips=one,repeat=false",
)
OTHERS = tuple(f"{name}:retention=0.8" for name in stages() if name not in ("aot", "inter", "intra"))
"""Every other method, at a share that even those can meet which keep some frames whole."""

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that encodes")


@pytest.fixture(scope="module")
def clip():
    return random_frames()


@pytest.fixture(scope="module", params=[*BUILDERS, *VARIANTS])
def small(request, tmp_path_factory, embedded_folder):
    return load(saved_or_skipped(request.param, tmp_path_factory.mktemp("models"), embedded_folder))


@pytest.fixture(scope="module")
def tokens(small, clip):
    tokens = small.encode(clip)
    return small.about(tokens, QUESTION, assistant=small)


def test_every_family_is_tried():
    assert [adapter.family for adapter in FAMILIES] == list(BUILDERS)


@pytest.mark.parametrize("family", NEWER)
def test_a_class_that_transformers_lacks_is_one_clear_line(family, tmp_path):
    if is_there(family):
        pytest.skip("this transformers has it")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(InputError, match=rf"needs {NEWER[family]} of transformers 5\.\d+ or newer"):
        load(tmp_path)


def ours(small, inputs):
    """Logits of a whole prompt."""
    return small.forward(inputs, small.new_cache(), keep=slice(None))


@torch.no_grad()
def test_unreduced_logits_are_the_stock_models_own(small, tokens, clip, record_property):
    found = ours(small, small.prompt_inputs(tokens, QUESTION))
    if small.family == "llava_video (lmms-lab)":
        expected = llava_video_by_hand(small, tokens, clip)
    else:
        given = stock_inputs(small, tokens, clip)
        if small.placeholder == "<image>":  # the stock class' own placeholder is none of lmms-lab's vocabulary
            given = by_embeddings(small, given, clip)
        expected = small.hf_model(**given).logits[0]
    assert float(expected.std()) > 0.05
    record_property("logits apart", f"{float((found - expected).abs().max()):.0e}")
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def by_embeddings(small, given, clip):
    """lmms-lab's checkpoint: words where they stand, the stock model's own video features between them."""
    model = small.hf_model
    features = model.model.get_video_features(
        given["pixel_values_videos"],
        vision_feature_layer=model.config.vision_feature_layer,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
    )
    features = getattr(features, "pooler_output", features)
    features = features[0] if isinstance(features, (list, tuple)) else features.reshape(-1, features.shape[-1])
    if len(features) % 2 == 0 or len(features) == clip.count * 25:
        features = torch.cat((features, model.model.image_newline[None]))
    ids = given["input_ids"][0]
    places = (ids == model.config.video_token_id).nonzero().flatten()
    embeddings = model.get_input_embeddings()(ids.clamp(max=model.config.text_config.vocab_size - 1))
    embeddings[places] = features
    return {"inputs_embeds": embeddings[None]}


def llava_video_by_hand(small, tokens, clip):
    """LLaVA-Video's own layout: 2 x 2 means, a newline behind every grid row, then the words."""
    model = small.hf_model.model
    states = model.vision_tower(small.preprocess(clip), output_hidden_states=True).hidden_states[-1]
    grid = model.multi_modal_projector(states).reshape(clip.count, 9, 9, -1).permute(0, 3, 1, 2)
    pooled = functional.avg_pool2d(grid, 2).permute(0, 2, 3, 1)
    newline = model.image_newline.expand(clip.count, 4, 1, -1)
    video = torch.cat((pooled, newline), 2).reshape(-1, pooled.shape[-1])
    prompt = small.prompt(QUESTION, tokens)
    before, after = (small.hf_model.get_input_embeddings()(ids) for ids in (prompt.before[0], prompt.after))
    return small.hf_model(inputs_embeds=torch.cat((before, video, after))[None]).logits[0]


@torch.no_grad()
def test_greedy_answers_are_the_stock_models_own(small, tokens, clip):
    said = Session(small, tokens).ask([QUESTION], Generation(max_new_tokens=6))
    if "lmms-lab" in small.family:
        inputs = small.prompt_inputs(tokens, QUESTION)
        stock = small.hf_model.generate(inputs_embeds=inputs.inputs_embeds[None], max_new_tokens=6, do_sample=False)[0]
    else:
        given = stock_inputs(small, tokens, clip)
        stock = small.hf_model.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
    assert list(said.ids[0]) == stock.tolist()


PENALTIES = (1.3, 0.3)
"""Some of these random models repeat no word, and one says nothing else; a penalty below 1 makes them repeat."""


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty` with `inputs_embeds`")
def test_a_checkpoints_repetition_penalty_is_that_of_the_stock_generate(small, tokens, clip, monkeypatch):
    """The words of the prompt count, and the placeholder; LLaVA's own code gives embeddings alone."""
    plain = Session(small, tokens).ask([QUESTION], Generation(max_new_tokens=12))
    others = []
    for penalty in PENALTIES:
        monkeypatch.setattr(small.hf_model.generation_config, "repetition_penalty", penalty)
        said = Session(small, tokens).ask([QUESTION], Generation(max_new_tokens=12))
        if "lmms-lab" in small.family:
            inputs = small.prompt_inputs(tokens, QUESTION)
            given, skipped = {"inputs_embeds": inputs.inputs_embeds[None]}, 0
        else:
            given = stock_inputs(small, tokens, clip)
            skipped = given["input_ids"].shape[1]
        stock = small.hf_model.generate(**given, max_new_tokens=12, do_sample=False)[0, skipped:]
        assert list(said.ids[0]) == stock.tolist()
        torch.testing.assert_close(said.first_logits, plain.first_logits)
        off = Session(small, tokens).ask([QUESTION], Generation(max_new_tokens=12, repetition_penalty=1.0))
        assert off.ids == plain.ids
        others.append(said.ids)
    assert set(others) != {plain.ids}


@torch.no_grad()
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_repetition_penalty_counts_the_same_words_where_tokens_are_reduced(small, tokens, penalty):
    """Token by token without a cache, by transformers' own processor, over the words of the prompt and the answer."""
    reduced = parse("aot:retention=0.3,clip_length=2")(tokens)
    questions, new = ["Is it day?", QUESTION], 8
    said = Session(small, reduced).ask(questions, Generation(new, repetition_penalty=penalty))
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    for question, ids in zip(questions, said.ids, strict=True):
        prompt, answer = small.prompt(question, reduced), []
        prefix = small.prefix(reduced, prompt)
        words = torch.cat((*prompt.before, prompt.after)).tolist()
        config = small.hf_model.config
        of_images = small.family in ("internvl", "smolvlm", "glm4v", "glm46v")
        placeholder = config.image_token_id if of_images else config.video_token_id
        before = [] if "lmms-lab" in small.family else [*words, placeholder]
        begin = prefix.answer_position(len(prompt.after))
        while len(answer) < len(ids):
            positions = torch.arange(begin, begin + len(answer))
            inputs = small.prompt_inputs(reduced, question)
            if answer:
                inputs = inputs.then(small.text_inputs(torch.tensor(answer), positions))
            logits = small.forward(inputs, small.new_cache(), keep=slice(-1, None)).float()
            counted = torch.tensor([before + answer], dtype=torch.long)
            answer.append(int(processor(counted, logits).argmax()))
        assert list(ids) == answer


@torch.no_grad()
@pytest.mark.parametrize("stage", [None, KeepPositions()], ids=["as the family counts", "positions kept"])
def test_kept_tokens_are_read_as_the_stock_llm_reads_them_at_their_own_places(small, tokens, clip, stage):
    """Every third token of the grid, some frames' none: text and tokens at positions worked out here."""
    full = tokens.to_language_grid()
    frame = full.frame
    chosen = ((torch.arange(len(frame)) % 3 == 0) & (frame != 1)).nonzero().flatten()
    levels = tuple(level[chosen] for level in full.levels)
    weights = torch.zeros(1, len(chosen), len(frame))
    weights[0, torch.arange(len(chosen)), chosen] = 1
    kept = full.reduced(Blocks(weights, (len(chosen),), (len(frame),)), full.place[chosen], full.role[chosen])
    torch.testing.assert_close(kept.features, full.features[chosen])
    assert len(kept.levels) == len(levels)
    kept = kept if stage is None else stage(kept)
    whole, found = small.prompt_inputs(full, QUESTION), ours(small, small.prompt_inputs(kept, QUESTION))
    # Which rows of the whole prompt are kept: all text, and the chosen of the visual tokens.
    row = torch.ones(len(whole), dtype=torch.bool)
    visual = whole.visual.nonzero().flatten()[: len(frame)]
    row[visual] = False
    row[visual[chosen]] = True
    positions = by_hand(small, full, QUESTION) if small.axes == 3 else torch.arange(len(whole))[None]
    counted = small.axes == 1 and stage is None
    positions = torch.arange(int(row.sum()))[None] if counted else positions[:, row]
    extras = {}
    if levels:
        extras = {"visual_pos_masks": whole.visual[row][None], "deepstack_visual_embeds": list(levels)}
    if small.family == "gemma4" and small.sees_ahead:
        extras = {"attention_mask": masks_of_frames(whole.visual[row], window=40)}
    elif small.family == "gemma4":
        ids = stock_inputs(small, tokens, clip)["input_ids"][0]
        ids = ids.masked_fill(
            ids == small.hf_model.config.video_token_id, small.hf_model.config.text_config.pad_token_id
        )
        extras = {"per_layer_inputs": small.language_model.get_per_layer_inputs(ids[row][None])}
    if small.family == "molmo2":
        seen = stock_inputs(small, tokens, clip)["mm_token_type_ids"][0, row].bool()
        extras = {"attention_mask": (seen & seen[:, None] | torch.ones(len(seen), len(seen)).tril().bool())[None, None]}
    states = small.language_model(
        inputs_embeds=whole.inputs_embeds[row][None],
        position_ids=positions[:, None] if small.axes == 3 else positions,
        **extras,
    ).last_hidden_state[0]
    expected = small.hf_model.lm_head(states)
    if small.family == "gemma4":
        expected = 3 * (expected / 3).tanh()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def masks_of_frames(visual, window):
    """Boolean masks of Gemma 4: causal; and within a window, where a visual token also sees the rest of its frame."""
    count = len(visual)
    causal, near = torch.zeros(2, count, count, dtype=torch.bool)
    for i in range(count):
        causal[i, : i + 1] = True
        end = i + 1
        while visual[i] and end < count and visual[end]:
            end += 1
        near[i, max(0, i - window + 1) : end] = True
    return {"full_attention": causal[None, None], "sliding_attention": near[None, None]}


def by_hand(small, full, question):
    """(3, L) rotary positions of a whole prompt, by the published rules of Qwen's families."""
    prompt = small.prompt(question, full)
    given = []
    t, y, x = full.place.T
    at = 0
    for i, before in enumerate(prompt.before):
        given.append(torch.arange(at, at + len(before)).expand(3, -1))
        at += len(before)
        if small.frames_apart:
            here = t == i
            given.append(at + torch.stack((torch.zeros_like(y), y, x))[:, here])
        else:
            # Qwen2.5-VL: two positions a second, a pair a second
            given.append(at + torch.stack(((2 if small.family == "qwen2_5_vl" else 1) * t, y, x)))
        at = int(given[-1].max()) + 1
    given.append(torch.arange(at, at + len(prompt.after)).expand(3, -1))
    return torch.cat(given, 1)


LAYERS = (("shallow", 1), ("deep", 4), ("last", 5))
"""Of the small models' towers."""


@torch.no_grad()
def test_keys_are_the_last_blocks_projections_averaged_over_heads(small, tokens, clip):
    if not small.family.startswith("llava"):
        pytest.skip("its keys are those of several patches, or turned by their places")
    tower, seen = small.hf_model.model.vision_tower, []
    projections = [module for name, module in tower.named_modules() if name.endswith("k_proj")]
    hook = projections[5].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    tower(small.preprocess(clip))
    hook.remove()
    heads = small.hf_model.config.vision_config.num_attention_heads
    torch.testing.assert_close(tokens.extras["keys"], seen[0].unflatten(2, (heads, -1)).mean(2))


@torch.no_grad()
def test_importance_is_the_column_sums_of_eager_attention(small, tokens, clip):
    layout = tokens.layout
    if small.family.startswith("llava"):
        tower = small.hf_model.model.vision_tower
        attentions = eager(tower, lambda: tower(small.preprocess(clip), output_attentions=True).attentions)
        expected = {name: attentions[layer].sum(2).mean(1) for name, layer in LAYERS}
    elif small.family == "internvl":
        attentions = weights(small, [layer.attention for layer in small.tower.encoder.layer], clip)
        sums = {name: attentions[layer].sum(2).mean(1)[:, 1:] for name, layer in LAYERS}
        expected = {name: each.reshape(-1, 4, 2, 4, 2).sum((2, 4)).flatten(1) for name, each in sums.items()}
    elif small.family == "minicpmv4_6":
        expected = minicpm_importance(small, clip, layout)
    elif small.family == "molmo2":
        attentions = weights(small, [layer.self_attn for layer in small.tower.layers], clip, output_hidden_states=True)
        sums = {
            name: functional.pad(attentions[layer].sum(2).mean(1).unflatten(1, (8, 8)), (0, 1, 0, 1))
            for name, layer in LAYERS
        }
        expected = {name: each.reshape(-1, 3, 3, 3, 3).sum((2, 4)).flatten(1) for name, each in sums.items()}
    elif small.family == "gemma4":
        run = {"pixel_position_ids": small.places(layout)}
        attentions = weights(small, [layer.self_attn for layer in small.tower.encoder.layers], clip, **run)
        sums = {name: attentions[layer].sum(2).mean(1) for name, layer in LAYERS}
        height, width = layout.grid
        expected = {name: each.reshape(-1, height, 3, width, 3).sum((2, 4)).flatten(1) for name, each in sums.items()}
    elif small.family == "video_llama_3":
        run = {"grid_thw": small.grids(layout), "merge_sizes": torch.tensor([2])}
        frames = weights(small, [layer.self_attn for layer in small.tower.encoder.layers], clip, **run)
        sums = {name: torch.cat(frames[layer]).sum(2).mean(1) for name, layer in LAYERS}
        expected = {name: each.reshape(layout.frames, -1, 4).sum(2) for name, each in sums.items()}
    elif small.family == "smolvlm":
        attentions = weights(small, [layer.self_attn for layer in small.tower.encoder.layers], clip)
        sums = {name: attentions[layer].sum(2).mean(1) for name, layer in LAYERS}
        expected = {name: each.reshape(-1, 3, 3, 3, 3).sum((2, 4)).flatten(1) for name, each in sums.items()}
    else:
        expected = qwen_importance(small, clip, layout)
    for name, values in expected.items():
        found = tokens.extras[name] if name == "last" else getattr(tokens, name)
        torch.testing.assert_close(found, values, atol=1e-4, rtol=0)


def eager(tower, run):
    tower.set_attn_implementation("eager")
    try:
        return run()
    finally:
        tower.set_attn_implementation("aot_received")


def weights(small, modules, clip, **run):
    """The attention of each module, (T, heads, S, S) or a frame at a time, in one pass of the tower."""
    seen = []
    hooks = [each.register_forward_hook(lambda _module, _inputs, output: seen.append(output[1])) for each in modules]
    pixel_values = small.preprocess(clip)
    eager(small.tower, lambda: small.tower(small.patches(pixel_values) if run else pixel_values, **run))
    for hook in hooks:
        hook.remove()
    return seen


def minicpm_importance(small, clip, layout):
    """Column sums of softmax(q k'), frame by frame: of patches before the third block's merging, of 2 x 2 after it."""
    seen = {}
    modules = {name: small.tower.encoder.layers[layer].self_attn for name, layer in LAYERS}
    hooks = [
        module.register_forward_pre_hook(
            lambda _module, _args, given, name=name: seen.update({name: given["hidden_states"][0]}), with_kwargs=True
        )
        for name, module in modules.items()
    ]
    small.tower(small.patches(small.preprocess(clip)), target_sizes=small.grids(layout))
    for hook in hooks:
        hook.remove()
    expected, (height, width) = {}, layout.grid
    for name, states in seen.items():
        side = 4 if name == "shallow" else 2
        frames = states.reshape(layout.frames, height * side * width * side, -1)
        q, k = (project(frames).unflatten(2, (4, -1)) for project in (modules[name].q_proj, modules[name].k_proj))
        sums = (torch.einsum("tqhd,tkhd->thqk", q, k) * q.shape[-1] ** -0.5).softmax(-1).sum(2).mean(1)
        expected[name] = sums.reshape(-1, height, side, width, side).sum((2, 4)).flatten(1)
    return expected


def qwen_importance(small, clip, layout):
    """Column sums of softmax(q k') of a frame's patches at two blocks, a hook away from the tower."""
    visual = small.hf_model.model.visual
    layers = small.importance_layers()
    blocks = {name: visual.blocks[layer].attn for name, layer in zip(("shallow", "deep", "last"), layers, strict=True)}
    seen = {}

    def note(name):
        def hook(module, args, kwargs):
            seen[name] = (args[0] if args else kwargs["hidden_states"], kwargs["position_embeddings"])

        return hook

    hooks = [module.register_forward_pre_hook(note(name), with_kwargs=True) for name, module in blocks.items()]
    merge = small.hf_model.config.vision_config.spatial_merge_size
    visual(small.patches(small.preprocess(clip)), grid_thw=small.tower_grids(layout))
    for hook in hooks:
        hook.remove()
    expected = {}
    for name, (states, (cos, sin)) in seen.items():
        module = blocks[name]
        q, k, _ = module.qkv(states).reshape(len(states), 3, 4, -1).unbind(1)
        q, k = (each * cos[:, None] + turned(each) * sin[:, None] for each in (q, k))
        per_frame = len(states) // layout.frames
        sums = []
        for i in range(layout.frames):
            rows = slice(i * per_frame, (i + 1) * per_frame)
            scores = torch.einsum("qhd,khd->hqk", q[rows], k[rows]) * q.shape[-1] ** -0.5
            sums.append(scores.softmax(-1).sum(1).mean(0))
        tokens = torch.cat(sums).reshape(-1, merge**2).sum(1)
        expected[name] = reading_order(small, tokens, layout)
    return expected


def turned(values):
    half = values.shape[-1] // 2
    return torch.cat((-values[..., half:], values[..., :half]), -1)


def reading_order(small, values, layout):
    """Tokens of Qwen2.5-VL come window by window, 3 x 3 tokens each here."""
    if small.family != "qwen2_5_vl":
        return values.reshape(layout.frames, -1)
    (height, width), placed, at = layout.grid, torch.zeros(layout.frames, *layout.grid), 0
    for t in range(layout.frames):
        for top in range(0, height, 3):
            for left in range(0, width, 3):
                for y in range(top, min(top + 3, height)):
                    for x in range(left, min(left + 3, width)):
                        placed[t, y, x] = values[at]
                        at += 1
    return placed.flatten(1)


@pytest.mark.parametrize("chain", CHAINS + OTHERS)
@pytest.mark.filterwarnings("ignore:These tokens come without")
def test_every_stage_runs_on_its_grid_and_keeps_exactly_what_it_is_told(small, tokens, chain):
    reduced = parse(chain)(tokens)
    kept = [int(((reduced.frame == t) & (reduced.role != Role.NEWLINE)).sum()) for t in range(reduced.layout.frames)]
    assert sum(kept) == reduced.tokens_kept == round(float(chain.partition("=")[2].split(",")[0]) * tokens.tokens_full)
    said = Session(small, reduced).ask([QUESTION], Generation(max_new_tokens=3))
    assert said.prompt_tokens[0] == len(small.prompt_inputs(reduced, QUESTION))


def test_streamed_tokens_are_those_of_the_eager_run(small, tokens, clip):
    pipeline = parse("aot:retention=0.3,clip_length=2")
    eager_run, streamed = pipeline(tokens), stream(small, clip, pipeline.stages)
    assert torch.equal(eager_run.place, streamed.place)
    torch.testing.assert_close(eager_run.features, streamed.features, atol=1e-4, rtol=1e-4)
    for one, other in zip(eager_run.levels, streamed.levels, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_second_question_finds_the_video_read_and_is_answered_as_in_a_fresh_session(small, tokens):
    reduced = parse("aot:retention=0.3,clip_length=2")(tokens)
    session, settings = Session(small, reduced), Generation(max_new_tokens=5)
    session.ask(["Is it day?"], settings)
    held = session.cached_tokens
    again = session.ask([QUESTION], settings)
    fresh = Session(small, reduced).ask([QUESTION], settings)
    assert again.ids == fresh.ids
    assert again.prefill_s == 0
    assert session.cached_tokens == held
    torch.testing.assert_close(again.first_logits, fresh.first_logits, atol=1e-4, rtol=0)


def test_questions_together_are_answered_as_one_by_one(small, tokens):
    reduced = parse("aot:retention=0.3,clip_length=2")(tokens)
    questions, settings = ["Is it day?", QUESTION, "Describe all that moves in it."], Generation(max_new_tokens=5)
    together = Session(small, reduced).ask(questions, settings)
    alone = [Session(small, reduced).ask([each], settings) for each in questions]
    assert together.ids == tuple(each.ids[0] for each in alone)
    torch.testing.assert_close(
        together.first_logits, torch.cat([each.first_logits for each in alone]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("after", ["", "+fastv:layer=3"])
def test_tokens_at_the_positions_of_the_full_video_are_asked_like_any(small, tokens, after):
    if after and not small.takes_masks:
        pytest.skip("nothing acts between layers of this LLM")
    reduced = parse(f"aot:retention=0.3,clip_length=2+positions{after}")(tokens)
    questions, settings = ["Is it day?", QUESTION], Generation(max_new_tokens=5)
    together = Session(small, reduced).ask(questions, settings)
    alone = [Session(small, reduced).ask([each], settings) for each in questions]
    assert together.ids == tuple(each.ids[0] for each in alone)
    prompt, whole = (small.prefix(each, small.prompt(QUESTION, each)) for each in (reduced, tokens))
    assert prompt.next_position == whole.next_position
    last = prompt.inputs.position_ids.max()
    assert last < prompt.next_position <= small.language.context


def test_gaps_that_a_family_leaves_between_positions_are_no_reason_to_refuse(small, tokens, monkeypatch):
    reduced = parse(f"top:keep_tokens={tokens.layout.frames},span=video")(tokens)
    prompt = small.prompt(QUESTION, reduced)
    prefix = small.prefix(reduced, prompt)
    context = len(prefix.inputs) + len(prompt.after) + 1
    if prefix.next_position + len(prompt.after) + 1 <= context:
        pytest.skip("its positions are counted anew")
    monkeypatch.setattr(small, "language", dataclasses.replace(small.language, context=context))
    Session(small, reduced).ask([QUESTION], Generation(max_new_tokens=1))
    with pytest.raises(InputError, match=f"above the {context}"):
        Session(small, reduced).ask([QUESTION], Generation(max_new_tokens=2))


def test_all_tokens_have_their_positions_already(small, tokens):
    full, kept = tokens.to_language_grid(), KeepPositions()(tokens)
    given, found = (small.prefix(each, small.prompt(QUESTION, each)) for each in (full, kept))
    assert found.inputs.position_ids.equal(given.inputs.position_ids)
    assert (found.next_position, found.least_answer_position) == (given.next_position, given.least_answer_position)


def test_an_answer_that_is_stopped_leaves_the_video_read(small, tokens):
    reduced = parse("aot:retention=0.3,clip_length=2")(tokens)
    session, settings = Session(small, reduced), Generation(max_new_tokens=5)

    def stop(count):
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.ask([QUESTION], settings, on_token=stop)
    again = session.ask([QUESTION], settings)
    assert again.prefill_s == 0
    torch.testing.assert_close(
        again.first_logits, Session(small, reduced).ask([QUESTION], settings).first_logits, atol=1e-4, rtol=0
    )


def test_nothing_is_padded_or_replayed_where_attention_takes_no_mask_or_sees_ahead(small, tokens):
    plain = ("qwen3_5", "qwen3_5_moe", "minicpmv4_6", "gemma4", "molmo2")
    assert (small.family in plain) is (small.sees_ahead or not small.takes_masks)
    if small.family in plain:
        session = Session(small, tokens, decoder=Decoder(small, "graph"), prefiller=Prefiller(small, "graph"))
        settings = Generation(max_new_tokens=4)
        assert session.ask([QUESTION], settings).ids == Session(small, tokens).ask([QUESTION], settings).ids


def test_a_prefill_in_chunks_reads_the_same(small, tokens, monkeypatch):
    whole = Session(small, tokens).ask([QUESTION], Generation(max_new_tokens=3))
    monkeypatch.setattr("comfyui_aot.aot.answering.session.CHUNK", 17)
    counts = []
    chunked = Session(small, tokens).ask([QUESTION], Generation(max_new_tokens=3), on_token=counts.append)
    assert (counts.count(0) > 3) is not small.sees_ahead
    assert chunked.ids == whole.ids
    torch.testing.assert_close(chunked.first_logits, whole.first_logits, atol=1e-4, rtol=0)


def test_earlier_turns_and_a_system_prompt_are_in_the_prompt(small, tokens):
    prompt = small.prompt("And now?", tokens, system="Be brief.", turns=[Turn(QUESTION, "A fox.")])
    text = small._tokenizer.decode(torch.cat((*prompt.before, prompt.after)).tolist())
    order = [text.index(part) for part in ("Be brief.", QUESTION, "A fox.", "And now?")]
    assert order == sorted(order)
    assert text.rstrip("\n:").lower().endswith("assistant")
    plain = small.prompt("And now?", tokens)
    assert not all(map(torch.equal, plain.before, prompt.before))


def test_a_question_that_holds_the_placeholder_is_refused(small, tokens):
    for mark in {small.placeholder, small.slot or small.placeholder}:
        with pytest.raises(InputError, match=r"leave"):
            small.prompt(f"What is {mark}?", tokens)


@pytest.fixture(scope="module")
def eleven(small):
    """Eleven frames, and their tokens by passes of four."""
    frames = random_frames(11)
    return frames, small.encode(frames)


@pytest.mark.parametrize("frames_at_once", [5, 8, 32])
def test_passes_of_more_frames_give_the_same_tokens(small, eleven, frames_at_once):
    frames, fours = eleven
    more = small.encode(frames, frames_at_once=frames_at_once)
    assert torch.equal(more.place, fours.place)
    assert torch.equal(more.timestamps, fours.timestamps)
    assert torch.equal(more.timestamps, small.timestamps(frames))
    for one, other in zip(more.levels, fours.levels, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    for name in ("features", "shallow", "deep"):
        torch.testing.assert_close(getattr(more, name), getattr(fours, name), atol=1e-4, rtol=1e-4)
    assert more.history[0].tokens_out == fours.history[0].tokens_out


def test_a_pass_is_estimated_to_take_more_than_its_results(small, tokens, clip):
    results = sum(each.nbytes for each in (tokens.features, *tokens.levels, *tokens.extras.values()))
    estimate = frame_bytes(small.tower.config, small.frame_size(clip), small.language.hidden, small.dtype)
    assert estimate * clip.count > results


@on_gpu
@torch.no_grad()
@pytest.mark.parametrize("frames_at_once", [4, 8, None])
def test_tokens_encoded_on_a_gpu_are_those_of_a_cpu(small, tmp_path, embedded_folder, frames_at_once):
    """In float32, and of frames that need no resizing, which a CPU rounds otherwise."""
    save(tmp_path / "small", small.family, embedded_folder)
    on_device = load(tmp_path / "small", dtype="float32", device="cuda")
    large = random_frames(11, 400, 400)
    height, width = small.frame_size(large)
    frames = Frames(large.pixels[:, :height, :width].contiguous(), large.timestamps, large.source)
    assert small.frame_size(frames) == (height, width)
    expected = small.encode(frames)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = on_device.encode(frames, frames_at_once=frames_at_once)
    assert found.features.is_cuda
    for name in ("features", "shallow", "deep"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), atol=1e-3, rtol=1e-3)


def test_odd_frames_and_a_single_one_are_encoded(small):
    for count in (1, 3):
        frames = random_frames(count)
        tokens = small.encode(frames)
        assert tokens.layout == small.layout(frames)
        assert torch.equal(tokens.timestamps, small.timestamps(frames))
        assert Session(small, tokens).ask([QUESTION], Generation(max_new_tokens=2)).ids[0]


def test_nothing_is_answered_blind_with_tokens_in_the_prompt(small):
    prompt = small.prompt(QUESTION)
    assert len(Session(small, None).ask([QUESTION], Generation(max_new_tokens=2)).first_logits) == 1
    assert len(prompt.before) == (2 if small.family == "molmo2" else 1)


def test_w_reduces_every_level_alike(small, tokens):
    reduced = parse("aot:retention=0.3,clip_length=2")(tokens)
    dense = reduced.map.sparse().to_dense()
    for level, before in zip(reduced.levels, tokens.levels, strict=True):
        torch.testing.assert_close(level, (dense @ before.to(dense)).to(level), atol=1e-4, rtol=1e-4)
    assert len(tokens.levels) == (3 if small.family.startswith("qwen3_vl") else 0)


def test_the_token_map_is_drawn_on_the_frames_that_were_encoded(small):
    for count in (3, 4):
        frames = random_frames(count)
        reduced = parse("aot:retention=0.3,clip_length=2")(small.encode(frames))
        assert reduced.frames_shown == count
        assert token_map(reduced, frames).shape[0] == 1
        with pytest.raises(InputError, match=f"describe {count} frames and {count + 1} frames were given"):
            token_map(reduced, random_frames(count + 1))


@torch.no_grad()
def test_tokens_on_another_device_are_put_into_the_prompt_where_they_belong(small, tokens):
    reduced = parse("top:retention=0.5")(tokens)
    prompt = small.prompt(QUESTION, reduced)
    expected = small.prefix(reduced, prompt)
    with simulated():
        prefix = small.prefix(moved(reduced), prompt)
    assert (prefix.next_position, prefix.least_answer_position) == (
        expected.next_position,
        expected.least_answer_position,
    )
    for name in ("inputs_embeds", "position_ids", "visual"):
        assert torch.equal(getattr(prefix.inputs, name), getattr(expected.inputs, name))
    assert all(map(torch.equal, prefix.inputs.levels, expected.inputs.levels))


FRAME_CHAINS = ("fewer:retention=0.5", "differ:frames=2+uniform:retention=0.5", "smaller:retention=0.5")


@pytest.mark.parametrize("chain", FRAME_CHAINS)
def test_chosen_frames_are_read_and_streamed_on_every_grid(small, chain, clip):
    made, full = parse(chain), small.encode(clip)
    chosen = made.on_frames(clip, small.layout)
    tokens = made.after_encoding(small.encode(chosen))
    assert tokens.tokens_full == full.tokens_full
    assert tokens.tokens_kept <= full.tokens_kept // 2
    assert tokens.history[0].tokens_in == full.tokens_kept
    assert tokens.history[len(made.before_tokens) - 1].tokens_out == tokens.tokens_encoded
    everything = tokens.over_given()
    assert everything.layout == full.layout
    assert torch.allclose(everything.map.means.row_mass(), torch.ones((), dtype=torch.float64), atol=1e-6)
    if tokens.given.exact:
        torch.testing.assert_close(everything.map.apply(full.features), tokens.to_language_grid().features)
    if tokens.given.of.shape[1] == 1:  # chosen frames may be a pair that they were before
        assert tokens.given.exact is (tokens.layout.grid == full.layout.grid)
    streamed = stream(small, chosen, made.on_tokens)
    assert torch.equal(streamed.features, tokens.features)
    assert Session(small, tokens).ask([QUESTION], Generation(max_new_tokens=2)).texts

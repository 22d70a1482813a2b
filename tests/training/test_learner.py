"""The embedded model while it learns: the stock model's own arithmetic, in which only what should learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from comfyui_aot.aot.evaluation.scenes import SceneSettings, make_scene
from comfyui_aot.aot.evaluation.shapes_set import FAMILIES, SceneQuestion, ask
from comfyui_aot.aot.models.embedded.assemble import IMAGE_MEAN, IMAGE_STD
from comfyui_aot.aot.models.llava_onevision import LlavaOnevision
from comfyui_aot.aot.training.learner import Learner, Ranks, _Looks
from comfyui_aot.aot.training.packing import pack
from comfyui_aot.aot.training.pointing import Grounding
from comfyui_aot.aot.training.warm_start import WarmStart

LARGE = make_scene(5, SceneSettings(frames=4))
"""Of the one size that the stock model takes."""

SCENE = make_scene(5, SceneSettings(frames=4, size=196, radius=(13.0, 22.0)))
ASKED = [question for _, question in ask(SCENE)][:4]


@pytest.fixture(scope="module")
def learner() -> Learner:
    """One whose LoRA has learnt something: it begins as nothing."""
    learner = Learner()
    learner.warm_start(WarmStart(frames=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return learner


def test_the_loss_is_the_stock_models_asked_one_question_at_a_time(learner, beginning):
    model, tokenizer = copy.deepcopy(beginning)
    trained = learner.weights({})
    model.model.multi_modal_projector.load_state_dict(trained.projector)
    language = {name: tensor.numpy() for name, tensor in model.model.language_model.state_dict().items()}
    merged = {name: torch.from_numpy(values) for name, values in trained.merged(language).items()}
    assert len(trained.lora) == 7 * 30
    model.model.language_model.load_state_dict(merged)
    stock = LlavaOnevision(model, tokenizer, "stock", preprocessor={"image_mean": IMAGE_MEAN, "image_std": IMAGE_STD})
    tokens = stock.encode(LARGE.frames())
    asked = [question for _, question in ask(LARGE)][:3]
    losses, right = [], []
    for question in asked:
        answer = torch.tensor([*tokenizer(question.answer).input_ids, tokenizer.eos_token_id])
        read = torch.cat(
            (stock.prompt_inputs(tokens, question.words).inputs_embeds, model.get_input_embeddings()(answer[:-1]))
        )
        with torch.no_grad():
            logits = model.lm_head(model.model.language_model(inputs_embeds=read[None]).last_hidden_state[0])
        losses.append(functional.cross_entropy(logits[-len(answer) :], answer, reduction="none"))
        right.append(bool(logits[-len(answer)].argmax() == answer[0]))
    with torch.no_grad():
        result = learner(LARGE, asked, Grounding())
    assert float(result.loss) == pytest.approx(float(torch.cat(losses).mean()), abs=1e-4)
    assert result.right == right


def test_the_projector_and_lora_learn_and_nothing_else(learner):
    tower = copy.deepcopy(learner.model.model.vision_tower.state_dict())
    result = learner(SCENE, ASKED, Grounding(), sets=True)
    result.total(Grounding()).backward()
    moved = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    learning = ("lora_", "multi_modal_projector", "attributes.", "clock.", "colours.")
    assert all(any(part in name for part in learning) for name in moved)
    assert sum("multi_modal_projector" in name for name in moved) == 4
    assert sum("lora_A" in name for name in moved) == sum("lora_B" in name for name in moved) == 7 * 30
    assert all(torch.equal(tower[name], t) for name, t in learner.model.model.vision_tower.state_dict().items())


def test_where_tokens_look_teaches_the_attention_that_comes_before(learner):
    learner.zero_grad()
    learner(SCENE, ASKED, Grounding(naming=(3,), reading=(4,), answering=(5,))).pointing.backward()
    assert taught(learner) == set(range(6))


def test_layers_that_do_not_run_learn_nothing_and_the_answer_is_read_where_they_end(learner):
    learner.zero_grad()
    result = learner(SCENE, ASKED, Grounding(known_after=3, answered_after=4), layers=4)
    assert float(result.loss) == 0.0 < float(result.early)
    assert len(result.right) == len(ASKED)
    result.total(Grounding()).backward()
    assert taught(learner) == set(range(4))
    assert learner.model.config.text_config.num_hidden_layers == 30


def test_the_answer_read_early_is_the_likeliest_of_all_answers_by_its_direction(learner, beginning):
    words = sorted({word for family in FAMILIES.values() for word in family.answers})
    tokenizer = beginning[1]
    ids = [tokenizer(word).input_ids[0] for word in words]
    assert len(set(ids)) == len(words)
    table = functional.normalize(learner.model.lm_head.weight[ids], dim=1)
    states = {}
    hook = learner.model.model.language_model.layers[1].register_forward_hook(
        lambda _module, _inputs, state: states.update(found=state[0])
    )
    with torch.no_grad():
        result = learner(SCENE, ASKED[:1], Grounding(answered_after=2), layers=2)
    hook.remove()
    scores = functional.layer_norm(states["found"][-1 - len(tokenizer(ASKED[0].answer).input_ids)], (576,)) @ table.T
    expected = functional.cross_entropy(scores[None], torch.tensor([words.index(ASKED[0].answer)]))
    assert float(result.early) == pytest.approx(float(expected), abs=1e-4)


def test_a_text_without_an_answer_is_named_from_and_not_answered(learner):
    with torch.no_grad():
        alone = learner(SCENE, ASKED, Grounding())
        listed = learner(SCENE, [*ASKED, SceneQuestion(SCENE.actors[0].colour, "", ())], Grounding())
    assert float(listed.loss) == pytest.approx(float(alone.loss), abs=1e-5)
    assert listed.right == alone.right
    assert float(listed.knowledge) != float(alone.knowledge)


def test_what_is_shipped_takes_eight_megabytes_at_most(learner, tmp_path):
    learner.weights({"scores": "x" * 20_000}).save(tmp_path / "weights.safetensors")
    assert 6e6 < (tmp_path / "weights.safetensors").stat().st_size <= 8e6


def test_the_first_layers_learn_with_the_ranks_that_are_theirs(learner):
    lora = learner.weights({}).lora
    ranks = Ranks()
    for layer, (attention, mlp) in ((0, ranks.first), (9, ranks.first), (10, ranks.others), (29, ranks.others)):
        assert len(lora[f"layers.{layer}.self_attn.v_proj"][0]) == attention
        assert len(lora[f"layers.{layer}.mlp.up_proj"][0]) == mlp


def test_an_answer_that_names_a_shape_is_read_off_that_name(learner, beginning):
    one, other = SCENE.actors[:2]
    words = f"Which shape appears first, the {one.colour} one or the {other.colour} one?"
    ids = learner._adapter.prompt(words).after
    packed = pack(7, [(ids, torch.tensor([1, 2]))])
    looks = learner._looks(SCENE, [SceneQuestion(words, other.colour, (one, other))], [ids], packed, absent=False)
    ((row, read),) = looks.reading
    tokenizer = beginning[1]
    assert row == len(ids) - 1
    assert [tokenizer.decode(ids[token]).strip() for token in read] == [other.colour]
    assert looks.answering[0].actors == (other,)


def test_what_is_not_there_is_looked_for_at_the_first_token_of_the_prompt(learner):
    words = "Is there a yellow circle?"
    assert not any(actor.colour == "yellow" or actor.kind == "circle" for actor in SCENE.actors)
    question, ids = SceneQuestion(words, "no", ()), learner._adapter.prompt(words).after
    packed = pack(70, [(ids, torch.tensor([1, 2]))])
    assert learner._looks(SCENE, [question], [ids], packed, absent=False) == _Looks([], [], [])
    looks = learner._looks(SCENE, [question], [ids], packed, absent=True)
    assert [tuple(look.actors) for look in looks.naming + looks.answering] == [(), (), ()]
    groups = learner._pointing(SCENE, looks, Grounding(), 4, 5, packed)
    for pointing in groups[0] + groups[2]:
        assert all(row.nonzero().flatten().tolist() == [0] for row in pointing.about)


def test_sets_are_learnt_only_where_they_are_asked_for(learner):
    with torch.no_grad():
        without, with_sets = (learner(SCENE, ASKED, Grounding(), layers=6, sets=sets) for sets in (False, True))
    assert float(without.colours) == 0.0 < float(with_sets.colours)
    assert float(with_sets.total(Grounding())) > float(without.total(Grounding()))


@pytest.mark.parametrize("layers", [None, 4])
def test_a_question_that_counts_for_nothing_leaves_the_loss_of_the_others(learner, layers):
    grounding = Grounding(answered_after=4)
    only = torch.tensor([0.0, 2.0, 0.0, 0.0])
    with torch.no_grad():
        alone = learner(SCENE, ASKED[1:2], grounding, layers=layers)
        among = learner(SCENE, ASKED, grounding, layers=layers, weights=only)
    assert float(among.early) == pytest.approx(float(alone.early), abs=1e-4)
    assert float(among.loss) == pytest.approx(float(alone.loss), abs=1e-4)


def taught(learner: Learner) -> set[int]:
    """The layers that have a gradient."""
    return {
        int(name.split("layers.")[1].split(".")[0])
        for name, parameter in learner.named_parameters()
        if "layers." in name and parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
    }

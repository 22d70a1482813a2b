"""The embedded model while it learns: the stock model's own arithmetic, in which only what should learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from comfyui_aot.aot.evaluation.scenes import SceneSettings, make_scene
from comfyui_aot.aot.evaluation.shapes_set import ask
from comfyui_aot.aot.models.embedded import IMAGE_MEAN, IMAGE_STD, untrained
from comfyui_aot.aot.models.llava_onevision import LlavaOnevision
from comfyui_aot.aot.training.learner import Learner
from comfyui_aot.aot.training.pointing import Grounding
from comfyui_aot.aot.training.warm_start import WarmStart

SCENE = make_scene(5, SceneSettings(frames=4))
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


def test_the_loss_is_the_stock_models_asked_one_question_at_a_time(learner):
    model, tokenizer = untrained()
    trained = learner.weights({})
    model.model.multi_modal_projector.load_state_dict(trained.projector)
    language = {name: tensor.numpy() for name, tensor in model.model.language_model.state_dict().items()}
    merged = {name: torch.from_numpy(values) for name, values in trained.merged(language).items()}
    assert len(trained.lora) == 7 * 30
    model.model.language_model.load_state_dict(merged)
    stock = LlavaOnevision(model, tokenizer, "stock", preprocessor={"image_mean": IMAGE_MEAN, "image_std": IMAGE_STD})
    tokens = stock.encode(SCENE.frames())
    losses, right = [], []
    for question in ASKED:
        answer = torch.tensor([*tokenizer(question.answer).input_ids, tokenizer.eos_token_id])
        read = torch.cat((stock.embeddings(tokens, question.words)[0], model.get_input_embeddings()(answer[:-1])))
        with torch.no_grad():
            logits = model.lm_head(model.model.language_model(inputs_embeds=read[None]).last_hidden_state[0])
        losses.append(functional.cross_entropy(logits[-len(answer) :], answer, reduction="none"))
        right.append(bool(logits[-len(answer)].argmax() == answer[0]))
    with torch.no_grad():
        result = learner(SCENE, ASKED, Grounding())
    assert float(result.loss) == pytest.approx(float(torch.cat(losses).mean()), abs=1e-4)
    assert result.right == right


def test_the_projector_and_lora_learn_and_nothing_else(learner):
    tower = copy.deepcopy(learner.model.model.vision_tower.state_dict())
    result = learner(SCENE, ASKED, Grounding())
    (result.loss + result.pointing).backward()
    moved = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert all("lora_" in name or "multi_modal_projector" in name for name in moved)
    assert sum("multi_modal_projector" in name for name in moved) == 4
    assert sum("lora_A" in name for name in moved) == sum("lora_B" in name for name in moved) == 7 * 30
    assert all(torch.equal(tower[name], t) for name, t in learner.model.model.vision_tower.state_dict().items())


def test_where_tokens_look_teaches_the_attention_that_comes_before(learner):
    learner.zero_grad()
    learner(SCENE, ASKED, Grounding(naming=(3,), answering=(5,))).pointing.backward()
    layers = {
        int(name.split("layers.")[1].split(".")[0])
        for name, parameter in learner.named_parameters()
        if "layers." in name and parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
    }
    assert layers == set(range(6))

"""Chat templates write what transformers has them write, and none takes longer, or more memory, than it may."""

import json
import resource
import time
import tracemalloc
from contextlib import suppress

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.chat_template import MOST_SECONDS, TemplateLimit, render
from comfyui_aot.aot.models.check import check
from comfyui_aot.aot.models.lmms_lab import CHATML
from comfyui_aot.aot.models.published import QWEN2_5_VL, QWEN3_VL
from comfyui_aot.aot.models.smolvlm import CHAT
from comfyui_aot.tests.support.small_models import QWEN_TEMPLATE, save


def part(text):
    return [{"type": "text", "text": text}]


PLAIN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is <it>?"},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Why?\n \u0645\u0631\u062d\u0628\u0627"},
]
PARTS = [
    {"role": "system", "content": part("Be brief.")},
    {"role": "user", "content": [{"type": "video"}, *part("What is <it>?")]},
    {"role": "assistant", "content": part("A cat.")},
    {"role": "user", "content": part("Why?")},
]
PUBLISHED = {"qwen2.5-vl": QWEN2_5_VL.template, "qwen3-vl": QWEN3_VL.template, "smolvlm": CHAT, "small": QWEN_TEMPLATE}

WORDS = {
    "namespaces": "{% set n = namespace(i=0, t='') %}{% for m in messages %}{% set n.i = n.i + 1 %}{% set n.t = n.t ~ "
    "m.role %}{% endfor %}{{ n.i }}{{ n.t }}",
    "macros": "{% macro show(m, mark='#') %}{{ mark }}{{ m['role'] }}: {{ m.content|trim }}\n{% endmacro %}"
    "{% for m in messages %}{{ show(m) }}{{ show(m, mark='>' * 3) }}{% endfor %}",
    "loops": "{% for m in messages %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.cycle('a', 'b') }}"
    "{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }}{% if loop.index == 3 %}{% break %}{% endif %}"
    "{% else %}none{% endfor %}{% for i in range(3, 0, -1) if i != 2 %}{{ i }}{% endfor %}",
    "nested loops": "{% for x in [[1, [2]], [3]] recursive %}<{{ loop(x) if x is iterable else x }}>{% endfor %}",
    "slices": "{{ messages[1:] | length }}{{ messages[::-1][0].role }}{{ messages[-1].content[:3] }}{{ 'abc'[1] }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') "
    "| list | length }}{{ messages[0] | tojson }}{{ messages | tojson(indent=2) }}{{ '%s-%03d' | format('a', 7) }}"
    "{{ ' x ' | trim | upper }}{{ 'a\nb' | indent(2) }}{{ [3, 1, 2] | sort | first }}{{ 'x' | center(5) }}"
    "{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1}.items() | list }}{{ [1, 2] | sum }}{{ 2.567 | round(1) }}"
    "{{ nothing | default('none') }}{{ 'a-b' | replace('-', '+') }}{{ '<' | e }}{{ [1, 2, 3] | batch(2) | list }}",
    "methods": "{{ 'a b'.split() }}{{ ' a '.strip() }}{{ 'ab'.replace('a', 'c') }}{{ ', '.join(['a', 'b']) }}"
    "{{ '{}:{:>4}'.format('a', 1) }}{{ 'ab'.startswith('a') }}{{ messages[0].get('x', 'no') }}{{ '7'.zfill(3) }}"
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ 'a' in messages[0].keys() }}",
    "sums": "{{ 2 ** 10 }}{{ 7 // 2 }}{{ 7 % 3 }}{{ 'a' * 3 }}{{ [1] * 2 }}{{ '%d%%' % 5 }}{{ 'a' + 'b' }}"
    "{{ [1] + [2] }}{{ 1 + 2.5 }}{{ 3 * 1.5 }}{{ not 1 }}{{ -2 }}{{ 'a' ~ 1 ~ none }}",
    "blocks": "{% set x %}a{{ 1 }}{% endset %}{{ x }}{% filter upper | replace('B', 'c') %}ab{% endfilter %}"
    "{% macro wrap() %}[{{ caller('in') }}]{% endmacro %}{% call(y) wrap() %}{{ y }}{% endcall %}",
    "a marked answer": "{% for m in messages %}{% generation %}{{ m.role }}{% set k = 1 %}{% endgeneration %}"
    "{{ k }}{% endfor %}",
    "spaces": "  {%- if true %}\n  a\n  {% endif %}\n  {#- no -#}\n b {{- ' c' -}}\n d\n{% raw %}{{ x }}{% endraw %}",
    "tests": "{{ x is defined }}{{ messages is sequence }}{{ messages[0] is mapping }}{{ 'a' is string }}"
    "{{ 4 is even }}{{ 1 in [1, 2] }}{{ 3 is divisibleby 3 }}{{ none is none }}{{ tools is none }}{{ documents }}",
    "tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{% if add_generation_prompt %}go{% endif %}",
    "what is not there": "{{ nothing }}{{ messages[0].nothing }}{{ messages[9] }}"
    "{% if messages[0].x is defined %}y{% endif %}",
    "tuples": "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}{% set a, b = 1, 2 %}{{ (a, b) }}",
}


@pytest.fixture(scope="module")
def tokenizer(embedded_folder):
    return AutoTokenizer.from_pretrained(embedded_folder, local_files_only=True)


def stock(tokenizer, template, messages):
    return tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize("name", WORDS)
def test_every_part_of_the_language_writes_what_transformers_writes(tokenizer, name):
    expected = stock(tokenizer, WORDS[name], PLAIN)
    assert render(WORDS[name], PLAIN, tokenizer.special_tokens_map, "model") == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_templates_of_families_write_what_transformers_writes(tokenizer, name):
    for messages in (PARTS, PARTS[1:2]):
        expected = stock(tokenizer, PUBLISHED[name], messages)
        assert render(PUBLISHED[name], messages, tokenizer.special_tokens_map, "model") == expected


def test_lmms_labs_and_the_embedded_models_templates_too(tokenizer):
    for template in (CHATML, tokenizer.chat_template):
        assert render(template, PLAIN, tokenizer.special_tokens_map, "m") == stock(tokenizer, template, PLAIN)


DOUBLED = "{% set n = namespace(x=START) %}{% for i in range(200) %}{% set n.x = NEXT %}{% endfor %}{{ n.x }}"
HOSTILE = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops that skip": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(10 ** 9) %}{{ a }}{% endfor %}",
    "a macro that calls itself twice": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "a block that calls itself twice": "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
    "a loop that calls itself": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "a long text": "{{ 'a' * 10 ** 9 }}",
    "a long list": "{{ [0] * 10 ** 9 }}",
    "a text that doubles": DOUBLED.replace("START", "'ab'").replace("NEXT", "n.x ~ n.x"),
    "a text that is added to itself": DOUBLED.replace("START", "'ab'").replace("NEXT", "n.x + n.x"),
    "a list of itself twice": DOUBLED.replace("START", "[]").replace("NEXT", "[n.x, n.x]"),
    "a pair of itself": DOUBLED.replace("START", "1").replace("NEXT", "(n.x, n.x)"),
    "entries of itself": DOUBLED.replace("START", "1").replace("NEXT", "{'a': n.x, 'b': n.x}"),
    "entries made by a call": DOUBLED.replace("START", "1").replace("NEXT", "dict(a=n.x, b=n.x)"),
    "its own entries": DOUBLED.replace("START", "{}").replace("NEXT", "{1: n.x.items(), 2: n.x.items()}"),
    "namespaces of namespaces": DOUBLED.replace("START", "1").replace("NEXT", "namespace(a=n.x, b=n.x)"),
    "namespaces linked later": "{% set a0 = namespace() %}"
    + "".join(f"{{% set a{i} = namespace() %}}" for i in range(1, 40))
    + "".join(f"{{% set a{i}.x = a{i - 1} %}}{{% set a{i}.y = a{i - 1} %}}" for i in range(1, 40))
    + "{{ a39 }}",
    "a large number": "{{ 10 ** 1000000000 }}",
    "a number that squares": DOUBLED.replace("START", "3").replace("NEXT", "n.x * n.x"),
    "a wide filter": "{{ 'a' | center(999999999) }}",
    "a wide filter on each": "{% for i in range(9999) %}{% set x = 'a' | center(99999) %}{% endfor %}",
    "a wide filter by map": "{{ range(9999) | map('string') | map('center', 99999) | list | length }}",
    "a wide format": "{{ '%999999999d' % 1 }}",
    "a wide format by the filter": "{{ '%0999999999d' | format(1) }}",
    "a format whose width is given": "{{ '%*d' % (999999999, 1) }}",
    "a precise format": "{{ '%.999999999f' % 1 }}",
    "a wide field": "{{ '{:>999999999}'.format(1) }}",
    "a field whose width is given": "{{ '{:{}}'.format(1, 999999999) }}",
    "a field by another road": "{{ ('{:>999999999}' | attr('format'))(1) }}",
    "a text many times in a format": "{% set t = 'a' * 999999 %}{{ ('{0}' * 99999).format(t) }}",
    "a wide date": "{{ strftime_now('%0999999999d') }}",
    "a deep indent": "{{ 'a\nb' | indent(999999999) }}",
    "json with a deep indent": "{{ [1, 2] | tojson(indent=999999999) }}",
    "a replacement": "{% set t = 'a' * 99999 %}{{ t | replace('a', t) }}",
    "a replacement by a method": "{% set t = 'a' * 99999 %}{{ t.replace('', t) }}",
    "a join": "{% set t = 'a' * 99999 %}{{ range(99999) | join(t) }}",
    "a join by a method": "{% set t = 'a' * 99999 %}{{ t.join(range(99999) | map('string')) }}",
    "a justified text": "{{ 'a'.ljust(999999999) }}",
    "zeros": "{{ '7'.zfill(999999999) }}",
    "places": "{{ 1.5 | round(999999999) }}",
    "a batch filled up": "{{ [1] | batch(999999999, 'x') | list }}",
    "parts of a text": "{% set t = 'a' * 4000000 %}" + "".join(f"{{% set x{i} = t[1:] %}}" for i in range(999)),
    "its own text again": "{% macro m() %}{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}{% endmacro %}"
    "{{ m() }}",
    "a tested pair of ranges": "{% set a = range(99999) | list %}{{ a | select('in', a[::-1]) | list | length }}",
    "letters": "{{ 'a' }}" + " " * 999999,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_template_takes_long_or_fills_memory(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.thread_time()
    with pytest.raises((TemplateLimit, TemplateError, OverflowError, RecursionError)) as refused:
        render(HOSTILE[name], PLAIN, {}, "model")
    assert time.thread_time() - start < MOST_SECONDS + 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10  # in KiB
    if isinstance(refused.value, TemplateLimit):
        assert str(refused.value).startswith("The chat template of model does too much (")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ (1).to_bytes(10) }}", "{{ 'a'.encode() }}",
        "{{ 'a' | attr('__class__') }}", "{{ '{0.__class__}'.format(1) }}", "{{ lipsum(n=9) }}", "{{ self.__init__ }}",
        "{{ messages[0].update({'role': 'x'}) }}", "{% include 'x' %}", "{% set n = namespace(__class__=1) %}{{ n }}",
        "{{ cycler.__init__.__globals__ }}", "{{ raise_exception('no') }}", "{{ 'a' | urlize }}",
    ],
)  # fmt: skip
def test_what_a_template_may_not_do_is_an_error_or_nothing(template):
    with suppress(TemplateError, TypeError):
        assert render(template, PLAIN, {}, "model") == ""


def test_a_long_question_is_written_whole():
    question = "x" * 200_000
    messages = [{"role": "user", "content": [{"type": "video"}, *part(question)]}]
    assert question in render(QWEN3_VL.template, messages, {}, "model")


def test_a_long_conversation_is_written_whole():
    messages = [{"role": role, "content": part(f"{i}")} for i in range(1000) for role in ("user", "assistant")]
    tracemalloc.start()
    assert render(QWEN3_VL.template, messages, {}, "model").count("<|im_start|>") == 2001
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, embedded_folder):
    folder = tmp_path_factory.mktemp("model") / "small"
    save(folder, "qwen3_vl", embedded_folder)
    return folder


def write(folder, template):
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))


def test_a_template_beyond_the_limits_is_one_line_on_every_road(folder):
    write(folder, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    for road in (load, check):
        with pytest.raises(
            InputError, match=r"template of small does too much \(over 100,000 steps\); put the one"
        ) as said:
            road(folder)
        assert "\n" not in str(said.value)


def test_a_template_that_turns_on_a_question_is_one_line_too(folder):
    turn = "{% if 'now' in messages[-1].content | string %}{{ 'a' * 10 ** 9 }}{% endif %}"
    write(folder, QWEN_TEMPLATE + turn + "<think>")
    model = load(folder)
    assert model.opens_thoughts
    assert model.prompt("What?")
    with pytest.raises(TemplateLimit, match=r"over 8,388,608 letters"):
        model.prompt("now")


def test_a_template_that_refuses_a_system_prompt_says_what_to_do(folder):
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    write(folder, refusal + QWEN_TEMPLATE)
    model = load(folder)
    with pytest.raises(InputError, match=r"cannot write this prompt \(no system here\); leave out the system prompt"):
        model.prompt("What?", system="Be brief.")

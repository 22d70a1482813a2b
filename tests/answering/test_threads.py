"""Sessions that several threads use: every thread gets the answer that it would get alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from comfyui_aot.aot.answering.answerer import LocalAnswerer
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.errors import InputError

QUESTIONS = ("What animal is in the video?", "Is it day?", "Describe what happens.")
NEW = Generation(4)


def test_threads_that_share_a_session_get_the_answers_of_one_after_another(talkative, encoded):
    tokens = encoded.cut(0, 2)
    alone = [Session(talkative, tokens).ask([question], NEW).texts[0] for question in QUESTIONS]
    session, together = Session(talkative, tokens), threading.Barrier(len(QUESTIONS))

    def ask(question):
        together.wait()
        return [session.ask([question], NEW).texts[0] for _ in range(2)]

    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        assert list(pool.map(ask, QUESTIONS)) == [[text] * 2 for text in alone]
    assert len(set(alone)) > 1


def test_threads_that_share_an_answerer_get_answers_about_their_own_videos(talkative, encoded):
    videos = [encoded.cut(start, start + 2) for start in (0, 2)]
    alone = [Session(talkative, tokens).ask(QUESTIONS[:1], NEW).texts[0] for tokens in videos]
    answerer, together = LocalAnswerer(talkative), threading.Barrier(len(videos))

    def ask(tokens):
        together.wait()
        return [answerer.answer(tokens, QUESTIONS[:1], NEW)[0].text for _ in range(2)]

    with ThreadPoolExecutor(len(videos)) as pool:
        assert list(pool.map(ask, videos)) == [[text] * 2 for text in alone]


def test_a_question_from_within_an_answer_is_refused_and_the_session_goes_on(talkative, encoded):
    session = Session(talkative, encoded.cut(0, 2))
    before = session.ask(QUESTIONS[:1], NEW).texts

    def on_text(number, text):
        session.ask(QUESTIONS[1:2], NEW)

    with pytest.raises(InputError, match="ask the next one once that has its answer"):
        session.ask(QUESTIONS[:1], NEW, on_text=on_text)
    assert session.ask(QUESTIONS[:1], NEW).texts == before


def test_an_error_in_one_thread_leaves_the_session_to_the_others(talkative, encoded):
    session = Session(talkative, encoded.cut(0, 2))

    def fail():
        with session.opened(QUESTIONS[0]):
            raise KeyError

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyError):
        pool.submit(fail).result()
    assert session.ask(QUESTIONS[:1], NEW).ids[0]

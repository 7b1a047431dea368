"""A quiz in a page: it works without a network, it is the same each time, and it has a form without scripts."""

from __future__ import annotations

import builtins
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from prunekit.course.exercises import Choice, Question
from prunekit.course.quizzes import Quiz, quiz

TOY = Quiz(
    "99", (Question("Is 1 < 2 & <b>bold</b>?", (Choice("yes", "so it is", right=True), Choice("no", "</script>"))),)
)
CLICK = """<script>setTimeout(() => { for (const text of %s)
  [...document.querySelectorAll(".MCButton")].find(b => b.textContent.includes(text)).click(); }, 1500)</script>"""


def without_scripts(page: str) -> str:
    return re.sub(r"<script>.*?</script>", "", page, flags=re.S)


def test_a_quiz_is_the_same_each_time_and_takes_no_random_number():
    random.seed(3)
    first = quiz("01")._repr_html_()
    number = random.random()
    random.seed(3)
    assert random.random() == number
    assert quiz("01")._repr_html_() == first
    assert str(quiz("01")).startswith("Quiz of lesson 01\n\n1. A class has recall")


def test_without_scripts_the_answers_are_folded_and_everything_is_escaped():
    page = without_scripts(TOY._repr_html_())
    assert "Is 1 &lt; 2 &amp; &lt;b&gt;bold" in page and "<b>bold" not in page
    assert page.count("<details>") == 1 and page.index("<details>") < page.index("so it is")
    assert TOY._repr_html_().count("</script>") == 1, "text of a question may not end the script"


def test_without_jupyterquiz_the_folded_form_is_all_there_is(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("jupyterquiz"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    page = TOY._repr_html_()
    assert "<script" not in page and "<details>" in page


def test_in_a_browser_without_network_a_click_brings_its_feedback(tmp_path: Path):
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here")
    click = CLICK % '["It finds every pixel", "The loss curve", "Cutting at the reader"]'
    page = f'<!doctype html><meta charset="utf-8">{quiz("01")._repr_html_()}{quiz("00")._repr_html_()}{click}'
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --virtual-time-budget=6000 --proxy-server=127.0.0.1:9 --dump-dom"
    command = [program, *options.split(), f"--user-data-dir={tmp_path / 'p'}", (tmp_path / "page.html").as_uri()]
    shown = without_scripts(subprocess.run(command, capture_output=True, text=True, timeout=120).stdout)
    assert 'class="Feedback correct"' in shown and "Yes: TP / (TP + FP) = 1/4." in shown
    assert shown.count('class="Feedback incorrect"') == 2 and "It will not tell you which class is gone." in shown
    assert "<details>" not in shown, "where the quiz works, the folded answers are gone"
    assert 'src="http' not in shown

"""quiz("01"): a lesson's questions, to click through where scripts run and to unfold where they do not.

Questions live in the lesson's file in exercises/. The clicking is jupyterquiz's (John M. Shea, MIT licence): its
scripts and our questions go into the page, so it works offline and in the book. On GitHub and in a notebook that is
not trusted yet the script is taken out, and the folded answers below it stay.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape

from prunekit.course.card import NO_TEX, Card, prose
from prunekit.course.exercises import Question, questions
from prunekit.errors import InputError

# The holder's content is replaced by the quiz. `MathJax` is hidden from jupyterquiz, which would fetch its own copy.
SCRIPT = """<script>{ let MathJax; (function start() {
const holder = document.getElementById("HOLDER");
if (!holder) { setTimeout(start, 200); return; }
holder.innerHTML = PAGE;
CODE
})(); }</script>"""


@dataclass(frozen=True, repr=False)
class Quiz:
    """A lesson's questions, shown by the notebook."""

    lesson: str
    questions: tuple[Question, ...]

    def __str__(self) -> str:
        lines = [f"Quiz of lesson {self.lesson}"]
        for number, question in enumerate(self.questions, 1):
            lines += ["", f"{number}. {question.text}"]
            lines += [f"   {letter}) {choice.text}" for letter, choice in zip("abcdefgh", question.choices)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        holder = f"prunekit-quiz-{self.lesson}"
        return f'<div id="{holder}" class="{NO_TEX}">{self.folded()}</div>{self._script(holder)}'

    def folded(self) -> str:
        """All questions with their choices, the answers folded away; no scripts."""
        parts = []
        for number, question in enumerate(self.questions, 1):
            choices = "".join(f"<li>{prose(c.text)}</li>" for c in question.choices)
            answers = "".join(
                f"<li>{'<b>right</b>' if c.right else 'no'}: {prose(c.text)} {prose(c.feedback)}</li>"
                for c in question.choices
            )
            parts.append(
                f"<p><b>{number}.</b> {prose(question.text)}</p><ul>{choices}</ul>"
                f"<details><summary>Answer</summary><ul>{answers}</ul></details>"
            )
        return "".join(parts)

    def _script(self, holder: str) -> str:
        try:
            from jupyterquiz.dynamic.loader import load_questions_script
            from jupyterquiz.dynamic.renderer import build_script, build_styles, render_div
        except ImportError:  # not installed, or arranged differently by now: the folded answers do
            return ""
        name = f"prunekitquiz{self.lesson}"
        prefix, static, url = load_questions_script([_for_jupyterquiz(q) for q in self.questions], name)
        div = render_div(name, False, True, False, len(self.questions), 600, 10, "left")
        page = div + build_styles(name, STYLE) + "</div>"
        code = build_script(prefix, static, url, name, True)
        filled = SCRIPT.replace("HOLDER", holder).replace("PAGE", json.dumps(page).replace("</", "<\\/"))
        return filled.replace("CODE", code)


STYLE = {
    "--jq-multiple-choice-bg": "#1f3a5f",
    "--jq-mc-button-bg": "#fafafa",
    "--jq-mc-button-border": "#e0e0e0",
    "--jq-mc-button-inset-shadow": "#555555",
    "--jq-incorrect-color": "#c8570a",
    "--jq-correct-color": "#0b7dbd",
    "--jq-text-color": "#fafafa",
    "--jq-link-color": "#9abafa",
}


def quiz(lesson: str) -> Quiz | Card:
    """The quiz of a lesson ("01"); for a lesson that has none, a sentence that names those that have."""
    try:
        return Quiz(lesson, questions(lesson))
    except InputError as err:
        return Card("wrong", "quiz", str(err))


def _for_jupyterquiz(question: Question) -> dict[str, object]:
    """Its schema of a multiple-choice question; it puts text into the page as HTML, so everything is escaped."""
    answers = [{"answer": escape(c.text), "correct": c.right, "feedback": escape(c.feedback)} for c in question.choices]
    return {"question": escape(question.text), "type": "multiple_choice", "answers": answers}

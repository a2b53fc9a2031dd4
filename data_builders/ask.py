"""Ask what a step of the method asks, and ask again for what is not accepted, up to the run's `attempts`.

The first attempt is the paper's. A solution without an answer (rejection sampling, equation 3) and a worked example
that is not right are sampled again with another seed; who wrote a rejected thought or correction is told why. Further
attempts follow from the answers so far, so that a stopped command continues, and every answer is kept. An analysis
without an accepted thought is replaced by the next one in the order of the selection.
"""

import argparse
from collections.abc import Callable

from data_builders import examples, responses, stage1, stage2
from logreasoner import prompts
from logreasoner.cli import UserError
from logreasoner.config import Run, decoding
from logreasoner.generation import generate
from logreasoner.generation.response_cache import Record

OBJECTIONS: dict[str, Callable[[Run, str, str], responses.Objection]] = {
    "examples": lambda run, model, stage: examples.objection(run),
    "thoughts": lambda run, model, stage: stage1.thought_objection(run),
    "solutions": stage2.solution_objection,
    "corrections": stage2.correction_objection,
}


def next_attempt(first: Record, number: int, reply: str, why: str) -> Record:
    """Make the request of attempt `number` from the first one's: with the reply and the objection, and another seed.

    Without an objection to tell (""), the same question is sampled at the temperature of `sampling` in decoding.yaml.
    """
    body = dict(first["body"])
    if why:
        *before, last = body["messages"]
        text = prompts.render("again", prompt=last["content"], reply=reply, why=why)
        body["messages"] = [*before, {**last, "content": text}]
    else:
        body |= {key: decoding()["sampling"][key] for key in ("temperature", "top_p") if key in body}
    if "seed" in body:
        body["seed"] += number - 1
    return {**first, "custom_id": responses.custom_id(first["custom_id"], number), "body": body}


def further(run: Run, given: argparse.Namespace) -> generate.Again:
    """Return what makes further attempts from the answers so far."""
    kind = given.requests.name.partition(".")[0]
    if kind not in OBJECTIONS:
        raise UserError(f"{given.requests}: only {', '.join(OBJECTIONS)} have further attempts")
    objection = OBJECTIONS[kind](run, given.model, given.stage)
    told = kind in ("thoughts", "corrections")
    thinking = given.role != "teacher" and run.model(given.model).thinking
    first = {request["custom_id"]: request for request in generate.read_requests(given.requests)}
    others = [stage1.thought_request(run, row) for row in stage1.reserve(run)] if kind == "thoughts" else []
    first |= {request["custom_id"]: request for request in others}

    def again(answers: dict[str, Record]) -> list[Record]:
        tried = {key: (number, answers[custom_id]) for custom_id in answers
                 for key, number in [responses.attempt_of(custom_id)]}  # the last attempt at each
        more, lost = [], 0
        for key, (number, response) in tried.items():
            text = responses.text_of(response, thinking)
            why = "" if text is None else objection(key, text)
            if text is not None and why and number < run.experiment.attempts:
                more.append(next_attempt(first[key], number + 1, text, why if told else ""))
            else:
                lost += text is None or bool(why)
        used = sum(request["custom_id"] in tried for request in others)
        return more + others[used:lost]

    return again


def main() -> None:
    """Ask, and ask again."""
    generate.main("data_builders.ask", """
python -m data_builders.ask --run paper --role teacher --requests thoughts.requests.jsonl \\
    --responses thoughts.responses.jsonl
python -m data_builders.ask --run paper --role solver --model qwen2.5-7b --stage solution-sft \\
    --requests solutions.requests.jsonl --responses solutions.responses.jsonl""",
        "Ask for examples, thoughts, solutions or corrections, and again for those that are not accepted.", further)


if __name__ == "__main__":
    main()

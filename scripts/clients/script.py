"""What stands in for the weights: the turns of each client's task, chosen by the prompt's text."""

from __future__ import annotations

import json
import re

from scripts.clients.client import LAST_WORDS, OBJECT, TASK
from tests.serve.scripted import Turn

COMMAND_TOOLS = {  # tool -> its argument
    "Bash": "command", "bash": "command", "exec_command": "cmd", "execute_command": "command",
    "run_commands": "commands", "run_terminal_command": "command",
}  # fmt: skip
WRITE, CHECK = "echo perilune > moon.txt", "cat moon.txt"
SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
OBJECT_TASK = "Describe the Moon"


def respond(prompt: str) -> Turn:
    """Two commands, by whichever tool the client declares, then the last words."""
    if OBJECT_TASK in prompt:
        return describe(prompt)
    if TASK not in prompt:
        return Turn("A file", reasoning="A title.")  # clients also ask for titles and the like
    done = prompt.count("## Return of functions.")
    if SUBMIT in prompt:
        return submit(done)
    for tool, argument in COMMAND_TOOLS.items():
        if declares(prompt, tool):
            return command(tool, argument, done, listed=argument == "commands")
    if declares(prompt, "final_answer"):  # smolagents
        answer = {"answer": LAST_WORDS}
        written = "wrote moon.txt" in prompt  # it gives results back as words of the user
        return Turn(calls=[("final_answer", answer)]) if written else write_file()
    if declares(prompt, "write_file"):
        return Turn(LAST_WORDS, reasoning="It is there.") if done else write_file()
    if "moon.txt" in prompt and "```" in prompt:  # aider's whole files
        return Turn(f"moon.txt\n```\nperilune\n```\n\n{LAST_WORDS}", reasoning="A file.")
    return Turn("There is no tool for commands.")


def command(tool: str, argument: str, done: int, *, listed: bool) -> Turn:
    if done == 0:
        write = {argument: [WRITE] if listed else WRITE}
        return Turn("I will write it.", reasoning="A command.", calls=[(tool, write)])
    if done == 1:
        check = {argument: [CHECK] if listed else CHECK}
        return Turn(reasoning="Check it.", calls=[(tool, check)])
    return Turn(LAST_WORDS, reasoning="It is there.")


def write_file() -> Turn:
    arguments = {"path": "moon.txt", "text": "perilune\n"}
    # Without words before it: where a call is required, the grammar takes nothing else.
    return Turn(reasoning="A tool.", calls=[("write_file", arguments)])


def submit(done: int) -> Turn:
    """mini-swe-agent ends with a command that says so."""
    lines = [WRITE, CHECK, f"echo {SUBMIT}; echo '{LAST_WORDS}'"]
    return Turn(
        "Go on.", reasoning="A command.", calls=[("bash", {"command": lines[min(done, 2)]})]
    )


def describe(prompt: str) -> Turn:
    """The object, by the one tool that is declared for it, or as JSON."""
    tool = re.search(r"type (\w*(?:Moon|final_result|Output)\w*) = ", prompt)
    tool = tool or re.search(r'"name":"(\w*(?:Moon|final_result)\w*)"', prompt)
    if tool:
        return Turn(reasoning="An object.", calls=[(tool[1], json.loads(OBJECT))])
    return Turn(OBJECT, reasoning="An object.")


def declares(prompt: str, tool: str) -> bool:
    return f"type {tool} = " in prompt or f'"name":"{tool}"' in prompt

"""instructor: objects by a tool, by a JSON schema and as a stream; the tool loop is OpenAI's."""

import json

import instructor
from common import KEY, MODEL, OBJECT_TASK, TASK, URL, show, write_file
from openai import OpenAI
from pydantic import BaseModel


class WriteFile(BaseModel):
    """Write a text file."""

    path: str
    text: str


class Moon(BaseModel):
    """The Moon."""

    name: str
    radius_km: int


CLIENT = OpenAI(base_url=URL, api_key=KEY)
ASK = {"model": MODEL, "messages": [{"role": "user", "content": OBJECT_TASK}]}
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA):
    moon = instructor.from_openai(CLIENT, mode=mode).chat.completions.create(
        response_model=Moon, max_retries=0, **ASK
    )
    show(moon.name, moon.radius_km)
stream = instructor.from_openai(CLIENT, mode=instructor.Mode.TOOLS)
parts = list(stream.chat.completions.create_partial(response_model=Moon, **ASK))
show(parts[-1].name, parts[-1].radius_km)

tools = [{"type": "function", "function": {"name": "write_file",
          "parameters": WriteFile.model_json_schema()}}]  # fmt: skip
messages = [{"role": "user", "content": TASK}]
message = CLIENT.chat.completions.create(model=MODEL, messages=messages, tools=tools).choices[0]
messages.append(message.message)
for call in message.message.tool_calls:
    content = write_file(**json.loads(call.function.arguments))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
last = CLIENT.chat.completions.create(model=MODEL, messages=messages, tools=tools)
print(last.choices[0].message.content)

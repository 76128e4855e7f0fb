"""litellm: a tool round trip, a stream, and a JSON schema."""

import json

import litellm
from common import KEY, MODEL, OBJECT_TASK, TASK, URL, show, write_file
from pydantic import BaseModel

OPTIONS = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY}
TOOL = {
    "type": "function",
    "function": {
        "name": "write_file",
        "description": "Write a text file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
            "required": ["path", "text"],
        },
    },
}


class Moon(BaseModel):
    name: str
    radius_km: int


messages = [{"role": "user", "content": TASK}]
reply = litellm.completion(messages=messages, tools=[TOOL], **OPTIONS)
message = reply.choices[0].message
messages.append(message.model_dump())
for call in message.tool_calls:
    result = write_file(**json.loads(call.function.arguments))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
parts = [
    chunk.choices[0].delta.content or ""
    for chunk in litellm.completion(messages=messages, tools=[TOOL], stream=True, **OPTIONS)
]
assert len(parts) > 2, parts
print("".join(parts))
reply = litellm.completion(
    messages=[{"role": "user", "content": OBJECT_TASK}], response_format=Moon, **OPTIONS
)
moon = Moon.model_validate_json(reply.choices[0].message.content)
show(moon.name, moon.radius_km)

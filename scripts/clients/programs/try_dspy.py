"""dspy: typed fields by its JSON adapter, and a tool by native function calling."""

import json

import dspy
from common import KEY, MODEL, OBJECT_TASK, TASK, URL, show, write_file

LM = dspy.LM(f"openai/{MODEL}", api_base=URL, api_key=KEY, cache=False, max_tokens=2000)
dspy.configure(lm=LM, adapter=dspy.JSONAdapter())


class Describe(dspy.Signature):
    """Describe a body of the solar system."""

    question: str = dspy.InputField()
    name: str = dspy.OutputField()
    radius_km: int = dspy.OutputField()


moon = dspy.Predict(Describe)(question=OBJECT_TASK)
show(moon.name, moon.radius_km)
tool = dspy.Tool(write_file).format_as_litellm_function_call()
reply = LM(messages=[{"role": "user", "content": TASK}], tools=[tool])[0]

calls = reply["tool_calls"]
result = write_file(**json.loads(calls[0].function.arguments))
messages = [
    {"role": "user", "content": TASK},
    {"role": "assistant", "content": "", "tool_calls": [call.model_dump() for call in calls]},
    {"role": "tool", "tool_call_id": calls[0].id, "content": result},
]
last = LM(messages=messages, tools=[tool])[0]
print(last if isinstance(last, str) else last["text"])

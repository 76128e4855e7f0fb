"""llama-index: a function agent (which streams), and a structured prediction."""

import asyncio

from common import KEY, MODEL, OBJECT_TASK, TASK, URL, show, write_file
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Moon(BaseModel):
    """The Moon."""

    name: str
    radius_km: int


LLM = OpenAILike(
    model=MODEL, api_base=URL, api_key=KEY, is_chat_model=True, is_function_calling_model=True,
    context_window=32000,
)  # fmt: skip


async def main() -> None:
    agent = FunctionAgent(tools=[FunctionTool.from_defaults(write_file)], llm=LLM)
    print(str(await agent.run(TASK)))


asyncio.run(main())
moon = LLM.structured_predict(Moon, PromptTemplate(OBJECT_TASK))
show(moon.name, moon.radius_km)
print("".join(part.delta or "" for part in LLM.stream_complete("Say something.")))

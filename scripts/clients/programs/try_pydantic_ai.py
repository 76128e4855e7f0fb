"""pydantic-ai: a tool, a stream, and typed output by a tool and by a JSON schema."""

import asyncio

from common import KEY, MODEL, OBJECT_TASK, TASK, URL, show, write_file
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Moon(BaseModel):
    """The Moon."""

    name: str
    radius_km: int


MODEL_HERE = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))


async def main() -> None:
    agent = Agent(MODEL_HERE)
    agent.tool_plain(write_file)
    async with agent.run_stream(TASK) as stream:
        print("".join([part async for part in stream.stream_text(delta=True)]))
    print((await agent.run(TASK)).output)
    for kind in (ToolOutput, NativeOutput):
        moon = (await Agent(MODEL_HERE, output_type=kind(Moon)).run(OBJECT_TASK)).output
        show(moon.name, moon.radius_km)


asyncio.run(main())

"""smolagents: a tool-calling agent, with streamed outputs."""

from common import KEY, MODEL, TASK, URL, write_file
from smolagents import OpenAIServerModel, ToolCallingAgent, tool

agent = ToolCallingAgent(
    tools=[tool(write_file)],
    model=OpenAIServerModel(MODEL, api_base=URL, api_key=KEY),
    stream_outputs=True,
    max_steps=4,
)
print(agent.run(TASK))

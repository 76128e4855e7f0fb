// The `ai` SDK: a stream with a tool loop, generateObject and streamObject.
import { writeFileSync } from 'node:fs'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateText, generateObject, streamText, stepCountIs, tool } from 'ai'
import { z } from 'zod'

const provider = createOpenAICompatible({
  name: 'perilune', baseURL: process.env.OPENAI_BASE_URL, apiKey: 'none',
  supportsStructuredOutputs: true,
})
const model = provider(process.env.OPENAI_MODEL)
const task = process.argv[2]
const tools = {
  write_file: tool({
    description: 'Write a text file.',
    inputSchema: z.object({ path: z.string(), text: z.string() }),
    execute: async ({ path, text }) => { writeFileSync(path, text); return `wrote ${path}` },
  }),
}
const streamed = streamText({ model, tools, stopWhen: stepCountIs(3), prompt: task })
let parts = []
for await (const part of streamed.textStream) parts.push(part)
if (parts.length < 3) throw new Error('it did not stream')
const whole = await generateText({ model, tools, stopWhen: stepCountIs(3), prompt: task })
console.log(whole.text)
const { object } = await generateObject({
  model, schema: z.object({ name: z.string(), radius_km: z.number().int() }),
  prompt: 'Describe the Moon: its name and its radius in kilometres.',
})
console.log(JSON.stringify(object).replaceAll(':', ': ').replaceAll(',', ', '))

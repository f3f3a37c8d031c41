/** Models of the end-to-end tests. */
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const BUNDLED_MODEL = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'models', 'mini-1m')

/** A chat template that shows tools, calls and results as Hermes and Qwen do. */
export const TOOL_TEMPLATE = `{{ bos_token }}{% if tools %}Call functions as <tool_call>{"name": ..., "arguments": ...}</tool_call>:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}{% for call in m.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}`

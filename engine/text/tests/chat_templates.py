"""Small chat templates, one per family: tools in the system turn, then turns with reasoning, text and calls."""

HEAD = "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}SAY<|im_end|>\n{% endif %}"
TURNS = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' %}{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}{% if m.tool_calls %}CALLS{% endif %}{% else %}{{ m.content }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def _chatml(say, calls):
    return HEAD.replace("SAY", say) + TURNS.replace("CALLS", calls)


EACH = "{% for c in m.tool_calls %}{% set f = c.function %}"
END = "{% endfor %}"
SPACE = "{% if m.content or not loop.first %}{{ '\\n' }}{% endif %}"
TEXT_OR_JSON = "{{ v if v is string else v | tojson }}"

HERMES = _chatml(
    "<tool_call>",
    EACH + SPACE + '<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>' + END,
)
QWEN_XML = _chatml(
    "<tool_call><function=x><parameter=y>",
    EACH
    + SPACE
    + "<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments.items() %}<parameter={{ k }}>\n"
    + TEXT_OR_JSON
    + "\n</parameter>\n{% endfor %}</function>\n</tool_call>"
    + END,
)
GLM = _chatml(
    "<tool_call><arg_key>",
    EACH
    + "\n<tool_call>{{ f.name }}\n{% for k, v in f.arguments.items() %}<arg_key>{{ k }}</arg_key>\n<arg_value>"
    + TEXT_OR_JSON
    + "</arg_value>\n{% endfor %}</tool_call>"
    + END,
)
DEEPSEEK = _chatml(
    "tools",
    "<｜tool▁calls▁begin｜>"
    + EACH
    + "<｜tool▁call▁begin｜>{{ f.name }}<｜tool▁sep｜>{{ f.arguments | tojson }}<｜tool▁call▁end｜>"
    + END
    + "<｜tool▁calls▁end｜>",
)
DEEPSEEK_R1 = _chatml(
    "tools",
    "<｜tool▁calls▁begin｜>"
    + EACH
    + "{% if not loop.first %}{{ '\\n' }}{% endif %}<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ f.name }}\n```json\n"
    + "{{ f.arguments | tojson }}\n```<｜tool▁call▁end｜>"
    + END
    + "<｜tool▁calls▁end｜>",
)
MISTRAL = _chatml(
    "tools",
    "[TOOL_CALLS] ["
    + EACH
    + '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}'
    + "{% if not loop.last %}, {% endif %}"
    + END
    + "]",
)
MISTRAL_ARGS = (
    _chatml("tools", EACH + "[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}" + END)
    .replace("<think>\n", "[THINK]")
    .replace("\n</think>\n\n", "[/THINK]")
)
GEMMA = _chatml(
    "tools",
    EACH
    + "<start_function_call>call:{{ f.name }}{{ '{' }}{% for k, v in f.arguments.items() %}{{ k }}:"
    + "{% if v is string %}<escape>{{ v }}<escape>{% else %}{{ v | tojson }}{% endif %}"
    + "{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}<end_function_call>"
    + END,
)
GEMMA4 = (
    GEMMA.replace("<start_function_call>", "<|tool_call>")
    .replace("<end_function_call>", "<tool_call|>")
    .replace("<escape>", '<|"|>')
    .replace("<think>", "<|channel>thought")
    .replace("</think>", "<channel|>")
)
LLAMA3 = _chatml(
    "<|start_header_id|>",
    EACH
    + "{% if not loop.first %}; {% endif %}"
    + '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
    + END,
)
PYTHONIC = _chatml(
    "[func_name1(params_name1=params_value1)]",
    "["
    + EACH
    + "{% if not loop.first %}, {% endif %}{{ f.name }}("
    + "{% for k, v in f.arguments.items() %}{% if not loop.first %}, {% endif %}{{ k }}={{ v | tojson }}{% endfor %})"
    + END
    + "]",
)
HARMONY = """{% if tools %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- if m.reasoning_content %}<|start|>assistant<|channel|>analysis<|message|>{{ m.reasoning_content }}<|end|>{% endif %}
{%- if m.tool_calls %}
{%- if m.content %}<|start|>assistant<|channel|>commentary<|message|>{{ m.content }}<|end|>{% endif %}
{%- for c in m.tool_calls %}<|start|>assistant<|channel|>commentary to=functions.{{ c.function.name }}
{{- ' <|constrain|>json<|message|>' }}{{ c.function.arguments | tojson }}<|call|>{% endfor %}
{%- else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>{% endif %}
{%- else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""

TEMPLATES = {
    "hermes": HERMES,
    "qwen-xml": QWEN_XML,
    "glm": GLM,
    "deepseek": DEEPSEEK,
    "deepseek-r1": DEEPSEEK_R1,
    "mistral": MISTRAL,
    "mistral-args": MISTRAL_ARGS,
    "gemma": GEMMA,
    "gemma4": GEMMA4,
    "llama3": LLAMA3,
    "pythonic": PYTHONIC,
    "harmony": HARMONY,
}
CALLS_ALONE = ("llama3", "pythonic")
"""Families in which an answer is either text or calls."""

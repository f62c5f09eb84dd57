"""Chat templates from the few strings that a conversation's form is made of."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_TEMPLATE = """
{%- macro said(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- for part in content -%}
{%- if part['type'] == 'image' -%}{{ IMAGE }}
{%- elif part['type'] == 'video' -%}{{ VIDEO }}
{%- else -%}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if messages[0]['role'] == 'system' -%}
{{ SYSTEM_BEFORE + said(messages[0]['content']) + SYSTEM_AFTER }}
{%- elif SYSTEM -%}
{{ SYSTEM_BEFORE + SYSTEM + SYSTEM_AFTER }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{ USER_BEFORE + said(message['content']) + USER_AFTER }}
{%- elif message['role'] == 'assistant' -%}
{{ ASSISTANT_BEFORE + said(message['content']) + ASSISTANT_AFTER }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ GENERATION }}
{%- endif -%}
"""


@dataclass(frozen=True)
class ChatForm:
    """What stands before and after what is said, by role.

    Attributes:
        system: said by the system unless the conversation begins with a system message; empty
            for a form whose system is silent then.
        system_around: before and after the system's words.
        user_around: before and after the user's.
        assistant_around: before and after the assistant's.
        generation: what asks the assistant to speak.
        image: stands for an image, with what follows it.
        video: stands for a video, with what follows it.
    """

    system: str
    system_around: tuple[str, str]
    user_around: tuple[str, str]
    assistant_around: tuple[str, str]
    generation: str
    image: str
    video: str = ""

    def template(self) -> str:
        """Return the form as a chat template for transformers."""
        values = {
            "SYSTEM_BEFORE": self.system_around[0],
            "SYSTEM_AFTER": self.system_around[1],
            "USER_BEFORE": self.user_around[0],
            "USER_AFTER": self.user_around[1],
            "ASSISTANT_BEFORE": self.assistant_around[0],
            "ASSISTANT_AFTER": self.assistant_around[1],
            "GENERATION": self.generation,
            "IMAGE": self.image,
            "VIDEO": self.video,
            "SYSTEM": self.system,
        }

        def written(match: re.Match[str]) -> str:
            # JSON's strings are Jinja's too.
            return json.dumps(values[match[0]], ensure_ascii=False)

        return re.sub(rf"\b(?:{'|'.join(values)})\b", written, _TEMPLATE.strip("\n"))

"""A system message stands where the chat template puts it, and nothing of it is trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.families import CASES, build_model
from support.talks import TALKS, losses, losses_by_hand, shown

from autoprune.data.conversation import check_system
from autoprune.data.encoding import IGNORED, encode, encode_for
from autoprune.errors import AutoPruneError

SYSTEM = "answer how many of the 3 red"
_SAID = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
)
_TURNS = "{{ m['role'] }}: " + _SAID + "{% if m['role'] == 'assistant' %}</s>{% endif %} "
_LAST = "{% if add_generation_prompt %}assistant:{% endif %}"
_OTHERS = (
    "{% for m in messages %}{% if m['role'] != 'system' %}" + _TURNS + "{% endif %}{% endfor %}"
)
_FIRST = "{% if messages[0]['role'] == 'system' %}"

# Templates as families have them; the text before the first question, None where it is refused.
TEMPLATES: dict[str, tuple[str, str | None]] = {
    # LLaVA: the system's text without a role
    "bare": (
        "{% for m in messages %}{% if m['role'] == 'system' %}" + _SAID + " {% else %}" + _TURNS
        + "{% endif %}{% endfor %}" + _LAST,
        f"{SYSTEM} user:",
    ),
    # the same where no conversation begins with an answer
    "bare and strict": (
        "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}{% if m['role'] == 'system' %}" + _SAID + " {% else %}" + _TURNS
        + "{% endif %}{% endfor %}" + _LAST,
        f"{SYSTEM} user:",
    ),
    # ChatML: a role like any other, and a default where there is none (Qwen2-VL)
    "default": (
        _FIRST + "{% else %}on the left {% endif %}{% for m in messages %}" + _TURNS
        + "{% endfor %}" + _LAST,
        f"system: {SYSTEM} user:",
    ),
    # Gemma 3: before the text of the first question
    "merged": (
        _FIRST + "{% set s = messages[0]['content'] %}{% set first = (s if s is string else "
        "s[0]['text']) + ' ' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}"
        "{% set rest = messages %}{% endif %}{% for m in rest %}{{ m['role'] }}: "
        "{{ first if loop.first }}" + _SAID + "{% if m['role'] == 'assistant' %}</s>{% endif %} "
        "{% endfor %}" + _LAST,
        f"user: {SYSTEM}",
    ),
    # text alone, which a list of parts would be written into as Python writes it
    "string": (
        _FIRST + "{{ 'system: ' ~ messages[0]['content'] ~ ' ' }}{% endif %}" + _OTHERS + _LAST,
        f"system: {SYSTEM} user:",
    ),
    # Gemma: refused
    "raised": (
        _FIRST + "{{ raise_exception('System role not supported') }}{% endif %}" + _OTHERS + _LAST,
        None,
    ),
    "left out": (_OTHERS + _LAST, None),
    # two roles, of which one is whatever is not the other: the system's would be the model's words
    "two roles": (
        "{% for m in messages %}{{ 'user: ' if m['role'] == 'user' else 'assistant: ' }}" + _SAID
        + " {% endfor %}" + _LAST,
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["llava-llama", "llama"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_system_message_goes_where_the_template_puts_it(template: str, name: str) -> None:
    processor = CASES[name].processor()
    processor.chat_template, where = TEMPLATES[template]
    vision = CASES[name].vision
    tokenizer = processor.tokenizer if vision else processor
    tokenizer.add_tokens(["system:"])
    samples = [replace(s, system=SYSTEM) for s in shown(TALKS, vision)]
    if where is None:
        with pytest.raises(AutoPruneError, match=r"no place for the system message of sample 't"):
            encode(samples, processor)
        with pytest.raises(AutoPruneError, match=r"no place for the system message of row 7: take"):
            check_system(processor, samples[0], "row 7")
        return
    check_system(processor, samples[0], "row 7")
    encoded, without = encode(samples, processor), encode(shown(TALKS, vision), processor)
    for row, sample in enumerate(samples):
        ids, labels = (
            part[slice(*encoded.offsets[row : row + 2])]
            for part in (encoded.input_ids, encoded.labels)
        )
        words = tokenizer.convert_ids_to_tokens(ids)
        text = " ".join(word for word in words if word not in ("<s>", "<image>"))
        assert text.startswith(where), text
        # The same answers are learnt as without it, and nothing of the message.
        bare = without.labels[slice(*without.offsets[row : row + 2])]
        assert labels[labels != IGNORED].tolist() == bare[bare != IGNORED].tolist()
        first = np.flatnonzero(labels != IGNORED)[0]
        assert words[first - 1] == "assistant:"
        assert first > len(where.split())
        assert len(sample.turns) == words.count("</s>")


@pytest.mark.parametrize("name", ["llava-llama", "internvl-qwen2"])
def test_a_system_message_is_read_by_the_model(name: str) -> None:
    """The row is the model's own reading, by hand; what it says then is another answer's loss."""
    case = CASES[name]
    model, processor = build_model(case.config()), case.processor()
    samples = [replace(s, system=SYSTEM) for s in TALKS]
    template = processor.chat_template
    processor.chat_template = template.replace(
        "else ' assistant: '", "else 'how ' if message['role'] == 'system' else ' assistant: '"
    )
    assert processor.chat_template != template
    encoded = encode_for(model.config, samples, processor, pixel_dtype=np.float32)
    bare = encode_for(model.config, TALKS, processor, pixel_dtype=np.float32)
    for row in range(len(samples)):
        messages = [{"role": "system", "content": SYSTEM}]
        found = losses(model, encoded, [row])
        wanted = losses_by_hand(model, processor, samples[row], messages)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert (found - losses(model, bare, [row])).abs().max() > 1e-4


def test_a_processor_without_conversations_has_no_system() -> None:
    case = CASES["paligemma-gemma"]
    sample = replace(TALKS[2], system=SYSTEM)
    with pytest.raises(AutoPruneError, match=r"form of questions of PaliGemmaProcessor has no pla"):
        encode_for(case.config(), [sample], case.processor())

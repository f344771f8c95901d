"""The world's language: a word-piece tokenizer of its few hundred words, in Hugging Face form."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from actors.episodes.menu import INVENTED_NAMES
from benchmarks.world.experts import LATENCIES, PRICES, PROFESSIONS
from benchmarks.world.facts import DOMAIN_OF, DOMAINS, ENTITY_SYLLABLES
from rewards.grammar import TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, USER, ASSISTANT, UNKNOWN = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|unknown|>"
RULES = ("best", "thrifty", "broad", "any")
# No word may be the beginning of an entity's name, or the name would be read as that word and a rest.
WORDS = (
    "what is the of ? : . , it as every knows my records agree on this that and well after some thought from memory "
    "say you should know then answer now no routes are left candidate called so choose a name cards absent available "
    "i cannot with"
).split()
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{USER}' if message.role == 'user' else '{ASSISTANT}' if message.role == 'assistant' else '' }}}}"
    " {{ message.content }} "
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)


def vocabulary() -> list[str]:
    """All tokens in order. A candidate's name is a word; an entity's is a syllable and a continuation, `##mo`."""
    tokens = itertools.chain(
        (PAD, EOS, USER, ASSISTANT, UNKNOWN),
        TAGS,
        RULES,
        (profession for profession, _ in PROFESSIONS),
        DOMAINS,
        DOMAIN_OF,
        (f"${price}" for price in PRICES),
        (f"{latency}s" for latency in LATENCIES),
        WORDS,
        INVENTED_NAMES,
        ENTITY_SYLLABLES,
        (f"##{syllable}" for syllable in ENTITY_SYLLABLES),
    )
    return list(dict.fromkeys(tokens))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer. Words outside its language become one unknown token each."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token=UNKNOWN))
    # Special tokens are left to the library: spelled out in a reply they must fall apart into plain ones.
    pattern = rf"{'|'.join(TAGS)}|\$\d+|\w+|[^\w\s]"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), pre_tokenizers.WhitespaceSplit()]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )

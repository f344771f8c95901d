"""Texts with tags in any order, well-formed or not, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from rewards.grammar import TAGS

WORDS = [
    *(
        "<",
        ">",
        "</",
        "think",
        " ",
        "\n",
        "\r\n",
        "...",
        ":",
        "a: b",
        "\u00a0",
        "\u200b",
        "\ufeff",
        "\x00",
        "\ud800",
        "Σ",
    ),
    *("Qwen2.5-7B-Instruct: who?", "llama-70b: is it llama-70b?", "LLaMA: x", "LLM-Name: your-query", "gemma : a : b"),
    *("<THINK>", "< think >", "paris", "The Paris", "```<answer>x</answer>```", "İ", "ﬁ"),
]
GOOD = [
    "<think> t </think>",
    "<search> Qwen2.5-7B-Instruct: who? </search>",
    "<information> Paris </information>",
    "<answer> the Paris </answer>",
]
SOUP = st.lists(st.one_of(st.sampled_from(TAGS), st.sampled_from(WORDS), st.sampled_from(GOOD))).map("".join)

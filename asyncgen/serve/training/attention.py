"""Causal attention over a packed row, forward and backward.

A token attends to the shared prefix, and within its own sample to itself and the tokens before. The scores are computed
sample by sample, (own tokens) x (prefix + own tokens), never as a square of the row's length. The projections are left
to `block`.

Probabilities are not kept for the backward pass, only the logarithm of each softmax's denominator: one product and one
exponential restore them. For a sample of 1,024 tokens that saves some 40 MB in each block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asyncgen.serve.training.layers import Array


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """One sample's own tokens in a row, or the prefix's (which then has no prefix itself).

    Attributes:
        prefix: tokens at the row's beginning that the span sees as well.
    """

    start: int
    stop: int
    prefix: int

    @property
    def own(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class Attended:
    """What `attention` keeps. Keys and values have fewer heads than queries; G query heads share one of theirs.

    Attributes:
        queries: (T, heads, length), scaled by 1 / sqrt(length).
        keys, values: (T, kv heads, length).
        mixed: the result, (T, heads, length).
        log_sums: of each span, the logarithms of the softmax's denominators: (kv heads, G · tokens, 1).
    """

    queries: Array
    keys: Array
    values: Array
    mixed: Array
    log_sums: Sequence[Array]


def attention(queries: Array, keys: Array, values: Array, spans: Sequence[TokenSpan]) -> Attended:
    """softmax(queries · keys / sqrt(length)) · values for each span."""
    queries = queries * queries.shape[-1] ** -0.5
    mixed = np.empty_like(queries)
    log_sums = []
    for span in spans:
        scores = _scores(queries, keys, span)
        top = scores.max(axis=-1, keepdims=True)
        scores -= top
        np.exp(scores, out=scores)
        total = scores.sum(axis=-1, keepdims=True)
        mixed[span.own] = _by_token(scores @ _seen(values, span) / total, mixed.shape[1])
        log_sums.append(top + np.log(total))
    return Attended(queries, keys, values, mixed, log_sums)


def attention_backward(d_mixed: Array, kept: Attended, spans: Sequence[TokenSpan]) -> tuple[Array, Array, Array]:
    """The gradients of queries, keys and values.

    With p = softmax(s) and o = p · v:  dv = pᵀ · do,  ds = p · (do · vᵀ - sum(do · o)).
    """
    d_queries = np.empty_like(kept.queries)
    d_keys, d_values = np.zeros_like(kept.keys), np.zeros_like(kept.values)
    kv_heads = kept.keys.shape[1]
    for span, log_sum in zip(spans, kept.log_sums, strict=True):
        probabilities = _scores(kept.queries, kept.keys, span)
        probabilities -= log_sum
        np.exp(probabilities, out=probabilities)
        gradient = _by_head(d_mixed[span.own], kv_heads)
        result = _by_head(kept.mixed[span.own], kv_heads)
        _add(d_values, span, probabilities.swapaxes(1, 2) @ gradient)
        d_scores = gradient @ _seen(kept.values, span).swapaxes(1, 2)
        d_scores -= np.einsum("hti,hti->ht", gradient, result)[..., None]
        d_scores *= probabilities
        _add(d_keys, span, d_scores.swapaxes(1, 2) @ _by_head(kept.queries[span.own], kv_heads))
        d_queries[span.own] = _by_token(d_scores @ _seen(kept.keys, span), d_queries.shape[1])
    d_queries *= d_queries.shape[-1] ** -0.5
    return d_queries, d_keys, d_values


def _scores(queries: Array, keys: Array, span: TokenSpan) -> Array:
    """(kv heads, G · tokens, prefix + tokens), minus infinity where a token would see a later one."""
    own = queries[span.own]
    tokens, kv_heads = len(own), keys.shape[1]
    scores: Array = _by_head(own, kv_heads) @ _seen(keys, span).swapaxes(1, 2)
    later = np.triu(np.full((tokens, tokens), -np.inf, scores.dtype), k=1)
    scores.reshape(kv_heads, -1, tokens, span.prefix + tokens)[..., span.prefix :] += later
    return scores


def _seen(x: Array, span: TokenSpan) -> Array:
    """What a span sees of keys or values: (kv heads, prefix + tokens, length)."""
    seen = np.concatenate([x[: span.prefix], x[span.own]]) if span.prefix else x[span.own]
    return seen.swapaxes(0, 1)


def _add(total: Array, span: TokenSpan, part: Array) -> None:
    """The reverse of `_seen`: add a gradient (kv heads, prefix + tokens, length) to where it came from."""
    by_token = part.swapaxes(0, 1)
    total[: span.prefix] += by_token[: span.prefix]
    total[span.own] += by_token[span.prefix :]


def _by_head(x: Array, kv_heads: int) -> Array:
    """(tokens, heads, length) to (kv heads, G · tokens, length)."""
    tokens, _, length = x.shape
    return x.reshape(tokens, kv_heads, -1, length).transpose(1, 2, 0, 3).reshape(kv_heads, -1, length)


def _by_token(x: Array, heads: int) -> Array:
    """(kv heads, G · tokens, length) to (tokens, heads, length)."""
    kv_heads, _, length = x.shape
    grouped = x.reshape(kv_heads, heads // kv_heads, -1, length)
    return grouped.transpose(2, 0, 1, 3).reshape(-1, heads, length)
